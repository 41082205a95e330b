"""Outlines' own generators on our model: types are kept, and calls share one cache."""

import concurrent.futures
import json
import re
from enum import Enum
from typing import Literal

import outlines
import pytest
from outlines.inputs import Chat
from outlines.types import CFG, JsonSchema, Regex
from pydantic import BaseModel

import dalsegno
from dalsegno.adapters.outlines import DalSegno


@pytest.fixture
def outline(cold):
    return DalSegno(cold)


class Colour(Enum):
    red = "red"
    green = "green"


class Shirt(BaseModel):
    colour: Colour
    size: Literal["S", "M", "L"]
    clean: bool


def test_choices_expressions_grammars_and_schemas(outline):
    assert outline("Is it?", Literal["yes", "no"]) in ("yes", "no")
    assert outline("Which?", Colour) in ("red", "green")
    assert re.fullmatch("[0-9]{3}-[a-c]{2}", outline("Number?", Regex("[0-9]{3}-[a-c]{2}"), max_tokens=60))
    assert outline("Sum?", CFG('start: "1" "+" ("1" | "2")'), max_tokens=20) in ("1+1", "1+2")
    Shirt.model_validate_json(outline("A shirt?", Shirt, max_tokens=200))
    schema = json.dumps({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
                         "additionalProperties": False})
    assert set(json.loads(outline("Ok?", JsonSchema(schema), max_tokens=100))) == {"ok"}
    assert re.fullmatch("-?(0|[1-9][0-9]*)", outline("How many?", int, max_tokens=200))


def test_it_says_something_sensible_of_its_type(smollm2):
    outline = DalSegno(smollm2)
    chat = Chat([{"role": "user", "content": "Write the colour of the sky, and of grass, as JSON."}])
    made = json.loads(outline(chat, JsonSchema({
        "type": "object", "properties": {"sky": {"enum": ["blue", "green"]}, "grass": {"enum": ["blue", "green"]}},
        "required": ["sky", "grass"], "additionalProperties": False}), max_tokens=60))
    assert made == {"sky": "blue", "grass": "green"}


def test_a_generator_a_batch_and_a_stream(outline):
    generator = outlines.Generator(outline, Literal["left", "right"])
    alone = [generator(f"Question {i}?") for i in range(5)]
    assert generator.batch([f"Question {i}?" for i in range(5)]) == alone
    assert "".join(generator.stream("Question 1?")) == alone[1]
    assert outline("Free?", max_tokens=8) == "".join(outline.stream("Free?", max_tokens=8))


def reused(outline, prompt):
    explained = outline.model.engine.explain(outline.model.encode([{"role": "user", "content": prompt}]),
                                             outline.replies._salt)
    return explained.reused_tokens / explained.prompt_tokens


def test_one_cache_serves_calls_with_types_and_without(outline):
    prompt = "A question that is long enough to fill several blocks of the cache, asked more than once. " * 4
    assert outline.cache_size() == 0 and reused(outline, prompt) == 0
    outline(prompt, Literal["yes", "no"])
    kept = outline.cache_size()
    assert kept >= len(outline.model.encode(prompt)) and reused(outline, prompt) > 0.9
    outline(prompt, max_tokens=2)
    assert kept < outline.cache_size() < kept + 16  # the beginning counts once
    outline.model.reset_cache()  # drops what nobody keeps
    assert reused(outline, prompt) > 0.9
    other = DalSegno(outline.model)
    assert other.cache_size() == 0 and reused(other, prompt) == 0
    outline.reset_cache()
    assert outline.cache_size() == 0 and reused(outline, prompt) == 0


def test_no_more_is_kept_than_the_limit(cold):
    outline = DalSegno(cold, max_cached_tokens=200)
    for i in range(20):
        outline(f"Number {i} is a question of about forty tokens, none of which is the same as another's. {i * 7919}",
                max_tokens=4)
        assert 0 < outline.cache_size() <= 200
    nothing = DalSegno(cold, max_cached_tokens=0)
    nothing("Hello", max_tokens=2)
    assert nothing.cache_size() == 0
    with pytest.raises(ValueError):
        DalSegno(cold, max_cached_tokens=-1)


def test_threads(outline):
    def ask(i):
        prompt = f"Thread {i % 4} asks"
        if i % 3 == 0:
            return outline(prompt, Literal["red", "green", "blue"])
        if i % 7 == 0:
            outline.reset_cache()
        return outline(prompt, max_tokens=6, temperature=1, seed=i % 4)

    alone = [ask(i) for i in range(48)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(48))) == alone


def test_what_it_cannot_do_is_an_error(outline):
    with pytest.raises(dalsegno.InvalidArgumentError):
        outline("x", Regex("(?=a)a"))
    with pytest.raises(TypeError):
        outline(7)
    with pytest.raises(TypeError, match="text"):
        outline(Chat([{"role": "user", "content": ["look", 7]}]))
    with pytest.raises(TypeError, match="no option"):
        outline("x", no_such_option=1)
    with pytest.raises(ValueError, match="whitespace_pattern"):
        outline("x", JsonSchema('{"type": "object"}', whitespace_pattern=" "))
