"""Adapters with the packages whose faces they have; scripts/test_adapters makes the environment.

DALSEGNO_TINY: the folder where the build has made the tiny models. DALSEGNO_SOURCES: the packages as their authors publish
them, with tests and examples.
"""

import os
import pathlib

import pytest

import dalsegno

TINY = pathlib.Path(os.environ["DALSEGNO_TINY"])
SOURCES = pathlib.Path(os.environ["DALSEGNO_SOURCES"])
BUDGET = 1 << 30


def source(name):
    """The folder of a package's sources."""
    (folder,) = (each for each in SOURCES.glob(f"{name}-*") if each.is_dir())
    return folder


@pytest.fixture(scope="session")
def model():
    """A model that chats, though it says nothing sensible."""
    with dalsegno.load(TINY / "tiny_chat.gguf", memory=BUDGET, threads=2) as loaded:
        yield loaded


@pytest.fixture
def cold(model):
    """The same with nothing cached."""
    model.reset_cache()
    return model


@pytest.fixture(scope="session")
def smollm2():
    """Where what is said must make sense."""
    with dalsegno.load("SmolLM2-135M-Instruct.Q4_1", memory=BUDGET, threads=2) as loaded:
        yield loaded
