"""A model for Outlines programs, on this engine.

    model = DalSegno("SmolLM2-135M-Instruct.Q4_1.gguf")
    model("Is water wet?", Literal["yes", "no"])

Types become constraints of the engine, which masks tokens beside the forward pass. Needs the package outlines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from outlines.inputs import Chat
from outlines.models import VLLMOffline
from outlines.models.base import ModelTypeAdapter
from outlines.types.dsl import CFG, Alternatives, JsonSchema, String, python_types_to_terms, to_regex

from .. import constraints
from .._model import Model, load
from ._replies import DEFAULT_LIMIT, Replies


class TypeAdapter(ModelTypeAdapter):
    """Inputs to messages or text, and output types to constraints."""

    def __init__(self, has_template: bool):
        self._has_template = has_template

    def format_input(self, model_input: str | Chat) -> str | list[dict[str, str]]:
        """Text is a user's message where the model has a chat template. Errors: TypeError (images, another type)."""
        if isinstance(model_input, str):
            return [{"role": "user", "content": model_input}] if self._has_template else model_input
        if not isinstance(model_input, Chat):
            raise TypeError(f"the input must be text or an outlines.inputs.Chat, not {type(model_input).__name__}")
        messages = [{"role": message["role"], "content": message["content"]} for message in model_input.messages]
        if any(not isinstance(message["content"], str) for message in messages):
            raise TypeError("a message has something else than text, which is all this model reads")
        return messages

    def format_output_type(self, output_type: Any = None) -> constraints.Constraint | None:
        """JSON schemas, classes, choices, regular expressions and grammars. Errors: ValueError, TypeError (no type)."""
        if output_type is None:
            return None
        term = python_types_to_terms(output_type)
        if isinstance(term, CFG):
            return constraints.grammar(term.definition)
        if isinstance(term, JsonSchema):
            if term.whitespace_pattern is not None:
                raise ValueError("whitespace_pattern: JSON is written here with the white space of json.dumps; leave it out")
            return constraints.json_schema(term.schema, compact=True)
        if isinstance(term, Alternatives) and all(isinstance(each, String) for each in term.terms):
            return constraints.choices(each.value for each in term.terms)
        return constraints.regex(to_regex(term))


class DalSegno(VLLMOffline):
    """An Outlines model. Options of calls: `dalsegno.options.GenerateOptions`.

    Of the classes that outlines.Generator knows, and it takes no other, VLLMOffline is one that is given the output type as
    it is; nothing else is inherited.
    One prompt cache belongs to the object and serves all its calls, with types and without. Threads: any.
    """

    def __init__(self, model: Model | str | os.PathLike, *, max_cached_tokens: int = DEFAULT_LIMIT, **options):
        """model: as of dalsegno.load, with its options, or a loaded one.

        max_cached_tokens: the most that the prompt cache keeps whatever needs room.
        """
        self.model = model if isinstance(model, Model) else load(model, **options)
        self.tokenizer = self.model.tokenizer
        self.type_adapter = TypeAdapter(self.tokenizer.has_template)
        self.replies = Replies(self.model, max_cached_tokens)

    def generate(self, model_input: str | Chat, output_type: Any = None, **options) -> str:
        """The reply's text. Errors: as Engine.generate."""
        (text,) = self.generate_batch([model_input], output_type, **options)
        return text

    def generate_batch(self, model_input: list[str | Chat], output_type: Any = None, **options) -> list[str]:
        """Replies to several inputs, which run together."""
        prompts = [self.model.encode(self.type_adapter.format_input(each)) for each in model_input]
        return [answer.text for answer in self.replies.ask(prompts, self._options(output_type, options))]

    def generate_stream(self, model_input: str | Chat, output_type: Any = None, **options) -> Iterator[str]:
        """The reply's text as it comes."""
        prompt = self.model.encode(self.type_adapter.format_input(model_input))
        return self.replies.stream(prompt, self._options(output_type, options))

    def _options(self, output_type, options) -> dict[str, Any]:
        constraint = self.type_adapter.format_output_type(output_type)
        return options if constraint is None else {**options, "constraint": constraint}

    def cache_size(self) -> int:
        """Tokens that the prompt cache keeps."""
        return self.replies.cache_size()

    def reset_cache(self) -> None:
        """Forgets them: nothing of earlier calls is reused."""
        self.replies.reset_cache()
