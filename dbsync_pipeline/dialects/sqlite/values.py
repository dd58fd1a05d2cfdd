"""Plain values as an application's SQLAlchemy stores them in SQLite, and back."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects import values
from dbsync_pipeline.dialects.json_by_value import kept, text_of_value
from dbsync_pipeline.dialects.table import Column, Kind

_NANOSECONDS = re.compile(r"[.,]\d{6}\d*[1-9]")


def to_sqlite(column: Column) -> values.Convert:
    """Return the function from a plain value to what an application's SQLAlchemy stores."""
    check, convert = values.checked(column), _sqlite(column)
    if column.kind is Kind.TEXT and column.keeps_json_by_value:
        check = kept
    return (lambda value: convert(check(value))) if check else convert


def _sqlite(column: Column) -> values.Convert:
    match column.kind:
        case Kind.UUID:
            return lambda value: value.replace("-", "")
        case Kind.NUMERIC:
            return _sqlite_number(column.scale)
        case Kind.FLOAT:
            return _not_nan
        case Kind.INSTANT:
            zone = "+00:00" if isinstance(column.type, sa.TypeDecorator) else ""
            return lambda value: _timestamp(value) + zone
        case Kind.DATETIME:
            return _timestamp
        case Kind.DATE:
            return lambda value: values.date(value).isoformat()
        case Kind.TIME:
            return lambda value: values.time_of_day(value).isoformat(timespec="microseconds")
        case Kind.TEXT:
            return values.utf8
        case _:
            return lambda value: value


def _timestamp(value: int) -> str:
    return values.timestamp(value).isoformat(sep=" ", timespec="microseconds")


def _not_nan(value: float) -> float:
    if math.isnan(value):
        raise values.Cannot("SQLite stores NaN as NULL")
    return value


def _sqlite_number(scale: int) -> values.Convert:
    """SQLite stores a NUMERIC as an integer or a float, which is exact to 15 digits."""

    def convert(value: str) -> Any:
        number = float(value)
        if _quantized(number, scale) != value:
            raise values.Cannot("SQLite keeps numbers of this type to 15 digits")
        return number

    return convert


def _quantized(value: Any, scale: int) -> str:
    """Return exactly `scale` digits after the point. Raise Cannot if `value` has more."""
    number = decimal.Decimal(repr(value)) if isinstance(value, float) else decimal.Decimal(value)
    if not number.is_finite():
        raise values.Cannot("it is not a finite number")
    with decimal.localcontext() as context:
        context.prec = 1100
        exact = number.quantize(decimal.Decimal(1).scaleb(-scale))
    if exact != number:
        raise values.Cannot(f"it has more than {scale} digits after the point")
    return format(abs(exact) if exact.is_zero() else exact, "f")


def from_sqlite(column: Column) -> values.Convert:
    """Return the function from a stored value to the plain value.

    It raises Cannot if the stored value is not of the column's type, which SQLite does not enforce.
    """
    if column.kind is Kind.NUMERIC:
        return lambda value: _quantized(_of(int, float, str)(value), column.scale)
    if column.kind is Kind.TEXT and column.keeps_json_by_value:
        return lambda value: text_of_value(_of(str)(value))
    return _FROM_SQLITE[column.kind]


def _of(*classes: type) -> values.Convert:
    def check(value: Any) -> Any:
        if not isinstance(value, classes):
            raise values.Cannot(f"SQLite stores a value of type {type(value).__name__} there")
        return value

    return check


def _boolean(value: Any) -> int:
    if value not in (0, 1):
        raise values.Cannot("it is neither 0 nor 1")
    return int(value)


def _uuid(value: Any) -> str:
    text = _of(str)(value)
    if len(text) != 32 or text != text.lower():
        raise values.Cannot("it is not a UUID as SQLAlchemy stores it, 32 lower-case digits")
    int(text, 16)
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _to_the_microsecond(value: Any) -> str:
    """Return a text of a moment if Python would read all of its digits."""
    text: str = _of(str)(value)
    if _NANOSECONDS.search(text):
        raise values.Cannot("it has more than 6 digits of a second")
    return text


def _instant(value: Any) -> int:
    """Read a text without an offset as UTC: SQLAlchemy's own DateTime stores it so."""
    moment = dt.datetime.fromisoformat(_to_the_microsecond(value))
    return _microseconds(
        moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment
    )


def _datetime(value: Any) -> int:
    moment = dt.datetime.fromisoformat(_to_the_microsecond(value))
    if moment.tzinfo:
        raise values.Cannot("it has a time zone")
    return _microseconds(moment)


def _microseconds(moment: dt.datetime) -> int:
    return (moment - values.EPOCH) // values.MICROSECOND


_FROM_SQLITE: dict[Kind, values.Convert] = {
    Kind.INTEGER: _of(int),
    Kind.BOOLEAN: _boolean,
    Kind.UUID: _uuid,
    Kind.TEXT: _of(str),
    Kind.FLOAT: lambda value: float(_of(int, float)(value)),
    Kind.BYTES: _of(bytes),
    Kind.INSTANT: _instant,
    Kind.DATETIME: _datetime,
    Kind.DATE: lambda value: dt.date.fromisoformat(_of(str)(value)).toordinal() - values.EPOCH_DAY,
    Kind.TIME: lambda value: _microseconds(
        dt.datetime.combine(values.EPOCH.date(), dt.time.fromisoformat(_to_the_microsecond(value)))
    ),
}
