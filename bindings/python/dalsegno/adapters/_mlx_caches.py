"""Prompt caches as mlx_lm's programs know them: the part of mlx_style about them."""

from __future__ import annotations

from typing import Any

from .. import _dalsegno
from ..errors import CorruptError, UnsupportedError
from ._mlx_arguments import of_kind


class KVCache:
    """One layer's entry of a prompt cache. What is kept is kept for all layers together."""

    max_size = None

    def __init__(self, whole: PromptCache):
        self._whole = whole
        self.trimmed = 0  # tokens that are forgotten of this layer, and not yet of all

    @property
    def offset(self) -> int:
        """Tokens in the cache."""
        return len(self._whole.tokens) - self.trimmed

    @property
    def state(self):
        """Errors: UnsupportedError: K/V are the engine's."""
        raise UnsupportedError("keys and values stay in the engine, so a cache has no .state; save_prompt_cache saves them, "
                               "and there is nothing to evaluate")

    def trim(self, n: int) -> int:
        """Forgets the last tokens of this layer; how many. Before its next use a cache must be trimmed alike in all."""
        n = min(n, self.offset)
        self.trimmed += n
        self._whole.trim_alike()
        return n

    def size(self) -> int:
        """The same."""
        return self.offset

    def empty(self) -> bool:
        """Whether there are none."""
        return self.offset == 0

    def is_trimmable(self) -> bool:
        """Whether its end can be forgotten."""
        return True


class RotatingKVCache(KVCache):
    """Of a cache of the first `keep` and the last tokens."""

    max_size = property(lambda self: self._whole.kv["max_size"])
    keep = property(lambda self: self._whole.kv["keep"])

    def is_trimmable(self) -> bool:
        """Whether its end can be forgotten: not once its beginning has been."""
        return self.offset < self.max_size


class QuantizedKVCache(KVCache):
    """Of a cache of codes."""

    bits = property(lambda self: int(self._whole.kv["format"]))
    group_size = property(lambda self: self._whole.kv["group_size"])


class PromptCache(list):
    """A prompt cache: a list with an entry for each layer. It changes in place as mlx_lm's do: a request goes on from it
    and leaves prompt and reply in it."""

    def __init__(self, layers: int, kv: dict):
        kind = RotatingKVCache if kv.get("max_size") else QuantizedKVCache if "format" in kv else KVCache
        super().__init__(kind(self) for _ in range(layers))
        self.kv = kv
        self.held: _dalsegno.PromptCache | None = None
        # A file, the tokens whose K/V are wanted of it, and how many FILE.json says that it has.
        self.unread: tuple[str, list[int], int] | None = None
        self.pending: list[int] = []  # tokens after those held or unread, whose K/V nobody has needed yet

    @property
    def tokens(self) -> list[int]:
        """All its tokens."""
        kept = self.unread[1] if self.unread else self.held.tokens if self.held is not None else []
        return kept + self.pending

    def put(self, held: _dalsegno.PromptCache | None, tokens: list[int]) -> None:
        """Replaces what is in it by these tokens, of which `held` holds the first."""
        self.held = held
        self.pending = tokens[len(held) if held is not None else 0:]

    def trim_alike(self) -> None:
        """Forgets what every layer has been trimmed by."""
        common = min(layer.trimmed for layer in self)
        for layer in self:
            layer.trimmed -= common
        self.trim(common)

    def trim(self, count: int) -> int:
        """Forgets the last tokens; how many that were."""
        before = self.tokens
        count = min(count, len(before))
        kept = before[: len(before) - count]
        if self.unread:
            file, tokens, saved = self.unread
            self.unread, self.pending = (file, kept[: len(tokens)], saved), kept[len(tokens) :]
            return count
        if self.held is not None and count > len(self.pending):
            self.held = self.held.fork()
            self.held.trim(count - len(self.pending))
        self.put(self.held, kept)
        return count

    def read(self, engine: _dalsegno.Engine) -> None:
        """Reads what is still in a file. Errors: ValueError (its layers have been trimmed differently), CorruptError."""
        if any(layer.trimmed for layer in self):
            raise ValueError("the layers of the cache have been trimmed by different numbers of tokens; trim all alike")
        if self.unread:
            file, tokens, saved = self.unread
            held = _dalsegno.PromptCache.load(engine, file)
            if len(held) != saved or held.tokens[: len(tokens)] != tokens:
                raise CorruptError(f"{file}.json is damaged, or of another cache: its tokens are not those of {file}; save the "
                                   "cache again")
            if saved > len(tokens):
                held.trim(saved - len(tokens))
            self.held, self.unread = held, None

    def __deepcopy__(self, memo):
        other = PromptCache(len(self), self.kv)
        other.held, other.unread, other.pending = self.held, self.unread, list(self.pending)
        for layer, mine in zip(other, self):
            layer.trimmed = mine.trimmed
        return other


def checked(name: str, value) -> PromptCache:
    """The value, if it is a prompt cache. Errors: TypeError."""
    return of_kind(name, value, PromptCache, "a cache of make_prompt_cache or load_prompt_cache")


def readied(name: str, cache, model) -> _dalsegno.Engine:
    """The engine that a cache is for, which has read it then. Errors: TypeError, ValueError, CorruptError."""
    layers = len(checked(name, cache))
    if layers != len(model.layers):
        raise ValueError(f"{name}: its model has {layers} layers, and this one {len(model.layers)}; give a cache of this model")
    engine = model.engine_of(cache.kv)
    cache.read(engine)
    return engine


def kv_of(max_kv_size=None, kv_bits=None, kv_group_size=64, quantized_kv_start=0) -> dict:
    """mlx_lm's options of a K/V format as this engine's. Errors: ValueError."""
    kv: dict[str, Any] = {}
    if max_kv_size is not None:
        kv |= {"max_size": max_kv_size, "keep": 4}
    if kv_bits is not None:
        if kv_bits not in (8, 4):
            raise ValueError(f"kv_bits: 8 or 4, not {kv_bits}")
        kv |= {"format": str(kv_bits), "group_size": kv_group_size, "start": quantized_kv_start}
    return kv
