"""Plain values as text that PostgreSQL reads, in COPY and in casts."""

from __future__ import annotations

from functools import partial

from psycopg2.extensions import encodings

from dbsync_pipeline.dialects import values
from dbsync_pipeline.dialects.json_by_value import kept
from dbsync_pipeline.dialects.postgresql import arrays
from dbsync_pipeline.dialects.postgresql.column_types import array_of
from dbsync_pipeline.dialects.table import Column, Kind


def to_postgresql(column: Column, encoding: str = "UTF8") -> values.Convert:
    """Return the function from a plain value to the text that PostgreSQL reads.

    `encoding` is the database's, by PostgreSQL's name; it may lack characters of a text.
    """
    check, convert = values.checked(column), _TO_TEXT.get(column.kind, str)
    if check and column.kind is Kind.NUMERIC:
        check = _or_nan(check)
    if column.kind is Kind.TEXT and encoding not in ("UTF8", "SQL_ASCII"):
        convert = _encodable(encoding)
    if column.kind is Kind.TEXT and column.keeps_json_by_value:
        check = kept
    if (array := array_of(column)) is not None:
        convert = arrays.literal_of(array, convert)
    return (lambda value: convert(check(value))) if check else convert


def _or_nan(check: values.Convert) -> values.Convert:
    """Another PostgreSQL server may have sent NaN, which a NUMERIC of any precision holds."""
    return lambda value: value if value == "NaN" else check(value)


def _encodable(encoding: str) -> values.Convert:
    codec = encodings[encoding]

    def check(value: str) -> str:
        try:
            value.encode(codec)
        except UnicodeEncodeError:
            raise values.Cannot(
                f"the database's encoding {encoding} lacks a character of it"
            ) from None
        return value

    return check


_TO_TEXT: dict[Kind, values.Convert] = {
    Kind.BOOLEAN: lambda value: "t" if value else "f",
    Kind.TEXT: values.utf8,
    Kind.FLOAT: repr,
    Kind.BYTES: lambda value: "\\x" + value.hex(),
    **{kind: partial(values.moment, kind) for kind in values.MOMENTS},
}
