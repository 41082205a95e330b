"""What a reply's text must look like: values for the option `constraint`.

    model.generate(prompt, constraint=dalsegno.constraints.choices(["yes", "no"]))

`continues`: how many tokens at the prompt's end are text of the grammar already, in a fork of a reply or in one that was
cut off. A constraint that cannot be enforced is refused by the call that uses it, with InvalidArgumentError.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict


class Constraint(TypedDict, total=False):
    """Made by the functions below."""

    kind: str
    text: str
    choices: list[str]
    continues: int


# White space as json.dumps writes it: small models are lost in more of it, and what is forced costs no step.
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def json_schema(schema: str | bool | Mapping[str, Any] | Any, continues: int = 0, *, compact: bool = False) -> Constraint:
    """JSON that a schema allows: its text, a mapping, or a class with `model_json_schema()`, as pydantic's models.

    Draft 2020-12, or what "$schema" says. A keyword that cannot be enforced is refused.
    compact: white space as json.dumps writes it, instead of any between tokens.
    """
    if hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    if compact:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        schema = {"x-guidance": _COMPACT, **({} if schema is True else schema)} if schema is not False else False
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return {"kind": "json_schema", "text": text, "continues": continues}


def regex(pattern: str, continues: int = 0) -> Constraint:
    """Text that a regular expression matches as a whole; Rust's syntax, without look-around and back-references."""
    return {"kind": "regex", "text": pattern, "continues": continues}


def grammar(text: str, continues: int = 0) -> Constraint:
    """Text of a context-free grammar in Lark's syntax, from its rule `start` on, or in GBNF, from `root` on."""
    return {"kind": "lark", "text": text, "continues": continues}


def choices(texts: Iterable[str], continues: int = 0) -> Constraint:
    """One of some texts."""
    return {"kind": "choices", "choices": list(texts), "continues": continues}
