"""Plain values that pass between engines, checked: exactly or not at all.

Each engine's own conversions stand in its folder. A value that the other side cannot hold is
refused by table, key and column. Nothing is rounded, cut or shifted.
"""

from __future__ import annotations

import datetime as dt
import decimal
import struct
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.table import Column, Kind, Row, Table
from dbsync_pipeline.errors import Unrepresentable
from dbsync_pipeline.text import count

EPOCH = dt.datetime(2000, 1, 1)
"""Plain dates and times count from here."""
MICROSECOND = dt.timedelta(microseconds=1)
EPOCH_DAY = dt.date(2000, 1, 1).toordinal()
DAY_MICROSECONDS = 86_400_000_000

Convert = Callable[[Any], Any]


class Cannot(ValueError):
    """Why a value cannot be held. The text does not contain the value."""


def converter(
    table: Table, columns: Sequence[Column], converts: Sequence[Convert], database: str
) -> Callable[[Row], list[Any]]:
    """Return one function that converts a whole row.

    It raises Unrepresentable, naming the table, column and key, if a value cannot be converted.
    """
    places = [
        next((n for n, column in enumerate(columns) if column.name == part.name), None)
        for part in key_shown(table)
    ]

    def convert(row: Row) -> list[Any]:
        try:
            return [
                None if value is None else to(value)
                for to, value in zip(converts, row, strict=True)
            ]
        except (ValueError, ArithmeticError, TypeError):
            raise _refusal(row) from None

    def _refusal(row: Row) -> Unrepresentable:
        key = [row[place] for place in places if place is not None]
        for column, to, value in zip(columns, converts, row, strict=True):
            try:
                _ = None if value is None else to(value)
            except (ValueError, ArithmeticError, TypeError) as error:
                why = str(error) if isinstance(error, Cannot) else "it is not of the column's type"
                return unrepresentable(table, column.name, key, why, database)
        return Unrepresentable(
            f"{_row(table, key)} cannot be held exactly",
            operation="stage",
            database=database,
            table=table.name,
            remedy="find what differs from other rows in that one, and change it in the source",
        )

    return convert


def key_shown(table: Table) -> Sequence[Column]:
    """Return the columns by which a message names a row: none of a keyless table."""
    return () if table.keyless else table.key


def _row(table: Table, key: Sequence[Any]) -> str:
    if table.keyless:
        return "a row of this table, which has no key,"
    return f"the row with key ({', '.join(map(repr, shown_key(table, key)))})"


def unrepresentable(
    table: Table, column: str, key: Sequence[Any], why: str, database: str
) -> Unrepresentable:
    """Return the refusal of one value. Its text does not contain the value."""
    return Unrepresentable(
        f"column {column} of {_row(table, key)} cannot be held exactly: {why}",
        operation="stage",
        database=database,
        table=table.name,
        remedy="change that value, or the column's type in the models",
    )


# -- checks that hold for every engine


def checked(column: Column) -> Convert | None:
    """Return a check of plain values against the column's declared bounds; None if it has none.

    SQLite does not enforce them.
    """
    if column.kind is Kind.INTEGER:
        bits = (
            16
            if isinstance(column.type, sa.SmallInteger)
            else 64
            if isinstance(column.type, sa.BigInteger)
            else 32
        )
        return _within(bits)
    if column.kind is Kind.NUMERIC:
        return _digits(int(column.type.precision), column.scale)  # type: ignore[attr-defined]
    if column.kind is Kind.TEXT:
        return _characters(column.length)
    if column.kind is Kind.FLOAT and is_single(column):
        return single
    return None


def is_single(column: Column) -> bool:
    """Return whether the column's floats have 32 bits, as REAL and FLOAT(24) have on servers."""
    precision = getattr(column.type, "precision", None)
    return isinstance(column.type, sa.REAL) or (precision is not None and precision <= 24)


def single(value: float) -> float:
    """Return a float that 32 bits hold, or NaN. Raise Cannot, or OverflowError, for any other."""
    if value == value and struct.unpack("f", struct.pack("f", value))[0] != value:
        raise Cannot("the column is REAL and keeps 24 bits of it")
    return value


def _within(bits: int) -> Convert:
    most = 2 ** (bits - 1)

    def check(value: int) -> int:
        if not -most <= value < most:
            raise Cannot(f"it does not fit in {bits} bits")
        return value

    return check


def _digits(precision: int, scale: int) -> Convert:
    most = decimal.Decimal(10) ** (precision - scale)

    def check(value: str) -> str:
        number = decimal.Decimal(value)
        if not number.is_finite():
            raise Cannot("it is not a finite number")
        if number.copy_abs() >= most:  # abs() would round to 28 digits first
            raise Cannot(f"it has more than {precision - scale} digits before the point")
        return value

    return check


def _characters(length: int | None) -> Convert:
    def check(value: str) -> str:
        if length is not None and len(value) > length:
            raise Cannot(f"it is longer than {count(length, 'character')}")
        if "\0" in value:
            raise Cannot("it holds the character U+0000")
        return value

    return check


# -- dates and times


def timestamp(value: int) -> dt.datetime:
    """Return the moment of a plain DATETIME or INSTANT (UTC, without a zone)."""
    try:
        return EPOCH + value * MICROSECOND
    except OverflowError:
        raise Cannot("it is outside the years 1 to 9999") from None


def date(value: int) -> dt.date:
    """Return the day of a plain DATE."""
    try:
        return dt.date.fromordinal(EPOCH_DAY + value)
    except (ValueError, OverflowError):
        raise Cannot("it is outside the years 1 to 9999") from None


def time_of_day(value: int) -> dt.time:
    """Return the time of a plain TIME."""
    if not 0 <= value < DAY_MICROSECONDS:
        raise Cannot("it is not a time of day")
    return (EPOCH + value * MICROSECOND).time()


# -- for people

MOMENTS = frozenset({Kind.INSTANT, Kind.DATETIME, Kind.DATE, Kind.TIME})
_CYCLE_YEARS, _CYCLE_DAYS = 400, 146_097
"""The years, and their days, after which the calendar begins again."""
_INFINITE: dict[object, str] = {2**63 - 1: "infinity", -(2**63): "-infinity"}
INFINITE: dict[Kind, dict[object, str]] = {
    Kind.INSTANT: _INFINITE,
    Kind.DATETIME: _INFINITE,
    Kind.DATE: {2**31 - 1: "infinity", -(2**31): "-infinity"},
}
"""The plain moments that are none, which only PostgreSQL has, and how it writes them."""
_FLOATS = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}


def shown(column: Column, value: Any) -> str:
    """Return a plain value, which is not None, as text for people.

    Moments are in ISO 8601, or, if Python has no form for them, as `psql` shows them in UTC; bytes
    are in hexadecimal.
    """
    match column.kind:
        case Kind.BOOLEAN:
            return "true" if value else "false"
        case Kind.BYTES:
            return bytes(value).hex()
        case Kind.FLOAT:
            return _FLOATS.get(repr(value), str(value))
        case kind if kind in MOMENTS:
            return moment(kind, value)
    return str(value)


def shown_key(table: Table, key: Sequence[Any], *, native: bool = False) -> tuple[Any, ...]:
    """Return a key of plain values for people, its moments as text.

    One of an engine's own (`native`) values, and an address, are returned as they are.
    """
    if native or table.keyless or len(key) != len(table.key):
        return tuple(key)
    return tuple(
        shown(part, value) if part.kind in MOMENTS and isinstance(value, int) else value
        for part, value in zip(table.key, key, strict=True)
    )


def moment(kind: Kind, value: int) -> str:
    """Return a plain moment in ISO 8601; if Python has no form for it, as `psql` shows it in UTC.

    PostgreSQL reads both.
    """
    try:
        match kind:
            case Kind.DATE:
                return date(value).isoformat()
            case Kind.TIME:
                return time_of_day(value).isoformat()
            case Kind.DATETIME:
                return timestamp(value).isoformat()
        return timestamp(value).isoformat() + "+00:00"
    except Cannot:
        return _beyond_python(kind, value)


def _beyond_python(kind: Kind, value: int) -> str:
    if kind is Kind.TIME:
        return "24:00:00" if value == DAY_MICROSECONDS else str(value)
    if name := INFINITE[kind].get(value):
        return name
    days, time = (value, None) if kind is Kind.DATE else divmod(value, DAY_MICROSECONDS)
    cycles, day = divmod(EPOCH_DAY + days - 1, _CYCLE_DAYS)
    within = dt.date.fromordinal(day + 1)
    year = within.year + cycles * _CYCLE_YEARS
    text = f"{year if year > 0 else 1 - year:04}-{within:%m-%d}"
    if time is not None:
        clock = time_of_day(time).isoformat()
        text += f" {clock.rstrip('0') if '.' in clock else clock}"
    text += "+00" if kind is Kind.INSTANT else ""
    return text if year > 0 else f"{text} BC"


# -- text


def utf8(value: str) -> str:
    """Return the text if UTF-8 can hold it."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Cannot("it holds half of a surrogate pair") from None
    return value
