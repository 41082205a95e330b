"""A language model for programs of genlm-backend (and genlm-control), on this engine.

    lm = AsyncDalSegno.from_name("SmolLM2-135M-Instruct.Q4_1.gguf")

is a `genlm.backend.AsyncLM`. Equal contexts are computed once, and each continues from the longest beginning that is
cached. Needs the package genlm-backend, and torch with it.
"""

from __future__ import annotations

import asyncio

import torch
from genlm.backend.llm.base import UNKNOWN_ADAPTER, AsyncLM
from genlm.backend.tokenization import Token
from genlm.backend.tokenization.vocab import bytes_to_strs

from .._dalsegno import BatchGenerator, LogprobCache
from .._model import Model, load
from .transformers_style import TransformersTokenizer


class AsyncDalSegno(AsyncLM):
    """Log-probabilities as torch tensors [vocabulary] float32, the caller's own.

    Attributes: tokenizer (as transformers'), byte_vocab (Tokens) and str_vocab, [vocabulary] each, logprobs (the
    LogprobCache); batch_size and timeout are kept for programs that set them; the engine composes its own steps.
    Errors: ValueError (no tokens, ids outside the vocabulary, more than the context, a lora_name: there are none).
    """

    @classmethod
    def from_name(cls, model_id, *, max_bytes: int | None = None, **options) -> AsyncDalSegno:
        """model_id: a GGUF file or a name in the models folder; options and errors: as dalsegno.load."""
        return cls(load(model_id, **options), max_bytes=max_bytes)

    def __init__(self, model: Model, *, max_bytes: int | None = None, batch_size: int = 20, timeout: float = 0.0):
        """max_bytes: of log-probabilities kept."""
        self.model = model
        self.batch_size = batch_size
        self.timeout = timeout
        self.tokenizer = TransformersTokenizer(model.tokenizer)
        self.logprobs = LogprobCache(model.engine, **({} if max_bytes is None else {"max_bytes": max_bytes}))
        core = model.tokenizer
        texts = [core.token_bytes(i) or core.token_text(i).encode() for i in range(core.vocabulary_size)]
        self.byte_vocab = [Token(token_id=i, byte_string=text) for i, text in enumerate(texts)]
        self.str_vocab = bytes_to_strs(self.tokenizer, texts, "tokenizer")

    def __deepcopy__(self, memo):
        return self  # particles share it

    async def next_token_logprobs(self, token_ids, lora_name=None) -> torch.Tensor:
        """What tasks ask in one turn of the event loop runs in common steps."""
        _check(lora_name)
        return torch.tensor(await self.logprobs.next_token_logprobs_async(token_ids))

    def next_token_logprobs_sync(self, token_ids, lora_name=None) -> torch.Tensor:
        """The same, waited for."""
        _check(lora_name)
        return torch.tensor(self.logprobs.next_token_logprobs(token_ids))

    def next_token_logprobs_uncached(self, token_ids, lora_name=None) -> torch.Tensor:
        """The same, of every token computed anew, and nothing kept."""
        _check(lora_name)
        batch = BatchGenerator(self.model.engine)
        batch.insert([token_ids], max_tokens=1, keep_cache=False, keep_logits=True, reuse=False)
        (response,) = batch.next()
        if response.exception is not None:
            raise response.exception
        return torch.tensor(response.logprobs_row())

    async def batch_next_token_logprobs(self, token_ids_list, lora_name=None) -> torch.Tensor:
        """[contexts][vocabulary]."""
        rows = await asyncio.gather(*(self.next_token_logprobs(token_ids, lora_name) for token_ids in token_ids_list))
        return torch.stack(rows)

    def batch_next_token_logprobs_sync(self, token_ids_list, lora_name=None) -> torch.Tensor:
        """The same, waited for; they run in common steps."""
        _check(lora_name)
        return torch.stack([torch.tensor(row) for row in self.logprobs.next_token_logprobs_batch(token_ids_list)])

    def cache_kv(self, prompt_tokens, lora_name=None) -> None:
        """Keeps the K/V of a prompt that queries will begin with."""
        _check(lora_name)
        self.logprobs.cache_kv(prompt_tokens)

    def clear_cache(self) -> None:
        """Forgets log-probabilities and K/V."""
        self.logprobs.clear_cache()

    def clear_kv_cache(self) -> None:
        """Forgets the K/V."""
        self.logprobs.clear_kv_cache()

    def reset_async_queries(self) -> None:
        """There is nothing to reset: a query whose task has gone ends by itself."""


def _check(lora_name) -> None:
    if lora_name is not None:
        raise ValueError(UNKNOWN_ADAPTER.format(lora_name))
