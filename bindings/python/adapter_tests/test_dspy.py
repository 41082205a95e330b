"""DSPy's own programs on our model: fields have their types, and calls share one cache."""

import asyncio
import concurrent.futures
import os
import threading
from typing import Literal

import dspy
import pydantic
import pytest

from dalsegno.adapters.dspy import DalSegnoLM


class Triage(dspy.Signature):
    """Sort a message that a customer has sent: what it is about, how urgent it is from 1 to 5, and whether to answer."""

    message: str = dspy.InputField()
    topic: Literal["delivery", "payment", "other"] = dspy.OutputField()
    urgency: int = dspy.OutputField(ge=1, le=5)
    answer: bool = dspy.OutputField()


MESSAGES = [f"Parcel {number} has not come yet, and I have been waiting for {number % 9 + 1} days." for number in range(50)]


def usages(lm):
    return [(entry["usage"]["prompt_tokens"], reused_of(entry["usage"])) for entry in lm.history]


def reused_of(usage):
    details = usage.get("prompt_tokens_details") or {}
    return details["cached_tokens"] if "cached_tokens" in details else usage["cache_read_tokens"]


def system_tokens(lm):
    """How many tokens the prompts have in common for the system text alone."""
    system = next(m["content"] for m in lm.history[0]["messages"] if m["role"] == "system")
    one, other = (lm.replies.model.encode([{"role": "system", "content": system}, {"role": "user", "content": text}])
                  for text in ("A", "B"))
    return len(os.path.commonprefix([one, other]))


@pytest.fixture
def lm(cold):
    return DalSegnoLM(cold, cache=False, max_tokens=200)


def test_three_fields_over_fifty_inputs_reuse_the_system_prompt_49_times(smollm2):
    smollm2.reset_cache()
    lm = DalSegnoLM(smollm2, cache=False, max_tokens=100, max_cached_tokens=65536)
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        triage = dspy.Predict(Triage)
        for message in MESSAGES:
            made = triage(message=message)
            assert made.topic in ("delivery", "payment", "other") and 1 <= made.urgency <= 5
            assert isinstance(made.urgency, int) and isinstance(made.answer, bool)
    shared = system_tokens(lm)
    assert len(lm.history) == 50 and shared > 100
    reused = [tokens for _, tokens in usages(lm)]
    assert reused[0] == 0 and sum(tokens >= shared for tokens in reused) == 49
    print(f"\nDSPy: of 50 prompts, {sum(tokens >= shared for tokens in reused)} reused the {shared} tokens of the system prompt")


class Point(pydantic.BaseModel):
    x: int = pydantic.Field(ge=0, le=9)
    name: Literal["a", "b"]


def test_nested_types(lm):
    class Draw(dspy.Signature):
        what: str = dspy.InputField()
        points: list[Point] = dspy.OutputField(max_length=2)
        label: Literal["line", "dot"] | None = dspy.OutputField()

    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        made = dspy.Predict(Draw)(what="a line")
    assert all(isinstance(point, Point) for point in made.points) and made.label in ("line", "dot", None)


def test_plain_calls_and_typed_ones_share_one_cache_that_can_be_limited_and_reset(lm):
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        triage = dspy.Predict(Triage)
        triage(message=MESSAGES[0])
        kept = lm.cache_size()
        prompt = lm.history[0]["messages"]
        lm.copy(temperature=1.0)(messages=[dict(each) for each in prompt])
        triage(message=MESSAGES[0])
    assert kept > 0 and lm.cache_size() >= kept
    (_, first), (tokens, again) = usages(lm)
    assert first == 0 and again == tokens - 1
    lm.reset_cache()
    assert lm.cache_size() == 0
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        triage(message=MESSAGES[0])
    assert usages(lm)[-1][1] == 0
    limited = DalSegnoLM(lm.replies.model, cache=False, max_tokens=8, max_cached_tokens=64)
    for i in range(8):
        limited(f"The prompt of number {i}, which is not that of number {i * 31 + 1}.")
        assert limited.cache_size() <= 64


def test_threads_and_tasks(lm):
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        triage = dspy.Predict(Triage)
        alone = [triage(message=message).toDict() for message in MESSAGES[:12]]
        begin = threading.Barrier(12)

        def ask(message):
            begin.wait()
            with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
                return triage(message=message).toDict()

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            assert list(pool.map(ask, MESSAGES[:12])) == alone

        async def tasks():
            return await asyncio.gather(*(triage.acall(message=message) for message in MESSAGES[:12]))

        assert [made.toDict() for made in asyncio.run(tasks())] == alone


def test_what_is_said_is_the_models_own(lm):
    prompt = lm.replies.model.encode([{"role": "user", "content": "Hello there."}])
    plain = lm.replies.model.engine.generate(prompt, max_tokens=200)
    assert lm("Hello there.") == [plain.text]
    assert lm("Hello there.", max_tokens=3, temperature=0.9, seed=5) == [
        lm.replies.model.engine.generate(prompt, max_tokens=3, temperature=0.9, seed=5).text]


def test_what_it_cannot_do_is_an_error(lm):
    with pytest.raises(Exception, match="longer|context"):
        lm("word " * 20000)
