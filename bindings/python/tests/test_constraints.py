"""Replies that must look like something."""

import json
import re

import pytest

import dalsegno
from dalsegno import constraints

PROMPT = [{"role": "user", "content": "Answer."}]


def test_one_of_some_texts(model):
    for texts in (["yes", "no"], ["rivers", "river"]):
        assert model.generate(PROMPT, constraint=constraints.choices(texts)).text in texts


def test_a_regular_expression_and_a_grammar(model):
    reply = model.generate(PROMPT, constraint=constraints.regex("[0-9]{3}-[a-c]{2}"), temperature=1, seed=3)
    assert re.fullmatch("[0-9]{3}-[a-c]{2}", reply.text) and reply.finish_reason == "stop"
    reply = model.generate(PROMPT, constraint=constraints.grammar('root ::= "<" [x-z]{2} ">"'))
    assert re.fullmatch("<[x-z]{2}>", reply.text)


class Pydantic:
    @staticmethod
    def model_json_schema():
        return {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
                "additionalProperties": False}


@pytest.mark.parametrize("form", [Pydantic.model_json_schema(), json.dumps(Pydantic.model_json_schema()), Pydantic])
def test_a_json_schema_as_text_mapping_or_model(model, form):
    reply = model.generate(PROMPT, max_tokens=200, constraint=constraints.json_schema(form))
    assert reply.finish_reason == "length" or set(json.loads(reply.text)) == {"ok"}


def test_compact_json_has_the_white_space_of_json_dumps(model):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}, "b": {"type": "array", "items": {"enum": ["x"]},
              "minItems": 2, "maxItems": 2}}, "required": ["a", "b"], "additionalProperties": False}
    for form in (schema, json.dumps(schema)):
        for seed in range(4):
            text = model.generate(PROMPT, temperature=1, seed=seed, constraint=constraints.json_schema(form, compact=True)).text
            assert text == json.dumps(json.loads(text))
    anything = model.generate(PROMPT, max_tokens=20, constraint=constraints.json_schema(True, compact=True))
    assert anything.ids


def test_constrained_and_free_calls_share_the_cache(cold):
    free = cold.generate(PROMPT, max_tokens=4)
    constrained = cold.generate(PROMPT, constraint=constraints.choices(["maybe"]))
    assert constrained.usage.reused_tokens == free.usage.prompt_tokens - 1
    session = cold.session()
    assert session.respond("Which?", constraint=constraints.choices(["left"])).text == "left"
    after = session.respond("And now?", max_tokens=4)
    assert after.usage.reused_tokens > 0 and session.transcript[1]["content"] == "left"


def test_streams_and_batches(model):
    assert "".join(model.stream(PROMPT, constraint=constraints.choices(["stream"]))) == "stream"
    batch = model.batch()
    uids = batch.insert([model.encode(PROMPT)] * 2, constraint=constraints.choices(["both"]))
    texts = dict.fromkeys(uids, "")
    while responses := batch.next():
        for response in responses:
            texts[response.uid] += response.text
    assert set(texts.values()) == {"both"}


@pytest.mark.parametrize("wrong", [constraints.regex("("), constraints.json_schema('{"type": 7}'), constraints.choices([]),
                                   constraints.regex("(" * 60000 + ")" * 60000)])
def test_what_cannot_be_enforced_is_refused(model, wrong):
    with pytest.raises(dalsegno.InvalidArgumentError):
        model.generate(PROMPT, constraint=wrong)


def test_wrong_forms_are_type_errors(model):
    for wrong in ("yes", {"text": "a"}, {"kind": "regex", "pattern": "a"}, {"kind": "regex", "text": 7}):
        with pytest.raises(TypeError):
            model.generate(PROMPT, constraint=wrong)
    with pytest.raises(ValueError, match="no kind"):
        model.generate(PROMPT, constraint={"kind": "poem"})
    assert model.generate(PROMPT, max_tokens=1, constraint=None).finish_reason == "length"
