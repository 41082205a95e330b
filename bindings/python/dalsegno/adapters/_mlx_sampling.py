"""How mlx_lm's programs say what to draw, as options of this engine and as functions: the part of mlx_style about it."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy

from .. import _arguments
from ..errors import InvalidArgumentError, UnsupportedError
from ._mlx_arguments import number, of_kind, whole

_LEAST = numpy.finfo(numpy.float32).min


class Sampler(dict):
    """Options of sampling, by our names: what make_sampler gives. A generator draws by them in the engine."""

    def __call__(self, logprobs):
        """The most likely tokens of log-probabilities [..., vocabulary]. Errors: UnsupportedError (temp is not 0)."""
        if self["temperature"] > 0:
            raise UnsupportedError("a sampler with temp above 0 draws in the engine and cannot be called; give it to a generator, "
                                   "or write a function of your own")
        return numpy.argmax(logprobs, axis=-1)


class LogitsProcessor(dict):
    """Penalties and biases, by our names: what make_logits_processors gives."""

    def __call__(self, tokens, logits):
        """Logits [..., vocabulary] after logit_bias and repetition_penalty. Errors: UnsupportedError (other penalties)."""
        if self.get("presence_penalty") or self.get("frequency_penalty"):
            raise UnsupportedError("presence_penalty and frequency_penalty count the reply's tokens, which a call does not know; "
                                   "give the processors to a generator")
        row = numpy.array(logits, dtype=numpy.float32)
        for token, bias in self["logit_bias"].items():
            row[..., token] += numpy.float32(bias)
        if "repeat_penalty" in self:
            penalty = numpy.float32(self["repeat_penalty"])
            recent = numpy.unique(numpy.asarray(tokens, dtype=numpy.int64)[max(0, len(tokens) - self["repeat_last"]):])
            before = row[..., recent]
            row[..., recent] = numpy.where(before > 0, before / penalty, before * penalty)
        return row


def make_sampler(temp: float = 0.0, top_p: float = 0.0, min_p: float = 0.0, min_tokens_to_keep: int = 1, top_k: int = 0,
                 xtc_probability: float = 0.0, xtc_threshold: float = 0.1, xtc_special_tokens: list[int] | None = None,
                 *, seed: int | None = None) -> Sampler:
    """How to draw. seed: None draws differently each time.

    Errors: TypeError, UnsupportedError (what the engine cannot do: XTC, and keeping more than one token against min_p).
    """
    for name, value in {"temp": temp, "top_p": top_p, "min_p": min_p, "xtc_probability": xtc_probability}.items():
        number(name, value)
    whole("top_k", top_k, 0)
    whole("min_tokens_to_keep", min_tokens_to_keep, 0)
    if seed is not None:
        whole("seed", seed, 0)
    if temp > 0 and xtc_probability > 0:
        raise UnsupportedError("xtc_probability: the engine draws without XTC; leave it 0, or write a sampler of your own")
    if temp > 0 and min_p > 0 and min_tokens_to_keep > 1:
        raise UnsupportedError("min_tokens_to_keep: the engine keeps one token against min_p; leave it 1, or write a sampler of "
                               "your own")
    sampler = Sampler(temperature=temp, top_k=top_k, min_p=min_p, top_p=top_p if top_p > 0 else 1.0)
    return Sampler(sampler, seed=seed) if seed is not None else sampler


def make_logits_processors(logit_bias: dict[int, float] | None = None, repetition_penalty: float | None = None,
                           repetition_context_size: int = 20, presence_penalty: float | None = None,
                           presence_context_size: int | None = None, frequency_penalty: float | None = None,
                           frequency_context_size: int | None = None) -> list[LogitsProcessor]:
    """Penalties and biases. presence_penalty and frequency_penalty count the tokens of the whole reply.

    Errors: TypeError, UnsupportedError (another number of tokens for them).
    """
    penalties = {"repetition_penalty": repetition_penalty, "presence_penalty": presence_penalty,
                 "frequency_penalty": frequency_penalty}
    for name, value in penalties.items():
        if value is not None:
            number(name, value)
    whole("repetition_context_size", repetition_context_size, 0)
    if logit_bias is not None:
        of_kind("logit_bias", logit_bias, Mapping, "a dict of numbers by token id")
    if presence_context_size is not None or frequency_context_size is not None:
        raise UnsupportedError("presence_context_size and frequency_context_size: the engine counts the whole reply's tokens; "
                               "leave them out, or write a processor of your own")
    options: dict[str, Any] = {"logit_bias": logit_bias or {}}
    if repetition_penalty:
        options |= {"repeat_penalty": repetition_penalty, "repeat_last": repetition_context_size}
    if presence_penalty:
        options["presence_penalty"] = presence_penalty
    if frequency_penalty:
        options["frequency_penalty"] = frequency_penalty
    return [LogitsProcessor(options)]


def _processor(processors: list[Callable], sampler: Callable | None):
    """One processor that runs functions of (tokens, logits [1, vocabulary]), and a sampler of log-probabilities
    [1, vocabulary], whose choice alone is left."""

    def process(tokens, logits):
        row = logits[None]
        for processor in processors:
            row = _row(processor(tokens, row), len(logits))
        if sampler is not None and numpy.isfinite(row.max()):  # else the engine says what is wrong with the row
            shifted = row - row.max()
            token = _token(sampler(shifted - numpy.log(numpy.exp(shifted).sum())), len(logits))
            row = numpy.full_like(row, _LEAST)
            row[0, token] = 0
        return numpy.ascontiguousarray(row[0])

    return process


def _token(returned, size: int) -> int:
    """The token id that a sampler gave, one number or [1]. Errors: InvalidArgumentError (something else)."""
    try:
        (token,) = numpy.asarray(returned).reshape(-1)
        if 0 <= (chosen := operator.index(token)) < size:
            return chosen
    except (TypeError, ValueError):
        pass
    raise InvalidArgumentError(f"the sampler returned {_arguments.shown(returned)}; a token id from 0 to {size - 1} is wanted")


def _row(returned, size: int):
    """What a processor gave, [1, size]. Errors: InvalidArgumentError (something else)."""
    try:
        row = numpy.asarray(returned, dtype=numpy.float32)
    except (TypeError, ValueError):
        row = numpy.empty(0, dtype=numpy.float32)
    if returned is None or row.size != size:
        what = f"an array of shape {row.shape}" if hasattr(returned, "shape") else f"a value of type {type(returned).__name__}"
        raise InvalidArgumentError(f"a logits processor returned {what}; logits [1, {size}] are wanted")
    return row.reshape(1, size)


def request_options(sampler, logits_processors) -> dict[str, Any]:
    """Options of a request, by our names, for a sampler and processors: what make_* gave, or functions."""
    options = dict(sampler) if isinstance(sampler, Sampler) else {}
    functions = []
    for processor in logits_processors or ():
        if isinstance(processor, LogitsProcessor):
            options |= processor
        else:
            functions.append(processor)
    if options.get("temperature", 0) > 0 and "seed" not in options:
        options["seed"] = random.getrandbits(63)
    own = None if sampler is None or isinstance(sampler, Sampler) else sampler
    if functions or own is not None:
        options["logits_processor"] = _processor(functions, own)
    return options
