"""Find the publish of a run, and read the before-images that it left."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import RowKey, Table
from dbsync_pipeline.errors import SettingsError, Unavailable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.mirror.ledger import Ledger, Publish, Rescued
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.tables import DELETED, INSERTED, REPLACED, as_stored, clause

_BATCH_ROWS = 100


@dataclass(frozen=True)
class BeforeImages:
    """The rows of one table that a publish deleted or replaced.

    `table` has the columns that were stored; `query` selects `dbsync_change` and those columns.
    """

    table: Table
    query: sa.Select[Any]

    @property
    def key(self) -> list[sa.ColumnElement[Any]]:
        """The columns of the key in `query`; none of a keyless table."""
        key = () if self.table.keyless else self.table.key
        return [self.query.selected_columns[column.name] for column in key]

    @property
    def change(self) -> sa.ColumnElement[Any]:
        """What happened to a row, `deleted` or `replaced`, in `query`."""
        return self.query.selected_columns["dbsync_change"]


def find(databases: Sequence[Database], run: str, seconds: float = 15) -> tuple[Database, Publish]:
    """Return the database that received the publish of this run, given by the beginning of its id,
    and the publish.

    All databases are asked at the same time, each within `seconds`. Raise SettingsError if `run` is
    empty, if no database that answers has such a run, if more than one run begins so, if the run
    published to several of these databases, or if it found nothing to do.
    """
    if not run.strip():  # every id begins so
        raise SettingsError(
            "the run's id is empty",
            operation="find the run",
            remedy="`dbsync rescue list` lists the runs",
        )
    replies = ask(databases, lambda database: _beginning(database, run), seconds)
    for error in replies.failed.values():
        if not isinstance(error, Unavailable):
            raise error
    runs = [(database, replies.good.get(database.name, _Beginning())) for database in databases]
    publishes = [(database, entry) for database, begun in runs for entry in begun.publishes]
    if len(publishes) == 1:
        return publishes[0]
    for database, begun in runs:
        if begun.confirmed and not publishes:
            raise _found_nothing(database, begun.confirmed)
    raise _not_one(run, publishes)


@dataclass(frozen=True)
class _Beginning:
    """What a ledger has of the runs that begin with some text: the publishes of such runs, and what
    the latest sync of nothing confirmed, if it is such a run.
    """

    publishes: Sequence[Publish] = ()
    confirmed: Publish | None = None


def _beginning(database: Database, run: str) -> _Beginning:
    with database.connect() as dialect:
        ledger = Ledger(dialect)
        confirmed = ledger.confirmed()
        is_it = confirmed is not None and confirmed.run_id.startswith(run)
        return _Beginning(ledger.beginning(run), confirmed if is_it else None)


def _found_nothing(database: Database, confirmed: Publish) -> SettingsError:
    return SettingsError(
        f"run {confirmed.run_id} found nothing to do on {database.name} and changed no row, so "
        "there is nothing to undo, show or export",
        operation="find the run",
        remedy="`dbsync rescue list` lists the runs that changed rows",
    )


def _not_one(run: str, publishes: list[tuple[Database, Publish]]) -> SettingsError:
    names = [database.name for database, _ in publishes]
    cause = f"no database that answers has a publish of a run {run!r}"
    remedy = "`dbsync rescue list` lists the runs; one that found nothing to do published nothing"
    if len({entry.run_id for _, entry in publishes}) > 1:
        cause = f"{len(publishes)} runs begin with {run!r}"
    elif publishes:
        cause = f"run {run} published to {' and '.join(names)}"
        remedy = f"choose one of them: `--database {names[0]}`"
    return SettingsError(cause, operation="find the run", remedy=remedy)


def kept(target: Database) -> list[tuple[Publish, list[Rescued]]]:
    """Return the publishes of a target whose before-images are still kept, newest first, with what
    is kept of each table.
    """
    with target.connect() as dialect:
        ledger = Ledger(dialect)
        rescued = ledger.rescues()
        return [
            (entry, [record for record in rescued if record.publish == entry.number])
            for entry in ledger.rescuing()
        ]


def before_images(dialect: Dialect, model: Model, run_id: str) -> Iterator[BeforeImages]:
    """Return the before-images of the publish of that run, table by table in the models' order.

    Raise SettingsError if the ledger has no such publish.
    """
    ledger = Ledger(dialect)
    entry = ledger.of_run(run_id)
    if entry is None:
        raise SettingsError(
            f"no publish of run {run_id} is in the ledger",
            operation="rescue",
            database=dialect.name,
            remedy="`dbsync rescue list` lists the runs with rescued rows",
        )
    stored_in = {rescued.table: rescued.stored_in for rescued in ledger.rescues(entry.number)}
    for modelled in model.tables:
        if modelled.name in stored_in:
            table = as_stored(dialect, stored_in[modelled.name], modelled)
            stored = clause(dialect, stored_in[modelled.name], table)
            columns = (stored.c[column.name] for column in table.columns)
            query = sa.select(stored.c.dbsync_change, *columns).where(
                stored.c.dbsync_publish == entry.number, stored.c.dbsync_change != INSERTED
            )
            yield BeforeImages(table, query)


def rescued_rows(
    target: Database, model: Model, run_id: str
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Return (table, rows) of what the publish of `run_id` deleted or replaced, in lists of at most
    100 rows.

    A row has `dbsync_change` and the table's columns. Values are as the driver gives them, exactly;
    JSON, and what Python has no type for, is the stored text.
    """
    return ((table.name, rows) for table, rows in batches(target, model, run_id))


def batches(
    target: Database, model: Model, run_id: str
) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """As `rescued_rows`, with the table as it was stored."""
    with target.connect() as dialect:
        for images in before_images(dialect, model, run_id):
            table, stored = images.table, images.query.selected_columns
            names = ["dbsync_change", *(column.name for column in table.columns)]
            query = images.query.with_only_columns(
                stored["dbsync_change"],
                *(dialect.displayed(column, stored[column.name]) for column in table.columns),
            )
            with dialect.doing("read rescued rows"):
                result = dialect.connection.execution_options(stream_results=True).execute(query)
                for part in result.partitions(_BATCH_ROWS):
                    yield table, [dict(zip(names, row, strict=True)) for row in part]


def rescued_keys(target: Database, model: Model, run_id: str) -> dict[str, dict[str, list[RowKey]]]:
    """Return by table the keys of the rows that the publish of `run_id` `deleted` and `replaced`;
    integers as such, the rest as text. The key of a row of a keyless table is empty.
    """
    keys: dict[str, dict[str, list[RowKey]]] = {}
    with target.connect() as dialect:
        for images in before_images(dialect, model, run_id):
            query = images.query.with_only_columns(images.change, *images.key)
            with dialect.doing("read rescued rows"):
                for change, *key in dialect.connection.execute(query):
                    shown = tuple(part if isinstance(part, int) else str(part) for part in key)
                    by_change = keys.setdefault(images.table.name, {DELETED: [], REPLACED: []})
                    by_change[change].append(shown)
    return keys


def as_text(value: Any) -> str | None:
    """Return a value as exact text: moments in ISO 8601, instants in UTC, decimals with all digits,
    bytes in hexadecimal; None stays.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        value = value.astimezone(dt.UTC)
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(decimal.Decimal(value))
    return str(value)
