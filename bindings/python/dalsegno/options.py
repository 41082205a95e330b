"""The options of engines and requests, as types: every call that takes **options takes these.

Names and defaults are those of `include/dalsegno/types.hpp` and `engine.hpp`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from .constraints import Constraint, ToolChoice


class KvOptions(TypedDict, total=False):
    """How keys and values are stored."""

    format: str | int  # "bf16" (default), "f32", or codes of 8 or 4 bits
    group_size: int  # of codes: values of a token's head that share a scale; 32, 64 (default) or 128
    start: int  # of codes: tokens before are kept as bf16; rounded up to a whole block of 16
    max_size: int  # a token attends to the first `keep` and the last max_size - keep tokens; 0: to all
    keep: int


class MemoryOptions(TypedDict, total=False):
    """The memory budget of the process, which all open engines share."""

    preset: str  # "automatic" (default), "idle", "unconstrained"
    bytes: int  # at most, weights included; 0: by the preset
    idle_bytes: int  # kept while neither a request runs nor a Session exists


class EngineOptions(TypedDict, total=False):
    """Options of Engine, load and ModelRegistry.acquire."""

    kv: str | int | KvOptions  # a format, or all of it
    activation_bits: int  # 8 (default) or 16, the more exact
    context: int  # most tokens of one sequence; 0: what the model was trained for
    memory: int | str | MemoryOptions  # bytes, a preset, or all of it
    audit_share: float  # of cached blocks, the share computed again while idle; negative: one in 256; 0: none
    quotas: Mapping[str, int]  # bytes of K/V that may stay cached of a salt
    quota_bytes: int  # the same for each salt not named; 0: whatever there is room for
    step_ms: float  # how long a step that continues replies may work on prompts beside them
    threads: int  # 0: one per core
    eviction: str  # "value" (default) or "lru"
    # A GGUF file of a small model with the same vocabulary, which guesses next tokens where that is faster; for load,
    # also its name in the models folder. Changes no token.
    draft_model: str | os.PathLike[str] | None


class GenerateOptions(TypedDict, total=False):
    """Options of a request. Sampling acts in the order in which its options stand here."""

    max_tokens: int | None  # None: 512
    stop: str | Sequence[str] | None  # the reply ends before the first of these texts
    constraint: Constraint | None  # what the text must look like, by dalsegno.constraints
    tool_choice: ToolChoice | None  # of this turn, in sessions with tools: "auto", "required", "none", {"name": ...}
    logprobs: bool  # of the reply's tokens, by the logits as they are drawn from
    reuse: bool  # False: neither read from nor added to the cache
    salt: str  # requests of different salts share nothing
    chunk: int  # most prompt tokens per step
    speculation: str  # guess next tokens where that is faster: "automatic" (default) or "off"; changes no token
    # (tokens, logits) -> logits or None (changed in place): numpy arrays [n] int32 and [vocabulary] float32, copies.
    # -inf forbids a token; NaN, +inf, and -inf everywhere, are errors. Runs on the engine's thread: it must not call the
    # engine, and every request waits.
    logits_processor: Callable[[Any, Any], Any] | None

    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]]  # added to logits; -inf forbids a token
    repeat_penalty: float  # divides positive logits of recent tokens, multiplies negative ones
    repeat_last: int  # tokens looked back at by it
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float  # 0: off
    dry_base: float
    dry_allowed_length: int
    dry_last: int
    dry_breakers: Sequence[str]
    temperature: float  # 0 (default): greedy
    top_k: int  # 0: no limit
    typical_p: float
    top_p: float
    min_p: float
    seed: int | None  # None: 0
    stream: int  # draws are keyed by (seed, stream, position)

    priority: int  # -100 to 100: lower ones make room in the cache first
    ttl_seconds: float  # forgotten when no request has used it for so long
    urgency: int  # -100 to 100: when the request gets its turn
    deadline_seconds: float  # then it ends as far as it has come; 0: none
