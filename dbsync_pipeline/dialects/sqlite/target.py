"""Writing to SQLite: staging in temporary tables, foreign keys checked before the commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect, translated
from dbsync_pipeline.dialects.counters import Counter
from dbsync_pipeline.dialects.digests import Form
from dbsync_pipeline.dialects.foreign_keys import is_not_valid, violated_key
from dbsync_pipeline.dialects.sqlite import errors, sql
from dbsync_pipeline.dialects.sqlite.source import SQLiteSource
from dbsync_pipeline.dialects.sqlite.sql import names, quote
from dbsync_pipeline.dialects.staging import Moved
from dbsync_pipeline.dialects.table import RowKeys, Table
from dbsync_pipeline.dialects.temporary import TemporaryStaging
from dbsync_pipeline.errors import StructureError

_WAIT_SECONDS = 1.0
"""For how long one call waits for the lock of the file."""
_REFERENCES = """
SELECT DISTINCT m.name, k."table" FROM sqlite_master m, pragma_foreign_key_list(m.name) k
WHERE m.type = 'table'"""


class SQLiteTarget(TemporaryStaging, SQLiteSource):
    """A file that is locked, staged into and published to."""

    temporary_schema = "temp"

    def __init__(self, name: str, connection: sa.Connection) -> None:
        super().__init__(name, connection)
        self._changing: Sequence[Table] = ()
        self._lost_before: set[tuple[str, str, Any]] = set()

    # -- the lock and constraints

    @translated
    def begin(self, tables: Sequence[Table], *, wait_seconds: float) -> None:
        """Begin the writing transaction, which locks the whole file against writers.

        SQLite waits for a lock within one call, which no signal ends: so there are many short ones.
        """
        self._raw.execute("PRAGMA foreign_keys = OFF")  # has no effect inside a transaction
        self.connection.execution_options(begin="BEGIN IMMEDIATE")
        deadline = time.monotonic() + wait_seconds
        while True:
            left = max(0.0, deadline - time.monotonic())
            self._raw.execute(f"PRAGMA busy_timeout = {round(min(left, _WAIT_SECONDS) * 1000)}")
            try:
                self.connection.begin()
                break
            except sa.exc.OperationalError as error:
                if not errors.is_busy(error) or time.monotonic() >= deadline:
                    raise
        self._raw.execute(f"PRAGMA busy_timeout = {round(wait_seconds * 1000)}")

    @translated
    def suspend_constraints(self, tables: Sequence[Table]) -> None:
        """Note which rows outside of these tables lack a parent now. Raise for triggers.

        `begin` has switched foreign keys off; triggers cannot be.
        """
        table_names = {str(table.sa.name).casefold() for table in tables}
        triggers = [
            f"the trigger {name} of {table}"
            for name, table in self._raw.execute(
                "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'"
            )
            if table.casefold() in table_names  # a trigger keeps the name as its statement wrote it
        ]
        if triggers:
            raise StructureError(
                f"{', '.join(triggers)} cannot be suspended until the commit",
                operation="publish",
                database=self.name,
                remedy="drop the triggers on the standby",
            )
        self._changing = tables
        self._lost_before = self._lost()

    @translated
    def prove_constraints(self, tables: Sequence[Table]) -> None:
        """Raise NotProved if a foreign key of these tables, or to them, does not hold."""
        for table in tables:
            for parent in self._violated(table):
                raise violated_key(self.name, f"to {parent}", table.name)
        if lost := sorted(self._lost() - self._lost_before):
            raise violated_key(self.name, f"to {lost[0][1]}", lost[0][0], outside=True)

    def _violated(self, table: Table) -> Iterator[str]:
        """Yield the parents of foreign keys that must hold, and do not."""
        name, keys = table.sa.name, table.sa.foreign_key_constraints
        not_valid = [{column.name for column in key.columns} for key in keys if is_not_valid(key)]
        violated = "SELECT DISTINCT parent, fkid FROM pragma_foreign_key_check(?)"
        columns = 'SELECT "from" FROM pragma_foreign_key_list(?) WHERE id = ?'
        for parent, number in self._raw.execute(violated, (name,)).fetchall():
            if {
                column for (column,) in self._raw.execute(columns, (name, number))
            } not in not_valid:
                yield parent

    def _lost(self) -> set[tuple[str, str, Any]]:
        """(table, parent, rowid) of other tables' rows that lack a parent in a changing table.

        There may be some before a sync, since an application may not enforce foreign keys. SQLite
        ignores the case of names.
        """
        changing = {str(table.sa.name).casefold() for table in self._changing}
        children = {
            child
            for child, parent in self._raw.execute(_REFERENCES)
            if child.casefold() not in changing and parent.casefold() in changing
        }
        return {
            (child, parent, row)
            for child in children
            for _, row, parent, _ in self._raw.execute(f"PRAGMA foreign_key_check({quote(child)})")
            if parent.casefold() in changing
        }

    # -- staging

    @translated
    def create_staging(self, table: Table) -> None:
        """Create empty temporary tables for rows and keys; they go with the connection.

        They have the live table's affinities: values become what they will be there, and the index
        serves comparisons with it.
        """
        number = self._staging.setdefault(table.name, len(self._staging))
        gone = f"{sql.address(table)} AS dbsync_place" if table.keyless else names(table.key)
        for name, columns in (
            (f"dbsync_new_{number}", names(table.columns)),
            (f"dbsync_gone_{number}", gone),
        ):
            self._raw.execute(f"DROP TABLE IF EXISTS temp.{name}")
            self._raw.execute(
                f"CREATE TEMPORARY TABLE {name} AS "
                f"SELECT {columns} FROM main.{quote(table.sa.name)} WHERE 0"
            )
            if not table.keyless:
                self._raw.execute(f"CREATE INDEX temp.{name}_key ON {name} ({names(table.key)})")

    @translated
    def stage_rows(self, table: Table, source: Dialect, keys: RowKeys, form: Form) -> Moved:
        """Carry the rows with these keys from the source's snapshot into staging."""
        return self._load(self._new(table), table, source, keys, form)

    @translated
    def stage_keys(self, table: Table, keys: RowKeys, form: Form) -> None:
        """Stage the keys of live rows that are deleted or replaced."""
        gone = self._gone(table)
        if table.keyless:
            self._raw.executemany(f"INSERT INTO {gone} VALUES (?)", keys)
            return
        self._raw.executemany(
            f"INSERT INTO {gone} VALUES ({sql.marks(table.key)})",
            map(self._converter_to(table, table.key, form), keys),
        )

    def address(self, table: Table) -> Mapping[str, str]:
        """Return the number of a row. Raise StructureError if columns have all names for it."""
        return {"dbsync_place": sql.address(table)}

    @translated
    def stage_everything(self, table: Table) -> None:
        """Stage the keys of all live rows, to be deleted."""
        if not table.keyless:
            return super().stage_everything(table)
        self._raw.execute(
            f"INSERT INTO {self._gone(table)} "
            f"SELECT {sql.address(table)} FROM main.{quote(table.sa.name)}"
        )

    @translated
    def stage_equal(self, table: Table, stored_in: str, publish: int) -> None:
        """Stage the addresses of live rows that equal the rows which that publish inserted."""
        place, name = sql.address(table), quote(table.sa.name)
        image = sql.address(table, "dbsync_publish", "dbsync_change")
        self._raw.create_function("dbsync_live", 1, self._digest_at(table, name, place))
        self._raw.create_function(
            "dbsync_image", 1, self._digest_at(table, quote(stored_in), image)
        )
        copies = "SELECT p, d, row_number() OVER (PARTITION BY d) AS n FROM"
        live = f"{copies} (SELECT {place} AS p, dbsync_live({place}) AS d FROM main.{name})"
        images = (
            f"{copies} (SELECT {image} AS p, dbsync_image({image}) AS d "
            f"FROM main.{quote(stored_in)} WHERE dbsync_publish = ? AND dbsync_change = 'inserted')"
        )
        self._raw.execute(
            f"INSERT INTO {self._gone(table)} "
            f"SELECT l.p FROM ({live}) l JOIN ({images}) i USING (d, n)",
            (publish,),
        )

    def _digest_at(self, table: Table, name: str, place: str) -> Callable[[int], bytes]:
        """The function from the address of a row to its digest in SQLite's own format.

        A function of SQLite's takes at most 127 arguments, and a row may have more columns.
        """
        digest_of, row_at = (
            self._digest_of(table, Form("sqlite", 1)),
            self._row_at(table, name, place),
        )
        return lambda number: digest_of(row_at(number))

    @translated
    def delete_staged(self, table: Table) -> int:
        """Delete the live rows whose keys are staged; return their number."""
        if table.keyless:
            return self._raw.execute(
                f"DELETE FROM main.{quote(table.sa.name)} WHERE {sql.address(table)} IN "
                f"(SELECT dbsync_place FROM {self._gone(table)})"
            ).rowcount
        keys = names(table.key)
        return self._raw.execute(
            f"DELETE FROM main.{quote(table.sa.name)} WHERE ({keys}) IN "
            f"(SELECT {keys} FROM {self._gone(table)})"
        ).rowcount

    @translated
    def insert_staged(self, table: Table) -> int:
        """Insert the staged rows into the live table; return their number."""
        columns = names(table.columns)
        return self._raw.execute(
            f"INSERT INTO main.{quote(table.sa.name)} ({columns}) "
            f"SELECT {columns} FROM {self._new(table)}"
        ).rowcount

    @translated
    def fill(self, table: Table, source: Dialect, form: Form, connections: int = 1) -> Moved:
        """Carry all rows of this table, which is empty here, directly into the live table."""
        return self._load(f"main.{quote(table.sa.name)}", table, source, None, form)

    def _load(
        self, into: str, table: Table, source: Dialect, keys: RowKeys | None, form: Form
    ) -> Moved:
        moved = Moved()
        columns, marks = names(table.columns), sql.marks(table.columns)
        convert = self._converter_to(table, table.columns, form)
        same_engine = isinstance(source, SQLiteSource) and form.native
        batches = (
            source.read_stored(table, keys, form)  # type: ignore[attr-defined]
            if same_engine
            else source.read(table, keys)
        )
        for batch in batches:
            self._raw.executemany(
                f"INSERT INTO {into} ({columns}) VALUES ({marks})", map(convert, batch)
            )
            moved.rows += len(batch)
            moved.bytes += sum(map(sql.width, batch))
        return moved

    # -- counters

    @translated
    def move_counter(self, counter: Counter, value: int) -> None:
        """Make the next AUTOINCREMENT number greater than `value`; never move it back."""
        moved = self._raw.execute(
            "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (value, counter.handle)
        ).rowcount
        if not moved:
            self._raw.execute(
                "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (counter.handle, value)
            )
