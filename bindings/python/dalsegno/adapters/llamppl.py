"""The language model of LLaMPPL (llamppl, formerly hfppl) programs, on this engine.

    lm = CachedCausalLM.from_pretrained("SmolLM2-135M-Instruct.Q4_1.gguf")

takes the place of `llamppl.CachedCausalLM`; Model, LMContext, smc_standard and smc_steer of that package run on it.
Equal contexts are computed once, and each continues from the longest beginning that is cached.
"""

from __future__ import annotations

import functools
import string

from .._dalsegno import LogprobCache
from .._model import Model, load
from .transformers_style import TransformersTokenizer


class Masks:
    """Sets of token ids by what their text is, as llamppl's programs use them."""

    def __init__(self, lm):
        texts = lm.str_vocab
        special = set(lm.tokenizer.all_special_ids)

        def having(test):
            return {i for i, text in enumerate(texts) if test(text)}

        self.ALL_TOKENS = set(range(len(texts)))
        self.STARTS_NEW_WORD = having(
            lambda t: len(t) > 1 and t[0] == " " and t[1] not in string.whitespace + string.punctuation)
        self.CONTINUES_CURRENT_WORD = having(lambda t: all(c == "'" or c.isalpha() for c in t))
        self.MID_PUNCTUATION = having(lambda t: t in (",", ":", ";", "-", '"'))
        self.END_PUNCTUATION = having(lambda t: t in (".", "!", "?"))
        self.PUNCTUATION = self.MID_PUNCTUATION | self.END_PUNCTUATION
        self.CONTAINS_WHITESPACE = having(lambda t: any(c in string.whitespace for c in t))
        self.EOS = {lm.tokenizer.eos_token_id}
        self._lengths = {i: 0 if i in special else len(text) for i, text in enumerate(texts)}

    def token_length_mask(self, min: int | None = None, max: int | None = None) -> set[int]:
        """Tokens of so many characters; control tokens have none."""
        least, most = min or 0, float("inf") if max is None else max
        return {i for i, length in self._lengths.items() if least <= length <= most}


class CachedCausalLM:
    """Next-token log-probabilities with one cache for all who ask.

    Attributes: tokenizer (as transformers'), str_vocab and byte_vocab ([vocabulary] texts and bytes of tokens), masks,
    logprobs (the LogprobCache), batch_size (kept for programs that set it; the engine composes its own steps).
    """

    backend = "dalsegno"

    @classmethod
    def from_pretrained(cls, model_id, backend=None, *, max_bytes: int | None = None, **options):
        """model_id: a GGUF file or a name in the models folder. Options and errors: as dalsegno.load.

        max_bytes: of log-probabilities kept. backend and auth_token are for other engines and change nothing.
        """
        options.pop("auth_token", None)
        return cls(load(model_id, **options), max_bytes=max_bytes)

    def __init__(self, model: Model, *, max_bytes: int | None = None, batch_size: int = 20):
        self.model = model
        self.batch_size = batch_size
        self.tokenizer = TransformersTokenizer(model.tokenizer)
        self.logprobs = LogprobCache(model.engine, **({} if max_bytes is None else {"max_bytes": max_bytes}))

    @functools.cached_property
    def byte_vocab(self) -> list[bytes]:
        """What each token adds to a text; of control tokens the name."""
        core = self.tokenizer.core
        return [core.token_bytes(i) or core.token_text(i).encode() for i in range(core.vocabulary_size)]

    @functools.cached_property
    def str_vocab(self) -> list[str]:
        """The same as text; what is no whole character is U+FFFD."""
        return [token.decode("utf-8", "replace") or "\ufffd" for token in self.byte_vocab]

    vocab = property(lambda self: self.str_vocab)

    @functools.cached_property
    def masks(self) -> Masks:
        """Sets of tokens for programs that constrain by hand."""
        return Masks(self)

    def __deepcopy__(self, memo):
        return self  # particles share it

    async def next_token_logprobs(self, token_ids):
        """[vocabulary] float32, read-only. What particles ask in one turn of the event loop runs in common steps."""
        return await self.logprobs.next_token_logprobs_async(token_ids)

    def next_token_logprobs_unbatched(self, token_ids):
        """The same, waited for."""
        return self.logprobs.next_token_logprobs(token_ids)

    def cache_kv(self, prompt_tokens) -> None:
        """Keeps the K/V of a prompt that queries will begin with."""
        self.logprobs.cache_kv(prompt_tokens)

    def clear_cache(self) -> None:
        """Forgets log-probabilities and K/V."""
        self.logprobs.clear_cache()

    def clear_kv_cache(self) -> None:
        """Forgets the K/V."""
        self.logprobs.clear_kv_cache()

    def reset_async_queries(self) -> None:
        """There is nothing to reset: a query whose task has gone ends by itself."""
