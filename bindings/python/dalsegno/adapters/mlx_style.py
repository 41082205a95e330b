"""Names and signatures of mlx_lm, on this engine: change `from mlx_lm import ...` to `from dalsegno.adapters.mlx_style
import ...`.

What differs: models are GGUF files; arrays are numpy's; end-of-turn tokens always end a reply; a K/V format belongs to
an engine, so that the first use of another one (kv_bits, max_kv_size) loads the model once more for it. So does the
first use of a draft model, and a prompt cache stays with the engine that filled it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import pathlib
import time
from collections.abc import Generator, Sequence
from typing import Any

from .. import _arguments, _dalsegno
from .._model import Model as _Model
from .._models import find_model
from ..errors import NotFoundError, UnsupportedError
from ._mlx_sampling import LogitsProcessor, Sampler, make_logits_processors, make_sampler, request_options
from .transformers_style import TransformersTokenizer


class Model:
    """A GGUF file and its engines, one for each K/V format in use."""

    def __init__(self, path: str, **options):
        self.path = path
        self.options = options
        self.layers = range(_dalsegno.layers(path))
        self._engines: dict[str, _dalsegno.Engine] = {}
        self.engine = self.engine_of({})

    def engine_of(self, kv: dict) -> _dalsegno.Engine:
        """The engine of a K/V format."""
        given = self.options.get("kv", {})
        own = {**(given if isinstance(given, dict) else {"format": given}), **kv}
        key = json.dumps([own, str(self.options.get("draft_model"))], sort_keys=True)
        if key not in self._engines:
            self._engines[key] = _dalsegno.Engine(self.path, **{**self.options, "kv": own})
        return self._engines[key]

    def guess_with(self, draft_model: Model) -> None:
        """From now on a smaller model with the same vocabulary guesses tokens where that is faster; it changes none."""
        self.options = {**self.options, "draft_model": draft_model.path}

    def close(self):
        """Lets go of the engines."""
        for engine in self._engines.values():
            engine.close()


def load(path_or_hf_repo: str, tokenizer_config: dict | None = None, model_config: dict | None = None,
         adapter_path: str | None = None, lazy: bool = False, return_config: bool = False, **options):
    """(model, tokenizer) of a GGUF file, or of a name in the models folder; options: as dalsegno.load."""
    if adapter_path is not None:
        raise ValueError("adapters of weights are not supported")
    model = Model(find_model(path_or_hf_repo), **options)
    tokenizer = TransformersTokenizer(model.engine.tokenizer)
    return (model, tokenizer, {"num_hidden_layers": len(model.layers)}) if return_config else (model, tokenizer)


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
        self.unread: tuple[str, list[int]] | None = None  # a file, and the tokens whose K/V are still in it
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
            file, tokens = self.unread
            self.unread, self.pending = (file, kept[: len(tokens)]), kept[len(tokens) :]
            return count
        if self.held is not None and count > len(self.pending):
            self.held = self.held.fork()
            self.held.trim(count - len(self.pending))
        self.put(self.held, kept)
        return count

    def read(self, engine: _dalsegno.Engine) -> None:
        """Reads what is still in a file. Errors: ValueError (its layers have been trimmed differently)."""
        if any(layer.trimmed for layer in self):
            raise ValueError("the layers of the cache have been trimmed by different numbers of tokens; trim all alike")
        if self.unread:
            (file, tokens), self.unread = self.unread, None
            self.held = _dalsegno.PromptCache.load(engine, file)
            if len(self.held) > len(tokens):
                self.held.trim(len(self.held) - len(tokens))

    def __deepcopy__(self, memo):
        other = PromptCache(len(self), self.kv)
        other.held, other.unread, other.pending = self.held, self.unread, list(self.pending)
        for layer, mine in zip(other, self):
            layer.trimmed = mine.trimmed
        return other


def _kv_of(max_kv_size=None, kv_bits=None, kv_group_size=64, quantized_kv_start=0) -> dict:
    kv: dict[str, Any] = {}
    if max_kv_size is not None:
        kv |= {"max_size": max_kv_size, "keep": 4}
    if kv_bits is not None:
        if kv_bits not in (8, 4):
            raise ValueError(f"kv_bits: 8 or 4, not {kv_bits}")
        kv |= {"format": str(kv_bits), "group_size": kv_group_size, "start": quantized_kv_start}
    return kv


def make_prompt_cache(model: Model, max_kv_size: int | None = None, *, kv_bits: int | None = None,
                      kv_group_size: int = 64, quantized_kv_start: int = 0) -> PromptCache:
    """An empty cache, bounded with max_kv_size, of codes with kv_bits."""
    return PromptCache(len(model.layers), _kv_of(max_kv_size, kv_bits, kv_group_size, quantized_kv_start))


def save_prompt_cache(file_name: str, cache: PromptCache, metadata: dict[str, str] | None = None,
                      *, model: Model | None = None) -> None:
    """One file, docs/saved_caches.md, and beside it FILE.json with the metadata and what mlx_lm would keep."""
    if model is not None:
        cache.read(model.engine_of(cache.kv))
    if cache.held is None:
        raise ValueError("there is nothing to save: no request has used the cache yet")
    cache.held.save(file_name)
    beside = {"metadata": metadata or {}, "kv": cache.kv, "tokens": cache.held.tokens, "pending": cache.pending,
              "layers": len(cache)}
    pathlib.Path(f"{file_name}.json").write_text(json.dumps(beside), encoding="utf-8")


def load_prompt_cache(file_name: str, return_metadata: bool = False, *, model: Model | None = None):
    """The cache of a file. model: of which it is; it may be left out, then the first generator that gets the cache
    reads the K/V."""
    beside = json.loads(pathlib.Path(f"{file_name}.json").read_text(encoding="utf-8"))
    cache = PromptCache(beside["layers"], beside["kv"])
    cache.unread, cache.pending = (file_name, beside["tokens"]), beside["pending"]
    if model is not None:
        cache.read(model.engine_of(cache.kv))
    return (cache, beside["metadata"]) if return_metadata else cache


def can_trim_prompt_cache(cache: PromptCache) -> bool:
    """Whether the end of a cache can be forgotten."""
    return all(layer.is_trimmable() for layer in cache)


def trim_prompt_cache(cache: PromptCache, num_tokens: int) -> int:
    """Forgets the last tokens of a cache; how many that were."""
    return cache.trim(num_tokens) if cache and can_trim_prompt_cache(cache) else 0


@dataclasses.dataclass
class PromptResponse:
    """How far a prompt has come."""

    uid: int
    progress: tuple[int, int]
    end_of_segment: bool
    end_of_prompt: bool


class Response:
    """A token of a request: uid, token, finish_reason, and with the end prompt_cache and all_tokens; logprobs are
    [vocabulary] float32."""

    def __init__(self, response, uid, token, finish_reason):
        self._response = response
        self.uid = uid
        self.token = token
        self.text = response.text
        self.usage = response.usage
        self.finish_reason = finish_reason
        self.prompt_cache: PromptCache | None = None
        self.all_tokens: list[int] | None = None
        self._logprobs = None

    @property
    def logprobs(self):
        """Log-probabilities of all tokens as this one was drawn, [vocabulary] float32."""
        if self._logprobs is None:
            self._logprobs = self._response.logprobs_row()
        return self._logprobs


@dataclasses.dataclass
class _Request:
    """What a request of the engine is to whoever inserted it."""

    tokens: list[int]
    prompt_tokens: int
    cache: PromptCache
    stops: list[list[int]]
    begun: bool = False


class BatchGenerator:
    """Requests that run together. Prompts given with a cache go on from its tokens."""

    def __init__(self, model: Model, *, max_tokens: int = 128, stop_tokens: Sequence[Sequence[int]] | None = None,
                 sampler=None, logits_processors: list | None = None, completion_batch_size: int = 32,
                 prefill_batch_size: int = 8, prefill_step_size: int = 2048, max_kv_size: int | None = None, stream=None,
                 kv_bits: int | None = None, kv_group_size: int = 64, quantized_kv_start: int = 0):
        self.model = model
        self.max_tokens = max_tokens
        self.sampler = sampler
        self.logits_processors = logits_processors or []
        self.kv = _kv_of(max_kv_size, kv_bits, kv_group_size, quantized_kv_start)
        self.stop_tokens = [[stop] if isinstance(stop, int) else list(stop) for stop in stop_tokens or []]
        self._chunk = prefill_step_size
        self._batches: dict[str, _dalsegno.BatchGenerator] = {}
        self._requests: dict[int, _Request] = {}
        self._where: dict[int, str] = {}  # which batch a request is in
        self._uids = 0

    def insert(self, prompts: list[list[int]], max_tokens: list[int] | None = None, caches: list | None = None,
               all_tokens: list[list[int]] | None = None, samplers: list | None = None,
               logits_processors: list[list] | None = None, stop_sequences: list | None = None) -> list[int]:
        """Queues requests and gives their uids; each option has one entry for each prompt."""
        count = len(prompts)
        given = {"max_tokens": max_tokens, "caches": caches, "all_tokens": all_tokens, "samplers": samplers,
                 "logits_processors": logits_processors, "stop_sequences": stop_sequences}
        for name, value in given.items():
            if value is not None and len(value) != count:
                raise ValueError(f"{name} must have one entry for each prompt: expected {count}, got {len(value)}")
        uids = []
        for i, prompt in enumerate(prompts):
            cache = caches[i] if caches and caches[i] is not None else PromptCache(len(self.model.layers), self.kv)
            engine = self.model.engine_of(cache.kv)
            cache.read(engine)
            tokens = cache.tokens + _arguments.token_ids(f"prompts, item {i}", prompt)
            if not tokens:
                raise ValueError(f"prompt {i} is empty")
            processors = logits_processors[i] if logits_processors else self.logits_processors
            sampler = samplers[i] if samplers and samplers[i] is not None else self.sampler
            stops = stop_sequences[i] if stop_sequences and stop_sequences[i] is not None else self.stop_tokens
            uid = self._uids
            key = json.dumps(cache.kv, sort_keys=True)
            batch = self._batches.setdefault(key, None) or _dalsegno.BatchGenerator(engine)
            self._batches[key] = batch
            batch.insert([tokens], max_tokens[i] if max_tokens else self.max_tokens, caches=[cache.held], uids=[uid],
                         keep_logits=True, chunk=self._chunk, **request_options(sampler, processors))
            self._requests[uid] = _Request(tokens, len(tokens), cache, stops)
            self._where[uid] = key
            self._uids += 1
            uids.append(uid)
        return uids

    def next(self) -> tuple[list[PromptResponse], list[Response]]:
        """What is new: prompts that were computed, and tokens. Both lists are empty once no request is left; the tuple of them
        is true even then, so loop over next_generated()."""
        prompts, responses = [], []
        for key in {self._where[uid] for uid in self._requests}:
            for response in self._batches[key].next():
                request = self._requests.get(response.uid)
                if request is None:
                    continue
                if response.finish_reason == "error":
                    self._forget(response.uid)
                    raise response.exception
                if not request.begun:
                    request.begun = True
                    prompts.append(PromptResponse(response.uid, (request.prompt_tokens,) * 2, True, True))
                if response.token is not None:
                    responses.append(self._told(request, response))
                elif response.finish_reason is not None:
                    request.cache.put(response.cache, request.tokens)
                    self._forget(response.uid)
        return prompts, responses

    def next_generated(self) -> list[Response]:
        """Tokens alone; empty once no request is left."""
        while self._requests:
            _, responses = self.next()
            if responses:
                return responses
        return []

    def _told(self, request: _Request, response) -> Response:
        request.tokens.append(response.token)
        reason = response.finish_reason
        stopped = any(request.tokens[request.prompt_tokens:][-len(stop):] == stop for stop in request.stops)
        made = Response(response, response.uid, response.token, "stop" if stopped else reason)
        if not stopped and reason is None:
            return made
        held = response.cache
        if reason is None:  # a stop of ours: the engine has gone on
            held = self._held(response.uid)
            self._drop(response.uid)
        request.cache.put(held, request.tokens)
        made.prompt_cache, made.all_tokens = request.cache, list(request.tokens)
        self._forget(response.uid)
        return made

    def _held(self, uid: int):
        """What is computed of a request's tokens as its reader knows them; the engine works ahead of that."""
        tokens = self._requests[uid].tokens
        try:
            held = self._batches[self._where[uid]].extract_cache(uid)
        except NotFoundError:  # it has ended, which its reader does not know yet; what it computed is still cached
            return _dalsegno.PromptCache.make(self.model.engine_of(self._requests[uid].cache.kv), tokens[:-1])
        if len(held) >= len(tokens):
            held.trim(len(held) - len(tokens) + 1)
        return held

    def _drop(self, uid: int) -> None:
        with contextlib.suppress(NotFoundError):  # it has ended, which its reader does not know yet
            self._batches[self._where[uid]].remove(uid)

    def _forget(self, uid: int) -> None:
        del self._requests[uid], self._where[uid]

    def extract_cache(self, uids: list[int]) -> dict[int, tuple[PromptCache, list[int]]]:
        """What requests have computed so far; they go on."""
        found = {}
        for uid in uids:
            if uid not in self._requests:
                continue
            request = self._requests[uid]
            cache = PromptCache(len(self.model.layers), request.cache.kv)
            cache.put(self._held(uid), list(request.tokens))
            found[uid] = (cache, list(request.tokens))
        return found

    def remove(self, uids: list[int], return_prompt_caches: bool = False) -> dict:
        """Drops requests, wherever they stand."""
        caches = self.extract_cache(uids) if return_prompt_caches else {}
        for uid in uids:
            if uid in self._requests:
                self._drop(uid)
                self._forget(uid)
        return caches

    def close(self) -> None:
        """Drops all."""
        self.remove(list(self._requests))


@dataclasses.dataclass
class BatchStats:
    """What batch_generate took: tokens, seconds until every request had its first token and after that, GB."""

    prompt_tokens: int = 0
    prompt_time: float = 0.0
    generation_tokens: int = 0
    generation_time: float = 0.0
    peak_memory: float = 0.0

    prompt_tps = property(lambda self: self.prompt_tokens / self.prompt_time if self.prompt_time > 0 else 0.0)
    generation_tps = property(lambda self: self.generation_tokens / self.generation_time if self.generation_time > 0 else 0.0)


@dataclasses.dataclass
class BatchResponse:
    """What batch_generate came to, an entry for each prompt."""

    texts: list[str]
    stats: BatchStats
    caches: list[PromptCache | None] | None
    token_ids: list[list[int]] | None = None
    logprobs: list[list[float]] | None = None


def batch_generate(model: Model, tokenizer, prompts: list[list[int]], prompt_caches: list[PromptCache] | None = None,
                   max_tokens: int | list[int] = 128, verbose: bool = False, return_prompt_caches: bool = False,
                   return_token_ids: bool = False, return_logprobs: bool = False, **options) -> BatchResponse:
    """Replies to prompts that run together. prompt_caches do not change; options: of BatchGenerator.

    logprobs: of the reply's tokens, natural logarithms.
    """
    begin = time.perf_counter()
    batch = BatchGenerator(model, **options)
    most = max_tokens if isinstance(max_tokens, list) else [max_tokens] * len(prompts)
    uids = batch.insert(prompts, most, caches=copy.deepcopy(prompt_caches))
    tokens: dict[int, list[int]] = {uid: [] for uid in uids}
    logprobs: dict[int, list[float]] = {uid: [] for uid in uids}
    caches: dict[int, PromptCache | None] = {}
    stats = BatchStats(prompt_tokens=sum(map(len, prompts)))
    waiting = set(uids)
    try:
        while responses := batch.next_generated():
            for response in responses:
                if response.finish_reason is not None:
                    caches[response.uid] = response.prompt_cache
                if response.finish_reason != "stop":
                    tokens[response.uid].append(response.token)
                    if return_logprobs:
                        logprobs[response.uid].append(float(response.logprobs[response.token]))
            if waiting:
                waiting -= {response.uid for response in responses}
                stats.prompt_time = time.perf_counter() - begin
    finally:
        batch.close()
    stats.generation_tokens = sum(map(len, tokens.values()))
    stats.generation_time = time.perf_counter() - begin - stats.prompt_time
    stats.peak_memory = _memory_gb()
    if verbose:
        print(f"{stats.prompt_tokens} tokens of prompts, {stats.prompt_tps:.1f} a second; "
              f"{stats.generation_tokens} of replies, {stats.generation_tps:.1f} a second")
    return BatchResponse([tokenizer.decode(tokens[uid]) for uid in uids], stats,
                         [caches.get(uid) for uid in uids] if return_prompt_caches else None,
                         [tokens[uid] for uid in uids] if return_token_ids else None,
                         [logprobs[uid] for uid in uids] if return_logprobs else None)


@dataclasses.dataclass
class GenerationResponse:
    """A token of stream_generate; logprobs are [vocabulary] float32, peak_memory is in GB."""

    text: str
    token: int
    logprobs: Any
    from_draft: bool
    prompt_tokens: int
    prompt_tps: float
    generation_tokens: int
    generation_tps: float
    peak_memory: float
    finish_reason: str | None = None
    usage: Any = None  # ours: what of the prompt was reused


def _memory_gb() -> float:
    report = _dalsegno.memory_report()
    return (report.weights + report.kv + report.index + report.log_probs + report.work) / 1e9 if report else 0.0


def stream_generate(model: Model, tokenizer, prompt, max_tokens: int = 256, draft_model=None, stream=None, *, sampler=None,
                    logits_processors: list | None = None, max_kv_size: int | None = None, prompt_cache=None,
                    prefill_step_size: int = 2048, kv_bits: int | None = None, kv_group_size: int = 64,
                    quantized_kv_start: int = 5000, prompt_progress_callback=None, num_draft_tokens: int | None = None,
                    ) -> Generator[GenerationResponse, None, None]:
    """Yields a GenerationResponse for each token of the reply.

    prompt: text or token ids, [n] int. max_tokens: of the reply; -1: no limit. sampler: make_sampler's, or a function of
    log-probabilities [1, vocabulary] that gives a token id. logits_processors: make_logits_processors', or functions of token
    ids [n] and logits [1, vocabulary] float32 that give logits; -inf forbids a token. max_kv_size: tokens attended to.
    prompt_cache: gone on from, and changed in place. prefill_step_size: most prompt tokens per step. kv_bits: 8 or 4.
    prompt_progress_callback(done, total), in tokens: before the prompt is computed and after.
    draft_model: as Model.guess_with; how many tokens it guesses at a time is measured, so num_draft_tokens says nothing,
    and from_draft is always False.
    Errors: TypeError (a prompt of another type), ValueError (an empty prompt, ids outside the vocabulary, logits that cannot
    be drawn from), ExhaustedError.
    """
    if draft_model is not None:
        model.guess_with(draft_model)
    if max_tokens == 0:
        raise ValueError("max_tokens must not be 0 (-1: no limit)")
    if isinstance(prompt, str):
        bos = tokenizer.bos_token
        prompt = tokenizer.encode(prompt, add_special_tokens=bos is None or not prompt.startswith(bos))
    prompt = _arguments.token_ids("prompt", prompt, "text or a list of token ids")
    batch = BatchGenerator(model, max_tokens=max_tokens if max_tokens > 0 else 1 << 30, sampler=sampler,
                           logits_processors=logits_processors, prefill_step_size=prefill_step_size,
                           max_kv_size=max_kv_size, kv_bits=kv_bits, kv_group_size=kv_group_size,
                           quantized_kv_start=quantized_kv_start)
    begin = time.perf_counter()
    if prompt_progress_callback is not None:
        prompt_progress_callback(0, len(prompt))
    batch.insert([prompt], caches=None if prompt_cache is None else [prompt_cache])
    tokens, prompt_tps, first = 0, 0.0, begin
    try:
        while responses := batch.next_generated():
            (response,) = responses
            now = time.perf_counter()
            if tokens == 0:
                prompt_tps, first = len(prompt) / (now - begin), now
                if prompt_progress_callback is not None:
                    prompt_progress_callback(len(prompt), len(prompt))
            tokens += 1
            yield GenerationResponse(response.text, response.token, response.logprobs, False, len(prompt), prompt_tps,
                                     tokens, (tokens - 1) / (now - first) if now > first else 0.0, _memory_gb(),
                                     response.finish_reason, response.usage)
    finally:
        if prompt_cache is not None:
            for cache, all_tokens in batch.extract_cache(list(batch._requests)).values():
                prompt_cache.put(cache.held, all_tokens)
        batch.close()


def generate(model: Model, tokenizer, prompt, verbose: bool = False, **options) -> str:
    """The reply's text. prompt: text or token ids; verbose: prints it as it comes, and its speed; options and errors: of
    stream_generate."""
    text = ""
    for response in stream_generate(model, tokenizer, prompt, **options):
        if verbose:
            print(response.text, end="", flush=True)
        text += response.text
    if verbose:
        print(f"\n{response.prompt_tokens} tokens of prompt, {response.prompt_tps:.1f} a second; "
              f"{response.generation_tokens} of reply, {response.generation_tps:.1f} a second")
    return text


def as_model(model: Model) -> _Model:
    """The same model by our own interface."""
    return _Model(model.engine, model.path)
