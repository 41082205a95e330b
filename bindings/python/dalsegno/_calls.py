"""Calls into the extension whose arguments do not fit, in one sentence: what nanobind says of them, read."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import InvalidArgumentError

_OURS = "dalsegno."
_WHOLE = re.compile(r"int|bool|numpy\.u?int\d+")
_TYPES = {
    "str": re.compile("str"),
    "int": _WHOLE,
    "float": re.compile(rf"float|numpy\.float\d+|{_WHOLE.pattern}"),
    "bool": re.compile(r"bool|numpy\.bool_?"),
}


@dataclass
class _Argument:
    name: str
    wanted: str  # its annotation
    given: str  # the name of its value's type


def _short(types: str) -> str:
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", types)


def _with_article(wanted: str) -> str:
    return wanted if "|" in wanted or "[" in wanted else f"{'an' if wanted[0] in 'aeiouAEIOU' else 'a'} {wanted}"


def _fits(argument: _Argument, surely: bool) -> bool:
    """Whether the value may be of a type that is wanted. surely: no other type of the caller's is taken for one."""
    all_wanted = _short(argument.wanted).split(" | ")
    if argument.given == "NoneType":
        return "None" in all_wanted
    for wanted in all_wanted:
        if known := _TYPES.get(wanted):
            if known.fullmatch(argument.given):
                return True
            continue
        plain = wanted.partition("[")[0]
        if argument.given in (plain, f"{_OURS}_dalsegno.{plain}") or plain in ("object", "Any", "Callable", "Iterable"):
            return True
        if not surely and not hasattr(builtins, argument.given) and not argument.given.startswith(_OURS):
            return True  # perhaps a subclass
    return False


def _bound(where: str, declared: ast.arguments, given: list[str], named: dict[str, str]) -> Iterator[_Argument]:
    """The arguments by their names. Errors: TypeError (they cannot be)."""
    positional = [*declared.posonlyargs, *declared.args]
    own = [each for each in positional if each.arg != "self"]
    if len(given) > len(own):
        raise TypeError(f"{where} takes {len(own) or 'no'} argument{'s' * (len(own) != 1)} without a name, "
                        f"and {len(given)} {'was' if len(given) == 1 else 'were'} given")
    needed = own[: len(own) - len(declared.defaults)]
    alone = [each for each, default in zip(declared.kwonlyargs, declared.kw_defaults) if default is None]
    for place, each in enumerate([*own, *declared.kwonlyargs]):
        of_place = given[place] if place < len(given) else None
        of_name = named.pop(each.arg, None)
        if of_place and of_name:
            raise TypeError(f"{where}: argument {each.arg} is given twice")
        if value := of_place or of_name:
            yield _Argument(each.arg, ast.unparse(each.annotation) if each.annotation else "object", value)
        elif each in needed or each in alone:
            raise TypeError(f"{where}: argument {each.arg} is missing")
    if named and declared.kwarg is None:
        raise TypeError(f"{where}: there is no argument {next(iter(named))}")


def _read(message: str) -> tuple[str, ast.FunctionDef, list[str], dict[str, str]]:
    """The function's name, its signature, and the types of what it was given, by place and by name."""
    name = message.partition("(")[0]
    signature = re.search(r"^ +1\. (.*)$", message, re.MULTILINE)[1]
    types, _, named = message.partition("Invoked with types: ")[2].partition("kwargs = { ")
    given = [each for each in types.strip().split(", ") if each.strip(" ,")]
    by_name = dict(each.split(": ") for each in named.removesuffix(" }").split(", ")) if named else {}
    function = ast.parse(f"def _{signature[signature.index('('):]}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    return name, function, [each.strip(" ,") for each in given], by_name


def _where(name: str, function: ast.FunctionDef, given: list[str]) -> str:
    """What was called, as the caller writes it; takes `self` from what was given. Errors: TypeError (another's)."""
    from . import _dalsegno

    declared = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    if declared[:1] == ["self"] and given:
        of_module, _, owner = given.pop(0).rpartition(".")
        is_ours = of_module == f"{_OURS}_dalsegno" and hasattr(getattr(_dalsegno, owner, None), name or "__init__")
        if not is_ours and (hasattr(builtins, owner) or owner == "NoneType" or of_module.startswith(_OURS)):
            said = "None" if owner == "NoneType" else _with_article(owner)
            raise TypeError(f"{name}(): it must be called on an object of its class, not on {said}")
    else:
        owner = _short(ast.unparse(function.returns)) if function.returns else ""
        owner = owner if hasattr(getattr(_dalsegno, owner, None), name) else ""
    return f"{owner}()" if name == "__init__" else f"{owner}.{name}()" if owner else f"{name}()"


def _faults(arguments: list[_Argument]) -> Iterator[str]:
    """What can be wrong with values of the right types."""
    for argument in arguments:
        wanted = argument.wanted.split(" | ")
        if argument.given == "str" and "str" in wanted:
            yield f"argument {argument.name} holds half of a surrogate pair, which is no character"
        elif "int" in wanted and _WHOLE.fullmatch(argument.given) and argument.given != "bool":
            yield f"argument {argument.name} is out of range"


def _refusal(message: str) -> Exception:
    name, function, given, named = _read(message)
    try:
        where = _where(name, function, given)
        arguments = list(_bound(where, function.args, given, named))
    except TypeError as error:
        return error
    for surely in (False, True):
        for argument in arguments:
            if not _fits(argument, surely):
                said = _short(argument.given).replace("NoneType", "None")
                hint = "; give the model's engine" if (argument.given, said) == (f"{_OURS}_model.Model", "Model") else ""
                said = said if said == "None" else _with_article(said)
                return TypeError(f"{where}: argument {argument.name} must be {_with_article(_short(argument.wanted))}, "
                                 f"not {said}{hint}")
    if faults := list(_faults(arguments)):
        return InvalidArgumentError(f"{where}: {', or '.join(faults)}")
    return TypeError(f"{where}: the arguments are not what it takes, which is {_short(ast.unparse(function.args))}")


def refusal(message: str) -> Exception:
    """The exception in place of nanobind's message about arguments. Its first line, where that cannot be read."""
    try:
        return _refusal(message)
    except (AssertionError, AttributeError, LookupError, SyntaxError, TypeError, ValueError):
        return TypeError(message.partition("\n")[0].partition(". The following")[0])
