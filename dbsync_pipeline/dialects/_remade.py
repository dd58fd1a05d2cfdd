"""A SQLite table that is made anew under its name, with all that hangs on it.

Alembic copies the rows into a table with the new columns and renames that, as https://sqlite.org/lang_altertable.html advises, from what
SQLAlchemy can read of the old one. It cannot read triggers, indexes on expressions, checks without a name, and AUTOINCREMENT with the
number that it has come to: these are carried over here. Where rows would be missing afterwards, or what else the table's own SQL says,
StructureError is raised.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from dbsync_pipeline.errors import StructureError

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation, Operations

_COUNTS = "AUTOINCREMENT"
_WORDS = (_COUNTS, "COLLATE", "GENERATED", "ON CONFLICT", "STRICT", "WITHOUT ROWID")
"""What changes what a table takes or keeps, and is lost where SQLAlchemy does not read it."""


def alter(raw: sqlite3.Connection, operations: Operations, operation: MigrateOperation, table: str) -> Any:
    """Carry out one operation on a table, within the open transaction and with foreign keys off."""
    before = _Found.read(raw, operations, table)
    with operations.batch_alter_table(
        table,
        table_args=tuple(sa.CheckConstraint(check) for check in before.checks),
        table_kwargs={"sqlite_autoincrement": True} if _COUNTS in before.words else {},
        naming_convention=operations.migration_context.opts["target_metadata"].naming_convention,
    ) as batch:
        result = batch.invoke(operation)
    here = _objects(raw, table)
    for name, sql in before.unread.items():
        if name not in here:
            raw.execute(sql)
    if before.number is not None:
        raw.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        raw.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, before.number))
    _require_whole(before, _Found.read(raw, operations, table))
    return result


@dataclass(frozen=True)
class _Found:
    """A table's words, checks without a name, triggers and indexes that SQLAlchemy cannot read, last number given, and rows."""

    table: str
    words: frozenset[str]
    checks: tuple[str, ...]
    unread: Mapping[str, str]
    number: int | None
    rows: int

    @classmethod
    def read(cls, raw: sqlite3.Connection, operations: Operations, table: str) -> _Found:
        inspector = sa.inspect(operations.get_bind())
        checks = tuple(check["sqltext"] for check in inspector.get_check_constraints(table) if not check["name"])
        indexes = {index["name"] for index in inspector.get_indexes(table)}
        (sql,) = raw.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
        words = frozenset(word for word in _WORDS if re.search(rf"\b{word}\b", sql, re.IGNORECASE))
        number = (
            raw.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()[0]
            if _COUNTS in words
            else None
        )
        (rows,) = raw.execute(f"SELECT count(*) FROM {_quote(table)}").fetchone()
        unread = {name: sql for name, sql in _objects(raw, table).items() if name not in indexes}
        return cls(table, words, checks, unread, number, rows)


def _objects(raw: sqlite3.Connection, table: str) -> dict[str, str]:
    """The SQL of the triggers and indexes by name; what a constraint brings with it has none."""
    found = raw.execute(
        "SELECT name, sql FROM sqlite_master WHERE type <> 'table' AND tbl_name = ? AND sql IS NOT NULL", (table,)
    )
    return dict(found.fetchall())


def _quote(name: str) -> str:
    return sqlite.dialect().identifier_preparer.quote_identifier(name)


def _require_whole(before: _Found, after: _Found) -> None:
    lost = sorted(before.words - after.words)
    if lost or after.rows != before.rows:
        raise StructureError(
            f"making the table anew would lose {', '.join(lost) or f'{before.rows - after.rows} of its rows'}",
            operation="migrate",
            table=before.table,
            remedy="say in the revision what SQLite is to do, by op.execute where op.get_context().dialect.name is sqlite",
        )
