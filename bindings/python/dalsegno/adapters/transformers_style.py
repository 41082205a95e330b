"""A tokenizer as users of transformers know it: encode, decode, apply_chat_template, __call__."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from .. import _arguments


class TransformersTokenizer:
    """Our Tokenizer by the names and defaults of `transformers.PreTrainedTokenizer`.

    encode adds what the model adds (usually BOS, or nothing) unless add_special_tokens=False; decode shows control
    tokens unless skip_special_tokens=True. Ids are lists of int; return_tensors="np" gives numpy arrays [1, n] int64.
    """

    def __init__(self, tokenizer):
        self.core = tokenizer
        self.vocab_size = tokenizer.vocabulary_size
        self.bos_token_id = tokenizer.bos
        self.eos_token_id = tokenizer.eos
        self.pad_token_id = None
        self.clean_up_tokenization_spaces = False
        self.name_or_path = "dalsegno"

    bos_token = property(lambda self: self._text_of(self.bos_token_id))
    eos_token = property(lambda self: self._text_of(self.eos_token_id))

    def _text_of(self, token_id):
        return None if token_id is None else self.core.token_text(token_id)

    def __len__(self):
        return self.vocab_size

    @functools.cached_property
    def all_special_ids(self) -> list[int]:
        """All control tokens."""
        return [i for i in range(self.vocab_size) if self.core.is_control(i)]

    @property
    def all_special_tokens(self) -> list[str]:
        """Their names."""
        return [self.core.token_text(i) for i in self.all_special_ids]

    @functools.cached_property
    def eos_token_ids(self) -> set[int]:
        """All tokens that end a turn."""
        return {i for i in range(self.vocab_size) if self.core.is_end_of_turn(i)}

    @functools.cached_property
    def _vocab(self) -> dict[str, int]:
        return {self.core.token_text(i): i for i in range(self.vocab_size)}

    vocab = property(lambda self: self.get_vocab())

    def get_vocab(self) -> dict[str, int]:
        """Names to ids."""
        return dict(self._vocab)

    def get_added_vocab(self) -> dict[str, int]:
        """Those of control tokens."""
        return {self.core.token_text(i): i for i in self.all_special_ids}

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: str | None = None):
        """Text, in which control tokens are recognised, to ids."""
        return _shaped(self.core.encode(_arguments.text("text", text), special=True, bos=add_special_tokens), return_tensors)

    def decode(self, token_ids: int | Iterable[int], skip_special_tokens: bool = False, **_) -> str:
        """Ids to text."""
        ids = _arguments.token_ids("token_ids", [token_ids] if isinstance(token_ids, int) else token_ids)
        if skip_special_tokens:
            return self.core.decode(ids)
        parts, run = [], []
        for i in ids:
            if self.core.is_control(i):
                parts += [self.core.decode(run), self.core.token_text(i)]
                run = []
            else:
                run.append(i)
        return "".join([*parts, self.core.decode(run)])

    def batch_decode(self, sequences, **options) -> list[str]:
        """Several."""
        return [self.decode(ids, **options) for ids in sequences]

    def convert_ids_to_tokens(self, ids):
        """Names of ids, as the file has them."""
        if isinstance(ids, Iterable):
            return [self.core.token_text(int(i)) for i in ids]
        return self.core.token_text(int(ids))

    def convert_tokens_to_ids(self, tokens):
        """Ids of names; None for what is no token."""
        return self._vocab.get(tokens) if isinstance(tokens, str) else [self._vocab.get(token) for token in tokens]

    def tokenize(self, text: str) -> list[str]:
        """Text to names."""
        return self.convert_ids_to_tokens(self.encode(text, add_special_tokens=False))

    def apply_chat_template(self, conversation, tools=None, add_generation_prompt: bool = False, tokenize: bool = True,
                            return_tensors: str | None = None, return_dict: bool = False, **template_options):
        """Messages through the model's chat template: ids, or text with tokenize=False.

        Errors: InvalidArgumentError (no template, or it refuses the messages).
        """
        context = {"messages": _arguments.messages("conversation", conversation), **template_options}
        if tools:
            context["tools"] = list(tools)
        text = self.core.render(_arguments.as_json("conversation", context), add_generation_prompt)
        if not tokenize:
            return text
        ids = self.core.encode(text, special=True)
        if return_dict:
            return _encoding(ids, return_tensors)
        return _shaped(ids, return_tensors)

    def __call__(self, text: str, add_special_tokens: bool = True, return_tensors: str | None = None, **_):
        return _encoding(self.encode(text, add_special_tokens), return_tensors)


def _shaped(ids, return_tensors):
    if return_tensors is None:
        return ids
    if return_tensors != "np":
        raise ValueError(f"return_tensors: only 'np' is known here, not {return_tensors!r}")
    import numpy

    return numpy.array([ids], dtype=numpy.int64)


def _encoding(ids, return_tensors):
    return {"input_ids": _shaped(ids, return_tensors), "attention_mask": _shaped([1] * len(ids), return_tensors)}
