"""One open session on SQL Server: how it is opened and pinned, and how statements run on it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects.mssql.base import MSDDLCompiler

from dbsync_pipeline.dialects import watchdog
from dbsync_pipeline.dialects.contract import LABEL, Dialect, labelled, translated
from dbsync_pipeline.dialects.mssql import babelfish, catalog, drivers, errors, tsql
from dbsync_pipeline.dialects.mssql.tsql import literal, quote, quote_table
from dbsync_pipeline.dialects.mssql.watched import WatchedConnection
from dbsync_pipeline.dialects.staging import BATCH_BYTES
from dbsync_pipeline.dialects.table import Row, Table
from dbsync_pipeline.dialects.watchdog import Watched
from dbsync_pipeline.errors import DatabaseError

PINS = (
    "SET LANGUAGE us_english",  # mssql-python's errors are recognised by their text
    "SET DATEFORMAT ymd",
    "SET NOCOUNT OFF",  # the ledger needs to know how many rows it updated
    "SET XACT_ABORT OFF",  # an error leaves a snapshot as it is; `begin` switches it on
    "SET ANSI_NULLS, ANSI_PADDING, ANSI_WARNINGS, ANSI_NULL_DFLT_ON ON",
    "SET ARITHABORT, CONCAT_NULL_YIELDS_NULL, QUOTED_IDENTIFIER ON",
    "SET NUMERIC_ROUNDABORT OFF",
    "SET TEXTSIZE 2147483647",
    "SET ROWCOUNT 0",
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",  # pools of ODBC pass on another one
    "SET LOCK_TIMEOUT 30000",  # milliseconds; by default a session waits without end
    "SET DEADLOCK_PRIORITY LOW",  # in a deadlock the application wins
)
"""What every session sets when it opens, whatever the server or the login sets by default.

IMPLICIT_TRANSACTIONS is the drivers' own: they switch it on to leave commits to the caller, and off
for a connection that commits every statement. `begin` checks that a transaction is open.
"""

OLDEST_VERSION = 15
"""SQL Server 2019, the first with UTF-8 collations."""

AZURE_EDITIONS = (5, 8, 9, 12)
"""Azure SQL Database, Managed Instance, Edge and Fabric, which all call themselves version 12
(`SERVERPROPERTY('EngineEdition')`)."""


@dataclass(frozen=True)
class Server:
    """What a server is: its version, its edition by Microsoft's number, and whether it is
    Babelfish.
    """

    version: tuple[int, ...]
    edition: int
    babelfish: bool
    schema: str = "dbo"

    @classmethod
    def of(cls, version: str | None, edition: int | None, babelfish: int, schema: str) -> Server:
        """Return what the query `_SERVER` found."""
        numbers = tuple(int(part) for part in re.findall(r"\d+", version or ""))
        return cls(numbers or (OLDEST_VERSION,), edition or 0, bool(babelfish), schema)

    @property
    def is_too_old(self) -> bool:
        """Return whether this is Microsoft's server in a version before 2019."""
        known = self.babelfish or self.edition in AZURE_EDITIONS
        return not known and self.version[0] < OLDEST_VERSION


_SERVER = """
SELECT convert(nvarchar(40), serverproperty('ProductVersion')),
       convert(int, serverproperty('EngineEdition')),
       CASE WHEN convert(nvarchar(10), serverproperty('Babelfish')) = '1' THEN 1 ELSE 0 END,
       schema_name(), @@SPID,
       (SELECT convert(varchar(30), login_time, 126) FROM sys.dm_exec_sessions
        WHERE session_id = @@SPID)"""
"""Babelfish and Aurora may report any text as their @@VERSION, so it is not read."""


class DDL(MSDDLCompiler):
    """SQL Server has no deferred foreign keys."""

    def define_constraint_deferrability(self, constraint: Any) -> str:
        """Return nothing, for every constraint."""
        return ""


class MSSQLConnection(Dialect):
    """An open session. Statements run one at a time, and one result is open at a time."""

    engine_name = "mssql"
    own_format_is_sha256 = True
    driver_errors: ClassVar[Any] = errors.DriverErrors()
    ledger_schema = "dbsync"
    shows_deferral = False

    def __init__(self, name: str, connection: sa.Connection) -> None:
        super().__init__(name, connection)
        raw: Any = connection.connection.driver_connection
        self._raw: WatchedConnection = raw
        server: Server = connection.info["server"]
        if server.is_too_old:
            connection.close()
            raise _too_old(name, server)
        self._babelfish, self._default_schema = server.babelfish, server.schema
        self._in_call = threading.Lock()
        self._second: Any = None
        self._loaded: dict[str, str] = {}
        self._texts_of: dict[str, dict[str, tuple[str, int]]] = {}
        options = connection.get_execution_options()
        self._label: str = connection.info["label"]
        # Babelfish always has snapshots, and ignores the lock hints
        self._reads_under_locks: bool = options.get("dbsync_locks", False) and not self._babelfish
        self._hint = ""

    # -- opening and closing

    @classmethod
    def engine(cls, url: sa.URL, *, connect_seconds: float, silence_seconds: float) -> sa.Engine:
        """Return an engine that pins each session; its `LABEL` is its CONTEXT_INFO.

        A login waits at most `connect_seconds` (at least 2). See `watchdog` for `silence_seconds`.
        Raise SettingsError where the URL or the driver cannot work.
        """
        locks, complete = drivers.reads_under_locks(url), drivers.complete_url(url)
        drivers.import_driver(complete)
        engine = sa.create_engine(complete, poolclass=sa.NullPool)
        dialect: Any = engine.dialect
        dialect.ddl_compiler = DDL
        engine.update_execution_options(dbsync_locks=locks)

        @sa.event.listens_for(engine, "do_connect")
        def connect(_dialect: Any, _record: Any, given: Any, options: Any) -> WatchedConnection:
            login = partial(dialect.connect, *given, **options)
            timeout = max(2, round(connect_seconds))
            return WatchedConnection(login, silence_seconds, timeout=timeout, port=url.port)

        # before SQLAlchemy's own listener, which would ask for the same by four statements
        @sa.event.listens_for(engine, "connect", insert=True)
        def pin(connection: WatchedConnection, record: Any) -> None:
            label = record.info["label"] = LABEL.get()
            context = f"SET CONTEXT_INFO 0x{label.encode()[:128].hex()}"
            cursor = connection.cursor()
            cursor.execute("; ".join((*PINS, context, _SERVER)))
            while cursor.description is None and cursor.nextset():
                pass
            *facts, session, login_time = cursor.fetchone()
            server = record.info["server"] = Server.of(*facts)
            cursor.close()
            connection.commit()
            connection.identified_as(session, login_time or "", babelfish=server.babelfish)
            _describe(dialect, server)

        @sa.event.listens_for(engine, "do_executemany")
        def write_many(cursor: Any, statement: str, rows: Any, _context: object) -> bool:
            drivers.write_many(cursor, statement, rows)
            return True

        return engine

    @classmethod
    def translate(cls, error: BaseException, name: str, operation: str) -> Exception:
        """Return the project's error for a driver's error; see `errors.translate`."""
        return errors.translate(error, name, operation)

    def cancel(self) -> None:
        """Stop the running statement, or load; end the session if that does not end in time."""
        for session in self._sessions():
            watchdog.interrupt(session)

    def ended_because(self) -> str | None:
        """Return why the watchdog ended the session, or that of a load; None if it did not."""
        reasons = (session.ended_because for session in self._sessions())
        return next(filter(None, reasons), None)

    def _sessions(self) -> Iterator[Watched]:
        """Yield the session, the second one, and their last bulk load's."""
        second = self._second
        for connection in (self._raw, second and second.driver_connection):
            if connection is not None:
                yield connection
                if connection.loading is not None:
                    yield connection.loading

    def close(self) -> None:
        """Roll back, close both connections and drop this run's staging tables.

        Stop a statement that another thread runs, and wait until its call has returned: the driver
        would crash otherwise. A second call does nothing.
        """
        if any(session.waiting_since is not None for session in self._sessions()):
            self.cancel()
        with self._in_call, suppress(*self.driver_errors):
            self._raw.roll_back_and_leave()
        super().close()
        if self._second is not None:
            with suppress(*self.driver_errors):  # what remains, the next run drops
                for name in self._loaded.values():
                    self._run_aside(f"DROP TABLE {name}")
            self._second.close()
            self._second = None

    @translated
    def end(self) -> None:
        """End the session, on the server too if this user may; return when it is gone."""
        self._raw.end_on_server()
        self.close()

    @property
    def _flavour(self) -> tsql.Flavour:
        return tsql.BABELFISH if self._babelfish else tsql.MICROSOFT

    @translated
    def limit_lock_wait(self, seconds: float) -> None:
        """Raise Busy, from now on, where a lock is not free within this time."""
        self._run(f"SET LOCK_TIMEOUT {round(seconds * 1000)}")
        self._raw.commit()

    @translated
    def require_visible(self, tables: Sequence[Table]) -> None:
        """Raise DatabaseError where this user does not see the whole catalog, or where all tables
        of the models are in another schema than its default one.

        Without VIEW DEFINITION a user sees neither all tables nor the policies that hide rows. A
        database below compatibility level 130 has no OPENJSON.
        """
        if not self._babelfish:
            self._require_catalog()
        named = [table.sa.name for table in tables if table.sa.schema is None]
        names = ", ".join(literal(name) for name in named)
        elsewhere = self._catalog(catalog.ELSEWHERE.format(names=names)) if named else []
        schemas = {schema for _, schema in elsewhere}
        if len(schemas) == 1 and len(elsewhere) == len(named):
            raise DatabaseError(
                f"its tables are in schema {elsewhere[0][1]}, and the default schema of the "
                f"mirror's user is {self._default_schema}",
                operation="read the structure",
                database=self.name,
                remedy=f"ALTER USER … WITH DEFAULT_SCHEMA = {quote(elsewhere[0][1])}, or "
                f"schema={elsewhere[0][1]!r} in the models; if these are other tables, "
                f"schema={self._default_schema!r} in the models",
            )

    def _require_catalog(self) -> None:
        level, granted = self._catalog(catalog.VISIBLE)[0]
        if level < 130:
            raise DatabaseError(
                f"its compatibility level is {level}, and the mirror needs 130 or more",
                operation="read the structure",
                database=self.name,
                remedy="ALTER DATABASE CURRENT SET COMPATIBILITY_LEVEL = 150",
            )
        if not granted:
            raise DatabaseError(
                f"the user of {self.name} lacks the right VIEW DEFINITION, and the server hides "
                "tables and policies from it",
                operation="read the structure",
                database=self.name,
                remedy=errors.GRANT,
            )

    def _isolate(self, level: str, *settings: str) -> None:
        """Set the isolation level and more, between transactions.

        The connection serves one sync only, so nothing is set back.
        """
        self._raw.rollback()
        self._run("; ".join((f"SET TRANSACTION ISOLATION LEVEL {level}", *settings)))
        self._raw.commit()

    def _take_lock(self, resource: str) -> bool:
        """Take a lock of the transaction on this name; return False where another has it.

        The name includes the database's: on Babelfish all databases of a server share such locks.
        """
        result = self._first_row(
            f"DECLARE @r int, @name nvarchar(255) = {literal(resource)} + ' ' + db_name(); "
            "EXEC @r = sp_getapplock @Resource = @name, @LockMode = 'Exclusive', "
            "@LockOwner = 'Transaction', @LockTimeout = 0; SELECT @r"
        )[0]
        if result < -1 and not self._babelfish:  # Babelfish returns -999 where another has it
            raise DatabaseError(
                f"sp_getapplock failed with {result}", operation="lock", database=self.name
            )
        return bool(result >= 0)

    # -- about the database

    @translated
    def size_bytes(self) -> int:
        """Return the size of the database's files in bytes."""
        if self._babelfish:
            return int(self._first_row("SELECT pg_database_size(current_database())")[0])
        return int(
            self._first_row("SELECT sum(convert(bigint, size)) * 8192 FROM sys.database_files")[0]
        )

    @translated
    def set_marker(self, mark: int) -> None:
        """Take a lock on this mark, until the end of the transaction."""
        self._take_lock(f"dbsync mark {mark}")

    @translated
    def sees_marker(self, mark: int) -> bool:
        """Return whether a session of this very database has set the mark."""
        return not self._take_lock(f"dbsync mark {mark}")

    # -- running statements

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        cursor = self._raw.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    def _run(self, sql: str, *parameters: str) -> None:
        """Run one statement, or several: an error of a later one comes with its result."""
        with self._cursor() as cursor, self._in_call:
            drivers.execute(cursor, sql, parameters)
            while cursor.nextset():
                pass

    def _run_counted(self, sql: str) -> int:
        """Run a statement and return how many rows it changed.

        The server counts; the drivers' own count is missing in some cases.
        """
        return int(self._first_row(f"{sql}; SELECT rowcount_big()")[0])

    def _first_row(self, sql: str, *parameters: str) -> Row:
        return self._all(sql, *parameters)[0]

    def _all(self, sql: str, *parameters: str) -> list[Row]:
        with self._cursor() as cursor, self._in_call:
            drivers.execute(cursor, sql, parameters)
            while cursor.description is None and cursor.nextset():
                pass  # a server message arrives as a result without columns
            return [tuple(row) for row in cursor.fetchall()]

    def _stream(self, sql: str, *parameters: str) -> Iterator[list[Row]]:
        """Yield the rows of a query in batches of about BATCH_BYTES."""
        with self._cursor() as cursor:
            with self._in_call:
                drivers.execute(cursor, sql, parameters)
            size = 16
            while batch := self._fetch(cursor, size):
                yield batch
                width = max(1, sum(map(row_bytes, batch)) // len(batch))
                size = max(1, min(20_000, size * 8, BATCH_BYTES // width))

    def _fetch(self, cursor: Any, size: int) -> list[Row]:
        with self._in_call:
            return drivers.fetch(cursor, size)

    @property
    def _second_connection(self) -> Any:
        """A second connection, opened when first used, that commits every statement."""
        if self._second is None:
            with labelled(self._label):
                self._second = self.connection.engine.raw_connection()
            self._second.driver_connection.autocommit = True
            self._run_aside("SET LOCK_TIMEOUT 10000")
        return self._second.driver_connection

    def _run_aside(self, sql: str) -> None:
        """Run a statement on the second connection."""
        cursor = self._second_connection.cursor()
        cursor.execute(sql)
        cursor.close()

    # -- the catalog

    def _catalog(self, sql: str) -> list[Row]:
        """Return what the catalog has, in a committed state of its own.

        Under SNAPSHOT a query of the catalog fails (3961) once DDL, an index rebuild for example,
        has touched what it reads. Its level is READ COMMITTED inside `sp_executesql` only.
        Babelfish's catalog has snapshots.
        """
        if self._babelfish:
            return self._all(sql)
        read_committed = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
        return self._all(f"EXEC sp_executesql {tsql.national(read_committed + sql)}")

    def _catalog_of(self, query: str, tables: Sequence[Table]) -> list[list[Row]]:
        """Return what a query of the catalog finds for each table, by one statement for 100."""
        rows: list[list[Row]] = [[] for _ in tables]
        for start in range(0, len(tables), 100):
            parts = (
                f"SELECT {number} AS n, q.* FROM ({query.format(object_id(table))}) q"
                for number, table in enumerate(tables[start : start + 100], start)
            )
            for number, *row in self._catalog(" UNION ALL ".join(parts)):
                rows[number].append(tuple(row))
        return rows

    def _from(self, table: Table) -> str:
        """Return the table as a FROM clause names it: `t`, with the lock hint of a source."""
        return f"{quote_table(table.sa)} t{self._hint}"

    def _collations(self, table: Table) -> dict[str, str]:
        return {name: collation for name, (collation, _) in self._texts(table).items()}

    def _texts(self, table: Table) -> dict[str, tuple[str, int]]:
        """Return the collation and the code page of each text column; read once."""
        if table.name not in self._texts_of:
            rows = self._catalog(catalog.COLLATIONS.format(object_id(table)))
            self._texts_of[table.name] = {name: (collation, page) for name, collation, page in rows}
        return self._texts_of[table.name]


def object_id(table: Table) -> str:
    """Return SQL for the id of a table."""
    return f"object_id({literal(quote_table(table.sa))})"


def _describe(dialect: Any, server: Server) -> None:
    """Give SQLAlchemy's dialect what it would ask the server for when it first connects.

    mssql-python's would read the version from @@VERSION, and fails on an unknown text.
    """
    dialect._get_server_version_info = lambda _: server.version
    dialect._get_default_schema_name = lambda _: server.schema
    dialect.get_default_isolation_level = lambda _: "READ COMMITTED"
    dialect._setup_supports_nvarchar_max = lambda _: None
    dialect._setup_supports_comments = lambda _: None
    dialect._supports_nvarchar_max = True
    dialect.supports_comments = not server.babelfish
    dialect.has_table = partial(_has_table, type(dialect).has_table, dialect)
    if server.babelfish:
        babelfish.adapt(dialect)


def _has_table(
    inherited: Callable[..., bool],
    dialect: Any,
    connection: sa.Connection,
    name: str,
    schema: str | None = None,
    **options: Any,
) -> bool:
    """Return whether there is a table or view of this name; an inspector lists a schema once.

    A name that is not listed may differ in case only, which the server decides.
    """
    cache = options.get("info_cache")
    if cache is not None and not name.startswith("#"):
        key = ("tables and views", schema)
        if key not in cache:
            listed = connection.execute(_LISTED, {"schema": schema or dialect.default_schema_name})
            cache[key] = frozenset(listed.scalars())
        if name in cache[key]:
            return True
    return inherited(dialect, connection, name, schema, **options)


_LISTED = sa.text(
    "SELECT o.name FROM sys.objects o INNER JOIN sys.schemas s ON s.schema_id = o.schema_id "
    "WHERE s.name = :schema AND o.type IN ('U', 'V')"
)


def _too_old(name: str, server: Server) -> DatabaseError:
    version = ".".join(map(str, server.version[:2]))
    return DatabaseError(
        f"the server is SQL Server {version}, and the mirror needs 2019 (15.0) or later",
        operation="connect",
        database=name,
        remedy="upgrade the server; its database may stay at an older compatibility level, from "
        "130 on",
    )


def object_ids(tables: Sequence[Table]) -> str:
    """Return the ids of tables as a list in SQL."""
    return ", ".join(map(object_id, tables))


def row_bytes(row: Row) -> int:
    """Return about how many bytes a row takes."""
    return sum(len(value) if isinstance(value, (str, bytes)) else 8 for value in row)
