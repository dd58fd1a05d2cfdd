"""Check what a sync needs of a database: connection, structure, isolation, clock, rights.

Nothing is changed: writes are rolled back. The locks of a standby's tables are taken for a moment,
as a sync would take them; those of the primary are not, because the application writes there.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import Busy, DatabaseError, DbsyncError
from dbsync_pipeline.mirror import schema, structure, trial
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.model import Model

MOST_CLOCK_SECONDS = 5.0
"""From this difference on, ages of standbys and times in history mislead people."""

_LOCK_SECONDS = 2.0
_FACT = "doctor"

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """One check: what is so, and how to fix it unless it is ok; `database` is None for all."""

    name: str
    database: str | None
    state: State
    detail: str
    remedy: str | None = None


def examine(database: Database, model: Model, *, is_primary: bool) -> list[Check]:
    """Return the checks of one database; those that depend on one that failed are left out."""
    started = time.monotonic()
    try:
        with database.connect("dbsync doctor") as dialect:
            elapsed = (time.monotonic() - started) * 1000
            connected = Check("connection", database.name, "ok", f"answers in {elapsed:.0f} ms")
            checks = [connected, *_reading(dialect, model)]
        if is_primary or any(check.state == "failed" for check in checks):
            return checks
        with database.connect("dbsync doctor") as dialect:  # a snapshot makes a session read-only
            return [*checks, _write_rights(dialect, model)]
    except DbsyncError as error:
        return [_failed("connection", database.name, error)]


def _reading(dialect: Dialect, model: Model) -> Iterator[Check]:
    yield _isolation_and_clock(dialect)
    differs = _tried("structure", dialect, lambda: schema.require(dialect, model))
    yield differs or Check("structure", dialect.name, "ok", "equal to the models")
    if absent := structure.keys_without_parent(dialect, model):
        yield _without_parents(dialect, absent)
    dialect.rollback()
    if differs is None:
        yield _tried("read rights", dialect, lambda: _read(dialect, model)) or Check(
            "read rights", dialect.name, "ok", "every table can be read"
        )


def _without_parents(dialect: Dialect, keys: Sequence[sa.ForeignKeyConstraint]) -> Check:
    listed = ", ".join(
        f"{key.table.key} ({', '.join(key.column_keys)}) to {key.referred_table.key}"
        for key in keys
    )
    parents = ", ".join(sorted({key.referred_table.key for key in keys}))
    return Check(
        "foreign keys",
        dialect.name,
        "warning",
        f"foreign keys to tables that are not mirrored and that it lacks are not checked: {listed}",
        f"create {parents} on {dialect.name}, or take it into the models",
    )


def _isolation_and_clock(dialect: Dialect) -> Check:
    """A snapshot is what isolation is needed for; it has the database's time."""
    try:
        there, here = dialect.snapshot(), dt.datetime.now(dt.UTC)
        dialect.rollback()
    except DbsyncError as error:
        return _failed("isolation", dialect.name, error)
    seconds = abs((there - here).total_seconds())
    if seconds > MOST_CLOCK_SECONDS:
        return Check(
            "clock",
            dialect.name,
            "warning",
            f"its clock differs from this machine's by {seconds:.0f} seconds",
            "synchronise the clocks of both machines (NTP)",
        )
    return Check("isolation", dialect.name, "ok", "one state can be read; the clocks agree")


def _read(dialect: Dialect, model: Model) -> None:
    hidden = dialect.hidden(model.tables)
    dialect.rollback()
    if hidden:
        raise DatabaseError(
            f"rows of {', '.join(hidden)} may be hidden from this role",
            database=dialect.name,
            remedy="docs/security.md: BYPASSRLS on PostgreSQL, UNMASK and no filter on SQL Server",
        )
    for table in model.tables:
        with dialect.doing("read", table.name):
            dialect.connection.execute(sa.select(sa.literal(1)).select_from(table.sa).limit(1))
        dialect.rollback()


def _write_rights(dialect: Dialect, model: Model) -> Check:
    try:
        _write(dialect, model)
    except Busy:
        detail = "another session holds the locks, so the rights could not be checked"
        return Check("write rights", dialect.name, "warning", detail, "dbsync doctor, again later")
    except DbsyncError as error:
        return _failed("write rights", dialect.name, error)
    finally:
        dialect.rollback()
    if not Ledger(dialect).exists():
        return Check(
            "write rights",
            dialect.name,
            "warning",
            "there is no ledger yet, so the rights on it could not be checked",
            f"dbsync tables create --database {dialect.name}",
        )
    return Check("write rights", dialect.name, "ok", "tables can be locked, staged and recorded")


def _write(dialect: Dialect, model: Model) -> None:
    """Do what a sync does before it publishes, and insert a row into each table; roll all back."""
    dialect.begin(model.tables, wait_seconds=_LOCK_SECONDS)
    for table in model.tables:
        dialect.create_staging(table)
    ledger = Ledger(dialect)
    if ledger.exists():
        ledger.note(_FACT, "checked")
    dialect.rollback()
    if refused := tuple(trial.refusals(dialect, model)):
        raise DatabaseError(
            "; ".join(refused),
            database=dialect.name,
            remedy="docs/security.md lists the rights of a standby's role",
        )


def _tried(name: str, dialect: Dialect, work: Callable[[], None]) -> Check | None:
    """Return the failed check if the work fails, None if it does not."""
    try:
        work()
    except DbsyncError as error:
        return _failed(name, dialect.name, error)
    finally:
        dialect.rollback()
    return None


def _failed(name: str, database: str | None, error: DbsyncError) -> Check:
    where = f"table {error.table}: " if error.table else ""
    return Check(name, database, "failed", f"{where}{error.cause}", error.remedy)
