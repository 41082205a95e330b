"""What mlx_lm's programs give, looked at before it is used: the part of mlx_style about it."""

from __future__ import annotations

import json
import numbers
import operator
import pathlib
from collections.abc import Mapping
from typing import Any

from .. import _arguments
from ..errors import CorruptError

_UNLIMITED = 1 << 30  # tokens, more than any context


def of_kind(name: str, value, kind: type, wanted: str):
    """The value, if it is of this class. Errors: TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: {wanted} is wanted, not {_arguments.shown(value)}")
    return value


def _whole(name: str, value, wanted: str, fits) -> int:
    said = f"{name}: {wanted} is wanted, not {_arguments.shown(value)}"
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(said) from None
    if not fits(number):
        raise ValueError(said)
    return number


def whole(name: str, value, least: int) -> int:
    """A whole number, numpy's too. Errors: TypeError, ValueError (less than `least`)."""
    return _whole(name, value, f"a whole number from {least} on", lambda number: number >= least)


def number(name: str, value):
    """A number. Errors: TypeError."""
    return of_kind(name, value, numbers.Real, "a number")


def most_tokens(name: str, value) -> int:
    """How many tokens a reply may have; -1: no limit. Errors: TypeError, ValueError."""
    wanted = "a whole number from 1 on, or -1 for no limit,"
    count = _whole(name, value, wanted, lambda count: count >= 1 or count == -1)
    return min(count, _UNLIMITED) if count > 0 else _UNLIMITED


def function(name: str, value, maker: str):
    """Something that can be called. Errors: TypeError."""
    if not callable(value):
        raise TypeError(f"{name}: what {maker} gives, or a function, is wanted, not {_arguments.shown(value)}")
    return value


def functions(name: str, value, maker: str) -> list:
    """A list of what can be called; None: of none. Errors: TypeError."""
    if isinstance(value, Mapping) or callable(value):
        raise TypeError(f"{name}: a list of what {maker} gives, or of functions, is wanted, not one of them; put it in a list")
    given = [] if value is None else _arguments.items(name, value, f"a list of what {maker} gives, or of functions,")
    return [function(f"{name}, item {place}", each, maker) for place, each in enumerate(given)]


def _are_tokens(value) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


_PARTS = {
    "layers": lambda value: type(value) is int and 0 < value < 1 << 20,
    "kv": lambda value: isinstance(value, dict) and all(isinstance(each, (int, str)) for each in value.values()),
    "tokens": _are_tokens,
    "pending": _are_tokens,
    "metadata": lambda value: isinstance(value, dict),
}


def saved_beside(file_name: str) -> dict[str, Any]:
    """What FILE.json has. Errors: OSError, CorruptError."""
    file = f"{file_name}.json"
    try:
        beside = json.loads(pathlib.Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise CorruptError(f"{file} is damaged: it is no JSON; save the cache again") from None
    if not isinstance(beside, dict):
        raise CorruptError(f"{file} is damaged: it holds no JSON object; save the cache again")
    for part, is_right in _PARTS.items():
        if part not in beside or not is_right(beside[part]):
            what = "wrong" if part in beside else "missing"
            raise CorruptError(f"{file} is damaged: '{part}' is {what} in it; save the cache again")
    return beside
