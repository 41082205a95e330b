"""What an agent's engine is asked, turn by turn: scripts with a fixed seed, so that every run asks the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

_NOUNS = "order invoice parcel customer ledger stock refund ticket address payment route driver shelf label batch crate".split()
_VERBS = "load store check count merge split price route pack send sort close open find list trim".split()
_PLACES = "the harbour", "the old mill", "the north depot", "the market hall", "the bakery", "the river gate"


@dataclass(frozen=True)
class Scenario:
    """A conversation, or prompts that are asked at once.

    instructions: the system text. says: what the user, or a tool, says in each turn. together: every entry is a
    conversation of one turn and all are asked in one batch.
    """

    name: str
    instructions: str
    says: list[str] = field(repr=False)
    together: bool = False


def _tools() -> str:
    def tool(name, about, **parameters):
        kinds = {key: {"type": kind} for key, kind in parameters.items()}
        return {"name": name, "description": about, "parameters": {"type": "object", "properties": kinds}}

    return json.dumps(
        [
            tool("read_file", "Gives the lines of a file.", path="string", first="integer", last="integer"),
            tool("replace_lines", "Puts text in the place of lines.", path="string", first="integer", last="integer", text="string"),
            tool("run_tests", "Runs the tests of a folder and gives what failed.", folder="string", filter="string"),
            tool("search", "Gives the lines in which a word occurs.", word="string", folder="string"),
        ]
    )


def _source(random: random.Random, functions: int) -> str:
    lines = []
    for number in range(functions):
        verb, noun = random.choice(_VERBS), random.choice(_NOUNS)
        lines += [
            f"def {verb}_{noun}_{number}({noun}, limit={random.randrange(2, 99)}):",
            f"    total = sum(each.{random.choice(_NOUNS)} for each in {noun}.parts[:limit])",
            f"    if total > {random.randrange(100, 999)}:",
            f"        raise ValueError(\"too many parts in this {noun}\")",
            f"    return {random.choice(_VERBS)}(total, {noun}.key)",
            "",
        ]
    return "\n".join(lines)


def edit_loop(turns: int) -> Scenario:
    """A coding agent: tools and a file first, then edits, what the tools answered, and what failed."""
    chance = random.Random(1)
    instructions = (
        "You edit Python code. Answer with one call of a tool as JSON, or with one sentence when you are done.\n"
        f"Tools: {_tools()}\n\nThe file shop.py:\n{_source(chance, 18)}"
    )
    says = []
    for turn in range(turns):
        verb, noun = chance.choice(_VERBS), chance.choice(_NOUNS)
        if turn % 2 == 0:
            says.append(f"Please change shop.py so that it can {verb} a {noun} without a limit.")
        else:
            changed = _source(chance, 1)
            says.append(f"Result of replace_lines: done. The lines are now:\n{changed}\nrun_tests: 1 failed, {verb}_{noun}.")
    return Scenario("edit-loop", instructions, says)


def retrieval(turns: int) -> Scenario:
    """Questions with passages that were looked up for each, some of them for the second or third time."""
    chance = random.Random(2)
    passages = []
    for number in range(6):
        facts = [
            f"On day {day} the {chance.choice(_NOUNS)}s went to {chance.choice(_PLACES)} and {chance.randrange(5, 90)} were kept."
            for day in range(1, 9)
        ]
        passages.append(f"[{number + 1}] " + " ".join(facts))
    says = []
    for _ in range(turns):
        found = "\n".join(chance.sample(passages, 2))
        says.append(f"{found}\n\nBy these passages: how many were kept at {chance.choice(_PLACES)}?")
    return Scenario("retrieval", "Answer in one sentence, from the passages alone. Say so if they do not tell.", says)


def few_shot(requests: int) -> Scenario:
    """Many inputs after the same examples, all asked at once."""
    chance = random.Random(3)

    def review():
        return f"The {chance.choice(_NOUNS)} from {chance.choice(_PLACES)} was {chance.choice(['late', 'fine', 'broken', 'perfect'])}."

    examples = "\n".join(f"Text: {review()}\nLabel: {chance.choice(['praise', 'complaint'])}\n" for _ in range(40))
    says = [f"Text: {review()} Number {number}.\nLabel:" for number in range(requests)]
    return Scenario("few-shot", f"Label each text as praise or complaint, as in these examples.\n{examples}", says, together=True)


SCENARIOS: dict[str, Callable[[int], Scenario]] = {
    "edit-loop": edit_loop,
    "retrieval": retrieval,
    "few-shot": few_shot,
}
