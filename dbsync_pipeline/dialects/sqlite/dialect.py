"""SQLite: digests computed in the process, which is where the data lives; staging in temporary tables.

Between two SQLite files rows travel as SQLite holds them, with their storage classes, whatever the column's declared type. To and from
other engines they travel as the values that an application's SQLAlchemy stores.
"""

from __future__ import annotations

import datetime as dt
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from dbsync_pipeline.dialects import canonical, values
from dbsync_pipeline.dialects.contract import Dialect, translated
from dbsync_pipeline.dialects.digests import CANONICAL, Digests, Form, RowDigest
from dbsync_pipeline.dialects.foreign_keys import violated_key
from dbsync_pipeline.dialects.sqlite import rebuild as remade
from dbsync_pipeline.dialects.sqlite.values import from_sqlite, to_sqlite
from dbsync_pipeline.dialects.staging import BATCH_BYTES, Moved, staging_table
from dbsync_pipeline.dialects.table import Column, Row, RowKey, RowKeys, Table
from dbsync_pipeline.errors import Busy, DatabaseError, SettingsError, StructureError, Unavailable

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation, Operations

_PREPARER = sqlite.dialect().identifier_preparer
_MARKS: dict[int, tuple[int, int]] = {}


def quote(name: str) -> str:
    """An identifier, quoted."""
    return _PREPARER.quote_identifier(name)


class SQLite(Dialect):
    engine_name = "sqlite"
    own_format_is_sha256 = True
    driver_errors = (sqlite3.Error, sa.exc.DBAPIError)
    ledger_schema = None

    def __init__(self, name: str, connection: sa.Connection) -> None:
        super().__init__(name, connection)
        self._raw: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
        self._staging: dict[str, int] = {}
        self._changing: Sequence[Table] = ()
        self._lost_before: set[tuple[str, str, Any]] = set()

    # -- the connection

    @classmethod
    def locate(cls, url: sa.URL, name: str, *, create: bool) -> None:
        """Create the file's folder, or raise Unavailable if there is no file."""
        setting = f"DBSYNC_{name.upper()}_URL"
        if not url.database or url.database == ":memory:":
            raise SettingsError(
                "a SQLite database in memory cannot be mirrored",
                database=name,
                remedy=f"name a file in {setting}",
            )
        if create:
            try:
                os.makedirs(os.path.dirname(os.path.abspath(url.database)), exist_ok=True)
            except OSError as error:
                raise SettingsError(
                    "the folder of its file cannot be created: "
                    f"{error.strerror or type(error).__name__}",
                    operation="connect",
                    database=name,
                    remedy=f"fix DBSYNC_HOME, or {setting} if it is set",
                ) from None
        elif not os.path.exists(url.database):
            raise Unavailable(
                "there is no such file yet",
                operation="connect",
                database=name,
                remedy=f"create it: `dbsync tables create --database {name}`",
            )

    @classmethod
    def command(cls, url: sa.URL, name: str, statement: str) -> str:
        """Return a command for SQLite's own shell."""
        return f'sqlite3 {os.path.relpath(url.database or "")} "{statement}"'

    @classmethod
    def engine(cls, url: sa.URL, *, label: str, connect_seconds: float) -> sa.Engine:
        engine = sa.create_engine(
            url,
            poolclass=sa.NullPool,
            connect_args={"timeout": connect_seconds, "check_same_thread": False},
        )

        @sa.event.listens_for(engine, "connect")
        def pin(connection: sqlite3.Connection, _record: object) -> None:
            connection.isolation_level = None  # transactions begin where this module says
            connection.execute("PRAGMA foreign_keys = ON")

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

        return engine

    @classmethod
    def translate(cls, error: BaseException, name: str, operation: str) -> Exception:
        original = getattr(error, "orig", None) or error
        message, code = str(original), (getattr(original, "sqlite_errorcode", None) or 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Busy(
                "somebody is writing to the database",
                operation=operation,
                database=name,
                remedy="wait until that transaction ends, then try again",
            )
        if code == sqlite3.SQLITE_CANTOPEN:
            return Unavailable(
                "the file cannot be opened",
                operation=operation,
                database=name,
                remedy=f"see that the folder that DBSYNC_{name.upper()}_URL names exists and is readable",
            )
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return DatabaseError(
                message,
                operation=operation,
                database=name,
                remedy="see that the disk of its file has room, and is well",
            )
        if code == sqlite3.SQLITE_READONLY:
            return DatabaseError(
                "this user may not write to the file",
                operation=operation,
                database=name,
                remedy="let it write to the file, to those beside it that end in -wal and -shm, and to their folder: docs/security.md",
            )
        return DatabaseError(message.split(_QUOTES)[0], operation=operation, database=name)

    def cancel(self) -> None:
        self._raw.interrupt()

    @translated
    def prepare(self) -> None:
        """A write-ahead log, so that readers and the writer do not wait for each other; the file keeps it."""
        self._raw.execute("PRAGMA journal_mode = WAL")

    # -- transactions

    @translated
    def snapshot(self) -> dt.datetime:
        self.connection.begin()
        self._raw.execute(
            "SELECT count(*) FROM sqlite_master"
        ).fetchone()  # the snapshot is that of the first read
        return dt.datetime.now(dt.UTC)

    @translated
    def begin(self, tables: Sequence[Table], *, wait_seconds: float) -> None:
        self._raw.execute("PRAGMA foreign_keys = OFF")  # inside a transaction it would do nothing
        self._raw.execute(f"PRAGMA busy_timeout = {round(wait_seconds * 1000)}")
        self.connection.execution_options(begin="BEGIN IMMEDIATE")
        self.connection.begin()

    @translated
    def commit(self) -> None:
        transaction = self.connection.get_transaction()
        assert transaction is not None
        transaction.commit()

    @translated
    def suspend_constraints(self, tables: Sequence[Table]) -> None:
        names = {table.name for table in tables}
        triggers = [
            f"the trigger {name} of {table}"
            for name, table in self._raw.execute(
                "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'"
            )
            if table in names
        ]
        if triggers:
            raise StructureError(
                f"{', '.join(triggers)} cannot be held off until the commit",
                operation="publish",
                database=self.name,
                remedy="drop the triggers on the standby",
            )
        self._changing = tables
        self._lost_before = self._lost()

    @translated
    def prove_constraints(self, tables: Sequence[Table]) -> None:
        for table in tables:
            orphan = self._raw.execute(
                f"PRAGMA foreign_key_check({quote(table.sa.name)})"
            ).fetchone()
            if orphan:
                raise violated_key(self.name, f"to {orphan[2]}", table.name)
        if lost := sorted(self._lost() - self._lost_before):
            raise violated_key(self.name, f"to {lost[0][1]}", lost[0][0], outside=True)

    def _lost(self) -> set[tuple[str, str, Any]]:
        """(table, parent, rowid) of the rows of other tables that refer to no row of a table that changes.

        There may be some before a sync: an application need not have had its keys enforced. Capitals in names do not matter to SQLite.
        """
        names = {str(table.sa.name).casefold() for table in self._changing}
        keys = self._raw.execute(
            "SELECT DISTINCT m.name, k.\"table\" FROM sqlite_master m, pragma_foreign_key_list(m.name) k WHERE m.type = 'table'"
        )
        children = {
            child
            for child, parent in keys
            if child.casefold() not in names and parent.casefold() in names
        }
        return {
            (child, parent, row)
            for child in children
            for _, row, parent, _ in self._raw.execute(f"PRAGMA foreign_key_check({quote(child)})")
            if parent.casefold() in names
        }

    # -- structure

    @translated
    def alter(self, operations: Operations, operation: MigrateOperation) -> Any:
        """What SQLite can alter it alters; for all else the table is made anew."""
        from alembic.operations import ops

        match operation:
            case ops.AlterColumnOp(modify_name=str(new)):
                renamed = f"ALTER TABLE {quote(operation.table_name)} RENAME COLUMN {quote(operation.column_name)} TO {quote(new)}"
                self._raw.execute(renamed)
                operation.column_name, operation.modify_name = new, None
                if not operation.has_changes():
                    return None
            case ops.DropColumnOp():
                return self._raw.execute(
                    f"ALTER TABLE {quote(operation.table_name)} DROP COLUMN {quote(operation.column_name)}"
                )
        if isinstance(
            operation,
            (ops.AddColumnOp, ops.AlterColumnOp, ops.AddConstraintOp, ops.DropConstraintOp),
        ):
            return remade.alter(self._raw, operations, operation)
        return super().alter(operations, operation)

    @contextmanager
    def altering(self) -> Iterator[None]:
        before = self._orphans()
        yield
        for child, parent in self._orphans() - before:
            raise StructureError(
                f"rows would refer to no row of {parent}",
                operation="migrate",
                database=self.name,
                table=child,
                remedy="mend the revision; SQLite holds foreign keys off while it runs, so that no ON DELETE acts",
            )

    @translated
    def _orphans(self) -> Counter[tuple[str, str]]:
        """How many rows of a table refer to no row of another. There may be some: an application need not have its keys enforced."""
        return Counter(
            (child, parent) for child, _, parent, _ in self._raw.execute("PRAGMA foreign_key_check")
        )

    # -- digests

    @translated
    def digest_format(self) -> str:
        return "sqlite"

    @translated
    def count(self, table: Table) -> int:
        return int(self._raw.execute(f"SELECT count(*) FROM {quote(table.sa.name)}").fetchone()[0])

    @translated
    def digests(self, table: Table, form: Form, only: np.ndarray | None = None) -> Digests:
        rows, first, second = ([0] * form.buckets for _ in range(3))
        for bucket, digest in self._bucketed(table, form, only):
            one, two = canonical.halves(digest)
            rows[bucket] += 1
            first[bucket] += one
            second[bucket] += two
        return Digests.gather(form, zip(range(form.buckets), rows, first, second, strict=True))

    def _bucketed(
        self, table: Table, form: Form, only: np.ndarray | None
    ) -> Iterator[tuple[int, bytes]]:
        key_of, bucket_of, digest_of = (
            self._key_of(table, form),
            self._bucket_of(table, form),
            self._digest_of(table, form),
        )
        wanted = None if only is None else frozenset(only.tolist())
        for row in self._whole(table):
            bucket = bucket_of(key_of(row))
            if wanted is None or bucket in wanted:
                yield bucket, digest_of(row)

    @translated
    def row_digests(self, table: Table, form: Form, only: np.ndarray) -> Iterator[RowDigest]:
        """Keys are sorted by bucket in SQLite, which spills; each row is then fetched and digested."""
        bucket_of, convert = (
            self._bucket_of(table, form),
            self._converter_from(table, table.key, form),
        )
        wanted = frozenset(only.tolist())

        def bucket(*key: Any) -> int | None:
            found = bucket_of(convert(key))
            return found if found in wanted else None

        self._raw.create_function("dbsync_bucket", len(table.key), bucket, deterministic=True)
        digest_of = self._digest_of(table, form)
        keys, whole = _names(table.key), self._by_key(table)
        fetch = self._raw.cursor()
        # named in a query of its own: outside of ORDER BY a column of the table goes before a name of the query
        inner = f"SELECT dbsync_bucket({keys}), {keys} FROM main.{quote(table.sa.name)}"
        names = ", ".join(f"k{n}" for n in range(len(table.key)))
        try:
            for found, *key in self._raw.execute(
                f"WITH found (b, {names}) AS ({inner}) SELECT b, {names} FROM found WHERE b IS NOT NULL ORDER BY b"
            ):
                row = fetch.execute(whole, key).fetchone()
                yield RowDigest(found, tuple(convert(tuple(key))), canonical.halves(digest_of(row)))
        except sqlite3.OperationalError as error:
            if _QUOTES in str(error) or "user-defined function" in str(error):
                for _ in self._whole(table):  # which names the row of a text that is none
                    pass
            raise

    def _key_of(self, table: Table, form: Form) -> Callable[[Row], RowKey]:
        """From a row as SQLite holds it to its key as `form` speaks it."""
        names = [column.name for column in table.columns]
        places = [names.index(column.name) for column in table.key]
        convert = self._converter_from(table, table.key, form)
        return lambda row: convert(tuple(row[place] for place in places))

    def _bucket_of(self, table: Table, form: Form) -> Callable[[RowKey], int]:
        if not form.native:
            return canonical.bucket_of(table.key, form.buckets)

        def bucket(key: RowKey) -> int:
            if len(key) == 1 and isinstance(key[0], int):  # rows written together fall together
                return abs(key[0]) // 128 % form.buckets
            return int.from_bytes(sha256(repr(key).encode()).digest()[:4], "big") % form.buckets

        return bucket

    def _digest_of(self, table: Table, form: Form) -> Callable[[Row], bytes]:
        """SQLite's own form is Python's `repr` of the row: unambiguous for the five classes that SQLite stores, and quick."""
        if form.native:
            return lambda row: canonical.digest(repr(row).encode())
        convert, form_of = (
            self._converter_from(table, table.columns, form),
            canonical.form_of(table.columns),
        )
        return lambda row: canonical.digest(form_of(convert(row)))

    def _converter_from(
        self, table: Table, columns: Sequence[Column], form: Form
    ) -> Callable[[Row], Row]:
        if form.native:
            return lambda row: row
        convert = values.converter(
            table, columns, [from_sqlite(column) for column in columns], self.name
        )
        return lambda row: tuple(convert(row))

    def _converter_to(
        self, table: Table, columns: Sequence[Column], form: Form
    ) -> Callable[[Row], Sequence[Any]]:
        if form.native:
            return lambda row: row
        return values.converter(
            table, columns, [to_sqlite(column) for column in columns], self.name
        )

    # -- rows

    @translated
    def read(self, table: Table, keys: RowKeys | None = None) -> Iterator[list[Row]]:
        form = Form(CANONICAL, 1)
        convert = self._converter_from(table, table.columns, form)
        for batch in _batches(self._rows(table, keys, form)):
            yield [convert(row) for row in batch]

    def _rows(self, table: Table, keys: RowKeys | None, form: Form) -> Iterator[Row]:
        """Rows as SQLite holds them; each key must be found."""
        if keys is None:
            yield from self._whole(table)
            return
        cursor, whole, convert = (
            self._raw.cursor(),
            self._by_key(table),
            self._converter_to(table, table.key, form),
        )
        for key in keys:
            row = cursor.execute(whole, convert(key)).fetchone()
            if row is None:
                raise DatabaseError(
                    f"the row with key {key!r} is not stored as SQLAlchemy stores its type, so it cannot be found by its key",
                    operation="read",
                    database=self.name,
                    table=table.name,
                    remedy="store the key through the models",
                )
            yield row

    def _whole(self, table: Table) -> Iterator[Row]:
        """All rows as SQLite holds them. Raises Unholdable where a text is not UTF-8: the driver does not name the row of it."""
        query = f"SELECT {_names(table.columns)} FROM {quote(table.sa.name)}"
        try:
            for row in self._raw.execute(query):
                yield row  # not `yield from`, which closes the cursor when it is left, also where the database is closed already
        except sqlite3.OperationalError as error:
            if _QUOTES in str(error):
                self._raw.text_factory = _text
                for row in self._raw.execute(query):
                    self._require_texts(table, row)
            raise

    def _require_texts(self, table: Table, row: Row) -> None:
        here = dict(zip((column.name for column in table.columns), row, strict=True))
        for column, value in here.items():
            if isinstance(value, _NoText):
                key = [here[part.name] for part in table.key]
                raise values.unrepresentable(
                    table, column, key, "its text is not UTF-8", self.name
                ) from None

    def _by_key(self, table: Table) -> str:
        same = " AND ".join(f"{quote(column.name)} IS ?" for column in table.key)
        return f"SELECT {_names(table.columns)} FROM {quote(table.sa.name)} WHERE {same}"

    @translated
    def create_staging(self, table: Table) -> None:
        number = self._staging.setdefault(table.name, len(self._staging))
        for name, columns in (
            (f"dbsync_new_{number}", table.columns),
            (f"dbsync_gone_{number}", table.key),
        ):
            self._raw.execute(f"DROP TABLE IF EXISTS temp.{name}")
            # with the live table's affinities: values become what they will be there, and the index serves comparisons with it
            self._raw.execute(
                f"CREATE TEMPORARY TABLE {name} AS SELECT {_names(columns)} FROM main.{quote(table.sa.name)} WHERE 0"
            )
            self._raw.execute(f"CREATE INDEX temp.{name}_key ON {name} ({_names(table.key)})")

    @translated
    def stage_rows(self, table: Table, source: Dialect, keys: RowKeys, form: Form) -> Moved:
        return self._load(f"temp.dbsync_new_{self._staging[table.name]}", table, source, keys, form)

    @translated
    def stage_keys(self, table: Table, keys: RowKeys, form: Form) -> None:
        convert = self._converter_to(table, table.key, form)
        self._raw.executemany(
            f"INSERT INTO temp.dbsync_gone_{self._staging[table.name]} VALUES ({_marks(table.key)})",
            map(convert, keys),
        )

    @translated
    def delete_staged(self, table: Table) -> int:
        keys = _names(table.key)
        return self._raw.execute(
            f"DELETE FROM main.{quote(table.sa.name)} WHERE ({keys}) IN "
            f"(SELECT {keys} FROM temp.dbsync_gone_{self._staging[table.name]})"
        ).rowcount

    @translated
    def insert_staged(self, table: Table) -> int:
        names = _names(table.columns)
        return self._raw.execute(
            f"INSERT INTO main.{quote(table.sa.name)} ({names}) SELECT {names} FROM temp.dbsync_new_{self._staging[table.name]}"
        ).rowcount

    def staged(self, table: Table) -> tuple[sa.TableClause, sa.TableClause]:
        number = self._staging[table.name]
        return staging_table("temp", f"dbsync_new_{number}", table.columns), staging_table(
            "temp", f"dbsync_gone_{number}", table.key
        )

    @translated
    def create_like(self, name: str, table: Table) -> None:
        self._raw.execute(
            f"CREATE TABLE main.{quote(name)} AS SELECT 0 AS dbsync_publish, '' AS dbsync_change, {_names(table.columns)} "
            f"FROM main.{quote(table.sa.name)} WHERE 0"
        )

    def octets(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        return sa.func.length(sa.cast(column, sa.LargeBinary))

    def hidden(self, tables: Sequence[Table]) -> list[str]:
        return []

    @translated
    def fill(self, table: Table, source: Dialect, form: Form) -> Moved:
        return self._load(f"main.{quote(table.sa.name)}", table, source, None, form)

    def _load(
        self, into: str, table: Table, source: Dialect, keys: RowKeys | None, form: Form
    ) -> Moved:
        moved, insert = (
            Moved(),
            f"INSERT INTO {into} ({_names(table.columns)}) VALUES ({_marks(table.columns)})",
        )
        convert = self._converter_to(table, table.columns, form)
        same = isinstance(source, SQLite) and form.native
        batches = source._raw_batches(table, keys, form) if same else source.read(table, keys)  # type: ignore[attr-defined]
        for batch in batches:
            self._raw.executemany(insert, map(convert, batch))
            moved.rows += len(batch)
            moved.bytes += sum(map(_width, batch))
        return moved

    @translated
    def _raw_batches(self, table: Table, keys: RowKeys | None, form: Form) -> Iterator[list[Row]]:
        yield from _batches(self._rows(table, keys, form))

    # -- counters

    @translated
    def numbers(self, table: Table) -> tuple[int, int] | None:
        if table.counter is None or not self._counts(table):
            return None
        last = self._raw.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = ?", (table.sa.name,)
        ).fetchone()
        highest = self._raw.execute(
            f"SELECT max({quote(table.counter.name)}) FROM {quote(table.sa.name)}"
        ).fetchone()[0]
        return last[0] if last else 0, highest or 0

    @translated
    def move_counter(self, table: Table, value: int) -> None:
        name = table.sa.name
        moved = self._raw.execute(
            "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (value, name)
        ).rowcount
        if not moved:
            self._raw.execute(
                "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, value)
            )

    def _counts(self, table: Table) -> bool:
        """Only AUTOINCREMENT keeps a counter; without it SQLite takes the highest key plus one."""
        sql = self._raw.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table.sa.name,)
        ).fetchone()
        return sql is not None and "AUTOINCREMENT" in sql[0].upper()

    # -- about the database

    @translated
    def size_bytes(self) -> int:
        pages, size = (
            self._raw.execute(f"PRAGMA {what}").fetchone()[0]
            for what in ("page_count", "page_size")
        )
        return int(pages * size)

    @translated
    def set_marker(self, mark: int) -> None:
        _MARKS[mark] = self._file()

    @translated
    def sees_marker(self, mark: int) -> bool:
        return _MARKS.get(mark) == self._file()

    def _file(self) -> tuple[int, int]:
        path = self._raw.execute(
            "SELECT file FROM pragma_database_list WHERE name = 'main'"
        ).fetchone()[0]
        status = os.stat(path)
        return status.st_dev, status.st_ino


_QUOTES = " with text '"
"""What the driver says of a text that is not UTF-8, before it quotes it."""


class _NoText(bytes):
    """A text that is not UTF-8."""


def _text(stored: bytes) -> str | _NoText:
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return _NoText(stored)


def _names(columns: Sequence[Column]) -> str:
    return ", ".join(quote(column.name) for column in columns)


def _marks(columns: Sequence[Column]) -> str:
    return ", ".join("?" * len(columns))


def _width(row: Row) -> int:
    return sum(len(value) if isinstance(value, (str, bytes)) else 8 for value in row)


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch, size = list[Row](), 0
    for row in rows:
        batch.append(row)
        size += _width(row)
        if size >= BATCH_BYTES or len(batch) >= 20_000:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


DIALECT = SQLite
