"""Plain values as text that PostgreSQL reads, in COPY and in casts."""

from __future__ import annotations

from dbsync_pipeline.dialects import values
from dbsync_pipeline.dialects.table import Column, Kind


def to_postgresql(column: Column) -> values.Convert:
    """Return the function from a plain value to the text that PostgreSQL reads."""
    check, convert = values.checked(column), _TO_TEXT.get(column.kind, str)
    return (lambda value: convert(check(value))) if check else convert


def _timestamp(value: int) -> str:
    return values.timestamp(value).isoformat(sep=" ")


_TO_TEXT: dict[Kind, values.Convert] = {
    Kind.BOOLEAN: lambda value: "t" if value else "f",
    Kind.TEXT: values.utf8,
    Kind.FLOAT: repr,
    Kind.BYTES: lambda value: "\\x" + value.hex(),
    Kind.INSTANT: lambda value: _timestamp(value) + "+00",
    Kind.DATETIME: _timestamp,
    Kind.DATE: lambda value: values.date(value).isoformat(),
    Kind.TIME: lambda value: values.time_of_day(value).isoformat(),
}
