"""What a reply's text must look like: values for the option `constraint`.

    model.generate(prompt, constraint=dalsegno.constraints.choices(["yes", "no"]))

`continues`: how many tokens at the prompt's end are text of the grammar already, in a fork of a reply or in one that was
cut off. A constraint that cannot be enforced is refused by the call that uses it, with InvalidArgumentError.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict


class Constraint(TypedDict, total=False):
    """Made by the functions below."""

    kind: str
    text: str
    choices: list[str]
    continues: int


# Which tools a reply calls: "auto" (it may answer, or call), "required" (nothing but calls), "none" (no call can be
# written), or {"name": of a tool} (nothing but calls of that one).
ToolChoice = str | Mapping[str, str]

# White space as json.dumps writes it: small models are lost in more of it, and what is forced costs no step.
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def json_schema(schema: str | bool | Mapping[str, Any] | Any, continues: int = 0, *, compact: bool = False) -> Constraint:
    """JSON that a schema allows: its text, a mapping, or a class with `model_json_schema()`, as pydantic's models.

    Draft 2020-12, or what "$schema" says. A keyword that cannot be enforced is refused.
    compact: white space as json.dumps writes it, instead of any between tokens.
    """
    if hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    if compact:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        schema = {"x-guidance": _COMPACT, **({} if schema is True else schema)} if schema is not False else False
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return {"kind": "json_schema", "text": text, "continues": continues}


def regex(pattern: str, continues: int = 0) -> Constraint:
    """Text that a regular expression matches as a whole; Rust's syntax, without look-around and back-references."""
    return {"kind": "regex", "text": pattern, "continues": continues}


def grammar(text: str, continues: int = 0) -> Constraint:
    """Text of a context-free grammar in Lark's syntax, from its rule `start` on, or in GBNF, from `root` on."""
    return {"kind": "lark", "text": text, "continues": continues}


def choices(texts: Iterable[str], continues: int = 0) -> Constraint:
    """One of some texts."""
    return {"kind": "choices", "choices": list(texts), "continues": continues}


def tool_calls(tools: Iterable[Mapping[str, Any]], style: str = "hermes", tool_choice: ToolChoice = "auto",
               continues: int = 0) -> Constraint:
    """The tool calls in a text: each is one of these tools', with arguments that its parameters allow. Other text is free.

    tools: with name and parameters (a JSON schema), as Session takes them. style: how calls are written, "hermes",
    "llama3" or "json". Sessions with tools do this for themselves.
    """
    nothing: dict[str, Any] = {"type": "object", "properties": {}}
    all_of_them = [{"name": tool["name"], "parameters": nothing if tool.get("parameters") is None else tool["parameters"]}
                   for tool in tools]
    text = json.dumps({"style": style, "tools": all_of_them, "tool_choice": tool_choice})
    return {"kind": "tool_calls", "text": text, "continues": continues}
