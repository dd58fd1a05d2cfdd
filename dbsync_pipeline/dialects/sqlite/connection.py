"""One SQLite connection: its file, its settings and its transactions."""

from __future__ import annotations

import datetime as dt
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect, translated
from dbsync_pipeline.dialects.sqlite import errors
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DatabaseError, SettingsError, Unavailable

PINS = {
    "foreign_keys": "ON",
    "ignore_check_constraints": "OFF",
    "legacy_alter_table": "OFF",
    "query_only": "OFF",
    "recursive_triggers": "OFF",
    "reverse_unordered_selects": "OFF",
    "synchronous": "FULL",
}
"""What every connection sets when it opens: a build of SQLite may have other defaults."""

_OLDEST_VERSION = (3, 34)
"""What Python uses on Red Hat Enterprise Linux 9."""

_MARKS: dict[int, tuple[int, int]] = {}
"""The file, by device and inode, in which each marker of this process was set."""


class SQLiteConnection(Dialect):
    """An open file. Transactions begin where this module begins them, and not in the driver."""

    engine_name = "sqlite"
    own_format_is_sha256 = True
    driver_errors = errors.DRIVER_ERRORS
    ledger_schema = None
    shows_deferral = False

    def __init__(self, name: str, connection: sa.Connection) -> None:
        super().__init__(name, connection)
        if sqlite3.sqlite_version_info < _OLDEST_VERSION:
            connection.close()
            raise _too_old(name)
        self._raw: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]

    @classmethod
    def locate(cls, url: sa.URL, name: str, *, create: bool) -> sa.URL:
        """Create the file's folder, or raise Unavailable if there is no file.

        Return the URL with the absolute path of the file.
        """
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
                remedy=f"`dbsync tables create --database {name}` creates it without rows, `dbsync "
                f"demo` with sample rows; if the file exists elsewhere, correct {setting}",
            )
        return url.set(database=os.path.abspath(url.database))

    @classmethod
    def command(cls, url: sa.URL, name: str, statement: str) -> str:
        """Return a command for SQLite's own shell."""
        return f'sqlite3 {os.path.relpath(url.database or "")} "{statement}"'

    @classmethod
    def engine(cls, url: sa.URL, *, connect_seconds: float, silence_seconds: float) -> sa.Engine:
        """Return an engine that enforces foreign keys; a lock is awaited for `connect_seconds`."""
        engine = sa.create_engine(
            url,
            poolclass=sa.NullPool,
            connect_args={"timeout": connect_seconds, "check_same_thread": False},
        )

        @sa.event.listens_for(engine, "connect")
        def pin(connection: sqlite3.Connection, _record: object) -> None:
            connection.isolation_level = None  # the driver begins no transaction of its own
            for name, value in PINS.items():
                connection.execute(f"PRAGMA {name} = {value}")

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

        return engine

    @classmethod
    def translate(cls, error: BaseException, name: str, operation: str) -> Exception:
        """Return the project's error for a driver's error in database `name`."""
        return errors.translate(error, name, operation)

    def cancel(self) -> None:
        """Stop the running statement."""
        with suppress(sqlite3.ProgrammingError):  # it is closed
            self._raw.interrupt()

    @translated
    def prepare(self) -> None:
        """Switch the file to a write-ahead log, so readers and the writer do not wait.

        The file keeps it.
        """
        self._raw.execute("PRAGMA journal_mode = WAL")

    @translated
    def structure_mark(self, tables: Sequence[sa.Table]) -> str | None:
        """Return a hash of the definitions of these tables and of what belongs to them."""
        names = {table.name.lower() for table in tables}
        definitions = [
            row
            for row in self._raw.execute(
                "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
            )
            if row[2].lower() in names
        ]
        return sha256(repr(definitions).encode()).hexdigest()

    @translated
    def snapshot(self, tables: Sequence[Table] = ()) -> dt.datetime:
        """Begin a read-only transaction that sees one state; return this machine's time of it."""
        self.connection.begin()
        # the snapshot is that of the first read
        self._raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return dt.datetime.now(dt.UTC)

    @translated
    def size_bytes(self) -> int:
        """Return the size of the file."""
        pages, size = (
            self._raw.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "page_size")
        )
        return int(pages * size)

    @translated
    def set_marker(self, mark: int) -> None:
        """Note the mark in this process, with the file."""
        _MARKS[mark] = self._file()

    @translated
    def sees_marker(self, mark: int) -> bool:
        """Return whether the mark was set in this same file."""
        return _MARKS.get(mark) == self._file()

    def _file(self) -> tuple[int, int]:
        path = self._raw.execute(
            "SELECT file FROM pragma_database_list WHERE name = 'main'"
        ).fetchone()[0]
        status = os.stat(path)
        return status.st_dev, status.st_ino


def _too_old(name: str) -> DatabaseError:
    return DatabaseError(
        f"this Python has SQLite {sqlite3.sqlite_version}, and the mirror needs "
        f"{'.'.join(map(str, _OLDEST_VERSION))} or later",
        operation="connect",
        database=name,
        remedy="use a newer Python, or one that is linked to a newer SQLite",
    )
