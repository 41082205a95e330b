"""What callers give, looked at before the engine gets it, so that what is wrong with it is said in one sentence that
names the argument."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy

from .errors import InvalidArgumentError

_MOST_SHOWN = 80
_BYTES = (bytes, bytearray, memoryview)


def shown(value) -> str:
    """A value in a sentence: cut off where it is long."""
    try:
        said = ascii(value)
    except RecursionError:  # it holds itself through something that is no list or dict
        said = f"a {type(value).__name__}"
    return said if len(said) <= _MOST_SHOWN else said[:_MOST_SHOWN] + "..."


def text(name: str, value) -> str:
    """Text that is Unicode. Errors: TypeError, InvalidArgumentError (half of a surrogate pair)."""
    if isinstance(value, _BYTES):
        raise TypeError(f"{name}: text is wanted, not {shown(value)}; decode it first")
    if not isinstance(value, str):
        raise TypeError(f"{name}: text is wanted, not {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(_half(name, value, error.start)) from None
    return value


def _half(name: str, value: str, place: int) -> str:
    return (f"{name}: character {place} is {ascii(value[place])}, half of a surrogate pair and no character; "
            "leave it out or put another in its place")


def path(name: str, value) -> str:
    """The path of a file. Errors: TypeError, InvalidArgumentError (the system has none like it)."""
    try:
        said = os.fsdecode(value)
    except TypeError:
        raise TypeError(f"{name}: a path, text or os.PathLike, is wanted, not {shown(value)}") from None
    if "\0" in said:
        raise InvalidArgumentError(f"{name}: {shown(said)} holds a null character, which no path may; leave it out")
    return text(name, said)


def items(name: str, value, wanted: str) -> list:
    """The items of a list or another iterable, but of no text, bytes or mapping. Errors: TypeError."""
    if isinstance(value, _BYTES):
        raise TypeError(f"{name}: {wanted} is wanted, not {shown(value)}; decode it first")
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable) or getattr(value, "shape", None) == ():
        raise TypeError(f"{name}: {wanted} is wanted, not {shown(value)}")
    return list(value)


def token_ids(name: str, value, wanted: str = "a list of token ids") -> list[int]:
    """Whole numbers, numpy's too. Errors: TypeError."""
    given = items(name, value.tolist() if isinstance(value, numpy.ndarray) and value.ndim else value, wanted)
    try:
        return [operator.index(item) for item in given]
    except TypeError:
        place, item = next((i, item) for i, item in enumerate(given) if not _is_whole(item))
        raise TypeError(f"{name}: {wanted} is wanted, and item {place} of it is {shown(item)}") from None


def _is_whole(value) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def messages(name: str, value, plain: bool = False) -> list[dict]:
    """Messages for a chat template: dicts with role and content. plain: as a Session keeps them, whose content is text.

    Errors: TypeError, InvalidArgumentError.
    """
    wanted = "a list of messages, dicts with role and content"
    given = items(name, value, wanted)
    for place, message in enumerate(given):
        where = f"{name}: message {place}"
        if not isinstance(message, Mapping):
            raise TypeError(f"{name}: {wanted}, is wanted, and item {place} of it is {shown(message)}")
        if "role" not in message:
            raise InvalidArgumentError(f"{where} has no role; give it one, such as 'user'")
        text(f"{where}, role", message["role"])
        content = message.get("content")
        if not plain and content is None and message.get("tool_calls"):
            continue  # an assistant that only calls
        if "content" not in message:
            raise InvalidArgumentError(f"{where} has no content; give it a text")
        text(f"{where}, name", message.get("name", "") if plain else "")
        if plain or not isinstance(content, (list, tuple)):  # parts, which some templates know
            text(f"{where}, content", content)
    return [dict(message) for message in given]


def tools(name: str, value) -> list[Mapping]:
    """Tools, as Session takes them. Errors: TypeError, InvalidArgumentError (one without a name)."""
    wanted = "a list of tools, dicts with name, description, parameters and handler"
    given = items(name, value, wanted)
    for place, tool in enumerate(given):
        where = f"{name}: tool {place}"
        if not isinstance(tool, Mapping):
            raise TypeError(f"{name}: {wanted}, is wanted, and item {place} of it is {shown(tool)}")
        if "name" not in tool:
            raise InvalidArgumentError(f"{where} has no name; give it one")
        text(f"{where}, name", tool["name"])
        text(f"{where}, description", tool.get("description", ""))
        if not isinstance(tool.get("parameters"), (Mapping, type(None))):
            raise TypeError(f"{where}, parameters: a JSON schema as a dict is wanted, not {shown(tool['parameters'])}")
        if tool.get("handler") is not None and not callable(tool["handler"]):
            raise TypeError(f"{where}, handler: a callable is wanted, not {shown(tool['handler'])}")
    return given


def as_json(name: str, value) -> str:
    """JSON text of a value. Errors: InvalidArgumentError (it has none)."""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
        written.encode()
        return written
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{name}: in its JSON, " + _half("text", error.object, error.start)) from None
    except RecursionError:
        raise InvalidArgumentError(f"{name}: it is nested too deeply to be written as JSON") from None
    except (TypeError, ValueError) as error:  # a set, NaN, what holds itself
        raise InvalidArgumentError(f"{name}: it cannot be written as JSON: {error}") from None


def ends(answer) -> bool:
    """Whether a callback's answer ends the request: False does, numpy's too; nothing else."""
    return isinstance(answer, (bool, numpy.bool_)) and not answer


def told(callback: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """A callback whose answer is False, and Python's own, if it ends the request."""
    if callback is None:
        return None
    if not callable(callback):
        raise TypeError(f"a callback must be callable, and {shown(callback)} is not")
    return lambda *arguments: not ends(callback(*arguments))
