"""Sessions, batches and engines themselves, without a Model before them."""

import numpy
import pytest

import dalsegno
from test_sentences import HALF, PROMPT, refused


def test_a_session_by_itself(model):
    for messages, word in (([{"role": "user", "content": None}], "message 0, content"), ([{"role": 5, "content": "a"}], "role"),
                           ([{"role": "user"}], "no content"), ("hi", "list of messages")):
        refused(lambda: dalsegno.Session(model.engine, messages=messages), "messages", word)
        refused(lambda: model.session().set_transcript(messages), "messages", word)
    refused(lambda: dalsegno.Session(model.engine, tools=[{"parameters": {}}]), "tool 0 has no name")


@pytest.mark.parametrize("name,wrong", [("caches", 5), ("options", 5), ("uids", -1), ("options", {5: 1})])
def test_what_a_batch_is_given_for_a_request(model, name, wrong):
    refused(lambda: model.batch().insert([model.encode(PROMPT)], **{name: [wrong]}), name, "wanted")


def test_false_of_numpy_ends_a_request_of_an_engine_or_session(model):
    no = lambda *_: numpy.False_
    assert model.engine.generate(model.encode(PROMPT), on_text=no, max_tokens=9).finish_reason == "cancelled"
    assert model.session().respond("hi", on_text=no, max_tokens=9).finish_reason == "cancelled"
