"""What is wrong with what a caller gives is said in one sentence, by one of the errors that are documented."""

import asyncio
import json
import os
import pathlib

import numpy
import pytest

import dalsegno
from dalsegno import constraints
from dalsegno.adapters import mlx_style
from dalsegno.adapters.transformers_style import TransformersTokenizer

PROMPT = "the quick brown fox jumps over the lazy dog"
HALF = "\ud800"
DEEP = json.loads("[" * 900 + "]" * 900)
for _ in range(4000):
    DEEP = [DEEP]


def refused(call, *words, kind=(TypeError, dalsegno.InvalidArgumentError)):
    """The sentence of the call's error, in which the words stand."""
    with pytest.raises(kind) as caught:
        call()
    sentence = str(caught.value)
    del caught  # with its traceback it holds this frame, and so what `call` was given, until a collection
    assert "\n" not in sentence and all(word in sentence for word in words), sentence
    return sentence


@pytest.mark.parametrize("wrong", [b"Hi!", bytearray(b"Hi!"), memoryview(b"Hi!")])
def test_bytes_are_no_token_ids(model, wrong):
    for call in (model.generate, model.stream, model.encode, model.explain, model.prompt_cache):
        refused(lambda: call(wrong), "prompt", "decode it first")
    refused(lambda: asyncio.run(model.generate_async(wrong)), "decode it first")
    refused(lambda: asyncio.run(model.logprob_cache(max_bytes=1 << 20).next_token_logprobs_async(wrong)), "decode it first")
    refused(lambda: TransformersTokenizer(model.tokenizer).decode(wrong), "decode it first")


@pytest.mark.parametrize("wrong,word", [
    (None, "None"), (5, "5"), ({"role": "user", "content": "hi"}, "list of messages"), (numpy.int64(3), "3"),
    (["a", "b"], "item 0"), ([1, 2.5], "item 1"), ([1, None], "item 1"), (numpy.ones((2, 2), dtype=int), "item 0"),
    (HALF, "surrogate"), ([{"role": "user", "content": "a" + HALF}], "surrogate"), ([{"role": "user"}], "no content"),
    ([{"content": "hi"}], "no role"), ([{"role": 5, "content": "hi"}], "role"), ([{"role": "user", "content": None}], "content"),
    ([{"role": "user", "content": "hi", "weight": float("nan")}], "JSON"), ([{"role": "user", "content": "hi"}, "and"], "item 1"),
    ([{"role": "user", "content": "hi", "more": DEEP}], "nested too deeply"), ([{"role": "user", "content": "hi", "x": {1}}], "JSON")])
def test_a_prompt_that_is_none(model, wrong, word):
    for call in (model.generate, model.stream, model.encode):
        refused(lambda: call(wrong), "prompt", word)


def test_numpy_ids_and_mappings_are_prompts_as_before(model):
    ids = model.encode(PROMPT)
    assert model.encode(numpy.array(ids)) == model.encode(iter(ids)) == model.encode(tuple(numpy.int32(i) for i in ids)) == ids
    assert model.encode([]) == []
    message = {"role": "user", "content": "h\u00e9llo \U0001f600"}
    assert model.encode([message]) == model.tokenizer.encode(model.tokenizer.render(json.dumps([message])), special=True)


def test_a_bare_text_is_no_list_of_choices(model):
    refused(lambda: constraints.choices("yes"), "texts", "list of texts", "'yes'")
    refused(lambda: constraints.choices(["a", 5]), "item 1")
    refused(lambda: constraints.choices(["a", HALF]), "item 1", "surrogate")
    refused(lambda: constraints.choices(5), "list of texts")
    refused(lambda: model.generate(PROMPT, constraint={"kind": "choices", "choices": "yes"}), "choices")


@pytest.mark.parametrize("no", [False, numpy.False_])
def test_false_of_numpy_ends_a_request_too(cold, no):
    assert cold.generate(PROMPT, max_tokens=12, on_text=lambda text: no).finish_reason == "cancelled"
    assert cold.generate(PROMPT * 40, max_tokens=1, chunk=16, on_prefill=lambda done, total: no).finish_reason == "cancelled"
    assert asyncio.run(cold.generate_async(PROMPT, max_tokens=60, on_text=lambda text: no)).finish_reason == "cancelled"
    stream = cold.stream(PROMPT * 60, max_tokens=1, chunk=16, on_prefill=lambda done, total: no)
    assert stream.result().finish_reason == "cancelled"


@pytest.mark.parametrize("goes_on", [None, 0, "", numpy.True_, []])
def test_nothing_else_does(model, goes_on):
    assert model.generate(PROMPT, max_tokens=6, on_text=lambda text: goes_on).finish_reason == "length"


def only(token, elsewhere):
    def process(tokens, logits):
        logits[:] = elsewhere
        logits[token] = 0

    return process


def test_minus_infinity_forbids(model):
    asked = {"max_tokens": 3, "logprobs": True}
    least = model.generate(PROMPT, logits_processor=only(70, numpy.finfo(numpy.float32).min), **asked)
    reply = model.generate(PROMPT, logits_processor=only(70, -numpy.inf), **asked)
    assert reply.ids == least.ids == [70] * 3 and (reply.logprobs == least.logprobs).all() and (reply.logprobs == 0).all()
    allowed = [70, 72, 75]

    def several(tokens, logits):
        row = numpy.full_like(logits, -numpy.inf)
        row[allowed] = logits[allowed]
        return row

    drawn = model.generate(PROMPT, max_tokens=40, temperature=2, seed=3, logits_processor=several, logit_bias={70: -5.0})
    assert set(drawn.ids) <= set(allowed) and len(set(drawn.ids)) > 1


@pytest.mark.parametrize("wrong,words", [
    (lambda tokens, logits: [0.0] * len(logits), ("type list",)), (lambda tokens, logits: "row", ("type str",)),
    (lambda tokens, logits: logits[None], ("shape (1, ", "float32")), (lambda tokens, logits: logits[1:], ("shape (",)),
    (lambda tokens, logits: 5, ("type int",))])
def test_a_processor_is_told_what_it_returned(model, wrong, words):
    refused(lambda: model.generate(PROMPT, logits_processor=wrong), "logits_processor", "vocabulary's size [", "None", *words)


@pytest.mark.parametrize("value,word", [(numpy.nan, "NaN"), (numpy.inf, "+inf"), (-numpy.inf, "forbade every token")])
def test_what_cannot_be_drawn_from_is_named(model, value, word):
    refused(lambda: model.generate(PROMPT, logits_processor=lambda tokens, logits: numpy.full_like(logits, value)), word)

    def in_place(tokens, logits):
        logits[:] = value

    refused(lambda: model.generate(PROMPT, logits_processor=in_place), word)
    assert model.generate(PROMPT, max_tokens=2).ids


@pytest.mark.parametrize("name,wrong,words", [
    ("stop", HALF, ("surrogate",)), ("stop", ["a", HALF], ("surrogate",)), ("stop", 5, ("list of texts", "5")),
    ("stop", ["a", 5], ("5",)), ("salt", HALF, ("surrogate",)), ("salt", None, ("text",)), ("logit_bias", 5, ("dict",)),
    ("dry_breakers", "ab", ("list of texts",)), ("logits_processor", 5, ("callable",)), ("speculation", 5, ("5",)),
    ("max_tokens", "x" * 10_000, ("whole number",)),
    ("seed", -1, ("whole number from 0 to 2**64 - 1",)), ("top_k", 1 << 40, ("whole number from -2**31 to 2**31 - 1",))])
def test_options_of_requests(model, name, wrong, words):
    sentence = refused(lambda: model.generate(PROMPT, **{name: wrong}), name, *words)
    assert len(sentence) < 300


@pytest.mark.parametrize("name,wrong", [
    ("quotas", None), ("quotas", {5: 1}), ("quotas", {"a": "b"}), ("memory", {5: 1}), ("memory", None), ("kv", {5: 1}),
    ("kv", None), ("kv", 1.5), ("kv", {"format": None})])
def test_options_of_engines(model, name, wrong):
    refused(lambda: dalsegno.load(model.path, **{name: wrong}), name, "wanted")


def test_none_means_the_default(model):
    plain = model.generate(PROMPT, max_tokens=20, temperature=1.5)
    assert model.generate(PROMPT, max_tokens=20, temperature=1.5, seed=None, stop=None).ids == plain.ids
    ends = constraints.choices(["yes"])
    assert model.generate(PROMPT, max_tokens=None, constraint=ends).text == "yes"


def test_constraints_are_looked_at_where_they_are_made(model):
    refused(lambda: constraints.json_schema("{nope", compact=True), "schema", "not valid JSON")
    refused(lambda: constraints.json_schema([1]), "schema", "[1]")
    refused(lambda: constraints.json_schema(None), "schema")
    refused(lambda: constraints.json_schema("[1]", compact=True), "schema")
    refused(lambda: constraints.json_schema("[" * 100_000, compact=True), "nested too deeply")
    refused(lambda: constraints.json_schema({"const": DEEP}), "nested too deeply")
    refused(lambda: constraints.json_schema({"const": float("nan")}), "JSON")
    refused(lambda: constraints.json_schema({"const": HALF}), "surrogate")
    refused(lambda: constraints.regex(None), "pattern")
    refused(lambda: constraints.regex(b"a"), "decode it first")
    refused(lambda: constraints.grammar(HALF), "surrogate")
    refused(lambda: constraints.tool_calls([{"parameters": {}}]), "tool 0 has no name")
    refused(lambda: constraints.tool_calls(["search"]), "item 0")
    refused(lambda: constraints.tool_calls([{"name": "a", "parameters": "b"}]), "parameters")
    refused(lambda: constraints.tool_calls({"name": "a"}), "list of tools")


def test_a_definition_that_is_too_long_is_told_its_limit(model):
    """The limits are the engine's own: one byte less is not refused for its length."""
    for make, most, unit in ((constraints.regex, 1 << 14, "a"), (constraints.grammar, 1 << 16, "#"),
                             (lambda text: constraints.choices([text]), 1 << 18, "a"),
                             (constraints.json_schema, 1 << 20, " ")):
        for size in (most + 1, 10_000_000):
            refused(lambda: model.generate(PROMPT, constraint=make(unit * size)), str(size), str(most))
    assert model.generate(PROMPT, max_tokens=2, constraint=constraints.regex("a" * (1 << 14))).ids


def test_sessions_of_a_model(model):
    for wrong in (None, 5, HALF):
        refused(lambda: model.session(wrong), "instructions")
    refused(lambda: model.session(messages=[{"role": "user", "content": None}]), "messages: message 0, content")
    refused(lambda: model.session(messages=[{"role": 5, "content": "hi"}]), "messages: message 0, role")
    refused(lambda: model.session(messages=[{"role": "user", "content": ["hi"]}]), "messages: message 0, content")
    refused(lambda: model.session(messages=[{"role": "user", "content": "hi", "name": 5}]), "messages: message 0, name")
    refused(lambda: model.session(tools=[{"description": "nameless"}]), "tool 0 has no name")
    assert model.session(messages=[{"role": "user", "content": "hi"}]).turns == 1


def test_sentences_have_the_names_of_python(model):
    session = model.session()
    for call in (lambda: session.run_tools("hi"), lambda: session.respond("hi", tool_choice="required")):
        assert "::" not in refused(call, "Session()")
    assert "--" not in refused(lambda: model.generate(list(range(64)) * 400), "shorten it")
    other = dalsegno.errors.of_code("exhausted", "raise --memory, or give '--memory-like' to --kv-start")
    assert str(other) == "raise 'memory', or give '--memory-like' to kv 'start'"


@pytest.fixture(scope="module")
def mlx():
    tiny = pathlib.Path(os.environ["DALSEGNO_TINY"]) / "tiny_chat.gguf"
    model, tokenizer = mlx_style.load(str(tiny), memory=256 << 20, threads=2)
    yield model, tokenizer
    model.close()


def test_mlx_style_takes_options_of_load():
    tiny = str(pathlib.Path(os.environ["DALSEGNO_TINY"]) / "tiny_chat.gguf")
    for kv in (8, "8", {"format": 8}):
        model, _ = mlx_style.load(tiny, memory=256 << 20, threads=2, context=512, kv=kv)
        assert _format(model) == "8"
        model.close()


def _format(model):
    return dalsegno.PromptCache.make(model.engine, [70, 71]).format["format"]


def test_mlx_style_says_what_it_is_given(mlx):
    model, tokenizer = mlx
    generate = lambda prompt, **more: mlx_style.generate(model, tokenizer, prompt, max_tokens=2, **more)
    for wrong in (b"Hi!", None, 5, HALF, [1.5]):
        refused(lambda: generate(wrong))
    refused(lambda: mlx_style.BatchGenerator(model).insert([b"Hi!"]), "prompts, item 0", "decode it first")
    refused(lambda: tokenizer.encode(b"Hi!"), "decode it first")
    refused(lambda: tokenizer.apply_chat_template([{"role": "user"}]), "no content")
    for wrong, word in ((lambda tokens, logits: None, "NoneType"), (lambda tokens, logits: logits[:, 1:], "shape"),
                        (lambda tokens, logits: "row", "str")):
        refused(lambda: generate(PROMPT, logits_processors=[wrong]), word)


def test_mlx_style_takes_minus_infinity(mlx):
    model, tokenizer = mlx

    def forbid(tokens, logits):
        row = numpy.full_like(logits, -numpy.inf)
        row[:, 70] = logits[:, 70]
        return row

    for sampler in (None, mlx_style.make_sampler(temp=1.0, seed=1), lambda logprobs: logprobs.argmax(-1)):
        responses = mlx_style.stream_generate(model, tokenizer, PROMPT, max_tokens=3, logits_processors=[forbid], sampler=sampler)
        assert [response.token for response in responses] == [70] * 3
    nothing = lambda tokens, logits: numpy.full_like(logits, -numpy.inf)
    for sampler in (None, lambda logprobs: logprobs.argmax(-1)):
        refused(lambda: mlx_style.generate(model, tokenizer, PROMPT, logits_processors=[nothing], sampler=sampler), "every token")


def test_mlx_style_batches(mlx):
    model, tokenizer = mlx
    prompts = [tokenizer.encode(PROMPT), tokenizer.encode("hello there")]
    alone = [mlx_style.batch_generate(model, tokenizer, [prompt], max_tokens=6).texts[0] for prompt in prompts]
    made = mlx_style.batch_generate(model, tokenizer, prompts, max_tokens=6, return_prompt_caches=True, return_token_ids=True,
                                    return_logprobs=True)
    assert made.texts == alone == [tokenizer.decode(ids) for ids in made.token_ids]
    assert [cache.tokens for cache in made.caches] == [prompt + ids for prompt, ids in zip(prompts, made.token_ids)]
    assert all(len(row) == 6 and max(row) <= 0 for row in made.logprobs)
    assert made.stats.prompt_tokens == sum(map(len, prompts)) and made.stats.generation_tokens == 12
    cache = made.caches[0]
    before = cache.tokens
    more = mlx_style.batch_generate(model, tokenizer, [[70]], prompt_caches=[cache], max_tokens=[3], return_token_ids=True)
    assert cache.tokens == before and len(more.token_ids[0]) == 3 and more.caches is None


def test_mlx_style_samplers_and_processors_can_be_called_where_that_is_exact(mlx):
    model, tokenizer = mlx
    prompt = tokenizer.encode(PROMPT)
    rows = numpy.array([[0.0, 3.0, 1.0], [2.0, 0.0, 0.0]], dtype=numpy.float32)
    assert mlx_style.make_sampler()(rows).tolist() == [1, 0]
    processors = mlx_style.make_logits_processors(logit_bias={70: 2.0}, repetition_penalty=1.4, repetition_context_size=8)
    called = [lambda tokens, logits: processors[0](tokens, logits)]
    drawn = [[each.token for each in mlx_style.stream_generate(model, tokenizer, prompt, max_tokens=12, logits_processors=one)]
             for one in (processors, called)]
    assert drawn[0] == drawn[1]
    for call, word in ((lambda: mlx_style.make_sampler(0.5)(rows), "temp"),
                       (lambda: mlx_style.make_sampler(0.5, xtc_probability=0.2), "XTC"),
                       (lambda: mlx_style.make_sampler(0.5, min_p=0.1, min_tokens_to_keep=2), "min_tokens_to_keep"),
                       (lambda: mlx_style.make_logits_processors(presence_penalty=1.0)[0](prompt, rows), "presence_penalty"),
                       (lambda: mlx_style.make_logits_processors(presence_penalty=1.0, presence_context_size=9), "whole reply")):
        refused(call, word, kind=dalsegno.UnsupportedError)
    assert mlx_style.make_sampler(xtc_probability=0.2) == mlx_style.make_sampler()  # greedy there too


def test_mlx_style_layers_are_trimmed_alike(mlx):
    model, tokenizer = mlx
    cache = mlx_style.make_prompt_cache(model)
    mlx_style.generate(model, tokenizer, PROMPT, max_tokens=6, prompt_cache=cache)
    before = cache.tokens
    assert [layer.trim(4) for layer in cache] == [4] * len(cache) and cache.tokens == before[:-4]
    assert {layer.offset for layer in cache} == {len(before) - 4}
    assert cache[0].trim(1) == 1 and cache[0].offset == cache[1].offset - 1
    with pytest.raises(ValueError, match="trim all alike"):
        mlx_style.generate(model, tokenizer, [70], max_tokens=2, prompt_cache=cache)
    refused(lambda: cache[0].state, "save_prompt_cache", kind=dalsegno.UnsupportedError)
    for layer in cache[1:]:
        layer.trim(1)
    assert cache.tokens == before[:-5] and mlx_style.generate(model, tokenizer, [70], max_tokens=2, prompt_cache=cache)


def test_mlx_style_tells_where_a_prompt_begins_and_ends(mlx):
    model, tokenizer = mlx
    told = []
    ids = tokenizer.encode(PROMPT)
    mlx_style.generate(model, tokenizer, ids, max_tokens=2, prompt_progress_callback=lambda *at: told.append(at))
    assert told == [(0, len(ids)), (len(ids), len(ids))]
