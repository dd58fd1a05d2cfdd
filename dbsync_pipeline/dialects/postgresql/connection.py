"""One PostgreSQL session: how it is opened and pinned, and how statements run on it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any, cast

import sqlalchemy as sa

from dbsync_pipeline.dialects import watchdog
from dbsync_pipeline.dialects.contract import LABEL, Dialect, translated
from dbsync_pipeline.dialects.postgresql import catalog, errors
from dbsync_pipeline.dialects.postgresql.catalog import quote_table
from dbsync_pipeline.dialects.postgresql.expressions import Expressions
from dbsync_pipeline.dialects.postgresql.watched import WatchedConnection
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DatabaseError

PINS = {
    # how values are read and written as text
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "xmloption": "content",
    "array_nulls": "on",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "transform_null_equals": "off",
    # which rows are seen, and in which order a table is read twice
    "row_security": "off",  # a source that hides rows fails instead of hiding them
    "synchronize_seqscans": "off",
    # what a transaction may do
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "exit_on_error": "off",
    # how long it may take
    "statement_timeout": "0",
    "transaction_timeout": "0",  # since version 17
    "idle_session_timeout": "0",  # since version 14
    "lock_timeout": "30s",  # no lock makes a sync wait without end; see limit_lock_wait
    "idle_in_transaction_session_timeout": "1h",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""What every session sets when it opens, whatever the server, database or role sets by default.

Settings that a server's version does not have are left out.
"""

_PIN = """
SELECT set_config(p.name, p.value, false) FROM unnest(%s::text[], %s::text[]) p (name, value)
WHERE current_setting(p.name, true) IS NOT NULL;
SELECT set_config('search_path', coalesce(string_agg(quote_ident(s), ', ' ORDER BY n), ''), false)
FROM unnest(current_schemas(false)) WITH ORDINALITY p (s, n) WHERE s !~ '^pg_'
HAVING current_setting('search_path') ~ 'pg_';
SELECT set_config('client_connection_check_interval', '5s', false)
WHERE current_setting('client_connection_check_interval', true) IS NOT NULL
AND version() LIKE '%%linux%%';
SELECT set_config('session_replication_role', 'origin', false)
WHERE current_setting('session_replication_role') <> 'origin';
SELECT pid, backend_start, current_schema() FROM pg_stat_activity WHERE pid = pg_backend_pid()"""
"""One round trip. A path that names pg_catalog or pg_temp could put a table of that name before the
system's own or before staging; without them both come first. A server that is not on Linux cannot
watch its client. Only some roles may set the replication role, so that is set only if it must be.
`pg_settings` would cost a millisecond: the server lists all of its settings for it.
"""

_OLDEST_VERSION = 13
"""The first that numbers transactions with 64 bits, on which row headers rest."""

_CONNECT = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class PostgreSQLConnection(Dialect):
    """An open session. Names and values that vary stand in a statement's text, quoted.

    As parameters of the driver they would not do: a percent sign in a name would be taken for one.
    """

    engine_name = "postgresql"
    driver_errors = errors.DRIVER_ERRORS
    ledger_schema = "dbsync"

    def __init__(self, name: str, connection: sa.Connection) -> None:
        super().__init__(name, connection)
        raw: Any = connection.connection.driver_connection
        self._raw: WatchedConnection = raw
        self._version: int = raw.server_version // 10_000
        if self._version < _OLDEST_VERSION:
            connection.close()
            raise _too_old(name, self._version)
        self._encoding: str = raw.info.parameter_status("server_encoding")
        self._sql = Expressions(self._version, self._encoding == "UTF8")
        self._cursors = 0

    @classmethod
    def engine(cls, url: sa.URL, *, connect_seconds: float, silence_seconds: float) -> sa.Engine:
        """Return an engine that pins each session; its `LABEL` is its application's name.

        A login waits at most `connect_seconds` (at least 2). See `watchdog` for `silence_seconds`.
        """
        arguments = {
            **_CONNECT,
            "connect_timeout": max(2, round(connect_seconds)),
            "connection_factory": WatchedConnection.factory(silence_seconds),
            "client_encoding": "UTF8",
        }
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg2"), poolclass=sa.NullPool, connect_args=arguments
        )

        @sa.event.listens_for(engine, "do_connect")
        def name_it(_dialect: object, _record: object, _: object, arguments: Any) -> None:
            arguments["application_name"] = LABEL.get()

        # before SQLAlchemy's own listener, which would ask for the same by four statements
        @sa.event.listens_for(engine, "connect", insert=True)
        def pin(connection: WatchedConnection, _record: object) -> None:
            with connection.cursor() as cursor:
                cursor.execute(_PIN, (list(PINS), list(PINS.values())))
                ((pid, backend_start, schema),) = cursor.fetchall()
            connection.identified_as(pid, backend_start)
            connection.commit()
            _describe(engine.dialect, connection.server_version, schema)

        return engine

    @classmethod
    def translate(cls, error: BaseException, name: str, operation: str) -> Exception:
        """Return the project's error for a driver's error in database `name`."""
        return errors.translate(error, name, operation)

    def cancel(self) -> None:
        """Stop the running statement; end the session if the statement does not end in time."""
        watchdog.interrupt(self._raw)

    def ended_because(self) -> str | None:
        """Return why the watchdog ended the session; None if it did not."""
        return self._raw.ended_because

    @translated
    def end(self) -> None:
        """End the session on the server, by another connection; return when it is gone."""
        self._raw.end_on_server()

    @translated
    def limit_lock_wait(self, seconds: float) -> None:
        """From now on wait at most this long for locks. Call it outside of transactions."""
        self._run(f"SET lock_timeout = {round(seconds * 1000)}")
        self._raw.commit()

    @translated
    def require_visible(self, tables: Sequence[Table]) -> None:
        """Raise DatabaseError if this role may not use a table's schema."""
        named = [table.sa.schema for table in tables if table.sa.schema]
        denied = self._all(catalog.DENIED_SCHEMAS, (named,))
        nowhere = len(named) < len(tables) and self._first_row("SELECT current_schema()")[0] is None
        if denied or nowhere:
            which = ", ".join(name for (name,) in denied) or "of its search_path"
            raise DatabaseError(
                f"the role of {self.name} lacks a right: permission denied for schema {which}",
                operation="read the structure",
                database=self.name,
                remedy=errors.GRANT,
            )

    @translated
    def structure_mark(self, tables: Sequence[sa.Table]) -> str | None:
        """Return a hash of the catalog's rows of these tables, in one statement."""
        schemas = [table.schema for table in tables]
        mark = self._first_row(catalog.STRUCTURE, (schemas, [table.name for table in tables]))
        return str(mark[0])

    @translated
    def snapshot(self, tables: Sequence[Table] = ()) -> dt.datetime:
        """Begin a read-only transaction that sees one state; return the server's time of it.

        The tables are locked first, against TRUNCATE and DDL alone: a table that is truncated after
        the snapshot is empty in it, whatever it held. Raise Busy if one of them is under way.
        """
        self._begin_reading()
        if tables:
            named = ", ".join(quote_table(table.sa) for table in tables)
            self._run(f"LOCK TABLE {named} IN ACCESS SHARE MODE")  # takes no snapshot
        moment, pid = self._first_row("SELECT clock_timestamp(), pg_backend_pid()")
        self._require_same_server_session(pid)
        return cast(dt.datetime, moment).astimezone(dt.UTC)

    def _require_same_server_session(self, pid: int) -> None:
        """Raise DatabaseError if the open transaction is in another process than the pins are.

        A pooler that shares by transaction gives it any; the pins would be the application's there.
        """
        if pid != self._raw.pid:
            self.connection.rollback()
            raise DatabaseError(
                "a pooler gave this transaction another connection to the server than the one "
                "before it, without the settings that dbsync relies on",
                operation="begin a transaction",
                database=self.name,
                remedy=f"let DBSYNC_{self.name.upper()}_URL lead to the server itself, or to a "
                "pooler in session mode",
            )

    def _begin_reading(self) -> None:
        if self.connection.in_transaction():
            self.connection.rollback()
        self._begin(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def _begin(self, **options: Any) -> None:
        self._raw.rollback()  # the driver opens a transaction for any statement
        self.connection.execution_options(**options)
        self.connection.begin()

    @translated
    def size_bytes(self) -> int:
        """Return the size of the database on the server's disk."""
        return int(self._first_row("SELECT pg_database_size(current_database())")[0])

    @translated
    def read_only_by_default(self) -> bool:
        """Return whether the server, the database or the role sets default_transaction_read_only.

        What a session sets for itself does not change `reset_val`.
        """
        query = "SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_read_only'"
        return bool(self._first_row(query)[0] == "on")

    @translated
    def set_marker(self, mark: int) -> None:
        """Take an advisory lock on the mark until the transaction ends."""
        self._run("SELECT pg_advisory_xact_lock(%s)", (mark,))

    @translated
    def sees_marker(self, mark: int) -> bool:
        """Return whether another session of this database has locked the mark."""
        return not self._first_row("SELECT pg_try_advisory_xact_lock(%s)", (mark,))[0]

    # -- statements

    def _literal(self, value: Any) -> str:
        with self._raw.cursor() as cursor:
            return str(cursor.mogrify("%s", (value,)).decode())

    def _run(self, sql: str, arguments: Any = None) -> int:
        """Run a statement; return the number of rows that it affected."""
        with self._raw.cursor() as cursor:
            cursor.execute(sql, arguments)
            return int(cursor.rowcount)

    def _first_row(self, sql: str, arguments: Any = None) -> tuple[Any, ...]:
        with self._raw.cursor() as cursor:
            cursor.execute(sql, arguments)
            row: tuple[Any, ...] = cursor.fetchone() or ()
            return row

    def _all(self, sql: str, arguments: Any = None) -> list[tuple[Any, ...]]:
        with self._raw.cursor() as cursor:
            cursor.execute(sql, arguments)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    def _stream(self, sql: str, rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a query from a cursor in the server, `rows` of them at a time."""
        self._cursors += 1
        with self._raw.cursor(name=f"dbsync_{self._cursors}") as cursor:
            cursor.execute(sql)
            while batch := cursor.fetchmany(rows):
                yield batch

    def _named(self, query: str, tables: Sequence[Table]) -> list[str]:
        """The first column of a catalog query about these tables."""
        return [row[0] for row in self._all(query, ([quote_table(table.sa) for table in tables],))]


def _too_old(name: str, version: int) -> DatabaseError:
    return DatabaseError(
        f"the server is PostgreSQL {version}, and the mirror needs {_OLDEST_VERSION} or later",
        operation="connect",
        database=name,
        remedy="upgrade the server",
    )


def _describe(dialect: Any, version: int, schema: str | None) -> None:
    """Give SQLAlchemy's dialect what it would ask the server for when it first connects."""
    dialect._get_server_version_info = lambda _: (version // 10_000, version % 10_000)
    dialect._get_default_schema_name = lambda _: schema
    dialect.get_default_isolation_level = lambda _: "READ COMMITTED"
    dialect._set_backslash_escapes = lambda _: setattr(dialect, "_backslash_escapes", False)
