"""The real llamppl's programs on our language model. Of what it imports, torch and genlm are stand-ins unless they are
installed: it names their classes and never makes one of them here."""

import asyncio
import importlib.util
import sys
import types

import numpy
import pytest

from dalsegno.adapters.llamppl import CachedCausalLM


@pytest.fixture(scope="module")
def llamppl():
    names = {"torch": (), "genlm": (), "genlm.backend": (),
             "genlm.backend.llm": ("AsyncTransformer", "AsyncVirtualLM", "MockAsyncLM", "AsyncMlxLM")}
    installed = importlib.util.find_spec("torch") is not None
    missing = {} if installed else {name: contents for name, contents in names.items() if name not in sys.modules}
    for name, contents in missing.items():
        sys.modules[name] = types.ModuleType(name)
        for one in contents:
            setattr(sys.modules[name], one, type(one, (), {}))
    try:
        yield pytest.importorskip("llamppl")
    finally:
        for name in missing:
            del sys.modules[name]


class Counted(CachedCausalLM):
    """Remembers what it was asked for."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.contexts = []

    async def next_token_logprobs(self, token_ids):
        self.contexts.append(tuple(token_ids))
        return await super().next_token_logprobs(token_ids)

    def next_token_logprobs_unbatched(self, token_ids):
        self.contexts.append(tuple(token_ids))
        return super().next_token_logprobs_unbatched(token_ids)


@pytest.fixture
def lm(cold):
    return Counted(cold, max_bytes=32 << 20)


def constrained(llamppl):
    """A model in llamppl's own words: a few tokens, none of them with an 'e'."""

    class NoE(llamppl.Model):
        def __init__(self, lm, prompt, length):
            super().__init__()
            self.context = llamppl.LMContext(lm, prompt)
            self.allowed = {i for i, text in enumerate(lm.str_vocab) if "e" not in text} - lm.masks.EOS
            self.left = length

        async def step(self):
            await self.observe(self.context.mask_dist(self.allowed), True)
            await self.sample(self.context.next_token())
            self.left -= 1
            if self.left == 0:
                self.finish()

    return NoE


def text_of(particle):
    return str(particle.context)


def test_smc_standard_obeys_the_constraint_and_computes_each_context_once(llamppl, lm):
    for _ in range(2):
        numpy.random.seed(1)
        particles = asyncio.run(llamppl.smc_standard(constrained(llamppl)(lm, "The quick brown fox", 6), 8))
    assert len(particles) == 8 and all("e" not in text_of(particle) for particle in particles)
    assert all(numpy.isfinite(particle.weight) for particle in particles)
    stats = lm.logprobs.stats()
    assert stats.computed == len(set(lm.contexts)) < len(lm.contexts)


def test_smc_steer_runs(llamppl, lm):
    numpy.random.seed(2)
    particles = asyncio.run(llamppl.smc_steer(constrained(llamppl)(lm, "The quick brown fox", 4), 3, 2))
    assert len(particles) == 3 and all("e" not in text_of(particle) for particle in particles)
    assert lm.logprobs.stats().computed == len(set(lm.contexts))


def test_particles_of_different_prefixes_never_mix_their_answers(llamppl, lm):
    async def particles():
        contexts = [await llamppl.LMContext.create(lm, f"Number {i} says") for i in range(20)]
        for _ in range(4):
            await asyncio.gather(*(context.next_token().sample() for context in contexts))
        return contexts

    for context in asyncio.run(particles()):
        own = lm.next_token_logprobs_unbatched(context.tokens).astype(float)
        assert numpy.allclose(own, context.next_token_logprobs, atol=1e-5)


def test_infilling_weights_are_those_of_the_distribution(llamppl, lm):
    class Infilling(llamppl.Model):
        def __init__(self, lm, words):
            super().__init__()
            self.context = llamppl.LMContext(lm, words.pop(0))
            self.words = words
            self.lm = lm

        async def step(self):
            await self.sample(self.context.next_token())
            for token in self.lm.tokenizer.encode(self.words.pop(0), add_special_tokens=False):
                await self.observe(self.context.next_token(), token)
            if not self.words:
                self.finish()

    numpy.random.seed(3)
    (particle,) = asyncio.run(llamppl.smc_standard(Infilling(lm, ["To be", " not", " question"]), 1))
    tokens = lm.tokenizer.encode(" not", add_special_tokens=False)
    assert particle.weight < 0 and len(tokens) > 0
    assert str(particle.context).endswith(" question")


def test_masks_are_llamppls_own(llamppl, lm):
    theirs, ours = llamppl.Masks(lm), lm.masks
    for name, mask in vars(theirs).items():
        if not name.startswith("_"):
            assert getattr(ours, name) == mask, name
    assert ours.token_length_mask(2, 3) == theirs.token_length_mask(2, 3)


def test_it_has_all_that_llamppls_own_has(llamppl):
    own = {name for name in vars(llamppl.CachedCausalLM) if not name.startswith("_")}
    assert own <= set(dir(CachedCausalLM)) | {"str_vocab", "byte_vocab"}


def test_prompts_are_kept_and_forgotten(lm):
    ids = lm.tokenizer.encode("A prompt of more than one block of tokens, kept for all particles. " * 2)
    lm.cache_kv(ids)
    lm.model.reset_cache()
    assert lm.model.explain(ids).reused_tokens > 16
    lm.next_token_logprobs_unbatched(ids)
    lm.clear_kv_cache()
    assert lm.model.explain(ids).reused_tokens == 0 and lm.logprobs.stats().hidden_states == 1
    lm.clear_cache()
    assert lm.logprobs.stats().hidden_states == 0
