"""What a reply's text must look like: values for the option `constraint`.

    model.generate(prompt, constraint=dalsegno.constraints.choices(["yes", "no"]))

`continues`: how many tokens at the prompt's end are text of the grammar already, in a fork of a reply or in one that was
cut off. A constraint that cannot be enforced is refused by the call that uses it, with InvalidArgumentError.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from . import _arguments
from .errors import InvalidArgumentError


class Constraint(TypedDict, total=False):
    """Made by the functions below."""

    kind: str
    text: str
    choices: list[str]
    continues: int


# Which tools a reply calls: "auto" (it may answer, or call), "required" (nothing but calls), "none" (no call can be
# written), or {"name": of a tool} (nothing but calls of that one).
ToolChoice = str | Mapping[str, str]

# White space as json.dumps writes it: small models are lost in more of it, and what is forced costs no step.
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def json_schema(schema: str | bool | Mapping[str, Any] | Any, continues: int = 0, *, compact: bool = False) -> Constraint:
    """JSON that a schema allows: its text, a mapping, or a class with `model_json_schema()`, as pydantic's models.

    Draft 2020-12, or what "$schema" says. A keyword that cannot be enforced is refused.
    compact: white space as json.dumps writes it, instead of any between tokens.
    Errors: TypeError (it is none of these), InvalidArgumentError (compact: text that is no JSON; what has no JSON).
    """
    if hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    if isinstance(schema, str) and not compact:
        return {"kind": "json_schema", "text": _arguments.text("schema", schema), "continues": continues}
    if isinstance(schema, str):
        schema = _parsed(_arguments.text("schema", schema))
    if not isinstance(schema, (bool, Mapping)):
        raise TypeError("schema: a JSON object or boolean, as text or mapping, or a class with model_json_schema() is wanted, "
                        f"not {_arguments.shown(schema)}")
    if compact and schema is not False:
        schema = {"x-guidance": _COMPACT, **({} if schema is True else schema)}
    text = _arguments.as_json("schema", schema if isinstance(schema, bool) else dict(schema))
    return {"kind": "json_schema", "text": text, "continues": continues}


def _parsed(schema: str) -> Any:
    try:
        return json.loads(schema)
    except RecursionError:
        raise InvalidArgumentError("schema: it is nested too deeply to be read as JSON") from None
    except ValueError as error:
        raise InvalidArgumentError(f"schema: {_arguments.shown(schema)} is not valid JSON: {error}") from None


def regex(pattern: str, continues: int = 0) -> Constraint:
    """Text that a regular expression matches as a whole; Rust's syntax, without look-around and back-references."""
    return {"kind": "regex", "text": _arguments.text("pattern", pattern), "continues": continues}


def grammar(text: str, continues: int = 0) -> Constraint:
    """Text of a context-free grammar in Lark's syntax, from its rule `start` on, or in GBNF, from `root` on."""
    return {"kind": "lark", "text": _arguments.text("text", text), "continues": continues}


def choices(texts: Iterable[str], continues: int = 0) -> Constraint:
    """One of some texts. Errors: TypeError (a bare text, which is no list of them)."""
    given = _arguments.items("texts", texts, "a list of texts")
    return {"kind": "choices", "choices": [_arguments.text(f"texts, item {i}", each) for i, each in enumerate(given)],
            "continues": continues}


def tool_calls(tools: Iterable[Mapping[str, Any]], style: str = "hermes", tool_choice: ToolChoice = "auto",
               continues: int = 0) -> Constraint:
    """The tool calls in a text: each is one of these tools', with arguments that its parameters allow. Other text is free.

    tools: with name and parameters (a JSON schema), as Session takes them. style: how calls are written, "hermes",
    "llama3" or "json". Sessions with tools do this for themselves.
    """
    nothing: dict[str, Any] = {"type": "object", "properties": {}}
    all_of_them = [{"name": tool["name"], "parameters": nothing if tool.get("parameters") is None else tool["parameters"]}
                   for tool in _arguments.tools("tools", tools)]
    text = _arguments.as_json("tools", {"style": style, "tools": all_of_them, "tool_choice": tool_choice})
    return {"kind": "tool_calls", "text": text, "continues": continues}
