"""Arrays of PostgreSQL that other engines keep as JSON: `["a", null]` is `{"a",NULL}`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.table import undecorated
from dbsync_pipeline.dialects.values import Cannot, Convert


class _Number(str):
    """A number as JSON writes it."""


def literal_of(type_: sa.ARRAY[Any], encoded: Convert) -> Convert:
    """Return the function from a JSON text to the text of such an array.

    The text is one that jsonb would keep. The function raises Cannot if it has something that the
    array would return in another form: no list, an empty list in a list, or an item of another
    type. `encoded` checks and converts the whole text.
    """
    item = _item(type_.item_type)

    def literal(text: str) -> str:
        value = json.loads(encoded(text), parse_int=_Number, parse_float=_Number)
        if not isinstance(value, list):
            raise Cannot("PostgreSQL keeps an array there, and it is none")
        return _list(value, item, whole=True)

    return literal


def _list(value: list[Any], item: Convert, *, whole: bool = False) -> str:
    if not (value or whole):
        raise Cannot("PostgreSQL keeps no empty array within another")
    parts = (_list(part, item) if isinstance(part, list) else _part(part, item) for part in value)
    return "{" + ",".join(parts) + "}"


def _part(value: Any, item: Convert) -> str:
    if value is None:
        return "NULL"
    text: str = item(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _item(type_: Any) -> Convert:
    """Return the function from an item of a list to the text that the type reads."""
    type_ = undecorated(type_)
    if isinstance(type_, sa.Boolean):
        return _of(lambda value: isinstance(value, bool), lambda value: "t" if value else "f")
    if isinstance(type_, sa.Integer):
        return _of(lambda value: isinstance(value, _Number) and "." not in value)
    if isinstance(type_, sa.Numeric):
        return _of(lambda value: isinstance(value, _Number))
    return _of(lambda value: isinstance(value, str) and not isinstance(value, _Number))


def _of(matches: Callable[[Any], bool], convert: Convert = str) -> Convert:
    def item(value: Any) -> Any:
        if not matches(value):
            raise Cannot("PostgreSQL keeps an array there, and an item is of another type")
        return convert(value)

    return item
