"""Stored values for people to read, including those that Python has no form for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from dbsync_pipeline.dialects.table import Column, Kind, undecorated

_PATTERNS = {
    Kind.INSTANT: 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"',
    Kind.DATETIME: 'YYYY-MM-DD"T"HH24:MI:SS.US',
    Kind.DATE: "YYYY-MM-DD",
}
_PARSERS: dict[Kind, Callable[[str], Any]] = {
    Kind.INSTANT: dt.datetime.fromisoformat,
    Kind.DATETIME: dt.datetime.fromisoformat,
    Kind.DATE: dt.date.fromisoformat,
    Kind.TIME: dt.time.fromisoformat,
}


def displayed(column: Column, stored: sa.ColumnElement[Any]) -> sa.ColumnElement[Any] | None:
    """Return the value for people; None if the engine's default serves.

    Infinity, years beyond Python's and OPAQUE values are PostgreSQL's text of them.
    """
    if column.kind is Kind.TIME:
        text = sa.func.to_char(sa.cast(stored, postgresql.INTERVAL), "HH24:MI:SS.US")
        return sa.type_coerce(text, _Moment(column.kind))
    if column.kind in _PATTERNS:
        first: sa.ColumnElement[Any] = sa.literal_column("'0001-01-01'")
        beyond: sa.ColumnElement[Any] = sa.literal_column("'10000-01-01'")
        text = sa.func.to_char(stored, _PATTERNS[column.kind])
        usual = sa.and_(stored >= first, stored < beyond)
        return sa.type_coerce(
            sa.case((usual, text), else_=sa.cast(stored, sa.Text)), _Moment(column.kind)
        )
    if column.kind is Kind.OPAQUE and not isinstance(undecorated(column.type), sa.String):
        return sa.cast(stored, sa.Text)
    return None


class _Moment(sa.types.TypeDecorator[Any]):
    """A moment from its text; the text itself if Python has no such moment."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        try:
            return None if value is None else _PARSERS[self.kind](value)
        except ValueError:
            return value
