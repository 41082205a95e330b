"""Model: an engine with its tokenizer, for prompts as text, messages or token ids."""

from __future__ import annotations

import os
from collections.abc import Mapping

from . import _aio, _arguments
from ._dalsegno import BatchGenerator, Engine, LogprobCache, PromptCache, Session
from ._models import find_model
from ._progress import Bar

_WANTED = "text, a list of messages or a list of token ids"


class Model:
    """A language model, its cache and its tokenizer.

    Made by `load`. A prompt is text (with what the model adds in front of it, such as BOS), a list of messages (dicts
    with role and content, rendered by the chat template), or token ids.
    Safe to use from several threads. `with` closes the engine at the end.
    """

    def __init__(self, engine: Engine, path: str = ""):
        self.engine = engine
        self.path = path
        self.tokenizer = engine.tokenizer

    def encode(self, prompt) -> list[int]:
        """The token ids of a prompt: a list of int.

        Errors: TypeError (it is none), InvalidArgumentError (text that is no Unicode; messages without role or content; no
        chat template, or it refuses).
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode(_arguments.text("prompt", prompt), special=True, bos=True)
        items = _arguments.items("prompt", prompt, _WANTED)
        if items and isinstance(items[0], Mapping):
            messages = _arguments.as_json("prompt", _arguments.messages("prompt", items))
            return self.tokenizer.encode(self.tokenizer.render(messages, True), special=True)
        return _arguments.token_ids("prompt", items, _WANTED)

    def generate(self, prompt, *, on_text=None, on_prefill=None, progress: bool | None = None, **options):
        """The Reply to a prompt: its text, ids ([reply_tokens] int), logprobs if asked for, finish_reason, usage and reuse.

        prompt: text, a list of messages (dicts with role and content), or token ids, [n] int. on_text(text) gets whole
        characters as they come, on_prefill(done, total) the prompt's tokens done; either ends the request by returning False.
        progress: a bar of the prompt's tokens done (tqdm's, if installed); None: at a terminal. Options:
        `dalsegno.options.GenerateOptions`, such as max_tokens (512), stop, temperature (0: greedy), seed, constraint.
        Errors: TypeError (a prompt or option of another type, an option that there is none of), InvalidArgumentError (an
        empty prompt, ids outside the vocabulary, more tokens than the context, an option out of range), ExhaustedError (can
        never fit the budget), NumericError; what a callback raises.
        """
        with Bar(progress, on_prefill) as bar:
            return self.engine.generate(self.encode(prompt), _arguments.told(on_text), bar, **options)

    def stream(self, prompt, *, on_prefill=None, **options):
        """The same as a Stream, an iterator of new text in whole characters, also `async for`; its `reply` is there at the end.

        prompt, on_prefill, options and errors: as generate; errors of the engine come with the text that is read. Leaving it
        early ends the request.
        """
        return self.engine.stream(self.encode(prompt), _arguments.told(on_prefill), **options)

    async def generate_async(self, prompt, *, on_text=None, on_prefill=None, **options):
        """The Reply, awaited. Cancelling the task cancels the request."""
        ids = await _aio.encoded(self.encode, prompt)
        return await _aio.result(self.stream(ids, on_prefill=on_prefill, **options), on_text)

    def explain(self, prompt, salt: str = ""):
        """What this prompt would reuse now, and why no more: an Explanation. Computes nothing."""
        return self.engine.explain(self.encode(prompt), salt)

    def session(self, instructions: str = "", **options) -> Session:
        """A conversation; options as of Session."""
        if "messages" in options:
            options["messages"] = _arguments.messages("messages", options["messages"], plain=True)
        if "tools" in options:
            options["tools"] = _arguments.tools("tools", options["tools"])
        return Session(self.engine, _arguments.text("instructions", instructions), **options)

    def prompt_cache(self, prompt, salt: str = "") -> PromptCache:
        """The K/V of a prompt, computed and kept."""
        return PromptCache.make(self.engine, self.encode(prompt), salt)

    def batch(self) -> BatchGenerator:
        """A BatchGenerator on this model."""
        return BatchGenerator(self.engine)

    def logprob_cache(self, **options) -> LogprobCache:
        """A LogprobCache on this model."""
        return LogprobCache(self.engine, **options)

    def reset_cache(self) -> None:
        """Drops every cached block that no running request uses."""
        self.engine.reset_cache()

    def close(self) -> None:
        """Lets go of the engine."""
        self.engine.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __repr__(self):
        return f"Model({self.path!r})"


def load(path_or_name: str | os.PathLike, **options) -> Model:
    """Loads a GGUF file, or a model of the models folder by its name or how that begins.

    Options: `dalsegno.options.EngineOptions`; draft_model is found like the model itself. Errors: NotFoundError,
    CorruptError, UnsupportedError, ExhaustedError (the memory budget cannot hold the model), InvalidArgumentError
    (options).
    """
    path = find_model(path_or_name)
    if options.get("draft_model"):
        options["draft_model"] = find_model(options["draft_model"])
    return Model(Engine(path, **options), path)


def generate(model: Model, prompt, **options):
    """`model.generate(prompt, **options)`: the Reply to text, messages or token ids; arguments and errors are those."""
    return model.generate(prompt, **options)


def stream_generate(model: Model, prompt, **options):
    """`model.stream(prompt, **options)`: a Stream of text for text, messages or token ids; arguments and errors are those."""
    return model.stream(prompt, **options)
