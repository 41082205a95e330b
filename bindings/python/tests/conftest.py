"""Tests of the package on tiny models. DALSEGNO_TINY: the folder where the build has made them."""

import os
import pathlib

import pytest

import dalsegno

TINY = pathlib.Path(os.environ["DALSEGNO_TINY"])
BUDGET = 256 << 20


@pytest.fixture(scope="session")
def model():
    """A model that chats, though it says nothing sensible; context 8,192."""
    with dalsegno.load(TINY / "tiny_chat.gguf", memory=BUDGET, threads=2) as loaded:
        yield loaded


@pytest.fixture
def cold(model):
    """The same with nothing cached."""
    model.reset_cache()
    return model


@pytest.fixture(scope="session")
def tool_model():
    """One that calls its tool and answers."""
    with dalsegno.load(TINY / "tiny_tool.gguf", memory=BUDGET, threads=2) as loaded:
        yield loaded
