"""Replies for an adapter's object, with a prompt cache of the object's own."""

from __future__ import annotations

import collections
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy

from .._dalsegno import BatchGenerator
from .._model import Model

DEFAULT_LIMIT = 16384  # tokens: of a model like SmolLM2 (23 KiB of K/V each) 360 MiB


@dataclass
class Answer:
    """What a prompt came to; usage tells how much of it was reused."""

    text: str = ""
    finish_reason: str = ""
    usage: Any = None


class Replies:
    """Asks a model, and keeps the K/V of what was asked and answered for the calls to come, constrained or not.

    Once they hold more than `limit` tokens together, or more than the engine keeps in all, the least recently used
    conversations go first. Threads: any.
    """

    def __init__(self, model: Model, limit: int = DEFAULT_LIMIT):
        if limit < 0:
            raise ValueError(f"the most tokens a cache may hold cannot be {limit}; 0 keeps none")
        self.model = model
        self.limit = limit
        self._lock = threading.Lock()
        self._held: collections.OrderedDict[bytes, Any] = collections.OrderedDict()  # by tokens, the oldest first
        self._salt = uuid.uuid4().hex

    def ask(self, prompts: list[list[int]], options: dict[str, Any]) -> list[Answer]:
        """The answers to prompts that run together. Errors: as Engine.generate."""
        answers: dict[int, Answer] = {}
        for response in self._responses(prompts, options):
            answer = answers.setdefault(response.uid, Answer())
            answer.text += response.text
            if response.finish_reason:
                answer.finish_reason, answer.usage = response.finish_reason, response.usage
        return [answers[uid] for uid in sorted(answers)]

    def stream(self, prompt: list[int], options: dict[str, Any]) -> Iterator[str]:
        """The text of an answer as it comes. Leaving early ends the request."""
        for response in self._responses([prompt], options):
            if response.text:
                yield response.text

    def cache_size(self) -> int:
        """How many tokens are kept; what several prompts begin with counts once."""
        with self._lock:
            return _distinct(self._held)

    def reset_cache(self) -> None:
        """Forgets them all: nothing of earlier calls is reused by later ones."""
        with self._lock:
            self._held.clear()
            self._salt = uuid.uuid4().hex

    def _responses(self, prompts, options):
        batch = BatchGenerator(self.model.engine)
        with self._lock:
            salt = self._salt
        batch.insert(prompts, uids=list(range(len(prompts))), **{"salt": salt, **options})
        try:
            while responses := batch.next():
                for response in responses:
                    if response.exception is not None:
                        raise response.exception
                    if response.finish_reason:
                        self._hold(response.cache, salt)
                    yield response
        finally:
            batch.close()

    def _hold(self, cache, salt: str) -> None:
        with self._lock:
            if salt != self._salt:  # it was reset meanwhile
                return
            if cache is None:  # refused: what prompt caches may keep is full
                if self._held:
                    self._held.popitem(last=False)
                return
            tokens = _bytes_of(cache.tokens)
            for other in [each for each in self._held if tokens.startswith(each)]:
                del self._held[other]
            self._held[tokens] = cache
            while self._held and _distinct(self._held) > self.limit:
                self._held.popitem(last=False)


_WIDTH = 4


def _bytes_of(tokens) -> bytes:
    """Token ids, most significant byte first: their order is that of the ids."""
    return numpy.asarray(tokens, dtype=">u4").tobytes()


def _distinct(sequences) -> int:
    """How many tokens a tree of them has."""
    total, before = 0, b""
    for sequence in sorted(sequences):
        shorter = min(len(before), len(sequence)) // _WIDTH
        one, other = (numpy.frombuffer(each, dtype=">u4", count=shorter) for each in (before, sequence))
        differing = numpy.flatnonzero(one != other)
        total += len(sequence) // _WIDTH - (int(differing[0]) if len(differing) else shorter)
        before = sequence
    return total
