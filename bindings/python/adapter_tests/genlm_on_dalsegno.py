"""A pytest plugin: genlm-backend's own tests ask for models by name and backend, and get ours."""

import os
import sys
import types

import genlm.backend.llm
import pytest

from dalsegno.adapters.genlm_backend import AsyncDalSegno

sys.modules.setdefault("mlx", types.ModuleType("mlx"))  # its tests of that backend are tests of any, but for the loading

_loaded = {}


def load(name, backend=None, llm_opts=None):
    if "lm" not in _loaded:
        _loaded["lm"] = AsyncDalSegno.from_name(os.environ["DALSEGNO_MODEL"], memory=1 << 30, threads=2)
    return _loaded["lm"]


genlm.backend.llm.load_model_by_name = load


class _Tokenizers:
    @staticmethod
    def from_pretrained(name, **_):
        return load(name).tokenizer


@pytest.fixture(autouse=True)
def tokenizers_are_ours(monkeypatch):
    """Of their vocabulary tests."""
    import transformers

    monkeypatch.setattr(transformers, "AutoTokenizer", _Tokenizers)
