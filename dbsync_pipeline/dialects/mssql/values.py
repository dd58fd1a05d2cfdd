"""Checks that a SQL Server column keeps a plain value exactly. The values travel unchanged."""

from __future__ import annotations

import math
import sys

from dbsync_pipeline.dialects import values
from dbsync_pipeline.dialects.table import Column, Kind
from dbsync_pipeline.text import count


def to_mssql(column: Column, type_name: str, code_page: int | None) -> values.Convert:
    """Return a function that returns a plain value if a column of this type holds it exactly.

    It raises Cannot otherwise. `code_page` is that of a VARCHAR column, None for other columns.
    """
    check, fits = values.checked(column), _mssql(column, type_name, code_page)
    return (lambda value: fits(check(value))) if check else fits


def _mssql(column: Column, type_name: str, code_page: int | None) -> values.Convert:
    match column.kind:
        case Kind.TEXT:
            return _code_page(code_page, column.length) if code_page else _utf16(column.length)
        case Kind.FLOAT:
            real = type_name == "REAL" or values.is_single(column)
            return _single if real else _normal
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


def _utf16(length: int | None) -> values.Convert:
    """NVARCHAR counts units of 16 bits, so a character beyond U+FFFF counts as two."""

    def check(value: str) -> str:
        if (
            not value.isascii()
            and length is not None
            and len(values.utf8(value).encode("utf-16-le")) > 2 * length
        ):
            raise values.Cannot(
                f"it is longer than {count(length, 'character')} as SQL Server counts them, "
                "where one beyond U+FFFF counts as two"
            )
        return values.utf8(value)

    return check


def _code_page(code_page: int, length: int | None) -> values.Convert:
    codec = "utf-8" if code_page == 65001 else f"cp{code_page}"

    def check(value: str) -> str:
        try:
            data = value.encode(codec)
        except (UnicodeEncodeError, LookupError):
            if not value.isascii():
                raise values.Cannot(
                    f"the column is VARCHAR and its code page {code_page} lacks a character of it"
                ) from None
            data = value.encode()
        if length is not None and len(data) > length:
            raise values.Cannot(
                f"it is longer than {count(length, 'byte')}, in which VARCHAR counts"
            )
        return value

    return check


_LEAST_DOUBLE = sys.float_info.min
_LEAST_SINGLE = 2.0**-126
"""The least normal numbers. SQL Server counts smaller ones as invalid: DBCC CHECKDB reports them
as error 2570."""


def _normal(value: float, least: float = _LEAST_DOUBLE) -> float:
    if not math.isfinite(value):
        raise values.Cannot("SQL Server holds neither NaN nor infinity")
    if 0 < abs(value) < least:
        raise values.Cannot(f"SQL Server holds no number between 0 and {least:.3g} there")
    return value


def _single(value: float) -> float:
    return values.single(_normal(value, _LEAST_SINGLE))


def _kept(type_name: str, within: values.Convert) -> values.Convert:
    """Return a check that a date and time type keeps a number of microseconds exactly."""
    if type_name == "DATETIME":
        return _three_hundredths
    if type_name == "SMALLDATETIME":
        return _minutes
    digits = int(type_name.split("(")[1].rstrip(")")) if "(" in type_name else 7
    unit = 10 ** max(0, 6 - digits)

    def check(value: int) -> int:
        if value % unit:
            raise values.Cannot(f"it has more than {digits} digits of a second")
        return int(within(value))

    return check


def _three_hundredths(value: int) -> int:
    if (
        value % 1000
        or value // 1000 % 10 not in (0, 3, 7)
        or value < -values.DAY_MICROSECONDS * 90_214
    ):
        raise values.Cannot(
            "the column is DATETIME, which keeps three-hundredths of a second since 1753"
        )
    return int(_within_years(value))


def _minutes(value: int) -> int:
    if (
        value % 60_000_000
        or not -values.DAY_MICROSECONDS * 36_524 <= value < values.DAY_MICROSECONDS * 29_012
    ):
        raise values.Cannot("the column is SMALLDATETIME, which keeps minutes from 1900 to 2079")
    return value


def _within_years(value: int) -> int:
    values.timestamp(value)
    return value


def _time_of_day(value: int) -> int:
    values.time_of_day(value)
    return value


def _date(value: int) -> int:
    values.date(value)
    return value


def _tiny(value: int) -> int:
    if not 0 <= value < 256:
        raise values.Cannot("the column is TINYINT, which holds 0 to 255")
    return value
