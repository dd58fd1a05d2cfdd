"""SQL Server and Azure SQL: digests by HASHBYTES, staging by native bulk load, publishing in plain T-SQL.

Bulk load has a connection of its own, which does not see what the writing transaction has not committed. So staging tables are
ordinary ones in schema `dbsync`, named after the run and committed; they are dropped at the end, or by the next run if this one dies. A
standby's rows are written by INSERT and DELETE from them, never by MERGE.

One connection holds one open result only, so that the digests of rows are fetched in pages. Babelfish, which speaks T-SQL too, is
told apart where it differs: there PostgreSQL does the locking and holds foreign keys off.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.mssql import TINYINT
from sqlalchemy.dialects.mssql.base import MSDDLCompiler

from dbsync_pipeline.dialects import values
from dbsync_pipeline.dialects.contract import Dialect, translated
from dbsync_pipeline.dialects.digests import CANONICAL, Digests, Form, RowDigest
from dbsync_pipeline.dialects.foreign_keys import orphans, violated_key
from dbsync_pipeline.dialects.mssql import babelfish, driver, tsql
from dbsync_pipeline.dialects.mssql.tsql import literal, quote, quote_table
from dbsync_pipeline.dialects.staging import BATCH_BYTES, Moved, staging_table
from dbsync_pipeline.dialects.table import Column, Kind, Row, RowKey, RowKeys, Table, undecorated
from dbsync_pipeline.errors import Busy, DatabaseError, StructureError, Unrepresentable

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation, Operations

_PINS = (
    "SET LANGUAGE us_english",  # the drivers tell errors by their text
    "SET DATEFORMAT ymd",
    "SET ANSI_WARNINGS ON",
    "SET NUMERIC_ROUNDABORT OFF",
    "SET DEADLOCK_PRIORITY LOW",  # of two that block each other the application goes on
)

_PAGE = 4096
"""So many buckets are resolved at once into rows that this process holds: about half a million."""


class _DDL(MSDDLCompiler):
    """SQL Server's foreign keys are never deferred."""

    def define_constraint_deferrability(self, constraint: Any) -> str:
        return ""


class MSSQL(Dialect):
    engine_name = "mssql"
    own_format_is_sha256 = True
    driver_errors: ClassVar[Any] = driver.DriverErrors()
    ledger_schema = "dbsync"
    defers_keys = False

    def __init__(self, name: str, connection: sa.Connection) -> None:
        super().__init__(name, connection)
        raw: Any = connection.connection.driver_connection
        self._raw = raw
        self._babelfish: bool = connection.info["babelfish"]
        self._running: Any = None
        self._calling = threading.Lock()
        self._other: Any = None
        self._staging: dict[str, int] = {}
        self._loaded: dict[str, str] = {}
        self._held: list[str] = []
        options = connection.get_execution_options()
        self._label: str = options.get("dbsync_label", "dbsync")
        # Babelfish always has snapshots, and takes no notice of the locks that are asked for by hints
        self._reads_under_locks: bool = options.get("dbsync_locks", False) and not self._babelfish
        self._hint = ""

    # -- the connection

    @classmethod
    def engine(cls, url: sa.URL, *, label: str, connect_seconds: float) -> sa.Engine:
        locks, complete = driver.under_locks(url), driver.url_of(url)
        driver.import_driver(complete)
        engine = sa.create_engine(
            complete,
            poolclass=sa.NullPool,
            connect_args={"timeout": max(2, round(connect_seconds))},
        )
        dialect: Any = engine.dialect
        dialect.ddl_compiler = _DDL
        dialect.get_default_isolation_level = lambda _: (
            "READ COMMITTED"
        )  # SQLAlchemy would look for it in the server's views
        engine.update_execution_options(dbsync_label=label, dbsync_locks=locks)
        pins = "; ".join((*_PINS, f"SET CONTEXT_INFO 0x{label.encode()[:128].hex()}"))

        @sa.event.listens_for(engine, "connect")
        def pin(connection: Any, record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute(pins)
            cursor.execute(babelfish.IS_BABELFISH)
            record.info["babelfish"] = bool(cursor.fetchone()[0])
            if record.info["babelfish"]:
                babelfish.adapt(dialect)
            cursor.close()
            connection.commit()

        @sa.event.listens_for(engine, "do_executemany")
        def write_many(cursor: Any, statement: str, rows: Any, _context: object) -> bool:
            driver.write_many(cursor, statement, rows)
            return True

        return engine

    @classmethod
    def translate(cls, error: BaseException, name: str, operation: str) -> Exception:
        return driver.translate(error, name, operation)

    def cancel(self) -> None:
        """Babelfish lets the statement run to its end, and the driver would wait for that."""
        running = self._running
        if running is not None and not self._babelfish:
            driver.cancel(running)

    def close(self) -> None:
        """Waits for a call that another thread has under way and stops its statement: the driver would crash under it."""
        with suppress(*self.driver_errors):
            self.cancel()
        with self._calling, suppress(*self.driver_errors):
            driver.leave(self._raw)
        super().close()
        if self._other is not None:
            with suppress(*self.driver_errors):  # what cannot be dropped now, the next run drops
                for name in self._loaded.values():
                    self._aside(f"DROP TABLE {name}")
            self._other.close()
            self._other = None

    @property
    def _flavour(self) -> tsql.Flavour:
        return tsql.BABELFISH if self._babelfish else tsql.MICROSOFT

    @translated
    def limit_lock_wait(self, seconds: float) -> None:
        self._run(f"SET LOCK_TIMEOUT {round(seconds * 1000)}")
        self._raw.commit()

    @translated
    def require_visible(self, tables: Sequence[Table]) -> None:
        """What a user may not see is not in the catalog for it: neither tables, nor policies that hide rows.

        A database that came from an old server speaks that server's T-SQL, which has no OPENJSON before level 130.
        """
        if self._babelfish:
            return
        level, granted = self._one(_MAY_LOOK)
        if level < 130:
            raise DatabaseError(
                f"it runs at the compatibility level {level} of an older server, and 130 or more is needed",
                operation="read the structure",
                database=self.name,
                remedy="ALTER DATABASE CURRENT SET COMPATIBILITY_LEVEL = 150",
            )
        if not granted:
            raise DatabaseError(
                f"the user of {self.name} lacks the right VIEW DEFINITION, without which tables and policies are hidden from it",
                operation="read the structure",
                database=self.name,
                remedy=driver.GRANT,
            )

    # -- transactions

    @translated
    def snapshot(self) -> dt.datetime:
        """The transaction's state is that of its first read of a table.

        Under locks, every mirrored table that is read is locked against writers until the end: what was read first still holds when the
        last is read, so it is one state too. The ledger is not locked: the publish notes its number there by another connection.
        """
        self._isolate("READ COMMITTED" if self._reads_under_locks else "SNAPSHOT")
        self._hint = " WITH (TABLOCK, HOLDLOCK)" if self._reads_under_locks else ""
        self.connection.begin()
        now = self._one(
            "SELECT datediff_big(microsecond, '2000-01-01T00:00:00', sysutcdatetime())"
        )[0]
        some = self._all(
            _SOME_TABLE
        )  # under locks too: the server begins a transaction with the first read of a table
        for (table,) in () if self._reads_under_locks else some:
            self._all(f"SELECT TOP (1) 1 FROM {table}")
        return (values.EPOCH + dt.timedelta(microseconds=now)).replace(tzinfo=dt.UTC)

    @translated
    def begin(self, tables: Sequence[Table], *, wait_seconds: float) -> None:
        self._isolate("READ COMMITTED")
        self._run("SET XACT_ABORT ON")
        self.connection.begin()
        self._all(
            "SELECT TOP (1) 1 FROM sys.schemas"
        )  # the server begins a transaction with the first read of a table
        if not self._take("dbsync"):
            raise Busy(
                self._holder(),
                operation="lock",
                database=self.name,
                remedy="wait until it ends, then try again",
            )
        self._run(f"SET LOCK_TIMEOUT {round(wait_seconds * 1000)}")
        try:
            for table in tables:
                self._lock(table)
        except self.driver_errors as error:
            busy = self.translate(error, self.name, "lock")
            if isinstance(busy, Busy):
                busy = Busy(
                    f"{self._blockers(tables)} is writing to the tables",
                    operation="lock",
                    database=self.name,
                    table=table.name,
                    remedy="wait until that transaction ends, then try again",
                )
            raise busy from None
        self._sweep()

    def _isolate(self, level: str) -> None:
        """Between transactions; the connection is never given to anybody else afterwards."""
        self._raw.rollback()
        self._run(f"SET TRANSACTION ISOLATION LEVEL {level}")
        self._raw.commit()

    def _take(self, resource: str) -> bool:
        """A lock of the transaction on this name, if it is free.

        The database's name is in it, since on Babelfish all databases of a server share such locks.
        """
        answer = self._one(
            f"DECLARE @r int, @name nvarchar(255) = {literal(resource)} + ' ' + db_name(); EXEC @r = sp_getapplock "
            "@Resource = @name, @LockMode = 'Exclusive', @LockOwner = 'Transaction', @LockTimeout = 0; SELECT @r"
        )[0]
        if answer < -1 and not self._babelfish:  # which says -999 where another has it
            raise DatabaseError(
                f"sp_getapplock failed with {answer}", operation="lock", database=self.name
            )
        return bool(answer >= 0)

    def _lock(self, table: Table) -> None:
        """Others may read and not write.

        Babelfish takes no notice of TABLOCK; there disabling a trigger locks a table so, and each table gets one that is never enabled.
        """
        name, trigger = quote_table(table.sa), quote(f"dbsync_hold_{table.sa.name}")
        if not self._babelfish:
            self._all(f"SELECT TOP (1) 1 FROM {name} WITH (TABLOCK, HOLDLOCK)")
            return
        # by its table and not by its whole name, which the server may have cut
        if not self._all(
            "SELECT 1 FROM sys.triggers WHERE parent_id = object_id(?) AND name LIKE 'dbsync[_]hold[_]%'",
            name,
        ):
            self._run(f"CREATE TRIGGER {trigger} ON {name} AFTER INSERT AS RETURN")
        self._run(f"DISABLE TRIGGER {trigger} ON {name}")

    def _sweep(self) -> None:
        """Drop what dead runs have left; under the target's lock no other run is alive."""
        left = self._all(
            "SELECT name FROM sys.tables WHERE schema_id = schema_id('dbsync') AND name LIKE 'loaded[_]%'"
        )
        for (name,) in left:
            self._aside(f"DROP TABLE [dbsync].{quote(name)}")

    @translated
    def commit(self) -> None:
        transaction = self.connection.get_transaction()
        assert transaction is not None
        transaction.commit()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Under XACT_ABORT an error ends the whole transaction, with its savepoints."""
        self._run("SET XACT_ABORT OFF")
        try:
            with super().attempt():
                yield
        finally:
            self._run("SET XACT_ABORT ON")

    @translated
    def suspend_constraints(self, tables: Sequence[Table]) -> None:
        """Disabled foreign keys do not act either, so that ON DELETE CASCADE does nothing; nor do disabled triggers.

        This locks the tables against readers too, until the commit.
        """
        try:
            if self._babelfish:
                self._one("SELECT set_config('session_replication_role', 'replica', false)")
                return
            named = ", ".join(f"object_id({literal(quote_table(table.sa))})" for table in tables)
            for off, on in self._all(_HOLDABLE.format(tables=named)):
                self._run(off)
                self._held.append(on)
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
                f"foreign keys cannot be held off until the commit: {getattr(reason, 'cause', reason)}",
                operation="publish",
                database=self.name,
                remedy=f"{grant} TO this user",
            ) from None

    @translated
    def prove_constraints(self, tables: Sequence[Table]) -> None:
        for table in tables:
            for key in table.sa.foreign_key_constraints:
                if self._one(tsql.orphans(key))[0]:
                    raise violated_key(self.name, str(key.name), table.name)
        if self._babelfish:
            self._prove_outside(tables)
            self._one("SELECT set_config('session_replication_role', 'origin', false)")
        while self._held:
            self._hold_again(self._held.pop())

    def _prove_outside(self, tables: Sequence[Table]) -> None:
        """The keys of other tables to these. Microsoft's server proves them as it switches them on again."""
        named = ", ".join(f"object_id({literal(quote_table(table.sa))})" for table in tables)
        for (name, *places), columns in groupby(
            self._all(_OUTSIDE.format(tables=named)), key=lambda row: row[:5]
        ):
            child, parent = (
                f"{quote(schema)}.{quote(table)}" for schema, table in (places[:2], places[2:])
            )
            if self._one(
                orphans(
                    child, parent, ((quote(mine), quote(theirs)) for *_, mine, theirs in columns)
                )
            )[0]:
                raise violated_key(self.name, name, places[1], outside=True)

    def _hold_again(self, statement: str) -> None:
        try:
            self._run(statement)
        except self.driver_errors as error:
            key = re.fullmatch("ALTER TABLE (.+) WITH CHECK CHECK CONSTRAINT (.+)", statement)
            if key is None or "conflicted with the FOREIGN KEY" not in str(error):
                raise
            raise violated_key(self.name, key[2], key[1], outside=True) from None

    # -- structure

    @translated
    def alter(self, operations: Operations, operation: MigrateOperation) -> Any:
        """A default and a check are objects of their own here, without which the column has to be before it goes."""
        from alembic.operations import ops

        if isinstance(operation, ops.DropColumnOp):
            operation.kw |= {"mssql_drop_default": True, "mssql_drop_check": True}
        if (
            isinstance(operation, ops.AlterColumnOp)
            and self._babelfish
            and operation.modify_nullable is None
        ):
            # where Microsoft's server forgets NOT NULL with the type unless told again, Babelfish keeps it, and takes no such words
            operation.existing_nullable = None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "MS-SQL ALTER COLUMN")  # of just that
            return super().alter(operations, operation)

    # -- digests

    @translated
    def digest_format(self) -> str:
        return "mssql babelfish" if self._babelfish else "mssql"

    @translated
    def count(self, table: Table) -> int:
        return int(self._one(f"SELECT count_big(*) FROM {self._from(table)}")[0])

    @translated
    def rows(self, table: Table) -> int:
        """From the catalog, which Babelfish leaves empty."""
        return (
            self.count(table)
            if self._babelfish
            else int(self._one(_ROWS, quote_table(table.sa))[0])
        )

    @translated
    def digests(self, table: Table, form: Form, only: np.ndarray | None = None) -> Digests:
        sql = tsql.digests(table, form, self._flavour, self._from(table), only is not None)
        given = () if only is None else (json.dumps(only.tolist()),)
        return Digests.gather(form, (row for batch in self._stream(sql, *given) for row in batch))

    @translated
    def row_digests(self, table: Table, form: Form, only: np.ndarray) -> Iterator[RowDigest]:
        sql = tsql.row_digests(table, form, self._flavour, self._from(table))
        for start in range(0, len(only), _PAGE):
            page = list(
                self._stream(sql, json.dumps(only[start : start + _PAGE].tolist()))
            )  # by Arrow: a fetched row lacks a leading U+FEFF
            for bucket, first, second, *key in (row for batch in page for row in batch):
                yield RowDigest(bucket, tuple(key), (first, second))

    def _from(self, table: Table) -> str:
        return f"{quote_table(table.sa)} t{self._hint}"

    # -- rows

    @translated
    def read(self, table: Table, keys: RowKeys | None = None) -> Iterator[list[Row]]:
        yield from self._rows(table, keys, Form(CANONICAL, 1))

    @translated
    def _rows(self, table: Table, keys: RowKeys | None, form: Form) -> Iterator[list[Row]]:
        """Rows in the words of the form; the last column of the query says whether a text or an instant would be damaged on the way."""
        columns = ", ".join(
            tsql.value(column, f"t.{quote(column.name)}", form.native) for column in table.columns
        )
        damaged = tsql.damaged(table.columns, form.native, self._flavour)
        sql = f"SELECT {columns}, {damaged} FROM {self._from(table)}"
        given: tuple[str, ...] = ()
        if keys is not None:
            wanted, same = (
                tsql.json_keys(table.key, form.native),
                tsql.same_key(table.key, form.native, self._collations(table)),
            )
            sql, given = f"{sql} INNER JOIN {wanted} k ON {same}", (_json(keys),)
        for batch in self._stream(sql, *given):
            yield [self._whole(table, row) for row in batch]

    def _whole(self, table: Table, row: Row) -> Row:
        if row[-1]:
            key = ", ".join(
                repr(value)
                for column, value in zip(table.columns, row, strict=False)
                if column in table.key
            )
            raise Unrepresentable(
                f"column {table.columns[row[-1] - 1].name} of the row with key ({key}) cannot be carried exactly: it holds half of a "
                "surrogate pair, or more than microseconds",
                operation="stage",
                database=self.name,
                table=table.name,
                remedy="change that value in the source",
            )
        return row[:-1]

    def _collations(self, table: Table) -> dict[str, str]:
        return {name: collation for name, (collation, _) in self._texts(table).items()}

    def _texts(self, table: Table) -> dict[str, tuple[str, int]]:
        """The collation and the code page of the columns that have one."""
        return {
            name: (collation, page)
            for name, collation, page in self._all(
                "SELECT name, collation_name, convert(int, collationproperty(collation_name, 'CodePage')) FROM sys.columns "
                "WHERE object_id = object_id(?) AND collation_name IS NOT NULL",
                quote_table(table.sa),
            )
        }

    # -- staging

    @translated
    def create_staging(self, table: Table) -> None:
        number = self._staging.setdefault(table.name, len(self._staging))
        for name, columns in (
            (f"#dbsync_new_{number}", table.columns),
            (f"#dbsync_gone_{number}", table.key),
        ):
            self._run(f"IF object_id('tempdb..{name}') IS NOT NULL DROP TABLE {name}")
            self._run(tsql.create_like(name, table, columns))

    @translated
    def stage_rows(self, table: Table, source: Dialect, keys: RowKeys, form: Form) -> Moved:
        moved, loaded = self._load(table, source, keys, form)
        self._take_over(f"#dbsync_new_{self._staging[table.name]}", loaded, table.columns, form)
        return moved

    @translated
    def stage_keys(self, table: Table, keys: RowKeys, form: Form) -> None:
        convert = self._converter(table, table.key, form)
        loaded = self._bulk(
            "gone", table, table.key, form, iter([[tuple(convert(key)) for key in keys]])
        )
        self._take_over(f"#dbsync_gone_{self._staging[table.name]}", loaded, table.key, form)

    def _take_over(self, into: str, loaded: str, columns: Sequence[Column], form: Form) -> None:
        """From the bulk load's table into this session's own, as the live table holds values; the bulk load's is empty again.

        Without TABLOCK, DELETE leaves a table that has no index all its pages, and every later part would read them. TRUNCATE would wait,
        on Babelfish, for this session's own transaction, which has read the table.
        """
        self._run(tsql.insert_loaded(into, loaded, columns, form.native))
        self._aside(f"DELETE FROM {loaded} WITH (TABLOCK)")

    @translated
    def delete_staged(self, table: Table) -> int:
        return self._changed(tsql.delete_staged(table, f"#dbsync_gone_{self._staging[table.name]}"))

    @translated
    def insert_staged(self, table: Table) -> int:
        name = f"#dbsync_new_{self._staging[table.name]}"
        self._refuse_collisions(table, name)
        return self._insert(table, tsql.insert_staged(table, name))

    def _insert(self, table: Table, insert: str) -> int:
        if not self._all(
            "SELECT 1 FROM sys.identity_columns WHERE object_id = object_id(?)",
            quote_table(table.sa),
        ):
            return self._changed(insert)
        self._run(f"SET IDENTITY_INSERT {quote_table(table.sa)} ON")
        inserted = self._changed(insert)
        self._run(f"SET IDENTITY_INSERT {quote_table(table.sa)} OFF")
        return inserted

    def staged(self, table: Table) -> tuple[sa.TableClause, sa.TableClause]:
        number = self._staging[table.name]
        return staging_table(None, f"#dbsync_new_{number}", table.columns), staging_table(
            None, f"#dbsync_gone_{number}", table.key
        )

    @translated
    def create_like(self, name: str, table: Table) -> None:
        before = "convert(bigint, 0) AS dbsync_publish, convert(nvarchar(8), '') AS dbsync_change, "
        self._run(
            tsql.create_like(
                f"{quote(self.ledger_schema)}.{quote(name)}", table, table.columns, before
            )
        )

    def octets(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        """As a bigint: of a bounded column it is an int, and a sum of ints ends at two gigabytes."""
        return sa.cast(sa.func.datalength(column), sa.BigInteger)

    @translated
    def hidden(self, tables: Sequence[Table]) -> list[str]:
        """By a security policy that filters rows, or by a mask on a column that this user may not lift."""
        self.require_visible(tables)
        asked = babelfish.HIDDEN if self._babelfish else _HIDDEN
        return [
            table.name
            for table in tables
            if self._one(asked.format(literal(quote_table(table.sa))))[0]
        ]

    @translated
    def fill(self, table: Table, source: Dialect, form: Form) -> Moved:
        """Through a table of its own: the bulk load would wait for ever for the lock on the live one."""
        moved, loaded = self._load(table, source, None, form)
        self._refuse_collisions(table, loaded)
        moved.rows = self._insert(
            table, tsql.insert_loaded(quote_table(table.sa), loaded, table.columns, form.native)
        )
        return moved

    def _load(
        self, table: Table, source: Dialect, keys: RowKeys | None, form: Form
    ) -> tuple[Moved, str]:
        """Rows of the source's snapshot by bulk load; what was moved, and the table that holds it."""
        moved, convert = Moved(), self._converter(table, table.columns, form)
        same = isinstance(source, MSSQL) and form.native
        batches = source._rows(table, keys, form) if same else source.read(table, keys)  # type: ignore[attr-defined]

        def converted() -> Iterator[list[Row]]:
            for batch in batches:
                rows = [tuple(convert(row)) for row in batch]
                moved.rows += len(rows)
                moved.bytes += sum(map(_width, rows))
                yield rows

        return moved, self._bulk("new", table, table.columns, form, converted())

    def _converter(
        self, table: Table, columns: Sequence[Column], form: Form
    ) -> Callable[[Row], Sequence[Any]]:
        if form.native:
            return lambda row: row
        texts, checks = self._texts(table), []
        for column in columns:
            name = tsql.type_name(column)
            varchar = column.kind is Kind.TEXT and name.upper().startswith(("VARCHAR", "TEXT"))
            checks.append(
                values.to_mssql(
                    column,
                    name,
                    texts[column.name][1] if varchar and column.name in texts else None,
                )
            )
        return values.converter(table, columns, checks, self.name)

    def _bulk(
        self,
        kind: str,
        table: Table,
        columns: Sequence[Column],
        form: Form,
        batches: Iterator[list[Row]],
    ) -> str:
        """Load rows into this run's own table of that kind, made where it is not there yet; returns its name."""
        name = self._loaded.get(f"{kind} {table.name}")
        if name is None:
            run = "".join(letter if letter.isalnum() else "_" for letter in self._label)[-36:]
            name = self._loaded[f"{kind} {table.name}"] = (
                f"[dbsync].[loaded_{run}_{len(self._loaded)}]"
            )
            self._aside(tsql.create_loaded(name, columns, form.native, self._collations(table)))
        types = [tsql.staged_type(column, form.native) for column in columns]
        try:
            driver.load(self._side, name, types, batches, bulk=self._knows_bulk_load(name))
        except (RuntimeError, ValueError, TypeError) as error:  # what the bulk load raises
            raise self.translate(error, self.name, "stage") from None
        return name

    def _knows_bulk_load(self, name: str) -> bool:
        """The client of the bulk load asks for the columns in a way that Babelfish answers with the last one, or with all if it sees none."""
        return not (
            self._babelfish
            and self._all(
                "SELECT TOP (1) 1 FROM sys.all_columns WHERE object_id = object_id(?)", name
            )
        )

    def _refuse_collisions(self, table: Table, new: str) -> None:
        """SQL Server ignores trailing spaces when it compares, and more under some collations: such keys are told before they fail."""
        for columns in _unique_texts(table):
            rows = self._all(tsql.collisions(table, new, columns))
            if rows:
                keys = " and ".join(f"({', '.join(map(repr, row))})" for row in rows)
                raise Unrepresentable(
                    f"column {', '.join(column.name for column in columns)} must be unique, and the server takes its values in the "
                    f"rows with keys {keys} as equal; it ignores trailing spaces, and what the column's collation ignores",
                    operation="stage",
                    database=self.name,
                    table=table.name,
                    remedy="change one of the values, or give the column a binary collation in the models",
                )

    # -- counters

    @translated
    def numbers(self, table: Table) -> tuple[int, int] | None:
        if table.counter is None:
            return None
        found = self._all(
            "SELECT convert(bigint, last_value) FROM sys.identity_columns WHERE object_id = object_id(?)",
            quote_table(table.sa),
        )
        if not found:
            return None
        highest = self._one(
            f"SELECT convert(bigint, max({quote(table.counter.name)})) FROM {self._from(table)}"
        )[0]
        return found[0][0] or 0, highest or 0

    @translated
    def move_counter(self, table: Table, value: int) -> None:
        """One further than asked: a table that never had rows gives the very number that it was seeded with."""
        assert table.counter is not None
        sizes = {TINYINT: 8, sa.SmallInteger: 15, sa.BigInteger: 63}
        type_ = undecorated(table.counter.type)
        bits = next((size for class_, size in sizes.items() if isinstance(type_, class_)), 31)
        if value > (self.counter(table) or 0):
            self._run(
                f"DBCC CHECKIDENT ({literal(quote_table(table.sa))}, RESEED, {min(value + 1, 2**bits - 1)})"
            )

    # -- about the database

    @translated
    def size_bytes(self) -> int:
        if self._babelfish:
            return int(self._one("SELECT pg_database_size(current_database())")[0])
        return int(self._one("SELECT sum(convert(bigint, size)) * 8192 FROM sys.database_files")[0])

    @translated
    def set_marker(self, mark: int) -> None:
        self._take(f"dbsync mark {mark}")

    @translated
    def sees_marker(self, mark: int) -> bool:
        return not self._take(f"dbsync mark {mark}")

    # -- what the rest is made of

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        cursor = self._running = self._raw.cursor()
        try:
            yield cursor
        finally:
            self._running = None
            cursor.close()

    def _run(self, sql: str) -> None:
        with self._cursor() as cursor, self._calling:
            cursor.execute(sql)

    def _changed(self, sql: str) -> int:
        """How many rows a statement changes, as the server counts; the drivers' own count is not to be had everywhere.

        Without SET NOCOUNT ON, which would last as long as the session: the ledger needs the count of what it updates and deletes.
        """
        return int(self._one(f"{sql}; SELECT rowcount_big()")[0])

    def _one(self, sql: str, *given: str) -> Row:
        return self._all(sql, *given)[0]

    def _all(self, sql: str, *given: str) -> list[Row]:
        with self._cursor() as cursor, self._calling:
            driver.execute(cursor, sql, given)
            while cursor.description is None and cursor.nextset():
                pass  # a message of the server comes as a result without columns
            return [tuple(row) for row in cursor.fetchall()]

    def _stream(self, sql: str, *given: str) -> Iterator[list[Row]]:
        """The rows of a query in batches of about BATCH_BYTES."""
        with self._cursor() as cursor:
            with self._calling:
                driver.execute(cursor, sql, given)
            size = 16
            while batch := self._fetch(cursor, size):
                yield batch
                width = max(1, sum(map(_width, batch)) // len(batch))
                size = max(1, min(20_000, size * 8, BATCH_BYTES // width))

    def _fetch(self, cursor: Any, size: int) -> list[Row]:
        with self._calling:
            return driver.fetch(cursor, size)

    @property
    def _side(self) -> Any:
        """A second connection, which commits every statement."""
        if self._other is None:
            self._other = self.connection.engine.raw_connection()
            self._other.driver_connection.autocommit = True
            self._aside("SET LOCK_TIMEOUT 10000")
        return self._other.driver_connection

    def _aside(self, sql: str) -> None:
        cursor = self._side.cursor()
        cursor.execute(sql)
        cursor.close()

    def _holder(self) -> str:
        found = self._asked(_HOLDER)
        if not found:
            return "another sync holds the lock of this database"
        label, since = found[0]
        return f"another sync holds the lock of this database: {bytes(label).rstrip(bytes(1)).decode()}, since {since} UTC"

    def _blockers(self, tables: Sequence[Table]) -> str:
        named = ", ".join(f"object_id({literal(quote_table(table.sa))})" for table in tables)
        found = self._asked(_BLOCKERS.format(tables=named))
        return (
            ", ".join(
                f"{user} ({program or 'no program name'}, session {number})"
                for number, user, program in found
            )
            or "somebody"
        )

    def _asked(self, sql: str) -> list[Row]:
        """What the server's views of locks say, where this user may see them; the transaction is at its end."""
        self._raw.rollback()
        try:
            return self._all(sql)
        except self.driver_errors:
            return []


def _unique_texts(table: Table) -> Iterator[Sequence[Column]]:
    """The sets of columns that are unique and have a text among them."""
    by_name = {column.name: column for column in table.columns}
    sets = [table.sa.primary_key.columns]
    sets += [one.columns for one in table.sa.constraints if isinstance(one, sa.UniqueConstraint)]
    sets += [index.columns for index in table.sa.indexes if index.unique]
    for one in sets:
        columns = [by_name[column.name] for column in one if column.name in by_name]
        if any(column.kind is Kind.TEXT for column in columns):
            yield columns


def _json(keys: Sequence[RowKey]) -> str:
    return json.dumps(
        [
            [base64.b64encode(part).decode() if isinstance(part, bytes) else part for part in key]
            for key in keys
        ]
    )


def _width(row: Row) -> int:
    return sum(len(value) if isinstance(value, (str, bytes)) else 8 for value in row)


_MAY_LOOK = """
SELECT compatibility_level, has_perms_by_name(quotename(db_name()), 'DATABASE', 'VIEW DEFINITION')
FROM sys.databases WHERE name = db_name()"""

_SOME_TABLE = """
SELECT TOP (1) quotename(s.name) + '.' + quotename(t.name) FROM sys.tables t INNER JOIN sys.schemas s ON s.schema_id = t.schema_id
WHERE has_perms_by_name(quotename(s.name) + '.' + quotename(t.name), 'OBJECT', 'SELECT') = 1 ORDER BY t.object_id"""

_HOLDABLE = """
WITH mirrored AS (SELECT object_id FROM sys.tables WHERE object_id IN ({tables}))
SELECT 'ALTER TABLE ' + name + ' NOCHECK CONSTRAINT ' + held,
       'ALTER TABLE ' + name + ' WITH ' + CASE is_not_trusted WHEN 1 THEN 'NOCHECK' ELSE 'CHECK' END + ' CHECK CONSTRAINT ' + held
FROM (SELECT quotename(object_schema_name(f.parent_object_id)) + '.' + quotename(object_name(f.parent_object_id)) AS name,
             quotename(f.name) AS held, f.is_not_trusted
      FROM sys.foreign_keys f WHERE f.is_disabled = 0 AND (
        f.parent_object_id IN (SELECT object_id FROM mirrored) OR f.referenced_object_id IN (SELECT object_id FROM mirrored))) keys
UNION ALL
SELECT 'DISABLE TRIGGER ' + held + ' ON ' + name, 'ENABLE TRIGGER ' + held + ' ON ' + name
FROM (SELECT quotename(object_schema_name(g.parent_id)) + '.' + quotename(object_name(g.parent_id)) AS name,
             quotename(object_schema_name(g.object_id)) + '.' + quotename(g.name) AS held
      FROM sys.triggers g WHERE g.is_disabled = 0 AND g.parent_id IN (SELECT object_id FROM mirrored)) triggers"""

# the foreign keys of tables that are not mirrored to tables that are, a row for each of their columns
_OUTSIDE = """
SELECT f.name, object_schema_name(f.parent_object_id), object_name(f.parent_object_id),
       object_schema_name(f.referenced_object_id), object_name(f.referenced_object_id), c.name, r.name
FROM sys.foreign_keys f
INNER JOIN sys.foreign_key_columns k ON k.constraint_object_id = f.object_id
INNER JOIN sys.columns c ON c.object_id = f.parent_object_id AND c.column_id = k.parent_column_id
INNER JOIN sys.columns r ON r.object_id = f.referenced_object_id AND r.column_id = k.referenced_column_id
WHERE f.referenced_object_id IN ({tables}) AND f.parent_object_id NOT IN ({tables})
ORDER BY f.object_id, k.constraint_column_id"""

_ROWS = "SELECT coalesce(sum(rows), 0) FROM sys.partitions WHERE index_id IN (0, 1) AND object_id = object_id(?)"

_HIDDEN = """
SELECT CASE WHEN EXISTS (
    SELECT 1 FROM sys.security_predicates f INNER JOIN sys.security_policies p ON p.object_id = f.object_id
    WHERE p.is_enabled = 1 AND f.predicate_type = 0 AND f.target_object_id = object_id({0}))
  OR (has_perms_by_name(quotename(db_name()), 'DATABASE', 'UNMASK') = 0 AND EXISTS (
    SELECT 1 FROM sys.masked_columns WHERE is_masked = 1 AND object_id = object_id({0})))
THEN 1 ELSE 0 END"""

_HOLDER = """
SELECT s.context_info, convert(nvarchar(19), dateadd(minute, -datediff(minute, sysutcdatetime(), sysdatetime()), s.last_request_start_time), 120)
FROM sys.dm_tran_locks l INNER JOIN sys.dm_exec_sessions s ON s.session_id = l.request_session_id
WHERE l.resource_type = 'APPLICATION' AND l.resource_database_id = db_id() AND l.request_status = 'GRANT'
  AND l.resource_description LIKE '%[[]dbsync %' AND l.resource_description NOT LIKE '%[[]dbsync mark %'"""

_BLOCKERS = """
SELECT DISTINCT s.session_id, s.login_name, s.program_name
FROM sys.dm_tran_locks l INNER JOIN sys.dm_exec_sessions s ON s.session_id = l.request_session_id
WHERE l.resource_type = 'OBJECT' AND l.resource_database_id = db_id() AND l.resource_associated_entity_id IN ({tables})
  AND l.request_status = 'GRANT' AND (l.request_mode LIKE '%X%' OR l.request_mode = 'Sch-M') AND s.session_id <> @@spid"""
