"""genlm-backend: its own tests of what every language model does, and ours of what it promises."""

import asyncio
import os
import pathlib
import subprocess
import sys

import numpy
import pytest
import torch

from dalsegno.adapters.genlm_backend import AsyncDalSegno

from conftest import TINY, source

# Of its test files those cases that concern any AsyncLM. The others reach into one implementation (its trie of tensors,
# its queue, its loader) or compare with a model that is to be fetched.
SHARED = {
    "test_hf_llm.py": [
        "test_async_batching", "test_batch_next_token_logprobs_sync", "test_empty_input",
        "test_next_token_logprobs_with_kv_cache", "test_next_token_logprobs_sync", "test_full_batch_size",
        "test_sample_seeded", "test_batch_sample",
    ],
    "test_mlx.py": [
        "test_async_batching", "test_batch_next_token_logprobs_sync", "test_empty_input", "test_next_token_logprobs_sync",
        "test_batch_timeout", "test_sample_seeded", "test_batch_sample", "test_sample_eos_token_ids", "test_caching",
        "test_kv_reuse_matches_cold_prefill", "test_kv_fork_matches_cold_prefill",
    ],
}


@pytest.mark.parametrize("file", SHARED)
def test_its_own_shared_cases_pass(file):
    tests = source("genlm_backend") / "tests"
    wanted = [f"{tests / file}::{name}" for name in SHARED[file]]
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "DALSEGNO_MODEL": str(TINY / "tiny_chat.gguf")}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "genlm_on_dalsegno", "-p", "no:cacheprovider", *wanted]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tests, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"\ngenlm-backend's own {file}: {done.stdout.splitlines()[-1]}")


@pytest.fixture
def lm(cold):
    return AsyncDalSegno(cold, max_bytes=32 << 20)


def contexts(lm):
    words = ["The", "quick", "brown", "fox", "jumps"]
    return [lm.tokenizer.encode(" ".join(words[: i % 5 + 1]) + f" number {i % 7}") for i in range(60)]


def test_every_distinct_context_is_computed_once(lm):
    asked = contexts(lm)
    rows = asyncio.run(lm.batch_next_token_logprobs(asked))
    again = lm.batch_next_token_logprobs_sync(asked)
    assert rows.shape == (60, len(lm.byte_vocab)) and rows.dtype == torch.float32
    assert torch.equal(rows, again)
    assert lm.logprobs.stats().computed == len({tuple(context) for context in asked})


def test_cached_rows_have_the_bits_of_uncached_ones_and_never_mix(lm):
    asked = contexts(lm)
    rows = asyncio.run(lm.batch_next_token_logprobs(asked))
    for context, row in zip(asked[:35], rows):
        assert torch.equal(lm.next_token_logprobs_uncached(context), row)
    assert len({row.numpy().tobytes() for row in rows}) == len({tuple(context) for context in asked})


def test_a_row_is_the_callers_own(lm):
    context = contexts(lm)[0]
    row = lm.next_token_logprobs_sync(context)
    row.zero_()
    assert lm.next_token_logprobs_sync(context).sum() < 0


def test_what_it_cannot_do_is_an_error(lm):
    for ask in (lm.next_token_logprobs_sync, lm.next_token_logprobs_uncached, lm.cache_kv,
                lambda *arguments, **options: asyncio.run(lm.next_token_logprobs(*arguments, **options))):
        with pytest.raises(ValueError, match="LoRA"):
            ask([1, 2], lora_name="style")
        with pytest.raises(ValueError):
            ask([])


def test_tokens_are_the_packages_own(lm):
    from genlm.backend.tokenization import decode_vocab

    bytes_, strings = decode_vocab(lm.tokenizer)
    special = set(lm.tokenizer.all_special_ids)
    for ours, theirs in zip(lm.byte_vocab, bytes_):
        if ours.token_id not in special:
            assert (ours.token_id, ours.byte_string) == (theirs.token_id, theirs.byte_string)
    assert len(lm.str_vocab) == len(strings)


def test_a_trie_of_the_package_sums_our_rows(lm):
    from genlm.backend.trie import TokenCharacterTrie

    trie = TokenCharacterTrie(decode=lm.byte_vocab)
    row = lm.next_token_logprobs_sync(contexts(lm)[0]).exp()
    assert numpy.isclose(trie.weight_sum(row.numpy())[trie.root], 1, atol=1e-4)


def test_prompts_are_kept_and_forgotten(lm):
    ids = lm.tokenizer.encode("A prompt of more than one block of tokens, kept for all particles. " * 2)
    lm.cache_kv(ids)
    lm.model.reset_cache()
    assert lm.model.explain(ids).reused_tokens > 16
    lm.clear_kv_cache()
    assert lm.model.explain(ids).reused_tokens == 0
    lm.next_token_logprobs_sync(ids)
    lm.clear_cache()
    assert lm.logprobs.stats().hidden_states == 0
