"""mlx_lm's names and habits on this engine, compared with the real package's signatures."""

import ast
import copy
import importlib.util
import inspect
import os
import pathlib
import subprocess
import sys

import numpy
import pytest

from dalsegno.adapters import mlx_style

PROMPT = "The quick brown fox jumps over the lazy"
BUDGET = 256 << 20


@pytest.fixture(scope="module")
def loaded():
    tiny = pathlib.Path(os.environ["DALSEGNO_TINY"]) / "tiny_chat.gguf"
    model, tokenizer = mlx_style.load(str(tiny), memory=BUDGET, threads=2)
    yield model, tokenizer
    model.close()


def run(batch):
    """The tokens and the last response of each request."""
    tokens, last = {}, {}
    while responses := batch.next_generated():
        for response in responses:
            tokens.setdefault(response.uid, []).append(response.token)
            last[response.uid] = response
    return tokens, last


def test_a_cache_leaves_a_generator_is_saved_loaded_and_goes_on_in_another(loaded, tmp_path):
    model, tokenizer = loaded
    prompt = tokenizer.encode(PROMPT)
    whole, _ = run_of(model, prompt, 20)
    model.engine.reset_cache()

    first = mlx_style.BatchGenerator(model)
    (uid,) = first.insert([prompt], [10])
    tokens, last = run(first)
    end = last[uid]
    assert end.finish_reason == "length" and len(end.prompt_cache) == len(model.layers)
    assert {layer.offset for layer in end.prompt_cache} == {len(prompt) + 10}
    file = str(tmp_path / "fox.safetensors")
    mlx_style.save_prompt_cache(file, end.prompt_cache, {"of": "fox"})

    del first, last, end
    model.engine.reset_cache()
    cache, metadata = mlx_style.load_prompt_cache(file, return_metadata=True)
    assert metadata == {"of": "fox"} and cache[0].offset == len(prompt) + 10
    assert mlx_style.trim_prompt_cache(copy.deepcopy(cache), 5) == 5
    second = mlx_style.BatchGenerator(model)
    (uid2,) = second.insert([[]], [10], caches=[cache])
    more, last = run(second)
    assert tokens[uid] + more[uid2] == whole
    usage = last[uid2].usage
    assert usage.reused_tokens == len(prompt) + 9 and usage.prefilled_tokens == 1  # the last token was never computed


def run_of(model, prompt, count):
    batch = mlx_style.BatchGenerator(model)
    (uid,) = batch.insert([prompt], [count])
    tokens, last = run(batch)
    return tokens[uid], last[uid]


def test_generate_and_stream_generate(loaded):
    model, tokenizer = loaded
    text = mlx_style.generate(model, tokenizer, PROMPT, max_tokens=8)
    responses = list(mlx_style.stream_generate(model, tokenizer, PROMPT, max_tokens=8))
    assert "".join(response.text for response in responses) == text
    assert [response.finish_reason for response in responses] == [None] * 7 + ["length"]
    assert responses[-1].generation_tokens == 8 and responses[0].peak_memory > 0
    assert [int(response.logprobs.argmax()) for response in responses] == [response.token for response in responses]


def test_a_prompt_cache_is_continued_in_place(loaded):
    model, tokenizer = loaded
    cache = mlx_style.make_prompt_cache(model)
    assert len(cache) == len(model.layers) and cache[0].empty() and cache[-1].offset == 0
    first = mlx_style.generate(model, tokenizer, PROMPT, max_tokens=6, prompt_cache=cache)
    assert cache[0].offset == len(tokenizer.encode(PROMPT)) + 6
    other = copy.deepcopy(cache)
    model.engine.reset_cache()
    more = list(mlx_style.stream_generate(model, tokenizer, [70, 71], max_tokens=4, prompt_cache=cache))
    usage = more[-1].usage  # at most the reply's last token and the two are computed; its block may hold the first
    assert usage.prefilled_tokens <= 3 and usage.reused_tokens + usage.prefilled_tokens == usage.prompt_tokens == len(other.tokens) + 2
    assert cache[0].offset == other[0].offset + 6
    assert mlx_style.can_trim_prompt_cache(cache) and mlx_style.trim_prompt_cache(cache, 6) == 6
    assert cache.tokens == other.tokens and first
    assert mlx_style.trim_prompt_cache(cache, 10**6) == len(other.tokens) and cache[0].empty()


def test_an_abandoned_stream_leaves_what_was_read_in_the_cache(loaded):
    model, tokenizer = loaded
    cache = mlx_style.make_prompt_cache(model)
    stream = mlx_style.stream_generate(model, tokenizer, PROMPT, max_tokens=100, prompt_cache=cache)
    tokens = [next(stream).token for _ in range(3)]
    stream.close()
    assert cache.tokens == tokenizer.encode(PROMPT) + tokens


def test_bounded_and_quantised_caches(loaded):
    model, tokenizer = loaded
    rotating = mlx_style.make_prompt_cache(model, max_kv_size=64)
    assert isinstance(rotating[0], mlx_style.RotatingKVCache) and rotating[0].max_size == 64 and rotating[0].keep == 4
    mlx_style.generate(model, tokenizer, "word " * 40, max_tokens=80, prompt_cache=rotating)
    assert rotating[0].offset > 64 and not mlx_style.can_trim_prompt_cache(rotating)
    assert mlx_style.generate(model, tokenizer, PROMPT, max_tokens=4, kv_bits=8, kv_group_size=32, quantized_kv_start=0)
    quantised = mlx_style.make_prompt_cache(model, kv_bits=4, kv_group_size=32)
    assert isinstance(quantised[0], mlx_style.QuantizedKVCache) and quantised[0].bits == 4


def test_stop_tokens_samplers_and_processors(loaded):
    model, tokenizer = loaded
    prompt = tokenizer.encode(PROMPT)
    plain, _ = run_of(model, prompt, 8)
    batch = mlx_style.BatchGenerator(model, stop_tokens=[plain[3:5]])
    batch.insert([prompt], [8])
    tokens, last = run(batch)
    assert tokens[0] == plain[: plain.index(plain[4], 3) + 1][: len(tokens[0])] and last[0].finish_reason == "stop"
    assert last[0].all_tokens == prompt + tokens[0] == last[0].prompt_cache.tokens

    batch = mlx_style.BatchGenerator(model)
    batch.insert([prompt] * 3, [4] * 3, samplers=[None, lambda logprobs: logprobs.argmax(-1), lambda logprobs: [70]],
                 logits_processors=[[lambda tokens, logits: -logits], [], []])
    tokens, last = run(batch)
    assert tokens[0] != plain[:4] and tokens[1] == plain[:4] and tokens[2] == [70] * 4

    sampler = mlx_style.make_sampler(temp=1.5, top_p=0.9, seed=5)
    drawn = [mlx_style.generate(model, tokenizer, PROMPT, max_tokens=8, sampler=sampler) for _ in range(2)]
    assert drawn[0] == drawn[1]
    processors = mlx_style.make_logits_processors(logit_bias={plain[0]: -1e9}, repetition_penalty=1.3)
    (biased, *_), _ = run_with(model, prompt, processors)
    assert biased != plain[0]


def run_with(model, prompt, processors):
    batch = mlx_style.BatchGenerator(model, logits_processors=processors)
    batch.insert([prompt], [2])
    tokens, last = run(batch)
    return tokens[0], last


def test_requests_come_go_and_are_extracted(loaded):
    model, tokenizer = loaded
    prompt = tokenizer.encode(PROMPT)
    batch = mlx_style.BatchGenerator(model, max_tokens=200)
    uids = batch.insert([prompt, prompt[:-2]])
    told, responses = batch.next()
    assert {one.uid for one in told} == {one.uid for one in responses} <= set(uids)
    assert told[0].end_of_prompt and told[0].progress[0] == told[0].progress[1]
    cache, tokens = batch.extract_cache(uids[:1])[uids[0]]
    assert cache.tokens == tokens and tokens[: len(prompt)] == prompt
    removed = batch.remove(uids, return_prompt_caches=True)
    assert set(removed) == set(uids) and batch.next() == ([], []) and batch.next_generated() == []
    with pytest.raises(ValueError, match="one entry for each prompt"):
        batch.insert([prompt], [1, 2])


# Functions and methods with the parameters of mlx_lm that ours takes too, in their order.
# In a process of its own: the engines of the other tests leave no room for two more.
DRAFTED = """
import sys
from dalsegno.adapters import mlx_style
options = {"memory": 256 << 20, "threads": 2, "context": 512}
model, tokenizer = mlx_style.load(sys.argv[1], **options)
def say(**draft):
    return [each.token for each in mlx_style.stream_generate(model, tokenizer, sys.argv[2], max_tokens=20, **draft)]
plain = say()
assert say(draft_model=model) == plain
assert model.engine.draft_report() is None and model.engine_of({}).draft_report() is not None
"""


def test_a_draft_model_changes_no_token(loaded):
    subprocess.run([sys.executable, "-c", DRAFTED, loaded[0].path, PROMPT], check=True)


SAME = {"generate.py": ("stream_generate", "generate", "BatchGenerator.__init__", "BatchGenerator.insert",
                        "BatchGenerator.next", "BatchGenerator.next_generated", "BatchGenerator.extract_cache",
                        "BatchGenerator.remove", "BatchGenerator.close"),
        "models/cache.py": ("make_prompt_cache", "save_prompt_cache", "load_prompt_cache", "can_trim_prompt_cache",
                            "trim_prompt_cache")}


@pytest.mark.parametrize("file,name", [(file, name) for file, names in SAME.items() for name in names])
def test_signatures_are_those_of_the_real_package(file, name):
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None:
        pytest.skip("mlx_lm is not installed")
    tree = ast.parse((pathlib.Path(spec.submodule_search_locations[0]) / file).read_text())
    body, ours = tree.body, mlx_style
    for part in name.split("."):
        node = next(one for one in body if getattr(one, "name", None) == part)
        body, ours = getattr(node, "body", []), getattr(ours, part)
    theirs = [argument.arg for argument in node.args.args + node.args.kwonlyargs]
    mine = list(inspect.signature(ours).parameters)
    assert mine[: len(theirs)] == theirs or set(theirs) <= set(mine), (theirs, mine)


def test_a_tokenizer_as_of_transformers(loaded):
    _, tokenizer = loaded
    ids = tokenizer.encode("hello there")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello there"
    messages = [{"role": "user", "content": "hi"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert tokenizer.decode(ids) == text and tokenizer.eos_token in text
    assert tokenizer.apply_chat_template(messages, return_tensors="np", return_dict=True)["input_ids"].dtype == numpy.int64
    assert tokenizer.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(ids)) == ids
    assert tokenizer.eos_token_id in tokenizer.all_special_ids and len(tokenizer) == tokenizer.vocab_size
