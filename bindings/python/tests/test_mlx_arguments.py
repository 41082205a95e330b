"""mlx_style: what does not fit is refused in one sentence that names the argument, and changes nothing."""

import json

import numpy
import pytest

import dalsegno
from conftest import BUDGET, TINY
from dalsegno.adapters import mlx_style
from test_sentences import PROMPT, refused

KINDS = (TypeError, ValueError)


@pytest.fixture(scope="module")
def mlx():
    model, tokenizer = mlx_style.load(str(TINY / "tiny_chat.gguf"), memory=BUDGET, threads=2)
    yield model, tokenizer
    model.close()


@pytest.fixture
def saved(mlx, tmp_path):
    """A cache of PROMPT, and the file it is in."""
    model, tokenizer = mlx
    cache = mlx_style.make_prompt_cache(model)
    mlx_style.generate(model, tokenizer, PROMPT, max_tokens=6, prompt_cache=cache)
    file = str(tmp_path / "cache.kv")
    mlx_style.save_prompt_cache(file, cache, {"of": "a test"})
    return cache, file


@pytest.mark.parametrize("name,wrong,word", [
    ("prompt_cache", [1, 2], "[1, 2]"), ("prompt_cache", 5, "5"), ("max_tokens", None, "None"), ("max_tokens", "x", "'x'"),
    ("max_tokens", 1.5, "1.5"), ("max_tokens", -5, "-5"), ("max_tokens", 0, "-1 for no limit"), ("sampler", 5, "make_sampler"),
    ("draft_model", 5, "a model of load"), ("draft_model", "name", "a model of load"), ("logits_processors", 5, "5"),
    ("logits_processors", [5], "item 0"), ("logits_processors", lambda tokens, logits: logits, "put it in a list"),
    ("prefill_step_size", "x", "'x'"), ("prefill_step_size", 0, "from 1 on"), ("kv_bits", 3, "8 or 4"), ("kv_bits", [8], "[8]")])
def test_options_of_generate(mlx, name, wrong, word):
    model, tokenizer = mlx
    refused(lambda: mlx_style.generate(model, tokenizer, PROMPT, **{name: wrong}), name, word, kind=KINDS)


def test_a_limit_that_is_none_or_of_numpy(mlx):
    model, tokenizer = mlx
    ends = {"sampler": lambda logprobs: tokenizer.eos_token_id}
    assert mlx_style.generate(model, tokenizer, PROMPT, max_tokens=-1, **ends) == ""
    assert mlx_style.generate(model, tokenizer, PROMPT, max_tokens=1 << 70, **ends) == ""
    assert len(list(mlx_style.stream_generate(model, tokenizer, PROMPT, max_tokens=numpy.int64(3)))) == 3


@pytest.mark.parametrize("name,wrong,word", [
    ("caches", [5], "caches, item 0"), ("caches", 5, "5"), ("caches", [[1, 2]], "caches, item 0"), ("max_tokens", [None], "item 0"),
    ("max_tokens", [-5], "item 0"), ("max_tokens", 5, "an entry for each prompt"), ("samplers", [5], "samplers, item 0"),
    ("logits_processors", [[5]], "logits_processors, item 0, item 0"), ("samplers", [None, None], "expected 1, got 2")])
def test_options_of_a_batch(mlx, name, wrong, word):
    model, tokenizer = mlx
    batch = mlx_style.BatchGenerator(model)
    refused(lambda: batch.insert([[70]], **{name: wrong}), name, word, kind=KINDS)
    assert batch.next_generated() == []


def test_models_that_are_none(mlx):
    _, tokenizer = mlx
    for call in (mlx_style.BatchGenerator, mlx_style.make_prompt_cache, lambda it: mlx_style.generate(it, tokenizer, PROMPT)):
        for wrong in (None, 5, "name"):
            refused(lambda: call(wrong), "model: a model of load")


@pytest.mark.parametrize("returned", [10**9, 10**30, -1, None, "x", [], [1, 2], 1.5])
def test_a_sampler_that_returns_no_token_id(mlx, returned):
    model, tokenizer = mlx
    refused(lambda: mlx_style.generate(model, tokenizer, PROMPT, max_tokens=2, sampler=lambda logprobs: returned),
            "the sampler returned", "a token id from 0 to")


@pytest.mark.parametrize("make,name,wrong", [
    (mlx_style.make_sampler, "temp", None), (mlx_style.make_sampler, "top_p", "x"), (mlx_style.make_sampler, "top_k", 1.5),
    (mlx_style.make_sampler, "min_p", None), (mlx_style.make_sampler, "xtc_probability", None),
    (mlx_style.make_sampler, "min_tokens_to_keep", None), (mlx_style.make_sampler, "seed", "x"),
    (mlx_style.make_sampler, "seed", -1), (mlx_style.make_logits_processors, "logit_bias", 5),
    (mlx_style.make_logits_processors, "repetition_penalty", "x"),
    (mlx_style.make_logits_processors, "repetition_context_size", None)])
def test_what_samplers_are_made_of(make, name, wrong):
    refused(lambda: make(**{name: wrong}), name, "is wanted, not", kind=KINDS)


def test_saving_what_is_no_cache(mlx, saved, tmp_path):
    cache, _ = saved
    file = str(tmp_path / "other.kv")
    refused(lambda: mlx_style.save_prompt_cache(file, [1, 2]), "cache: a cache of make_prompt_cache", "[1, 2]")
    refused(lambda: mlx_style.save_prompt_cache(None, cache), "file_name", "None")
    refused(lambda: mlx_style.save_prompt_cache("\ud800", cache), "file_name", "surrogate")
    for wrong in ([1], {"a": {1}}, "text"):
        refused(lambda: mlx_style.save_prompt_cache(file, cache, wrong), "metadata")
    refused(lambda: mlx_style.save_prompt_cache(file, cache, model=5), "model")
    assert not (tmp_path / "other.kv").exists()
    refused(lambda: mlx_style.trim_prompt_cache([1, 2], 1), "cache")
    refused(lambda: mlx_style.can_trim_prompt_cache(5), "cache")
    for wrong in ("x", None, 1.5, -1):
        refused(lambda: mlx_style.trim_prompt_cache(cache, wrong), "num_tokens", kind=KINDS)
    refused(lambda: mlx_style.load_prompt_cache(None), "file_name", "None")
    refused(lambda: mlx_style.load_prompt_cache(str(tmp_path / "none.kv")), "none.kv.json", kind=FileNotFoundError)


@pytest.mark.parametrize("text", [
    "", "{}", "[]", "null", "garbage", "\xff", "[" * 100_000, '{"layers": "x"}', "LAYERS 0", "LAYERS -1", "TOKENS 5", 'TOKENS ["a"]',
    "TOKENS [-1]", "PENDING null", "KV 5", "KV [1]", "METADATA 5"])
def test_a_file_beside_that_is_damaged(mlx, saved, text):
    _, file = saved
    beside = json.loads(open(f"{file}.json").read())
    if text.split(" ")[0].lower() in beside:
        text = json.dumps({**beside, text.split(" ")[0].lower(): json.loads(text.partition(" ")[2])})
    with open(f"{file}.json", "w", encoding="latin-1") as written:
        written.write(text)
    refused(lambda: mlx_style.load_prompt_cache(file), f"{file}.json is damaged", "save the cache again",
            kind=dalsegno.CorruptError)


@pytest.mark.parametrize("change", [lambda ids: ids[:-3], lambda ids: [], lambda ids: ids + [70],
                                    lambda ids: [ids[0] + 1, *ids[1:]]])
def test_a_file_beside_with_other_tokens_than_the_cache(mlx, saved, change):
    model, tokenizer = mlx
    _, file = saved
    beside = json.loads(open(f"{file}.json").read())
    with open(f"{file}.json", "w") as written:
        written.write(json.dumps({**beside, "tokens": change(beside["tokens"])}))
    refused(lambda: mlx_style.load_prompt_cache(file, model=model), "its tokens are not those of", kind=dalsegno.CorruptError)
    cache = mlx_style.load_prompt_cache(file)
    for _ in range(2):  # the refusal does not leave an empty cache behind
        refused(lambda: mlx_style.generate(model, tokenizer, [70], max_tokens=2, prompt_cache=cache), "its tokens are not those of",
                kind=dalsegno.CorruptError)


def test_a_cache_that_is_trimmed_before_it_is_read(mlx, saved):
    model, tokenizer = mlx
    cache, file = saved
    loaded, metadata = mlx_style.load_prompt_cache(file, return_metadata=True)
    assert metadata == {"of": "a test"} and loaded.tokens == cache.tokens
    assert mlx_style.trim_prompt_cache(loaded, 5) == mlx_style.trim_prompt_cache(cache, 5) == 5
    said = [mlx_style.generate(model, tokenizer, [70], max_tokens=4, prompt_cache=each) for each in (loaded, cache)]
    assert said[0] == said[1] and loaded.tokens == cache.tokens


def test_a_cache_of_another_number_of_layers(mlx, saved):
    model, tokenizer = mlx
    _, file = saved
    beside = json.loads(open(f"{file}.json").read())
    with open(f"{file}.json", "w") as written:
        written.write(json.dumps({**beside, "layers": beside["layers"] + 1}))
    cache = mlx_style.load_prompt_cache(file)
    refused(lambda: mlx_style.generate(model, tokenizer, [70], max_tokens=2, prompt_cache=cache), "layers", kind=ValueError)
