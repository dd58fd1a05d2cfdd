"""SQLite: digests computed in the process, staging in temporary tables.

Between two SQLite files rows travel as SQLite stores them, with their storage classes, whatever the
column's declared type. To and from other engines they travel as the values that an application's
SQLAlchemy stores.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import translated
from dbsync_pipeline.dialects.generated import Generated
from dbsync_pipeline.dialects.reflection import Place, Reflection
from dbsync_pipeline.dialects.sqlite import rebuild, reflection
from dbsync_pipeline.dialects.sqlite.sql import names, quote
from dbsync_pipeline.dialects.sqlite.target import SQLiteTarget
from dbsync_pipeline.dialects.sqlite.values import to_sqlite
from dbsync_pipeline.dialects.table import Column, Table
from dbsync_pipeline.errors import StructureError

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation, Operations


class SQLite(SQLiteTarget):
    """One open connection to a SQLite file, in every role."""

    @translated
    def alter(self, operations: Operations, operation: MigrateOperation) -> Any:
        """In the open transaction, run one of Alembic's operations.

        SQLite alters what it can; for the rest the table is rebuilt.
        """
        from alembic.operations import ops

        match operation:
            case ops.AlterColumnOp(modify_name=str(new)):
                old = operation.column_name
                self._raw.execute(
                    f"ALTER TABLE {quote(operation.table_name)} "
                    f"RENAME COLUMN {quote(old)} TO {quote(new)}"
                )
                operation.column_name, operation.modify_name = new, None
                if not operation.has_changes():
                    return None
            case ops.DropColumnOp():
                if sqlite3.sqlite_version_info < (3, 35):
                    raise StructureError(
                        f"SQLite {sqlite3.sqlite_version} cannot drop a column",
                        operation="migrate",
                        database=self.name,
                        table=operation.table_name,
                        remedy=f"use a Python with SQLite 3.35 or later; or {rebuild.REMEDY}",
                    )
                return self._raw.execute(
                    f"ALTER TABLE {quote(operation.table_name)} "
                    f"DROP COLUMN {quote(operation.column_name)}"
                )
        if isinstance(
            operation,
            (ops.AddColumnOp, ops.AlterColumnOp, ops.AddConstraintOp, ops.DropConstraintOp),
        ):
            return rebuild.alter(self._raw, operations, operation)
        return super().alter(operations, operation)

    @contextmanager
    def altering(self) -> Iterator[None]:
        """Surround all alterations; raise StructureError if one left a row without its parent."""
        before = self._orphans()
        yield
        for child, parent in self._orphans() - before:
            raise StructureError(
                f"rows would refer to no row of {parent}",
                operation="migrate",
                database=self.name,
                table=child,
                remedy="fix the revision; foreign keys are off on SQLite while it runs, so no "
                "ON DELETE acts",
            )

    @translated
    def _orphans(self) -> Counter[tuple[str, str]]:
        """How many rows of a table refer to no row of another, by (table, parent).

        There may be some, since an application may not enforce foreign keys.
        """
        return Counter(
            (child, parent) for child, _, parent, _ in self._raw.execute("PRAGMA foreign_key_check")
        )

    @translated
    def create_like(self, name: str, table: Table) -> None:
        """In the open transaction, create a table of before-images."""
        self._raw.execute(
            f"CREATE TABLE main.{quote(name)} AS "
            f"SELECT 0 AS dbsync_publish, '' AS dbsync_change, {names(table.columns)} "
            f"FROM main.{quote(table.sa.name)} WHERE 0"
        )

    @translated
    def places(self, schemas: Sequence[str]) -> list[Place]:
        """Return the tables that have rows of their own, read in the open transaction."""
        return reflection.places(self.connection, super().places(schemas))

    @translated
    def reflect(self, tables: Sequence[Place]) -> Reflection:
        """Return the structure of these tables, with what SQLAlchemy does not say."""
        return reflection.reflect(self.connection, tables)

    @translated
    def generated(self, tables: Sequence[Table]) -> dict[tuple[str, str], Generated]:
        """Return how columns are computed, read in the open transaction."""
        by_name = {table.sa.name.lower(): table.name for table in tables}
        definitions = self._raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        return {
            (by_name[table.lower()], column): computed
            for table, create in definitions
            if table.lower() in by_name
            for column, computed in reflection.generated(create).items()
        }

    script_begins = ("PRAGMA foreign_keys = OFF;", "BEGIN;")

    def quoted(self, name: str) -> str:
        """Return an identifier as a script writes it."""
        return quote(name)

    def literal(self, column: Column, value: Any) -> str:
        """Return a plain value as SQLite stores it."""
        stored = to_sqlite(column)(value)
        if isinstance(stored, bytes):
            return f"x'{stored.hex()}'"
        if isinstance(stored, float) and math.isinf(stored):
            return "9e999" if stored > 0 else "-9e999"
        if isinstance(stored, (int, float)):
            return repr(stored)
        return "'" + str(stored).replace("'", "''") + "'"

    def octets(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        """Return the bytes of a value as a blob."""
        return sa.func.length(sa.cast(column, sa.LargeBinary))


DIALECT = SQLite
