"""Write the demo's dataset into a database.

The rows go through the models' own types, so each is stored as the application would store it. JSON
is written as the application's own text.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.demo.dataset import COUNTS, DATASET, Row
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model

_BATCH = 200
"""Rows per INSERT; that many documents are some 7 MB of memory."""


@dataclass(frozen=True)
class DemoReport:
    """What `fill` did: whether it wrote, the rows in each table now, and the bytes of text and
    binary values that it wrote."""

    created: bool
    rows: dict[str, int]
    bytes: int


def fill(database: Database, model: Model) -> DemoReport:
    """Create the tables that are missing, then write the dataset in one transaction.

    If any of the tables has a row, write nothing and return `created=False`; so a second call
    changes nothing. Raise SettingsError if the models do not fit the dataset, Busy while another
    transaction writes, and whatever `schema.ensure` raises.
    """
    check_models(model)
    schema.ensure(database, model)
    tables = [model.table(name) for name in COUNTS]
    with database.connect("dbsync demo") as dialect, dialect.doing("write the demo's data"):
        present = {table.name: dialect.count(table) for table in tables}
        dialect.rollback()
        if any(present.values()):
            return DemoReport(False, present, 0)
        dialect.begin(tables, wait_seconds=database.connect_seconds)
        # Count again, now that nobody else can write.
        present = {table.name: dialect.count(table) for table in tables}
        if any(present.values()):
            return DemoReport(False, present, 0)
        size = _write(dialect.connection, tables)
        for counter in dialect.counters(tables):
            if counter.movable:
                dialect.move_counter(counter, counter.position)
        dialect.commit()
    return DemoReport(True, dict(COUNTS), size)


def check_models(model: Model) -> None:
    """Raise SettingsError unless the models have the five tables with the dataset's columns and
    require no others."""
    remedy = (
        "unset DBSYNC_MODELS to run the demo; `dbsync sync` works with your own models and data"
    )
    for name, rows in DATASET.items():
        if name not in model.names:
            raise SettingsError(
                f"the demo's data need this project's own tables; the models have no table {name}",
                remedy=remedy,
            )
        written = set(next(rows()))
        columns = {column.name: column for column in model.table(name).sa.columns}
        lacking = sorted(written - set(columns))
        needed = sorted(
            key
            for key, column in columns.items()
            if key not in written and not _is_optional(column)
        )
        if lacking or needed:
            difference = (
                f"has no column {', '.join(lacking)}"
                if lacking
                else f"requires {', '.join(needed)}, which the data do not have"
            )
            raise SettingsError(
                f"the demo's data need this project's own tables, and this one {difference}",
                table=name,
                remedy=remedy,
            )


def _is_optional(column: sa.Column[Any]) -> bool:
    return bool(column.nullable) or column.default is not None or column.server_default is not None


def _write(connection: sa.Connection, tables: Sequence[Table]) -> int:
    """Insert the whole dataset in the caller's transaction, parents first; return the bytes of text
    and binary values."""
    size = 0
    with warnings.catch_warnings():
        # SQLite stores decimals as floats, which are exact for the 12 digits of these.
        warnings.filterwarnings(
            "ignore", "Dialect sqlite.* does .not. support Decimal", sa.exc.SAWarning
        )
        for table in tables:
            insert = _insert(table.sa)
            source = DATASET[table.name]()
            while batch := list(islice(source, _BATCH)):
                connection.execute(insert, [_renamed(table.sa, row) for row in batch])
                size += sum(map(_size, batch))
    return size


def _json_text(column: sa.Column[Any]) -> str | None:
    return f"{column.name}_text" if isinstance(column.type, sa.JSON) else None


def _insert(table: sa.Table) -> sa.Insert:
    """Return the table's INSERT with JSON columns bound as text; their own type would serialise the
    text again."""
    texts = {
        column.name: sa.bindparam(name, type_=sa.UnicodeText())
        for column in table.columns
        if (name := _json_text(column))
    }
    return table.insert().values(texts) if texts else table.insert()


def _renamed(table: sa.Table, row: Row) -> Row:
    return {_json_text(table.columns[name]) or name: value for name, value in row.items()}


def _size(row: Row) -> int:
    return sum(
        len(value.encode()) if isinstance(value, str) else len(value)
        for value in row.values()
        if isinstance(value, str | bytes)
    )
