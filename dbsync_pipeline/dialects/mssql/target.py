"""SQL Server as a target: locks, staging by bulk load, publishing, counters.

A bulk load has a connection of its own, which does not see what the writing transaction has not
committed, and would wait for its locks. So rows are loaded into ordinary tables in schema
`dbsync`, named after the run and committed; the run drops them at its end, and the next run drops
those of a run that died. Live rows are written from there by plain INSERT and DELETE, never MERGE.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa

from dbsync_pipeline.dialects import values
from dbsync_pipeline.dialects.contract import Dialect, ProvesFirst, translated
from dbsync_pipeline.dialects.digests import Digests, Form
from dbsync_pipeline.dialects.foreign_keys import (
    held,
    key_violated,
    keys_to,
    orphans,
    violated_key,
)
from dbsync_pipeline.dialects.mssql import catalog, drivers, errors, tsql
from dbsync_pipeline.dialects.mssql.connection import (
    object_id,
    object_ids,
    row_bytes,
)
from dbsync_pipeline.dialects.mssql.source import MSSQLSource, keys_as_json
from dbsync_pipeline.dialects.mssql.tsql import quote, quote_table
from dbsync_pipeline.dialects.mssql.values import to_mssql
from dbsync_pipeline.dialects.staging import Moved, Written, staging_table
from dbsync_pipeline.dialects.table import Column, Kind, Row, RowKeys, Table
from dbsync_pipeline.errors import Busy, DatabaseError, StructureError, Unrepresentable

_log = logging.getLogger("dbsync")

Result = TypeVar("Result")


class _WouldCascade(Exception):
    """A delete would change or delete rows that the plan leaves as they are."""


class MSSQLTarget(MSSQLSource, ProvesFirst):
    """Writes to the database: one transaction from `begin` to `commit`, and staging beside it."""

    keys_per_load = 50_000

    def __init__(self, name: str, connection: sa.Connection) -> None:
        super().__init__(name, connection)
        self._staging: dict[str, int] = {}
        self._created: set[int] = set()
        self._filling: dict[str, tuple[Moved, str]] = {}
        self._written: Sequence[Table] = ()
        self._identity: dict[str, bool] = {}
        self._in_order: bool | None = None
        self._suspended = False
        self._switched_off: list[str] = []

    # -- locks

    @translated
    def begin(self, tables: Sequence[Table], *, wait_seconds: float) -> None:
        """Begin the writing transaction and lock the tables: others may read and not write.

        Raise Busy, naming the owner, where another sync has the database's lock, or where a
        table's lock is not free within `wait_seconds`.
        """
        timeout = f"SET LOCK_TIMEOUT {round(wait_seconds * 1000)}"
        self._isolate("READ COMMITTED", "SET XACT_ABORT ON", timeout)
        self.connection.begin()
        # the server begins a transaction with the first read of a table
        if not self._first_row("SELECT TOP (1) @@TRANCOUNT FROM sys.schemas")[0]:
            raise DatabaseError(
                "the session commits every statement, although the driver was set not to",
                operation="lock",
                database=self.name,
                remedy="take AUTOCOMMIT and IMPLICIT_TRANSACTIONS out of its URL and of the "
                "login's triggers",
            )
        if not self._take_lock("dbsync"):
            raise Busy(
                self._lock_owner(),
                operation="lock",
                database=self.name,
                remedy="wait until it ends, then try again",
            )
        self._create_lock_triggers(tables)
        self._lock(tables)
        self._drop_leftovers()

    def _lock(self, tables: Sequence[Table]) -> None:
        """Lock all tables until the commit, by one batch."""
        try:
            if tables:
                self._run("; ".join(map(self._lock_against_writers, tables)))
        except self.driver_errors as error:
            reason = self.translate(error, self.name, "lock")
            if not isinstance(reason, Busy):
                raise reason from None
            raise Busy(
                f"{self._writers(tables)} is writing to the tables",
                operation="lock",
                database=self.name,
                remedy="wait until that transaction ends, then try again",
            ) from None

    def _lock_against_writers(self, table: Table) -> str:
        """Return what locks a table until the commit: others may read and not write.

        Babelfish ignores TABLOCK, but disabling a trigger there locks the table in that way. Each
        table gets a trigger that is never enabled.
        """
        name = quote_table(table.sa)
        if self._babelfish:
            return f"DISABLE TRIGGER {_lock_trigger(table)} ON {name}"
        return f"SELECT TOP (1) 1 FROM {name} WITH (TABLOCK, HOLDLOCK)"

    def _create_lock_triggers(self, tables: Sequence[Table]) -> None:
        """Create the triggers that lock tables on Babelfish, where they are missing."""
        if not self._babelfish:
            return
        triggers = self._catalog_of(catalog.LOCK_TRIGGERS, tables)
        for table, rows in zip(tables, triggers, strict=True):
            if not rows:
                name = quote_table(table.sa)
                self._run(f"CREATE TRIGGER {_lock_trigger(table)} ON {name} AFTER INSERT AS RETURN")

    def _drop_leftovers(self) -> None:
        """Drop the staging tables of dead runs; under the target's lock no other run is alive."""
        for (name,) in self._all(catalog.LEFTOVERS):
            self._run_aside(f"DROP TABLE [dbsync].{quote(name)}")

    def _lock_owner(self) -> str:
        rows = self._all_visible(catalog.LOCK_OWNER)
        owner = "another sync holds the lock of this database"
        if not rows:
            return owner
        label, since = rows[0]
        return f"{owner}: {bytes(label).rstrip(bytes(1)).decode()}, since {since} UTC"

    def _writers(self, tables: Sequence[Table]) -> str:
        rows = self._all_visible(catalog.WRITERS.format(tables=object_ids(tables)))
        sessions = (
            f"{user} ({program or 'no program name'}, session {number})"
            for number, user, program in rows
        )
        return ", ".join(sessions) or "another session"

    def _all_visible(self, sql: str) -> list[Row]:
        """End the transaction and query the server's views of locks; empty without the right."""
        self._raw.rollback()
        try:
            return self._all(sql)
        except self.driver_errors:
            return []

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo what was done within where it fails, and keep the transaction.

        XACT_ABORT is off within: under it an error ends the whole transaction with its savepoints.
        """
        self._run("SET XACT_ABORT OFF")
        try:
            with super().attempt():
                yield
        finally:
            self._run("SET XACT_ABORT ON")

    # -- foreign keys and triggers

    @translated
    def suspend_constraints(self, tables: Sequence[Table]) -> None:
        """Let nothing stand in the way of writing these tables, until `prove_constraints`.

        Switching a foreign key or a trigger off makes all readers of its tables wait until the
        commit. So that is left to the first write, which does it only where the order of the
        writes cannot satisfy the keys: see `write_staged`.
        """
        self._written, self._in_order = tables, None

    def _suspend_unless_in_order(self) -> None:
        """Switch constraints off at once where no order of the writes would do: see `OBSTACLES`."""
        if self._in_order is None:
            query = catalog.OBSTACLES.format(tables=object_ids(self._written))
            self._in_order = not self._catalog(query)
            if not self._in_order:
                self._suspend()

    def _suspend(self) -> None:
        """Switch foreign keys and triggers off. Raise StructureError where the right is missing."""
        self._suspended = True
        try:
            if self._babelfish:
                self._first_row("SELECT set_config('session_replication_role', 'replica', false)")
                return
            for off, on in self._all(catalog.SWITCHABLE.format(tables=object_ids(self._written))):
                self._run(off)
                self._switched_off.append(on)
        except self.driver_errors as error:
            reason = self.translate(error, self.name, "publish")
            if isinstance(reason, Busy):
                raise reason from None
            grant = (
                "GRANT SET ON PARAMETER session_replication_role"
                if self._babelfish
                else "GRANT ALTER ON SCHEMA::dbo"
            )
            raise StructureError(
                "foreign keys cannot be switched off until the commit: "
                f"{getattr(reason, 'cause', reason)}",
                operation="publish",
                database=self.name,
                remedy=f"{grant} TO this user",
            ) from None

    @translated
    def prove_constraints(self, tables: Sequence[Table]) -> None:
        """Switch on what was switched off, and see that every foreign key of and to these holds.

        The server proves the keys that it enforces, as it writes or as they are switched on. Raise
        NotProved where a reference leads nowhere.
        """
        while self._switched_off:
            self._switch_on(self._switched_off.pop(), tables)
        unproved = self._babelfish and self._suspended
        enforced = set() if unproved else set(self._catalog(catalog.ENFORCED_KEYS))
        for table in tables:
            for key in held(self.connection, table.sa):
                schema = table.sa.schema or self._default_schema
                named = (schema, table.sa.name, str(key.name))
                if tuple(name.lower() for name in named) in enforced:
                    continue
                if self._first_row(tsql.orphans(key, self._flavour))[0]:
                    raise key_violated(self.name, key)
        if unproved:
            self._prove_outside_keys(tables)
            self._first_row("SELECT set_config('session_replication_role', 'origin', false)")
        self._suspended = False

    def _prove_outside_keys(self, tables: Sequence[Table]) -> None:
        """Check the foreign keys of other tables; SQL Server does so as it switches them on."""
        rows = self._all(catalog.OUTSIDE_KEYS.format(tables=object_ids(tables)))
        for (name, *places), columns in groupby(rows, key=lambda row: row[:5]):
            child, parent = (
                f"{quote(schema)}.{quote(table)}" for schema, table in (places[:2], places[2:])
            )
            pairs = ((quote(own), quote(referred)) for *_, own, referred in columns)
            if self._first_row(orphans(child, parent, pairs))[0]:
                raise violated_key(self.name, name, places[1], outside=True)

    def _switch_on(self, statement: str, tables: Sequence[Table]) -> None:
        try:
            self._run(statement)
        except self.driver_errors as error:
            key = re.fullmatch("ALTER TABLE (.+) WITH CHECK CHECK CONSTRAINT (.+)", statement)
            if key is None or "conflicted with the FOREIGN KEY" not in str(error):
                raise
            for table in tables:
                for own_key in table.sa.foreign_key_constraints:
                    if quote(str(own_key.name)).lower() == key[2].lower():
                        raise key_violated(self.name, own_key) from None
            raise violated_key(self.name, key[2], key[1], outside=True) from None

    # -- loading

    @translated
    def prepare_fill(self, table: Table, source: Dialect, form: Form) -> None:
        """Load all rows into a staging table, before anything is written that readers wait for.

        The bulk load could not write the live table: it would wait for the lock on it.
        """
        moved, loaded = self._load(table, source, None, form)
        self._refuse_collisions(table, loaded, form)
        self._has_identity(table)
        self._filling[table.name] = moved, loaded

    @translated
    def fill(self, table: Table, source: Dialect, form: Form, connections: int = 1) -> Moved:
        """Insert all rows of a table that is empty here; return what was moved."""
        if table.name not in self._filling:
            self.prepare_fill(table, source, form)
        moved, loaded = self._filling.pop(table.name)
        insert = tsql.insert_loaded(quote_table(table.sa), loaded, table.columns, form.native)
        moved.rows = self._in_order_or_suspended(lambda: self._insert(table, insert))
        return moved

    def _load(
        self, table: Table, source: Dialect, keys: RowKeys | None, form: Form
    ) -> tuple[Moved, str]:
        """Load rows of the source's snapshot; return what was moved, and the table it is in."""
        moved, convert = Moved(), self._converter(table, table.columns, form)
        as_stored = isinstance(source, MSSQLSource) and form.native
        batches = source.read_as(table, keys, form) if as_stored else source.read(table, keys)  # type: ignore[attr-defined]

        def converted() -> Iterator[list[Row]]:
            for batch in batches:
                rows = [tuple(convert(row)) for row in batch]
                moved.rows += len(rows)
                moved.bytes += sum(map(row_bytes, rows))
                yield rows

        return moved, self._bulk_load(table, form, converted())

    def _converter(
        self, table: Table, columns: Sequence[Column], form: Form
    ) -> Callable[[Row], Sequence[Any]]:
        if form.native:
            return lambda row: row
        texts, checks = self._texts(table), []
        for column in columns:
            name = tsql.type_name(column)
            varchar = column.kind is Kind.TEXT and name.upper().startswith(("VARCHAR", "TEXT"))
            code_page = texts[column.name][1] if varchar and column.name in texts else None
            checks.append(to_mssql(column, name, code_page))
        return values.converter(table, columns, checks, self.name)

    def _bulk_load(self, table: Table, form: Form, batches: Iterator[list[Row]]) -> str:
        """Load rows into this run's table for them, creating it at first; return its name."""
        name = self._loaded.get(table.name)
        if name is None:
            run = "".join(letter if letter.isalnum() else "_" for letter in self._label)[-36:]
            name = self._loaded[table.name] = f"[dbsync].[loaded_{run}_{len(self._loaded)}]"
            collations = self._collations(table)
            self._run_aside(tsql.create_loaded(name, table.columns, form.native, collations))
        types = [tsql.staged_type(column, form.native) for column in table.columns]
        bulk = self._has_bulk_load(name)
        try:
            drivers.load(
                self._second_connection,
                name,
                types,
                batches,
                bulk=bulk,
                without_bulk=self._warn_without_bulk,
            )
        except (RuntimeError, ValueError, TypeError) as error:  # what the bulk load raises
            raise self._translation(error, "stage") from None
        return name

    def _warn_without_bulk(self, error: Exception) -> None:
        reason = self.translate(error, self.name, "stage")
        _log.warning(
            "%s: native bulk load cannot connect (%s); loading by INSERT, which is slower",
            self.name,
            getattr(reason, "cause", reason),
        )

    def _has_bulk_load(self, name: str) -> bool:
        """Return whether the driver's bulk load finds the columns of this table.

        It asks for them by one SELECT that concatenates, which Babelfish answers with the last
        column only, or rightly where its view shows none.
        """
        sql = "SELECT TOP (1) 1 FROM sys.all_columns WHERE object_id = object_id(?)"
        return not (self._babelfish and self._all(sql, name))

    def _refuse_collisions(
        self, table: Table, new: str, loaded_as: Form | None = None, gone: str | None = None
    ) -> None:
        """Raise Unrepresentable where the server takes two different unique texts as equal.

        `loaded_as` is the form of the values in `new`, where these are not the live table's types.
        The live rows with a key in `gone` are about to go.
        """
        for columns, condition in _unique_texts(table):
            rows_of = new
            if condition and loaded_as is not None:
                rows_of = tsql.as_stored(new, table.columns, loaded_as.native)
            rows = self._all(tsql.collisions(table, rows_of, columns, condition, gone))
            if rows:
                keys = " and ".join(f"({', '.join(map(repr, row))})" for row in rows)
                raise Unrepresentable(
                    f"column {', '.join(column.name for column in columns)} must be unique, and "
                    f"the server takes its values in the rows with keys {keys} as equal; it "
                    "ignores trailing spaces, and what the column's collation ignores",
                    operation="stage",
                    database=self.name,
                    table=table.name,
                    remedy="change one of the values, or give the column a binary collation in "
                    "the models",
                )

    # -- staging

    @translated
    def create_staging(self, table: Table) -> None:
        """Prepare this session's tables for new rows and for keys; a second call empties them.

        They are created when first used: most tables of most syncs have nothing to stage.
        """
        number = self._staging.setdefault(table.name, len(self._staging))
        if number in self._created:
            self._created.remove(number)
            self._run(f"DROP TABLE #dbsync_new_{number}; DROP TABLE #dbsync_gone_{number}")

    def _staged_number(self, table: Table) -> int:
        """Return the number in the names of a table's staging, which is there from then on."""
        number = self._staging[table.name]
        if number not in self._created:
            self._run(tsql.create_like(f"#dbsync_new_{number}", table, table.columns))
            self._run(tsql.create_like(f"#dbsync_gone_{number}", table, table.key))
            self._created.add(number)
        return number

    @translated
    def stage_rows(self, table: Table, source: Dialect, keys: RowKeys, form: Form) -> Moved:
        """Add the rows with these keys of the source's snapshot to staging."""
        moved, loaded = self._load(table, source, keys, form)
        self._move_loaded(self._new(table), loaded, table.columns, form)
        return moved

    @translated
    def stage_keys(self, table: Table, keys: RowKeys, form: Form) -> None:
        """Add keys of live rows that are gone or replaced to staging, by one statement."""
        convert = self._converter(table, table.key, form)
        converted = [tuple(convert(key)) for key in keys]
        sql = tsql.insert_keys(self._gone(table), table.key, form.native)
        self._run(sql, keys_as_json(converted))

    def _move_loaded(self, into: str, loaded: str, columns: Sequence[Column], form: Form) -> None:
        """Move loaded rows into this session's own table, in the types of the live table.

        TABLOCK lets DELETE free the pages of a table without an index, which every later part
        would read otherwise. TRUNCATE would wait, on Babelfish, for this session's own
        transaction, which has read the table.
        """
        self._run(tsql.insert_loaded(into, loaded, columns, form.native))
        self._run_aside(f"DELETE FROM {loaded} WITH (TABLOCK)")

    @translated
    def delete_staged(self, table: Table) -> int:
        """Delete the live rows whose keys are staged; return how many."""
        return self._run_counted(tsql.delete_staged(table, self._gone(table)))

    @translated
    def insert_staged(self, table: Table) -> int:
        """Insert the staged rows; return how many."""
        return self._insert(table, tsql.insert_staged(table, self._new(table)))

    def _insert(self, table: Table, insert: str) -> int:
        name = quote_table(table.sa)
        if not self._has_identity(table):
            return self._run_counted(insert)
        self._run(f"SET IDENTITY_INSERT {name} ON")
        try:
            return self._run_counted(insert)
        finally:
            with suppress(*self.driver_errors):  # an error that ended the session is raised already
                self._run(f"SET IDENTITY_INSERT {name} OFF")

    def _has_identity(self, table: Table) -> bool:
        if table.name not in self._identity:
            identities = self._catalog(catalog.IDENTITY.format(object_id(table)))
            self._identity[table.name] = bool(identities)
        return self._identity[table.name]

    # -- writing

    @translated
    def write_staged(self, tables: Sequence[Table]) -> dict[str, Written]:
        """Apply the staged changes of these tables, parents first in the list; return the counts.

        Rows that stay are updated in place, and foreign keys stay on: rows that go are deleted
        children first, and new ones are inserted parents first; where that meets a key, they are
        deleted after everything else. Only where neither order will do are constraints switched
        off, and changed rows deleted and inserted again. Raise Unrepresentable for colliding keys.
        """
        for table in tables:
            self._refuse_collisions(table, self._new(table), gone=self._gone(table))
            self._has_identity(table)
        return self._in_order_or_suspended(
            lambda: self._write_in_order(tables, deletes_first=True),
            lambda: self._write_in_order(tables, deletes_first=False),
            suspended=lambda: super(MSSQLTarget, self).write_staged(tables),
        )

    def _in_order_or_suspended(
        self, *attempts: Callable[[], Result], suspended: Callable[[], Result] | None = None
    ) -> Result:
        """Return the result of the first attempt that no constraint refuses.

        After the last, switch constraints off and return the result of `suspended`; without it, of
        the last attempt, made again.
        """
        self._suspend_unless_in_order()
        for attempt in () if self._suspended else attempts:
            try:
                with self.attempt():
                    return attempt()
            except self.driver_errors as error:
                if not errors.is_violation(error):
                    raise
            except _WouldCascade:
                pass
        if not self._suspended:
            self._suspend()
        return (suspended or attempts[-1])()

    def _write_in_order(
        self, tables: Sequence[Table], *, deletes_first: bool
    ) -> dict[str, Written]:
        deleted = self._delete_in_order(tables) if deletes_first else {}
        changed = {table.name: self._update_and_insert(table) for table in tables}
        if not deletes_first:
            deleted = self._delete_in_order(tables)
        return {
            name: Written(deleted[name] + updated, updated + inserted)
            for name, (updated, inserted) in changed.items()
        }

    def _update_and_insert(self, table: Table) -> tuple[int, int]:
        new, gone = self._new(table), self._gone(table)
        update = tsql.update_staged(table, new, gone)
        updated = self._run_counted(update) if update else 0
        return updated, self._insert(table, tsql.insert_staged(table, new, gone))

    def _delete_in_order(self, tables: Sequence[Table]) -> dict[str, int]:
        """Delete the rows that go, children first. Raise _WouldCascade if others would follow."""
        cascading = self._catalog(catalog.CASCADING_KEYS.format(tables=object_ids(tables)))
        deleted: dict[str, int] = {}
        for table in reversed(tables):
            new, gone = self._new(table), self._gone(table)
            for key in keys_to(table, tables):
                if (str(key.name).lower(),) not in cascading:
                    continue
                if self._first_row(tsql.refers_to_gone(key, table, new, gone))[0]:
                    raise _WouldCascade
            deleted[table.name] = self._run_counted(tsql.delete_staged(table, gone, new))
        return deleted

    @translated
    def digests_as_written(self, table: Table, form: Form, only: np.ndarray) -> Digests:
        """Return the digests of these buckets as they will be after `write_staged`."""
        rows = tsql.as_written(table, self._new(table), self._gone(table))
        return self._digested(table, form, only, rows)

    @translated
    def holds_staged(self, table: Table, form: Form) -> bool:
        """Return whether the live table has each staged row, by its digest."""
        new = self._new(table)
        staged = self._digested(table, form, None, f"{new} t")
        live = self._digested(table, form, None, tsql.live_of(table, new))
        return not staged.differing(live).size

    def staged(self, table: Table) -> tuple[sa.TableClause, sa.TableClause]:
        """Return the staging tables of new rows and of keys, for statements of their own."""
        return (
            staging_table(None, self._new(table), table.columns),
            staging_table(None, self._gone(table), table.key),
        )

    def _new(self, table: Table) -> str:
        return f"#dbsync_new_{self._staged_number(table)}"

    def _gone(self, table: Table) -> str:
        return f"#dbsync_gone_{self._staged_number(table)}"

    @translated
    def create_like(self, name: str, table: Table) -> None:
        """Create a table of before-images beside the ledger, and commit it at once.

        A table that is created in the publishing transaction would make everybody who lists the
        tables wait until its commit. If the publish fails, the table remains, empty.
        """
        before = "convert(bigint, 0) AS dbsync_publish, convert(nvarchar(8), '') AS dbsync_change, "
        into = f"{quote(self.ledger_schema or '')}.{quote(name)}"
        self._run_aside(tsql.create_like(into, table, table.columns, before))


def _lock_trigger(table: Table) -> str:
    return quote(f"dbsync_hold_{table.sa.name}")


def _unique_texts(table: Table) -> Iterator[tuple[Sequence[Column], str]]:
    """Yield the sets of columns that are unique and include a text, and the condition of each."""
    by_name = {column.name: column for column in table.columns}
    constraints = [item for item in table.sa.constraints if isinstance(item, sa.UniqueConstraint)]
    sets: list[tuple[Iterable[Any], str]] = [(table.sa.primary_key.columns, "")]
    sets += [(constraint.columns, "") for constraint in constraints]
    sets += [
        (index.columns, tsql.condition_of(index)) for index in table.sa.indexes if index.unique
    ]
    for members, condition in sets:
        columns = [by_name[column.name] for column in members if column.name in by_name]
        if any(column.kind is Kind.TEXT for column in columns):
            yield columns, condition
