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
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from .. import _arguments, _dalsegno
from .._model import Model as _Model
from .._models import find_model
from ..errors import NotFoundError
from . import _mlx_arguments
from ._mlx_caches import KVCache, PromptCache, QuantizedKVCache, RotatingKVCache, checked, kv_of, readied
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
        self.options = {**self.options, "draft_model": _model("draft_model", draft_model).path}

    def close(self):
        """Lets go of the engines."""
        for engine in self._engines.values():
            engine.close()


def _model(name: str, value) -> Model:
    return _mlx_arguments.of_kind(name, value, Model, "a model of load")


def load(path_or_hf_repo: str, tokenizer_config: dict | None = None, model_config: dict | None = None,
         adapter_path: str | None = None, lazy: bool = False, return_config: bool = False, **options):
    """(model, tokenizer) of a GGUF file, or of a name in the models folder; options: as dalsegno.load."""
    if adapter_path is not None:
        raise ValueError("adapters of weights are not supported")
    model = Model(find_model(path_or_hf_repo), **options)
    tokenizer = TransformersTokenizer(model.engine.tokenizer)
    return (model, tokenizer, {"num_hidden_layers": len(model.layers)}) if return_config else (model, tokenizer)


def make_prompt_cache(model: Model, max_kv_size: int | None = None, *, kv_bits: int | None = None,
                      kv_group_size: int = 64, quantized_kv_start: int = 0) -> PromptCache:
    """An empty cache, bounded with max_kv_size, of codes with kv_bits."""
    return PromptCache(len(_model("model", model).layers), kv_of(max_kv_size, kv_bits, kv_group_size, quantized_kv_start))


def save_prompt_cache(file_name: str, cache: PromptCache, metadata: dict[str, str] | None = None,
                      *, model: Model | None = None) -> None:
    """One file, docs/saved_caches.md, and beside it FILE.json with the metadata and what mlx_lm would keep."""
    file_name = _arguments.path("file_name", file_name)
    checked("cache", cache)
    metadata = {} if metadata is None else dict(_mlx_arguments.of_kind("metadata", metadata, Mapping, "a dict of texts"))
    _arguments.as_json("metadata", metadata)
    if model is not None:
        readied("cache", cache, _model("model", model))
    if cache.held is None:
        raise ValueError("there is nothing to save: no request has used the cache yet")
    cache.held.save(file_name)
    beside = {"metadata": metadata, "kv": cache.kv, "tokens": cache.held.tokens, "pending": cache.pending, "layers": len(cache)}
    pathlib.Path(f"{file_name}.json").write_text(json.dumps(beside), encoding="utf-8")


def load_prompt_cache(file_name: str, return_metadata: bool = False, *, model: Model | None = None):
    """The cache of a file. model: of which it is; it may be left out, then the first generator that gets the cache
    reads the K/V. Errors: OSError, CorruptError (FILE.json is damaged), as dalsegno.PromptCache.load."""
    file_name = _arguments.path("file_name", file_name)
    beside = _mlx_arguments.saved_beside(file_name)
    cache = PromptCache(beside["layers"], beside["kv"])
    cache.unread, cache.pending = (file_name, beside["tokens"], len(beside["tokens"])), beside["pending"]
    if model is not None:
        readied("file_name", cache, _model("model", model))
    return (cache, beside["metadata"]) if return_metadata else cache


def can_trim_prompt_cache(cache: PromptCache) -> bool:
    """Whether the end of a cache can be forgotten."""
    return all(layer.is_trimmable() for layer in checked("cache", cache))


def trim_prompt_cache(cache: PromptCache, num_tokens: int) -> int:
    """Forgets the last tokens of a cache; how many that were."""
    count = _mlx_arguments.whole("num_tokens", num_tokens, 0)
    return cache.trim(count) if can_trim_prompt_cache(cache) else 0


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
        self.model = _model("model", model)
        self.max_tokens = _mlx_arguments.most_tokens("max_tokens", max_tokens)
        self.sampler = None if sampler is None else _mlx_arguments.function("sampler", sampler, "make_sampler")
        self.logits_processors = _mlx_arguments.functions("logits_processors", logits_processors, "make_logits_processors")
        self.kv = kv_of(max_kv_size, kv_bits, kv_group_size, quantized_kv_start)
        self.stop_tokens = [[stop] if isinstance(stop, int) else list(stop) for stop in stop_tokens or []]
        self._chunk = _mlx_arguments.whole("prefill_step_size", prefill_step_size, 1)
        self._batches: dict[str, _dalsegno.BatchGenerator] = {}
        self._requests: dict[int, _Request] = {}
        self._where: dict[int, str] = {}  # which batch a request is in
        self._uids = 0

    def insert(self, prompts: list[list[int]], max_tokens: list[int] | None = None, caches: list | None = None,
               all_tokens: list[list[int]] | None = None, samplers: list | None = None,
               logits_processors: list[list] | None = None, stop_sequences: list | None = None) -> list[int]:
        """Queues requests and gives their uids; each option has one entry for each prompt."""
        prompts = _arguments.items("prompts", prompts, "a list of lists of token ids")
        count = len(prompts)
        given = {"max_tokens": max_tokens, "caches": caches, "all_tokens": all_tokens, "samplers": samplers,
                 "logits_processors": logits_processors, "stop_sequences": stop_sequences}
        for name, value in given.items():
            if value is None:
                continue
            _mlx_arguments.of_kind(name, value, Sequence, "a list with an entry for each prompt")
            if len(value) != count:
                raise ValueError(f"{name} must have one entry for each prompt: expected {count}, got {len(value)}")
        uids = []
        for i, prompt in enumerate(prompts):
            cache = caches[i] if caches and caches[i] is not None else PromptCache(len(self.model.layers), self.kv)
            engine = readied(f"caches, item {i}", cache, self.model)
            tokens = cache.tokens + _arguments.token_ids(f"prompts, item {i}", prompt)
            if not tokens:
                raise ValueError(f"prompt {i} is empty")
            most = _mlx_arguments.most_tokens(f"max_tokens, item {i}", max_tokens[i]) if max_tokens else self.max_tokens
            name = f"logits_processors, item {i}"
            processors = (_mlx_arguments.functions(name, logits_processors[i], "make_logits_processors") if logits_processors
                          else self.logits_processors)
            own = samplers[i] if samplers else None
            sampler = self.sampler if own is None else _mlx_arguments.function(f"samplers, item {i}", own, "make_sampler")
            stops = stop_sequences[i] if stop_sequences and stop_sequences[i] is not None else self.stop_tokens
            uid = self._uids
            key = json.dumps(cache.kv, sort_keys=True)
            batch = self._batches.setdefault(key, None) or _dalsegno.BatchGenerator(engine)
            self._batches[key] = batch
            batch.insert([tokens], most, caches=[cache.held], uids=[uid],
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
    prompts = _arguments.items("prompts", prompts, "a list of lists of token ids")
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
    _model("model", model)
    _mlx_arguments.most_tokens("max_tokens", max_tokens)
    if prompt_cache is not None:
        checked("prompt_cache", prompt_cache)
    if draft_model is not None:
        model.guess_with(draft_model)
    if isinstance(prompt, str):
        bos = tokenizer.bos_token
        prompt = tokenizer.encode(prompt, add_special_tokens=bos is None or not prompt.startswith(bos))
    prompt = _arguments.token_ids("prompt", prompt, "text or a list of token ids")
    batch = BatchGenerator(model, max_tokens=max_tokens, sampler=sampler,
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
