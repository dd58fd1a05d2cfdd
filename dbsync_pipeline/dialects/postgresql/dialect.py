"""PostgreSQL: COPY for rows, hashes of rows computed in the server, constraints deferred until the commit.

Between two PostgreSQL servers rows travel as binary COPY, undecoded, so that every value that the server can hold arrives, infinities
and years before Christ included. Rows from other engines arrive as text COPY.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg2
import psycopg2.errors
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from dbsync_pipeline.dialects import values
from dbsync_pipeline.dialects.contract import Dialect, translated
from dbsync_pipeline.dialects.digests import CANONICAL, Digests, Form, RowDigest
from dbsync_pipeline.dialects.foreign_keys import orphans, violated_key
from dbsync_pipeline.dialects.postgresql import copy
from dbsync_pipeline.dialects.postgresql.values import to_postgresql
from dbsync_pipeline.dialects.staging import Moved, staging_table
from dbsync_pipeline.dialects.table import Column, Kind, Row, RowKeys, Table, undecorated
from dbsync_pipeline.errors import (
    Busy,
    DatabaseError,
    NotProved,
    Starting,
    StructureError,
    Unavailable,
)

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation, Operations

_SQL = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]  # this style doubles no percent signs
_LOCK = 0x6462_7379_6E63  # "dbsync": the one key of the target's lock

_PINNED = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "row_security": "off",  # a source that hides rows fails instead of hiding them
    "statement_timeout": "0",
    "lock_timeout": "30s",  # nobody's lock makes a sync wait for ever; see wait_at_most
    "idle_in_transaction_session_timeout": "1h",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

_CONNECT = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def quote(name: str) -> str:
    """An identifier, quoted."""
    return _SQL.identifier_preparer.quote_identifier(name)


def quote_table(table: sa.Table) -> str:
    """A table's name, quoted, with its schema where it has one."""
    return ".".join(quote(part) for part in (table.schema, table.name) if part)


_ADDS_VALUE = re.compile(r"\s*ALTER\s+TYPE\s.+\sADD\s+VALUE\s", re.IGNORECASE | re.DOTALL)


class PostgreSQL(Dialect):
    engine_name = "postgresql"
    driver_errors = (psycopg2.Error, sa.exc.DBAPIError)
    ledger_schema = "dbsync"

    def __init__(self, name: str, connection: sa.Connection) -> None:
        super().__init__(name, connection)
        raw: Any = connection.connection.driver_connection
        self._raw = raw
        self._version: int = self._raw.server_version // 10_000
        self._staging: dict[str, int] = {}
        self._replica = False
        self._cursors = 0

    # -- the connection

    @classmethod
    def engine(cls, url: sa.URL, *, label: str, connect_seconds: float) -> sa.Engine:
        arguments = {
            **_CONNECT,
            "connect_timeout": max(2, round(connect_seconds)),
            "application_name": label,
        }
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg2"), poolclass=sa.NullPool, connect_args=arguments
        )

        @sa.event.listens_for(engine, "connect")
        def pin(connection: Any, _record: object) -> None:
            with connection.cursor() as cursor:
                cursor.execute(_pins())
                cursor.execute("SELECT version() LIKE '%linux%'")
                if cursor.fetchone()[0]:  # elsewhere the server cannot watch its client
                    cursor.execute("SET client_connection_check_interval = '5s'")
            connection.commit()

        return engine

    @classmethod
    def translate(cls, error: BaseException, name: str, operation: str) -> Exception:
        original = getattr(error, "orig", None) or error
        if isinstance(original, psycopg2.errors.LockNotAvailable):
            return Busy(
                "somebody holds a lock on the tables",
                operation=operation,
                database=name,
                remedy="try again later",
            )
        if isinstance(original, psycopg2.errors.QueryCanceled):
            return DatabaseError("the statement was cancelled", operation=operation, database=name)
        if getattr(original, "pgcode", None) is None and (
            isinstance(original, (psycopg2.OperationalError, psycopg2.InterfaceError))
            or type(original)
            is psycopg2.DatabaseError  # what COPY says of a connection that is gone
        ):
            why = _why_unreachable(original)
            return (Starting if why in _STARTING else Unavailable)(
                why,
                operation=operation,
                database=name,
                remedy=f"see that the server of {name} runs and that DBSYNC_{name.upper()}_URL is right, then try again",
            )
        code = getattr(original, "pgcode", None) or ""
        if code.startswith(("57P", "08", "40")):
            return Unavailable(
                "the server ended the work", operation=operation, database=name, remedy="try again"
            )
        message = _without_value(original) or type(original).__name__
        if code == _NO_RIGHT:
            return DatabaseError(
                f"the role of {name} lacks a right: {message}",
                operation=operation,
                database=name,
                remedy=_GRANT,
            )
        return DatabaseError(
            f"{message} (SQLSTATE {code})" if code else message,
            operation=operation,
            database=name,
            remedy="free space on the disk of its server" if code == _DISK_FULL else None,
        )

    def cancel(self) -> None:
        self._raw.cancel()

    @translated
    def limit_lock_wait(self, seconds: float) -> None:
        self._run(f"SET lock_timeout = {round(seconds * 1000)}")
        self._raw.commit()

    @translated
    def require_visible(self, tables: Sequence[Table]) -> None:
        named = [table.sa.schema for table in tables if table.sa.schema]
        denied = self._all(
            "SELECT nspname FROM pg_namespace WHERE nspname = ANY(%s::text[]) AND NOT has_schema_privilege(oid, 'USAGE')",
            (named,),
        )
        nowhere = len(named) < len(tables) and self._one("SELECT current_schema()")[0] is None
        if denied or nowhere:
            which = ", ".join(name for (name,) in denied) or "of its search_path"
            raise DatabaseError(
                f"the role of {self.name} lacks a right: permission denied for schema {which}",
                operation="read the structure",
                database=self.name,
                remedy=_GRANT,
            )

    # -- transactions

    @translated
    def snapshot(self) -> dt.datetime:
        self._raw.rollback()  # the driver opens a transaction for any look at the server
        self.connection.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self.connection.begin()
        moment: dt.datetime = self._one("SELECT clock_timestamp()")[0]
        return moment.astimezone(dt.UTC)

    @translated
    def begin(self, tables: Sequence[Table], *, wait_seconds: float) -> None:
        self._raw.rollback()
        self.connection.execution_options(isolation_level="READ COMMITTED")
        self.connection.begin()
        if not self._one("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))[0]:
            raise Busy(
                self._holder(),
                operation="lock",
                database=self.name,
                remedy="wait until it ends, then try again",
            )
        self._run(f"SET LOCAL lock_timeout = {round(wait_seconds * 1000)}")
        try:
            if tables:
                self._run(
                    f"LOCK TABLE {', '.join(quote_table(table.sa) for table in tables)} IN SHARE ROW EXCLUSIVE MODE"
                )
        except psycopg2.errors.LockNotAvailable:
            self._raw.rollback()
            raise Busy(
                f"{self._blockers(tables)} is writing to the tables",
                operation="lock",
                database=self.name,
                remedy="wait until that transaction ends, then try again",
            ) from None

    @translated
    def commit(self) -> None:
        transaction = self.connection.get_transaction()
        assert transaction is not None
        transaction.commit()

    @translated
    def suspend_constraints(self, tables: Sequence[Table]) -> None:
        obstacles = self._named(_NOT_DEFERRABLE, tables)
        if not obstacles:
            self._run("SET CONSTRAINTS ALL DEFERRED")
            return
        try:
            with self.connection.begin_nested():
                self._run("SET LOCAL session_replication_role = replica")
        except (psycopg2.errors.InsufficientPrivilege, sa.exc.ProgrammingError):
            raise StructureError(
                f"{', '.join(obstacles)} cannot be held off until the commit",
                database=self.name,
                operation="publish",
                remedy="declare the foreign keys DEFERRABLE without ON DELETE and ON UPDATE actions and disable the triggers, "
                "or GRANT SET ON PARAMETER session_replication_role to this role",
            ) from None
        self._replica = True
        if stubborn := self._named(_FIRE_FOR_REPLICAS, tables):
            raise StructureError(
                f"{', '.join(stubborn)} cannot be held off, since it fires for replicas",
                database=self.name,
                operation="publish",
                remedy="on the standby, disable it or let it fire for origins only: ALTER TABLE ... ENABLE TRIGGER",
            )

    @translated
    def prove_constraints(self, tables: Sequence[Table]) -> None:
        if not self._replica:
            try:
                self._run("SET CONSTRAINTS ALL IMMEDIATE")
            except psycopg2.errors.ForeignKeyViolation as error:
                raise self._unproved(error, {table.sa.name for table in tables}) from None
            return
        for table in tables:
            for key in table.sa.foreign_key_constraints:
                if self._one(_orphans(key))[0]:
                    raise violated_key(self.name, str(key.name), table.name)
        for name, child, parent, mine, theirs in self._all(
            _OUTSIDE, ([quote_table(table.sa) for table in tables],)
        ):
            if self._one(orphans(child, parent, zip(mine, theirs, strict=True)))[0]:
                raise violated_key(self.name, name, child, outside=True)

    def _unproved(self, error: psycopg2.Error, mirrored: Collection[str] = ()) -> NotProved:
        name, table = str(error.diag.constraint_name), str(error.diag.table_name)
        return violated_key(
            self.name, name, table, outside=bool(mirrored) and table not in mirrored
        )

    # -- structure

    @translated
    def alter(self, operations: Operations, operation: MigrateOperation) -> Any:
        """An enum is a type of its own here, which has to be there before the column is; and its values before rows have them."""
        from alembic.operations import ops

        if isinstance(operation, ops.ExecuteSQLOp) and _ADDS_VALUE.match(str(operation.sqltext)):
            return self._add_value(str(operation.sqltext))
        if isinstance(operation, ops.CreateTableOp):
            for one in operation.columns:
                if isinstance(one, sa.Column) and isinstance(one.type, sa.Enum):
                    self._make(one.type)
                    named = postgresql.ENUM(
                        *one.type.enums,
                        name=one.type.name,
                        schema=one.type.schema,
                        create_type=False,
                    )
                    one.type = one.type.with_variant(named, "postgresql")
        column = getattr(operation, "column", None)
        for type_ in (getattr(column, "type", None), getattr(operation, "modify_type", None)):
            if isinstance(type_, sa.Enum):
                self._make(type_)
        return super().alter(operations, operation)

    def _add_value(self, statement: str) -> None:
        """A value that an open transaction adds cannot be used before its commit, so it is added by another; one too many does no harm.

        A type that the open transaction has made is seen by no other, and its new values can be used at once.
        """
        try:
            with self.connection.engine.connect().execution_options(
                isolation_level="AUTOCOMMIT"
            ) as apart:
                apart.execute(sa.text(statement))
        except sa.exc.ProgrammingError as error:
            if not isinstance(
                error.orig, (psycopg2.errors.UndefinedObject, psycopg2.errors.InvalidSchemaName)
            ):
                raise
            self.connection.execute(sa.text(statement))

    def _make(self, type_: sa.Enum) -> None:
        type_.dialect_impl(self.connection.dialect).create(self.connection, checkfirst=True)  # type: ignore[attr-defined]

    # -- digests

    @translated
    def digest_format(self) -> str:
        return f"postgresql {self._version} {self._one('SHOW server_encoding')[0]}"

    @translated
    def count(self, table: Table) -> int:
        return int(self._one(f"SELECT count(*) FROM {quote_table(table.sa)}")[0])

    @translated
    def digests(self, table: Table, form: Form, only: np.ndarray | None = None) -> Digests:
        first, second = self._halves(form)
        rows = self._all(
            f"SELECT b, count(*), sum({first})::text, sum({second})::text FROM ("
            f"SELECT {self._bucket(table, form)} AS b, {self._row(table, form)} AS r FROM {quote_table(table.sa)} t "
            f"{self._only(table, form, only)} OFFSET 0) x GROUP BY b"
        )
        return Digests.gather(form, rows)

    @translated
    def row_digests(self, table: Table, form: Form, only: np.ndarray) -> Iterator[RowDigest]:
        keys = [f"{self._key_value(column, form)} AS k{n}" for n, column in enumerate(table.key)]
        names = ", ".join(f"k{n}" for n in range(len(keys)))
        sql = (
            f"SELECT b, {', '.join(self._halves(form))}, {names} FROM ("
            f"SELECT {self._bucket(table, form)} AS b, {', '.join(keys)}, {self._row(table, form)} AS r "
            f"FROM {quote_table(table.sa)} t {self._only(table, form, only)} OFFSET 0) x ORDER BY b"
        )
        for batch in self._stream(sql, _KEYS_AT_A_TIME):
            for bucket, first, second, *key in batch:
                yield RowDigest(bucket, tuple(key), (first, second))

    def _only(self, table: Table, form: Form, only: np.ndarray | None) -> str:
        """The condition that names the rows of these buckets."""
        return (
            ""
            if only is None
            else f"WHERE {self._bucket(table, form)} = ANY({self._literal(only.tolist())}::int[])"
        )

    def _row(self, table: Table, form: Form) -> str:
        """The expression that is hashed: a record, or the SHA-256 of the canonical text."""
        if form.native:
            return f"ROW({', '.join(self._hashable(column) for column in table.columns)})"
        pieces = ", ".join(
            f"coalesce({self._canonical(column)}, '~'), '|'" for column in table.columns
        )
        return f"sha256(convert_to(concat({pieces}), 'UTF8'))"

    def _halves(self, form: Form) -> tuple[str, str]:
        """Two signed 64-bit numbers of r.

        The hash of a record is linear in the hashes of its fields (hash_record_extended multiplies by 31 and adds), so that two rows that
        swap a value would keep the sum; hashing the result once more breaks that.
        """
        if form.native:
            return tuple(
                f"hashint8extended(hash_record_extended(r, {seed}), {seed})" for seed in (1, 2)
            )  # type: ignore[return-value]
        return self._int8("substring(r, 1, 8)"), self._int8("substring(r, 9, 8)")

    def _bucket(self, table: Table, form: Form) -> str:
        """See canonical.bucket_of: the same buckets."""
        key = table.key
        if len(key) == 1 and key[0].kind is Kind.INTEGER:
            return f"(abs(t.{quote(key[0].name)}::bigint / 128) % {form.buckets})::int"
        if len(key) == 1 and key[0].kind is Kind.UUID:
            return f"(abs({self._int4(f'substring(uuid_send(t.{quote(key[0].name)}), 13, 4)')}::bigint) % {form.buckets})::int"
        if form.native:
            record = f"ROW({', '.join(self._hashable(column) for column in key)})"
            return f"(abs(hash_record_extended({record}, 3) / 2) % {form.buckets})::int"
        pieces = ", ".join(f"coalesce({self._canonical(column)}, '~'), '|'" for column in key)
        return f"(abs({self._int4(f'substring(sha256(convert_to(concat({pieces}), $$UTF8$$)), 1, 4)')}::bigint) % {form.buckets})::int"

    def _hashable(self, column: Column) -> str:
        """The column such that equal hashes mean equal values, byte for byte: hashes by equality take -0 and 0, 1.0 and 1.00 as one."""
        name = f"t.{quote(column.name)}"
        match column.kind:
            case Kind.TEXT | Kind.OPAQUE:
                return f'{name}::text COLLATE "C"'
            case Kind.FLOAT:
                return f"encode(float8send({name}::float8), 'hex')"
            case Kind.BYTES:
                return name if self._version >= 18 else f"encode(sha256({name}), 'hex')"
            case _:  # a NUMERIC has one scale, so that equal numbers are equal texts
                return name

    def _canonical(self, column: Column) -> str:
        name = f"t.{quote(column.name)}"
        match column.kind:
            case Kind.TEXT | Kind.OPAQUE:
                return f"octet_length({name}::text) || ':' || {name}::text"
            case Kind.BYTES:
                return f"octet_length({name}) || ':' || encode(substring(sha256({name}), 1, 16), 'hex')"
            case Kind.FLOAT:
                return f"({self._int8(f'float8send({name}::float8 + 0.0)')})::text"
            case _:
                return f"({self._plain(column)})::text"

    def _plain(self, column: Column) -> str:
        """The column as a plain value."""
        name = f"t.{quote(column.name)}"
        match column.kind:
            case Kind.BOOLEAN:
                return f"{name}::int"
            case (
                Kind.UUID | Kind.NUMERIC | Kind.TEXT | Kind.OPAQUE
            ):  # opaque between servers of different versions
                return f"{name}::text"
            case Kind.FLOAT:
                return f"{name}::float8"
            case Kind.INSTANT:
                return self._microseconds(name, "timestamptz_send", 946_684_800)
            case Kind.DATETIME:
                return self._microseconds(name, "timestamp_send", 946_684_800)
            case Kind.TIME:
                return self._microseconds(name, "time_send", 0)
            case Kind.DATE:
                return _finite(name, f"{name} - date '2000-01-01'", 32)
            case _:
                return name

    def _microseconds(self, name: str, send: str, epoch: int) -> str:
        if self._version >= 18:
            return f"{send}({name})::bigint"
        number = f"((extract(epoch from {name}) - {epoch}) * 1000000)::bigint"
        return number if send == "time_send" else _finite(name, number, 64)

    def _int8(self, eight: str) -> str:
        return (
            f"({eight})::bigint"
            if self._version >= 18
            else f"('x' || encode({eight}, 'hex'))::bit(64)::bigint"
        )

    def _int4(self, four: str) -> str:
        return (
            f"({four})::int"
            if self._version >= 18
            else f"('x' || encode({four}, 'hex'))::bit(32)::int"
        )

    def _key_value(self, column: Column, form: Form) -> str:
        """Keys as `form` speaks them: text that the server reads back, or plain values."""
        return f"t.{quote(column.name)}::text" if form.native else self._plain(column)

    # -- rows

    @translated
    def read(self, table: Table, keys: RowKeys | None = None) -> Iterator[list[Row]]:
        columns = ", ".join(self._plain(column) for column in table.columns)
        blobs = [n for n, column in enumerate(table.columns) if column.kind is Kind.BYTES]
        where = self._keyed(table, keys, Form(CANONICAL, 1)) or "WHERE true"
        for condition, rows in _by_width(table):
            for batch in self._stream(
                f"SELECT {columns} FROM {quote_table(table.sa)} t {where}{condition}", rows
            ):
                yield [_with_bytes(row, blobs) for row in batch] if blobs else batch

    @translated
    def create_staging(self, table: Table) -> None:
        number = self._staging.setdefault(table.name, len(self._staging))
        live = quote_table(table.sa)
        for name, columns in (
            (f"dbsync_new_{number}", table.columns),
            (f"dbsync_gone_{number}", table.key),
        ):
            self._run(f"DROP TABLE IF EXISTS pg_temp.{name}")
            self._run(
                f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS SELECT {_names(columns)} FROM {live} WITH NO DATA"
            )

    @translated
    def stage_rows(self, table: Table, source: Dialect, keys: RowKeys, form: Form) -> Moved:
        return self._load(f"dbsync_new_{self._staging[table.name]}", table, source, keys, form)

    @translated
    def stage_keys(self, table: Table, keys: RowKeys, form: Form) -> None:
        texts = iter(keys) if form.native else map(self._converter(table, table.key), keys)
        self._copy_in(
            f"COPY dbsync_gone_{self._staging[table.name]} ({_names(table.key)}) FROM STDIN",
            copy.Lines(map(copy.line, texts), Moved()),
        )

    @translated
    def delete_staged(self, table: Table) -> int:
        same = " AND ".join(
            f"t.{quote(column.name)} = g.{quote(column.name)}" for column in table.key
        )
        return self._run(
            f"DELETE FROM {quote_table(table.sa)} t USING dbsync_gone_{self._staging[table.name]} g WHERE {same}"
        )

    @translated
    def insert_staged(self, table: Table) -> int:
        names = _names(table.columns)
        return self._run(
            f"INSERT INTO {quote_table(table.sa)} ({names}) OVERRIDING SYSTEM VALUE "
            f"SELECT {names} FROM dbsync_new_{self._staging[table.name]}"
        )

    def staged(self, table: Table) -> tuple[sa.TableClause, sa.TableClause]:
        number = self._staging[table.name]
        return staging_table("pg_temp", f"dbsync_new_{number}", table.columns), staging_table(
            "pg_temp", f"dbsync_gone_{number}", table.key
        )

    @translated
    def create_like(self, name: str, table: Table) -> None:
        self._run(
            f"CREATE TABLE {self.ledger_schema}.{quote(name)} AS "
            f"SELECT 0::bigint AS dbsync_publish, ''::varchar(8) AS dbsync_change, {_names(table.columns)} "
            f"FROM {quote_table(table.sa)} WITH NO DATA"
        )

    def octets(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        return sa.func.pg_column_size(column)

    def displayed(self, column: Column, stored: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """What Python has no form for, infinity and the years beyond its own for instance, is PostgreSQL's text of it."""
        if column.kind is Kind.TIME:
            return sa.type_coerce(
                sa.func.to_char(sa.cast(stored, postgresql.INTERVAL), "HH24:MI:SS.US"),
                _Told(column.kind),
            )
        if column.kind in _TOLD_AS:
            first: sa.ColumnElement[Any] = sa.literal_column("'0001-01-01'")
            beyond: sa.ColumnElement[Any] = sa.literal_column("'10000-01-01'")
            text = sa.func.to_char(stored, _TOLD_AS[column.kind])
            usual = sa.and_(stored >= first, stored < beyond)
            return sa.type_coerce(
                sa.case((usual, text), else_=sa.cast(stored, sa.Text)), _Told(column.kind)
            )
        if column.kind is Kind.OPAQUE and not isinstance(undecorated(column.type), sa.String):
            return sa.cast(stored, sa.Text)
        return super().displayed(column, stored)

    @translated
    def hidden(self, tables: Sequence[Table]) -> list[str]:
        return [
            table.name
            for table in tables
            if self._one("SELECT row_security_active(%s)", (quote_table(table.sa),))[0]
        ]

    @translated
    def fill(self, table: Table, source: Dialect, form: Form) -> Moved:
        return self._load(quote_table(table.sa), table, source, None, form)

    @translated
    def strip(self, tables: Sequence[Table]) -> list[str]:
        """Foreign keys and secondary indexes, where this role owns the tables and no other table refers to them."""
        oids = [
            self._one("SELECT %s::regclass::oid", (quote_table(table.sa),))[0] for table in tables
        ]
        if not self._one(_MAY_STRIP, {"oids": oids})[0]:
            return []
        self._run("SET LOCAL maintenance_work_mem = '256MB'")
        parts = self._all(_SECONDARY, {"oids": oids})
        for _, drop, _ in parts:
            self._run(drop)
        return [create for _, _, create in reversed(parts)]

    @translated
    def restore(self, stripped: Sequence[str]) -> None:
        try:
            for statement in stripped:
                self._run(statement)
        except psycopg2.errors.ForeignKeyViolation as error:
            raise self._unproved(error) from None

    def _load(
        self, into: str, table: Table, source: Dialect, keys: RowKeys | None, form: Form
    ) -> Moved:
        """Rows of the source's snapshot into a live or a staging table, by COPY."""
        into = f"COPY {into} ({_names(table.columns)}) FROM STDIN"
        if isinstance(source, PostgreSQL) and form.native:
            return self._pipe(
                f"{into} (FORMAT binary)", source, source._copy_out(table, keys, form)
            )
        moved, convert = Moved(), self._converter(table, table.columns)
        lines = (copy.line(convert(row)) for batch in source.read(table, keys) for row in batch)
        try:
            self._copy_in(into, copy.Lines(lines, moved))
        except psycopg2.DataError as error:
            self._require_held(
                error, table, (row for batch in source.read(table, keys) for row in batch)
            )
            raise
        return moved

    def _require_held(self, error: psycopg2.DataError, table: Table, rows: Iterator[Row]) -> None:
        """Raises Unholdable with the key of the row of which COPY tells the line alone, if its rows come in the same order once more."""
        told = _IN_COPY.search(error.diag.context or "")
        row = next(islice(rows, int(told["line"]) - 1, None), None) if told else None
        if told and row is not None:
            names = [column.name for column in table.columns]
            sent = dict(zip(names, self._converter(table, table.columns)(row), strict=True)).get(
                told["column"]
            )
            if sent is not None and sent.startswith(told["value"].removesuffix("...")):
                key = [row[names.index(part.name)] for part in table.key]
                raise values.unrepresentable(
                    table, told["column"], key, _without_value(error), self.name
                ) from None

    def _converter(self, table: Table, columns: Sequence[Column]) -> Callable[[Row], list[Any]]:
        return values.converter(
            table, columns, [to_postgresql(column) for column in columns], self.name
        )

    def _copy_out(self, table: Table, keys: RowKeys | None, form: Form) -> str:
        columns = ", ".join(f"t.{quote(column.name)}" for column in table.columns)
        return f"COPY (SELECT {columns} FROM {quote_table(table.sa)} t {self._keyed(table, keys, form)}) TO STDOUT (FORMAT binary)"

    def _keyed(self, table: Table, keys: RowKeys | None, form: Form) -> str:
        """The condition that names the rows with these keys."""
        if keys is None:
            return ""
        texts = keys if form.native else list(map(self._converter(table, table.key), keys))
        arrays = [
            f"{self._literal([key[n] for key in texts])}::text[]" for n in range(len(table.key))
        ]
        types = [column.type.compile(_SQL) for column in table.key]
        names = ", ".join(f"t.{quote(column.name)}" for column in table.key)
        if len(types) == 1:
            return f"WHERE {names} = ANY({arrays[0]}::{types[0]}[])"
        parts = [f"k{n}" for n in range(len(types))]
        casts = ", ".join(f"{part}::{type_}" for part, type_ in zip(parts, types, strict=True))
        return f"WHERE ({names}) IN (SELECT {casts} FROM unnest({', '.join(arrays)}) u({', '.join(parts)}))"

    def _pipe(self, into: str, source: PostgreSQL, out: str) -> Moved:
        """One COPY's output is the other's input; the process holds no more than a buffer of it.

        A source that fails ends the pipe early, which the receiver may take for the end of the rows: hence the look at `failures` last.
        """
        moved, failures = Moved(), list[Exception]()
        reading, writing = os.pipe()

        def send() -> None:
            try:
                with open(writing, "wb", _PIPE_BYTES) as writer:
                    source._copy_to(out, copy.Counted(writer, moved))
            except BrokenPipeError:
                pass  # the receiving side failed, and says why
            except Exception as error:
                failures.append(error)

        sender = threading.Thread(target=send, name="dbsync-copy", daemon=True)
        sender.start()
        try:
            with open(reading, "rb", _PIPE_BYTES) as reader:
                moved.rows = self._copy_in(into, reader)
        finally:
            sender.join()
            if failures:
                raise failures[0] from None
        return moved

    @translated
    def _copy_to(self, sql: str, file: Any) -> None:
        with self._raw.cursor() as cursor:
            cursor.copy_expert(sql, file)

    def _copy_in(self, sql: str, file: Any) -> int:
        with self._raw.cursor() as cursor:
            try:
                cursor.copy_expert(sql, file, size=_PIPE_BYTES)
            except psycopg2.Error:
                if failure := getattr(file, "failure", None):
                    raise failure from None
                raise
            return int(cursor.rowcount)

    # -- counters

    @translated
    def numbers(self, table: Table) -> tuple[int, int] | None:
        sequence = self._sequence(table)
        if sequence is None or table.counter is None:
            return None
        # pg_sequence_last_value would say NULL to a role that may not read the sequence
        last = self._one(f"SELECT CASE WHEN is_called THEN last_value END FROM {sequence}")[0]
        highest = self._one(
            f"SELECT max({quote(table.counter.name)}) FROM {quote_table(table.sa)}"
        )[0]
        return last or 0, highest or 0

    @translated
    def move_counter(self, table: Table, value: int) -> None:
        sequence = self._sequence(table)
        last, most = self._one(
            f"SELECT last_value, seqmax FROM {sequence}, pg_sequence WHERE seqrelid = {self._literal(sequence)}::regclass"
        )
        self._run("SELECT setval(%s, %s)", (sequence, min(max(value, last), most)))

    def _sequence(self, table: Table) -> str | None:
        if table.counter is None:
            return None
        name = self._one(
            "SELECT pg_get_serial_sequence(%s, %s)", (quote_table(table.sa), table.counter.name)
        )[0]
        return None if name is None else str(name)

    # -- about the database

    @translated
    def size_bytes(self) -> int:
        return int(self._one("SELECT pg_database_size(current_database())")[0])

    @translated
    def set_marker(self, mark: int) -> None:
        self._run("SELECT pg_advisory_xact_lock(%s)", (mark,))

    @translated
    def sees_marker(self, mark: int) -> bool:
        return not self._one("SELECT pg_try_advisory_xact_lock(%s)", (mark,))[0]

    # -- what the rest is made of

    # Names and values that vary stand in the text of a statement, quoted: a percent sign in a name would be taken for a parameter.

    def _literal(self, value: Any) -> str:
        with self._raw.cursor() as cursor:
            return str(cursor.mogrify("%s", (value,)).decode())

    def _run(self, sql: str, arguments: Any = None) -> int:
        with self._raw.cursor() as cursor:
            cursor.execute(sql, arguments)
            return int(cursor.rowcount)

    def _one(self, sql: str, arguments: Any = None) -> tuple[Any, ...]:
        with self._raw.cursor() as cursor:
            cursor.execute(sql, arguments)
            row: tuple[Any, ...] = cursor.fetchone()
            return row

    def _all(self, sql: str, arguments: Any = None) -> list[tuple[Any, ...]]:
        with self._raw.cursor() as cursor:
            cursor.execute(sql, arguments)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    def _stream(self, sql: str, rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a query from a cursor in the server, so many at a time."""
        self._cursors += 1
        with self._raw.cursor(name=f"dbsync_{self._cursors}") as cursor:
            cursor.execute(sql)
            while batch := cursor.fetchmany(rows):
                yield batch

    def _holder(self) -> str:
        holder = self._all(_HOLDER, (_LOCK >> 32, _LOCK & 0xFFFF_FFFF))
        if not holder:
            return "another sync of this database has just ended"
        label, since = holder[0]
        when = (
            f", since {since:%Y-%m-%d %H:%M:%S} UTC" if since else ""
        )  # not told to a role that is not the holder's
        return f"another sync holds the lock of this database: {label}{when}"

    def _blockers(self, tables: Sequence[Table]) -> str:
        names = [quote_table(table.sa) for table in tables]
        blockers = self._all(_BLOCKERS, (names,))
        return (
            ", ".join(
                f"{user} ({label or 'no application name'}, process {pid})"
                for pid, user, label in blockers
            )
            or "somebody"
        )

    def _named(self, query: str, tables: Sequence[Table]) -> list[str]:
        """What a query finds of these tables, in words."""
        return [row[0] for row in self._all(query, ([quote_table(table.sa) for table in tables],))]


_PIPE_BYTES = 256 * 1024
_NO_RIGHT = "42501"
_DISK_FULL = "53100"
_GRANT = "grant it; docs/security.md lists what a role needs"

_HOLDER = """
SELECT a.application_name, a.xact_start AT TIME ZONE 'UTC' FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

_BLOCKERS = """
SELECT DISTINCT a.pid, coalesce(a.usename::text, a.backend_type), a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.relation = ANY(%s::text[]::regclass[]) AND l.granted AND l.mode LIKE '%%Exclusive%%' AND a.pid <> pg_backend_pid()"""

# foreign keys, triggers and rules that SET CONSTRAINTS does not hold off
_NOT_DEFERRABLE = """
WITH mirrored AS (SELECT unnest(%s::text[]::regclass[]) AS oid)
SELECT format('the foreign key %%s of %%s', conname, conrelid::regclass) FROM pg_constraint
WHERE contype = 'f' AND (NOT condeferrable OR confdeltype <> 'a' OR confupdtype <> 'a')
  AND (conrelid IN (SELECT oid FROM mirrored) OR confrelid IN (SELECT oid FROM mirrored))
UNION ALL
SELECT format('the trigger %%s of %%s', tgname, tgrelid::regclass) FROM pg_trigger
WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') AND tgrelid IN (SELECT oid FROM mirrored)
UNION ALL
SELECT format('the rule %%s of %%s', rulename, ev_class::regclass) FROM pg_rewrite
WHERE ev_enabled IN ('O', 'A') AND ev_class IN (SELECT oid FROM mirrored)"""

# foreign keys of tables that are not mirrored to tables that are; names are quoted
_OUTSIDE = """
WITH mirrored AS (SELECT unnest(%s::text[]::regclass[]) AS oid)
SELECT f.conname, f.conrelid::regclass::text, f.confrelid::regclass::text,
       array_agg(quote_ident(c.attname) ORDER BY k.n), array_agg(quote_ident(p.attname) ORDER BY k.n)
FROM pg_constraint f CROSS JOIN unnest(f.conkey, f.confkey) WITH ORDINALITY k (mine, theirs, n)
JOIN pg_attribute c ON c.attrelid = f.conrelid AND c.attnum = k.mine
JOIN pg_attribute p ON p.attrelid = f.confrelid AND p.attnum = k.theirs
WHERE f.contype = 'f' AND f.convalidated AND f.confrelid IN (SELECT oid FROM mirrored) AND f.conrelid NOT IN (SELECT oid FROM mirrored)
GROUP BY f.oid, f.conname, f.conrelid, f.confrelid"""

# triggers and rules that session_replication_role does not hold off
_FIRE_FOR_REPLICAS = """
WITH mirrored AS (SELECT unnest(%s::text[]::regclass[]) AS oid)
SELECT format('the trigger %%s of %%s', tgname, tgrelid::regclass) FROM pg_trigger
WHERE NOT tgisinternal AND tgenabled IN ('R', 'A') AND tgrelid IN (SELECT oid FROM mirrored)
UNION ALL
SELECT format('the rule %%s of %%s', rulename, ev_class::regclass) FROM pg_rewrite
WHERE ev_enabled IN ('R', 'A') AND ev_class IN (SELECT oid FROM mirrored)"""

_MAY_STRIP = """
SELECT bool_and(pg_has_role(relowner, 'USAGE')) AND NOT EXISTS (
  SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = ANY(%(oids)s) AND NOT conrelid = ANY(%(oids)s))
FROM pg_class WHERE oid = ANY(%(oids)s)"""

# foreign keys first, then unique constraints, then plain indexes; the primary key stays
_SECONDARY = """
SELECT CASE contype WHEN 'f' THEN 1 ELSE 2 END, format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname),
       format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname, pg_get_constraintdef(oid))
FROM pg_constraint WHERE conrelid = ANY(%(oids)s) AND contype IN ('f', 'u') AND conislocal
UNION ALL
SELECT 3, format('DROP INDEX %%s', indexrelid::regclass), pg_get_indexdef(indexrelid)
FROM pg_index i WHERE indrelid = ANY(%(oids)s) AND NOT indisprimary AND NOT indisreplident
  AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND contype IN ('p', 'u', 'x'))
ORDER BY 1"""


_TOLD_AS = {
    Kind.INSTANT: 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"',
    Kind.DATETIME: 'YYYY-MM-DD"T"HH24:MI:SS.US',
    Kind.DATE: "YYYY-MM-DD",
}
_PARSED: dict[Kind, Callable[[str], Any]] = {
    Kind.INSTANT: dt.datetime.fromisoformat,
    Kind.DATETIME: dt.datetime.fromisoformat,
    Kind.DATE: dt.date.fromisoformat,
    Kind.TIME: dt.time.fromisoformat,
}


class _Told(sa.types.TypeDecorator[Any]):
    """A moment from its text; the text itself where Python has no such moment."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        try:
            return None if value is None else _PARSED[self.kind](value)
        except ValueError:
            return value


def _finite(name: str, number: str, bits: int) -> str:
    """The number of a moment; of infinity the greatest or the least of so many bits, as PostgreSQL itself stores it."""
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    past = f"{name} < '2000-01-01'"
    return f"CASE WHEN isfinite({name}) THEN {number} WHEN {past} THEN {least} WHEN NOT {past} THEN {most} END"


def _pins() -> str:
    return "; ".join(f"SET {name} = '{value}'" for name, value in _PINNED.items())


def _names(columns: Sequence[Column]) -> str:
    return ", ".join(quote(column.name) for column in columns)


def _by_width(table: Table) -> list[tuple[str, int]]:
    """Conditions that part a table by the width of its rows, and how many rows of each part are held at once: 16 MB, or one row.

    The length of a value that is stored out of line is known without fetching it.
    """
    open_ended = [
        column
        for column in table.columns
        if column.kind is Kind.BYTES or (column.kind is Kind.TEXT and column.length is None)
    ]
    if not open_ended:
        return [("", 2_000)]
    width = " + ".join(
        f"coalesce(octet_length(t.{quote(column.name)}{_AS_TEXT.get(column.kind, '')}), 0)"
        for column in open_ended
    )
    return [
        (f" AND {width} < 8192", 2_000),
        (f" AND {width} >= 8192 AND {width} < 262144", 64),
        (f" AND {width} >= 262144", 1),
    ]


_AS_TEXT = {Kind.TEXT: "::text"}
_KEYS_AT_A_TIME = 20_000


def _with_bytes(row: Row, blobs: list[int]) -> Row:
    """psycopg2 gives binary columns as memoryviews."""
    values_ = list(row)
    for n in blobs:
        values_[n] = None if row[n] is None else bytes(row[n])
    return tuple(values_)


def _orphans(key: sa.ForeignKeyConstraint) -> str:
    pairs = [(quote(element.parent.name), quote(element.column.name)) for element in key.elements]
    return orphans(quote_table(key.parent), quote_table(key.referred_table), pairs)  # type: ignore[arg-type]


_IN_COPY = re.compile(
    r'COPY [^\n]*, line (?P<line>\d+), column (?P<column>[^\n]+?): "(?P<value>.*)"', re.DOTALL
)


def _without_value(error: Any) -> str:
    """The server's own words, without the value that those of the class "data exception" quote."""
    words = getattr(getattr(error, "diag", None), "message_primary", None) or ""
    return (
        re.sub(r':?\s*".*"', "", words, flags=re.DOTALL).strip()
        if (getattr(error, "pgcode", None) or "").startswith("22")
        else words
    )


def _why_unreachable(error: Exception) -> str:
    """The driver's message in words of our own: its own may repeat pieces of the URL."""
    message = str(error)
    return next(
        (ours for theirs, ours in _REASONS if theirs in message), "the server cannot be reached"
    )


_REASONS = (
    ("authentication failed", "the server refused the user or the password"),
    ("no password supplied", "the server asks for a password"),
    (
        "permission denied for database",
        "the role may not connect to that database (GRANT CONNECT; see docs/security.md)",
    ),
    ("translate host name", "the name of the host is not known"),
    ("refused", "nothing answers at that address"),
    ("No such file or directory", "nothing answers at that address"),
    ("timeout expired", "no answer in time"),
    ("starting up", "the server is starting up"),
    ("accepting connections", "the server is in recovery, and takes no connections yet"),
    ("shutting down", "the server is shutting down"),
    ("too many clients", "the server takes no more connections"),
    ("does not exist", "the database or the user does not exist there"),
    ("closed", "the connection was lost"),
)
_STARTING = ("the server is starting up", "the server is in recovery, and takes no connections yet")


DIALECT = PostgreSQL
