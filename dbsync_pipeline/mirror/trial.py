"""Insert one row into each table as the application would, and roll it back.

Numbers come from where the application gets them: columns with an identity, a sequence or a server
default get no value. A sequence of PostgreSQL, or an identity of SQL Server, does not take its
number back at a rollback, so each trial uses up one number of every counter with at least 1,000,000
left; a narrower one is only read, by the check of the counters.
"""

from __future__ import annotations

import datetime as dt
import decimal
import secrets
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.counters import Counter
from dbsync_pipeline.dialects.table import Column, Kind, Table, kind_of, undecorated
from dbsync_pipeline.errors import Busy
from dbsync_pipeline.mirror.model import Model

_LOCK_SECONDS = 2
_PLENTY = 1_000_000
"""How many numbers a counter must have left for a trial to use one up."""


def refusals(
    dialect: Dialect, model: Model, counters: Sequence[Counter] | None = None
) -> Iterator[str]:
    """Return a sentence for every table into which no row can be inserted. Call it outside of
    transactions; nothing stays changed.

    With the `counters` of the database, rows take their numbers from them; without, only the right
    to write is tried, with numbers of the trial's own. A table that is locked counts as writable,
    since another session is writing to it.
    """
    read_only = dialect.read_only_by_default()
    dialect.rollback()
    if read_only:
        yield from (f"table {name}: sessions are read-only by default" for name in model.names)
        return
    narrow = None
    if counters is not None:
        narrow = {counter.name for counter in counters if _left(counter) < _PLENTY}
    dialect.limit_lock_wait(_LOCK_SECONDS)
    for table in model.tables:
        try:
            reason = _refusal(dialect, table, narrow)
        except Busy:
            reason = None
        finally:
            dialect.rollback()
        if reason is not None:
            yield f"table {table.name}: {reason}"


def _left(counter: Counter) -> int:
    return abs(counter.end - counter.position)


def _refusal(dialect: Dialect, table: Table, narrow: Collection[str] | None) -> str | None:
    """Return why the database refuses a row, None if it does not.

    A constraint that refuses the trial's own values was reached, so the table can be written to. A
    number that the database gave is not the trial's: if the same row with other numbers is
    accepted, the application's insert would fail.
    """
    generated = () if narrow is None else _generated(table, narrow)
    try:
        return _try(dialect, table, generated)
    except (sa.exc.IntegrityError, sa.exc.DataError):
        if not generated:
            return None
    try:
        if _try(dialect, table, ()) is not None:
            return None
    except (sa.exc.IntegrityError, sa.exc.DataError):
        return None
    return f"the number that the database gives to a new row is refused ({', '.join(generated)})"


def _try(dialect: Dialect, table: Table, generated: Collection[str]) -> str | None:
    """Insert a row and roll it back; return why the database refuses it. Raise what a constraint or
    a type raises.
    """
    try:
        with dialect.connection.begin() as transaction:
            dialect.connection.execute(table.sa.insert().values(_row(table, generated)))
            transaction.rollback()
    except (sa.exc.IntegrityError, sa.exc.DataError):
        raise
    except dialect.driver_errors as error:
        translation = dialect.translate(error, dialect.name, "write")
        if isinstance(translation, Busy):
            raise translation from None
        return getattr(translation, "cause", str(translation))
    except sa.exc.StatementError:  # a type of the models' own, for which a trial has no value
        return None
    return None


def _generated(table: Table, narrow: Collection[str]) -> tuple[str, ...]:
    """The columns that the database numbers, without those of a narrow counter."""
    return tuple(
        column.name
        for column in table.columns
        if _is_numbered(table, column) and f"{table.name}.{column.name}" not in narrow
    )


def _is_numbered(table: Table, column: Column) -> bool:
    modelled = table.sa_column(column.name)
    if column == table.counter or modelled.identity is not None:
        return True
    if isinstance(modelled.default, sa.Sequence):
        return True
    return column.kind is Kind.INTEGER and modelled.server_default is not None


def _row(table: Table, generated: Collection[str]) -> dict[str, Any]:
    """Values for the columns that need one from the application; a number that the database does
    not give is negative.

    On SQL Server a number above the identity's last one would move the identity, in spite of the
    rollback.
    """
    values: dict[str, Any] = {}
    for column in table.columns:
        modelled = table.sa_column(column.name)
        if column.name in generated or _is_always_identity(modelled):
            continue
        if _is_numbered(table, column):
            values[modelled.key] = -1 - secrets.randbelow(30_000)
        elif modelled.server_default is None and (
            not column.nullable or (column in table.key and not table.keyless)
        ):
            values[modelled.key] = _value(column)
    return values or _one_null(table, generated)


def _one_null(table: Table, generated: Collection[str]) -> dict[str, Any]:
    """A NULL where one may be: Babelfish refuses an INSERT of default values that returns some."""
    for column in table.columns:
        modelled = table.sa_column(column.name)
        if column.nullable and column.name not in generated and modelled.server_default is None:
            return {modelled.key: None}
    return {}


def _is_always_identity(column: sa.Column[Any]) -> bool:
    return column.identity is not None and bool(column.identity.always)


def _value(column: Column) -> Any:
    if isinstance(column.type, sa.Enum):
        enum = column.type
        return next(iter(enum.enum_class)) if enum.enum_class else enum.enums[0]
    types = (column.type, *column.type._variant_mapping.values())
    if any(isinstance(undecorated(type_), sa.ARRAY) for type_ in types):
        return []
    if isinstance(column.type, sa.JSON):
        return {}
    return _VALUES[kind_of(column.type)](column)


def _text(column: Column) -> str:
    return secrets.token_hex(16)[: column.length]


def _uuid(column: Column) -> uuid.UUID | str:
    value = uuid.uuid4()
    return value if getattr(column.type, "as_uuid", True) else str(value)


_VALUES: Mapping[Kind, Callable[[Column], Any]] = {
    Kind.BOOLEAN: lambda _: False,
    Kind.INTEGER: lambda _: 0,
    Kind.NUMERIC: lambda _: decimal.Decimal(0),
    Kind.TEXT: _text,
    Kind.UUID: _uuid,
    Kind.INSTANT: lambda _: dt.datetime.now(dt.UTC),
    Kind.DATETIME: lambda _: dt.datetime.now(),
    Kind.DATE: lambda _: dt.date.today(),
    Kind.TIME: lambda _: dt.time(),
    Kind.FLOAT: lambda _: 0.0,
    Kind.BYTES: lambda _: b"",
    Kind.OPAQUE: lambda _: None,
}
