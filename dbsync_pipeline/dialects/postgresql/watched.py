"""A psycopg2 connection whose waits are watched: see `dialects.watchdog`."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import psycopg2.extensions as extensions

from dbsync_pipeline.dialects import sockets, watchdog
from dbsync_pipeline.dialects.watchdog import Activity, Watched

_ACTIVITY = """
SELECT state NOT LIKE 'idle%%' AND coalesce(wait_event_type, '') <> 'Client'
FROM pg_stat_activity WHERE pid = %s AND backend_start = %s
"""
"""The state is `disabled` where the server does not track it (track_activities)."""
_CANCEL = """
SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s
"""
_END = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s
"""
_BYTES = extensions.new_type(
    psycopg2.BINARY.values,
    "BYTES",
    lambda text, cursor: None if text is None else bytes(psycopg2.BINARY(text, cursor)),
)
"""Binary values as bytes: in a key, psycopg2's memoryviews do not equal those of other drivers."""
_CONNECT_SECONDS = 4
_GONE_SECONDS = 4.0


class WatchedConnection(extensions.connection, Watched):
    """A connection whose calls are watched. Cursors mark the waits of their own calls."""

    def __init__(self, dsn: str, silence_seconds: float) -> None:
        extensions.connection.__init__(self, dsn)
        Watched.__init__(self, silence_seconds)
        self.cursor_factory = WatchedCursor
        extensions.register_type(_BYTES, self)
        self._dsn = dsn
        self._identity: tuple[Any, ...] = (None, None)
        watchdog.watch(self)

    @classmethod
    def factory(cls, silence_seconds: float) -> Callable[[str], WatchedConnection]:
        """Return what psycopg2 calls for a new connection (`connection_factory`)."""
        return lambda dsn: cls(dsn, silence_seconds)

    def identified_as(self, pid: int, backend_start: Any) -> None:
        """Note by what the server knows this session; before it is needed."""
        self._identity = (pid, backend_start)

    @property
    def pid(self) -> int | None:
        """The server's process of this session, behind a pooler too."""
        pid: int | None = self._identity[0]
        return pid

    def commit(self) -> None:
        """Commit; see psycopg2."""
        with self.waiting():
            super().commit()

    def rollback(self) -> None:
        """Roll back; see psycopg2."""
        with self.waiting():
            super().rollback()

    def bytes_received(self) -> int:
        """See `Watched`. Known on Linux, over TCP."""
        with contextlib.suppress(OSError, psycopg2.Error):
            return sockets.of_file(self.fileno()).bytes_received()
        return 0

    def activity(self) -> Activity:
        """See `Watched`. A server without room for another connection is taken as computing."""
        try:
            with self._another_connection() as cursor:
                cursor.execute(_ACTIVITY, self._identity)
                row = cursor.fetchone()
        except psycopg2.OperationalError as error:
            full = "too many clients" in str(error) or "connection slots" in str(error)
            return Activity.COMPUTING if full else Activity.UNREACHABLE
        return Activity.COMPUTING if row and row[0] else Activity.WAITING

    def end_on_server(self) -> None:
        """See `Watched`."""
        with self._another_connection() as cursor:
            cursor.execute(_END, self._identity)
            deadline = time.monotonic() + _GONE_SECONDS
            while self._exists(cursor):
                if time.monotonic() >= deadline:
                    raise psycopg2.OperationalError("the session does not end")
                time.sleep(0.05)

    def cancel_statement(self) -> None:
        """See `Watched`. psycopg2's own `cancel` would stop all threads while it waits."""
        with contextlib.suppress(psycopg2.Error), self._another_connection() as cursor:
            cursor.execute(_CANCEL, self._identity)

    def abandon(self) -> None:
        """See `Watched`."""
        with contextlib.suppress(OSError, psycopg2.Error):
            sockets.of_file(self.fileno()).shut_down()

    def ping(self) -> None:
        """See `Watched`."""
        if self.info.transaction_status == extensions.TRANSACTION_STATUS_INTRANS:
            with contextlib.suppress(psycopg2.Error), self.cursor() as cursor:
                cursor.execute("SELECT 1")

    def _exists(self, cursor: extensions.cursor) -> bool:
        cursor.execute(_ACTIVITY, self._identity)
        return cursor.fetchone() is not None

    @contextlib.contextmanager
    def _another_connection(self) -> Iterator[extensions.cursor]:
        """A cursor of a new connection to the same server, which is not watched."""
        other = psycopg2.connect(
            self._dsn, connect_timeout=_CONNECT_SECONDS, application_name="dbsync watchdog"
        )
        other.autocommit = True  # the server shows one state of its sessions in a transaction
        with contextlib.closing(other), other.cursor() as cursor:
            yield cursor


class WatchedCursor(extensions.cursor):
    """A cursor that marks its waits on its connection, a `WatchedConnection`."""

    connection: WatchedConnection

    def execute(self, query: Any, vars: Any = None) -> None:
        """Execute; see psycopg2."""
        with self.connection.waiting():
            super().execute(query, vars)

    def executemany(self, query: Any, vars_list: Any) -> None:
        """Execute; see psycopg2."""
        with self.connection.waiting():
            super().executemany(query, vars_list)

    def fetchone(self) -> Any:
        """Fetch; a named cursor waits for the server."""
        with self.connection.waiting():
            return super().fetchone()

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        """Fetch; a named cursor waits for the server."""
        with self.connection.waiting():
            return super().fetchmany(self.arraysize if size is None else size)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Fetch; a named cursor waits for the server."""
        with self.connection.waiting():
            return super().fetchall()

    def close(self) -> None:
        """Close; a named cursor waits for the server."""
        with self.connection.waiting():
            super().close()

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        """Copy. Reading the file is not a wait for the server."""
        if hasattr(file, "read"):
            file = _Unwatched(file, self.connection)
        with self.connection.waiting():
            super().copy_expert(sql, file, size)


class _Unwatched:
    """A file that is read while no byte is due from the server."""

    def __init__(self, file: Any, session: Watched) -> None:
        self._file, self._session = file, session

    def read(self, size: int = -1) -> bytes:
        with self._session.elsewhere():
            data: bytes = self._file.read(size)
            return data

    def readline(self, size: int = -1) -> bytes:
        return self.read(size)


class Pipe(io.FileIO):
    """The writing end of a pipe. Waiting for its reader is not a wait for the server."""

    def __init__(self, descriptor: int, session: Watched) -> None:
        super().__init__(descriptor, "wb")
        self._session = session

    def write(self, data: Any) -> int:
        """Write; see `io.RawIOBase`."""
        with self._session.elsewhere():
            return super().write(data) or 0
