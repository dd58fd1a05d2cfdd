"""Plain values into the form of one engine and back, exactly or not at all.

A value that the other side cannot hold is refused by table, key and column. Nothing is rounded, cut or shifted.
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.table import Column, Kind, Row, Table
from dbsync_pipeline.errors import Unrepresentable
from dbsync_pipeline.text import count

EPOCH = dt.datetime(2000, 1, 1)
_MICROSECOND = dt.timedelta(microseconds=1)
_DAY = dt.date(2000, 1, 1).toordinal()
_DAY_MICROSECONDS = 86_400_000_000

Convert = Callable[[Any], Any]


class Cannot(ValueError):
    """Why a value cannot be held; says nothing of the value itself."""


def converter(
    table: Table, columns: Sequence[Column], converts: Sequence[Convert], database: str
) -> Callable[[Row], list[Any]]:
    """One function for a whole row. It raises Unholdable with the table, the column and the row's key where a value will not go over."""
    places = [
        next((n for n, column in enumerate(columns) if column.name == part.name), None)
        for part in table.key
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
            f"the row with key ({', '.join(map(repr, key))}) cannot be held exactly",
            operation="stage",
            database=database,
            table=table.name,
            remedy="look for what differs from other rows in that one, and change it in the source",
        )

    return convert


def unrepresentable(
    table: Table, column: str, key: Sequence[Any], why: str, database: str
) -> Unrepresentable:
    """The refusal of one value, which is not told itself."""
    return Unrepresentable(
        f"column {column} of the row with key ({', '.join(map(repr, key))}) cannot be held exactly: {why}",
        operation="stage",
        database=database,
        table=table.name,
        remedy="change that value, or the column's type in the models",
    )


# -- checks that hold for every engine


def checked(column: Column) -> Convert | None:
    """A check of a plain value against the column's declared bounds, which SQLite does not enforce; None where there is nothing to check."""
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
    return None


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


# -- PostgreSQL: text as COPY and casts read it


def to_postgresql(column: Column) -> Convert:
    """Plain value -> the text that PostgreSQL reads."""
    check, convert = checked(column), _POSTGRESQL.get(column.kind, str)
    return (lambda value: convert(check(value))) if check else convert


def _timestamp(value: int) -> str:
    try:
        return (EPOCH + value * _MICROSECOND).isoformat(sep=" ")
    except OverflowError:
        raise Cannot("it is outside the years 1 to 9999") from None


def _utf8(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Cannot("it holds half of a surrogate pair") from None
    return value


_POSTGRESQL: dict[Kind, Convert] = {
    Kind.BOOLEAN: lambda value: "t" if value else "f",
    Kind.TEXT: _utf8,
    Kind.FLOAT: repr,
    Kind.BYTES: lambda value: "\\x" + value.hex(),
    Kind.INSTANT: lambda value: _timestamp(value) + "+00",
    Kind.DATETIME: _timestamp,
    Kind.DATE: lambda value: dt.date.fromordinal(_DAY + value).isoformat(),
    Kind.TIME: lambda value: _time(value).isoformat(),
}


def _time(value: int) -> dt.time:
    if not 0 <= value < _DAY_MICROSECONDS:
        raise Cannot("it is not a time of day")
    return (EPOCH + value * _MICROSECOND).time()


# -- SQLite: what SQLAlchemy's own types store there


def to_sqlite(column: Column) -> Convert:
    """Plain value -> what an application's SQLAlchemy would have stored."""
    check, convert = checked(column), _sqlite(column)
    return (lambda value: convert(check(value))) if check else convert


def _sqlite(column: Column) -> Convert:
    match column.kind:
        case Kind.UUID:
            return lambda value: value.replace("-", "")
        case Kind.NUMERIC:
            return _sqlite_number(column.scale)
        case Kind.FLOAT:
            return _not_nan
        case Kind.INSTANT:
            zone = "+00:00" if isinstance(column.type, sa.TypeDecorator) else ""
            return lambda value: _stamp(value) + zone
        case Kind.DATETIME:
            return _stamp
        case Kind.DATE:
            return lambda value: dt.date.fromordinal(_DAY + value).isoformat()
        case Kind.TIME:
            return lambda value: _time(value).isoformat(timespec="microseconds")
        case Kind.TEXT:
            return _utf8
        case _:
            return lambda value: value


def _stamp(value: int) -> str:
    try:
        return (EPOCH + value * _MICROSECOND).isoformat(sep=" ", timespec="microseconds")
    except OverflowError:
        raise Cannot("it is outside the years 1 to 9999") from None


def _not_nan(value: float) -> float:
    if math.isnan(value):
        raise Cannot("SQLite stores NaN as NULL")
    return value


def _sqlite_number(scale: int) -> Convert:
    """SQLite keeps a NUMERIC as an integer or a float, which is exact to 15 digits."""

    def convert(value: str) -> Any:
        number = float(value)
        if _quantized(number, scale) != value:
            raise Cannot("SQLite keeps numbers of this type to 15 digits")
        return number

    return convert


def _quantized(value: Any, scale: int) -> str:
    """Exactly `scale` digits after the point; raises Cannot where `value` has more."""
    number = decimal.Decimal(repr(value)) if isinstance(value, float) else decimal.Decimal(value)
    if not number.is_finite():
        raise Cannot("it is not a finite number")
    with decimal.localcontext() as context:
        context.prec = 1100
        exact = number.quantize(decimal.Decimal(1).scaleb(-scale))
    if exact != number:
        raise Cannot(f"it has more than {scale} digits after the point")
    return format(abs(exact) if exact.is_zero() else exact, "f")


def from_sqlite(column: Column) -> Convert:
    """What SQLite holds -> plain value; raises where the value is not of the column's type, which SQLite does not enforce."""
    if column.kind is Kind.NUMERIC:
        return lambda value: _quantized(_of(int, float, str)(value), column.scale)
    return _FROM_SQLITE[column.kind]


def _of(*classes: type) -> Convert:
    def check(value: Any) -> Any:
        if not isinstance(value, classes):
            raise Cannot(f"SQLite holds a {type(value).__name__} there")
        return value

    return check


def _boolean(value: Any) -> int:
    if value not in (0, 1):
        raise Cannot("it is neither 0 nor 1")
    return int(value)


def _uuid(value: Any) -> str:
    text = _of(str)(value)
    if len(text) != 32 or text != text.lower():
        raise Cannot("it is not a UUID as SQLAlchemy stores it, 32 lower-case digits")
    int(text, 16)
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _instant(value: Any) -> int:
    """Without an offset the text is taken as UTC, which is what SQLAlchemy's own DateTime leaves there."""
    moment = dt.datetime.fromisoformat(_of(str)(value))
    return _microseconds(
        moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment
    )


def _datetime(value: Any) -> int:
    moment = dt.datetime.fromisoformat(_of(str)(value))
    if moment.tzinfo:
        raise Cannot("it has a time zone")
    return _microseconds(moment)


def _microseconds(moment: dt.datetime) -> int:
    return (moment - EPOCH) // _MICROSECOND


_FROM_SQLITE: dict[Kind, Convert] = {
    Kind.INTEGER: _of(int),
    Kind.BOOLEAN: _boolean,
    Kind.UUID: _uuid,
    Kind.TEXT: _of(str),
    Kind.FLOAT: lambda value: float(_of(int, float)(value)),
    Kind.BYTES: _of(bytes),
    Kind.INSTANT: _instant,
    Kind.DATETIME: _datetime,
    Kind.DATE: lambda value: dt.date.fromisoformat(_of(str)(value)).toordinal() - _DAY,
    Kind.TIME: lambda value: _microseconds(
        dt.datetime.combine(EPOCH.date(), dt.time.fromisoformat(_of(str)(value)))
    ),
}


# -- SQL Server: plain values travel as they are; what the column would not keep exactly is refused


def to_mssql(column: Column, type_name: str, code_page: int | None) -> Convert:
    """Plain value -> the same, once it is known that a column of this type holds it.

    `code_page` is that of a VARCHAR column, None for other columns.
    """
    check, fits = checked(column), _mssql(column, type_name, code_page)
    return (lambda value: fits(check(value))) if check else fits


def _mssql(column: Column, type_name: str, code_page: int | None) -> Convert:
    match column.kind:
        case Kind.TEXT:
            return _code_page(code_page, column.length) if code_page else _utf16(column.length)
        case Kind.FLOAT:
            return _single if _is_real(column, type_name) else _finite
        case Kind.INSTANT | Kind.DATETIME:
            return _kept(type_name, _within_years)
        case Kind.TIME:
            return _kept(type_name, _time_of_day)
        case Kind.DATE:
            return _date
        case Kind.INTEGER if type_name == "TINYINT":
            return _tiny
        case _:
            return lambda value: value


def _utf16(length: int | None) -> Convert:
    """NVARCHAR counts in halves of 32 bits, so that a character beyond U+FFFF counts as two."""

    def check(value: str) -> str:
        if (
            not value.isascii()
            and length is not None
            and len(_utf8(value).encode("utf-16-le")) > 2 * length
        ):
            raise Cannot(
                f"it is longer than {count(length, 'character')} as SQL Server counts them, where one beyond U+FFFF counts as two"
            )
        return _utf8(value)

    return check


def _code_page(code_page: int, length: int | None) -> Convert:
    codec = "utf-8" if code_page == 65001 else f"cp{code_page}"

    def check(value: str) -> str:
        try:
            data = value.encode(codec)
        except (UnicodeEncodeError, LookupError):
            if not value.isascii():
                raise Cannot(
                    f"the column is VARCHAR and its code page {code_page} lacks a character of it"
                ) from None
            data = value.encode()
        if length is not None and len(data) > length:
            raise Cannot(f"it is longer than {count(length, 'byte')}, in which VARCHAR counts")
        return value

    return check


def _is_real(column: Column, type_name: str) -> bool:
    precision = getattr(column.type, "precision", None)
    return type_name == "REAL" or (precision is not None and precision <= 24)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise Cannot("SQL Server holds neither NaN nor infinity")
    return value


def _single(value: float) -> float:
    if struct.unpack("f", struct.pack("f", _finite(value)))[0] != value:
        raise Cannot("the column is REAL and keeps 24 bits of it")
    return value


def _kept(type_name: str, within: Convert) -> Convert:
    """A check that a date and time type of so many digits keeps a number of microseconds."""
    if type_name == "DATETIME":
        return _three_hundredths
    if type_name == "SMALLDATETIME":
        return _minutes
    digits = int(type_name.split("(")[1].rstrip(")")) if "(" in type_name else 7
    unit = 10 ** max(0, 6 - digits)

    def check(value: int) -> int:
        if value % unit:
            raise Cannot(f"it has more than {digits} digits of a second")
        return int(within(value))

    return check


def _three_hundredths(value: int) -> int:
    if value % 1000 or value // 1000 % 10 not in (0, 3, 7) or value < -_DAY_MICROSECONDS * 90_214:
        raise Cannot("the column is DATETIME, which keeps three-hundredths of a second since 1753")
    return int(_within_years(value))


def _minutes(value: int) -> int:
    if value % 60_000_000 or not -_DAY_MICROSECONDS * 36_524 <= value < _DAY_MICROSECONDS * 29_012:
        raise Cannot("the column is SMALLDATETIME, which keeps minutes from 1900 to 2079")
    return value


def _within_years(value: int) -> int:
    _stamp(value)
    return value


def _time_of_day(value: int) -> int:
    _time(value)
    return value


def _date(value: int) -> int:
    try:
        dt.date.fromordinal(_DAY + value)
    except (ValueError, OverflowError):
        raise Cannot("it is outside the years 1 to 9999") from None
    return value


def _tiny(value: int) -> int:
    if not 0 <= value < 256:
        raise Cannot("the column is TINYINT, which holds 0 to 255")
    return value
