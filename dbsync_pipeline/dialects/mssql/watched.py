"""Connections of both drivers whose waits are watched: see `dialects.watchdog`.

Neither driver shows its socket. It is among those that the process opened during the login; where
others opened at the same time, the right one is that through which a reply of known length came.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from dbsync_pipeline.dialects import watchdog
from dbsync_pipeline.dialects.mssql import drivers, errors
from dbsync_pipeline.dialects.sockets import Socket, open_sockets
from dbsync_pipeline.dialects.watchdog import Activity, Watched
from dbsync_pipeline.errors import Transient

_log = logging.getLogger("dbsync")

_SEES_ALL = """
coalesce(has_perms_by_name(NULL, NULL, 'VIEW SERVER STATE'), 0)
+ coalesce(has_perms_by_name(NULL, NULL, 'VIEW SERVER PERFORMANCE STATE'), 0)
+ CASE WHEN convert(int, serverproperty('EngineEdition')) IN (5, 12) THEN
  coalesce(has_perms_by_name(db_name(), 'DATABASE', 'VIEW DATABASE STATE'), 0) ELSE 0 END"""
"""Without one of these rights a user sees no session but its own. Azure SQL Database and Fabric
know the last one only."""
_ACTIVITY = f"""
SELECT {_SEES_ALL}, (SELECT count(*) FROM sys.dm_exec_requests r
INNER JOIN sys.dm_exec_sessions s ON s.session_id = r.session_id
WHERE {{}} AND coalesce(r.wait_type, '') <> 'ASYNC_NETWORK_IO')"""
"""ASYNC_NETWORK_IO is the wait for a client that does not take its rows."""
_EXISTS = f"SELECT {_SEES_ALL}, (SELECT count(*) FROM sys.dm_exec_sessions s WHERE {{}})"
_SESSION = "s.session_id = {0} AND s.login_time = convert(datetime, '{1}', 126)"
_OTHERS = "s.host_process_id = {2} AND s.host_name = host_name() AND s.session_id <> {0}"
_BABELFISH_ACTIVITY = """
SELECT 1, count(*) FROM pg_stat_activity
WHERE state NOT LIKE 'idle%' AND coalesce(wait_event_type, '') <> 'Client' AND {}"""
_BABELFISH_EXISTS = "SELECT 1, count(*) FROM pg_stat_activity WHERE {}"
_BABELFISH_SESSION = "pid = {0}"
_BABELFISH_OTHERS = "usename = session_user AND pid NOT IN ({0}, @@spid)"

_CONNECT_SECONDS = 4
_GONE_SECONDS = 4.0
_SLACK_BYTES = 400
"""What a reply takes beside its value: the protocol's own bytes, and those of encryption."""


class _Asides:
    """Connections of the watchdog's threads. At its exit the process waits for them: where Python
    ends a thread inside mssql-python, it aborts.
    """

    def __init__(self) -> None:
        self._none = threading.Condition()
        self._open = 0
        atexit.register(self._wait)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Surround the life of one connection."""
        with self._none:
            self._open += 1
        try:
            yield
        finally:
            with self._none:
                self._open -= 1
                self._none.notify_all()

    def _wait(self) -> None:
        with self._none:
            self._none.wait_for(lambda: self._open == 0, timeout=2 * _CONNECT_SECONDS)


_asides = _Asides()


class WatchedConnection(Watched):
    """A connection of either driver. Calls of it and of its cursors are waits for the server."""

    _driver_errors: ClassVar[Any] = errors.DriverErrors()

    def __init__(
        self, open_: Callable[..., Any], silence_seconds: float, *, timeout: int, port: int | None
    ) -> None:
        """Open a connection by `open_`, whose login waits at most `timeout` seconds; `port` is the
        server's, if it is known.
        """
        super().__init__(silence_seconds)
        self._open = open_
        before = open_sockets()
        self._driver: Any = open_(timeout=timeout)
        self._socket = self._socket_among(open_sockets() - before, port)
        self._session, self._login_time, self._babelfish = 0, "", False
        self._waiting_cursor: Any = None
        self.loading: _BulkLoad | None = None
        """The bulk load that runs, or ran last."""
        watchdog.watch(self)

    def identified_as(self, session: int, login_time: str, *, babelfish: bool) -> None:
        """Note by what the server knows this session; before it is needed."""
        self._session, self._login_time, self._babelfish = session, login_time, babelfish

    @property
    def autocommit(self) -> bool:
        """Whether every statement is committed; see DB-API."""
        return bool(self._driver.autocommit)

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        with self.waiting():
            self._driver.autocommit = value

    def cursor(self) -> WatchedCursor:
        """Return a new cursor; see DB-API."""
        return WatchedCursor(self._driver.cursor(), self)

    def commit(self) -> None:
        """Commit; see DB-API."""
        with self.waiting():
            self._driver.commit()

    def rollback(self) -> None:
        """Roll back; see DB-API."""
        with self.waiting():
            self._driver.rollback()

    def close(self) -> None:
        """Close; see DB-API. A connection that is lost already needs nothing more."""
        with self.waiting(), contextlib.suppress(*self._driver_errors):
            self._driver.close()

    def roll_back_and_leave(self) -> None:
        """Roll back before SQLAlchemy closes the connection; see `drivers`."""
        with self.waiting():
            drivers.roll_back_and_leave(self._driver)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    @contextlib.contextmanager
    def waiting_by(self, cursor: Any) -> Iterator[None]:
        """Surround a call of a cursor of the driver."""
        with self.waiting():
            self._waiting_cursor = cursor
            try:
                yield
            finally:
                self._waiting_cursor = None

    # -- for the watchdog

    def bytes_received(self) -> int:
        """See `Watched`. Known on Linux."""
        return self._socket.bytes_received() if self._socket else 0

    def activity(self) -> Activity:
        """See `Watched`. A server that may not tell is taken as computing while it answers."""
        return self._activity(_BABELFISH_SESSION if self._babelfish else _SESSION)

    def activity_of_others(self) -> Activity:
        """Ask the server what other sessions of this process do, such as a bulk load."""
        return self._activity(_BABELFISH_OTHERS if self._babelfish else _OTHERS)

    def end_on_server(self) -> None:
        """See `Watched`. Without the right to end sessions it ends when the server notices that its
        connection is closed: Microsoft's at once, Babelfish after the statement.
        """
        with self._another_connection() as cursor:
            if not self._killed(cursor):
                return
            deadline = time.monotonic() + _GONE_SECONDS
            while self._exists(cursor):
                if time.monotonic() >= deadline:
                    raise TimeoutError("the session does not end")
                time.sleep(0.05)

    def cancel_statement(self) -> None:
        """See `Watched`. Babelfish stops no statement, and the driver would wait for it."""
        cursor = self._waiting_cursor
        if cursor is not None and not self._babelfish:
            with contextlib.suppress(Exception):  # the statement may have ended meanwhile
                drivers.cancel(cursor)

    def abandon(self) -> None:
        """See `Watched`."""
        if self._socket:
            self._socket.shut_down()

    def ping(self) -> None:
        """See `Watched`. No server ends a session that is idle, and no connection takes a second
        statement while it has rows to give.
        """

    def load(self, cursor: Any, table: str, records: Iterable[Any], options: Any) -> Any:
        """Load in bulk, over a connection that the driver opens for it."""
        self.loading = bulk = _BulkLoad(self)
        with bulk.waiting():
            return cursor.bulkcopy_arrow(table, bulk.given(records), **options)

    def socket_among(self, candidates: frozenset[Socket]) -> Socket | None:
        """Return the one of these that leads to the same server; None where that is not certain."""
        if self._socket is None:
            return None
        peer = self._socket.peer()
        same = [socket for socket in candidates if socket.peer() == peer]
        return same[0] if len(same) == 1 else None

    def _socket_among(self, candidates: frozenset[Socket], port: int | None) -> Socket | None:
        peers = {socket: peer for socket in candidates if (peer := socket.peer())}
        possible = [socket for socket, peer in peers.items() if peer[1] == port] or list(peers)
        for _ in range(3):
            if len(possible) < 2:
                break
            size = random.randrange(1000, 7000)
            before = {socket: socket.bytes_received() for socket in possible}
            cursor = self._driver.cursor()
            cursor.execute(f"SELECT replicate('.', {size})")
            cursor.fetchall()
            cursor.close()
            self._driver.rollback()
            possible = [
                socket
                for socket in possible
                if size <= socket.bytes_received() - before[socket] <= size + _SLACK_BYTES
            ]
        return possible[0] if len(possible) == 1 else None

    def _activity(self, whose: str) -> Activity:
        question = _BABELFISH_ACTIVITY if self._babelfish else _ACTIVITY
        with self._another_connection() as cursor:
            visible, computing = self._query(cursor, question, whose)
        return Activity.COMPUTING if computing or not visible else Activity.WAITING

    def _query(self, cursor: Any, question: str, whose: str) -> tuple[int, int]:
        session = whose.format(self._session, self._login_time, os.getpid())
        cursor.execute(question.format(session))
        ((visible, count),) = cursor.fetchall()
        return int(visible), int(count)

    def _exists(self, cursor: Any) -> bool:
        if self._babelfish:
            return self._query(cursor, _BABELFISH_EXISTS, _BABELFISH_SESSION)[1] > 0
        return self._query(cursor, _EXISTS, _SESSION)[1] > 0

    def _killed(self, cursor: Any) -> bool:
        """Return whether KILL was accepted: the session exists, and this user may end it."""
        if not self._exists(cursor):
            return False
        try:
            cursor.execute(f"KILL {self._session}")
        except Exception as error:
            if isinstance(errors.translate(error, "", "end the session"), Transient):
                raise  # it is not known whether the session ends; the watchdog tries again
            _log.info("this user may not end a session: the server does when it notices")
            return False
        return True

    @contextlib.contextmanager
    def _another_connection(self) -> Iterator[Any]:
        """A cursor of a new connection to the same server, which is not watched."""
        with _asides.counted(), contextlib.closing(self._open(timeout=_CONNECT_SECONDS)) as other:
            other.autocommit = True
            other.timeout = _CONNECT_SECONDS
            cursor = other.cursor()
            try:
                yield cursor
            finally:
                cursor.close()


class WatchedCursor:
    """A cursor of either driver. Every call of it may wait for the server."""

    def __init__(self, cursor: Any, connection: WatchedConnection) -> None:
        self.__dict__.update(_cursor=cursor, _connection=connection)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._cursor, name)
        if not callable(attribute):
            return attribute

        def call(*arguments: Any, **options: Any) -> Any:
            with self._connection.waiting_by(self._cursor):
                return attribute(*arguments, **options)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._cursor, name, value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())

    def bulkcopy_arrow(self, table: str, records: Iterable[Any], **options: Any) -> Any:
        """Load in bulk; see mssql-python."""
        return self._connection.load(self._cursor, table, records, options)


class _BulkLoad(Watched):
    """A bulk load, whose session only the driver knows."""

    def __init__(self, connection: WatchedConnection) -> None:
        super().__init__(connection.silence_seconds)
        self._connection = connection
        self._before = open_sockets()
        self._socket: Socket | None = None
        watchdog.watch(self)

    def given(self, records: Iterable[Any]) -> Iterator[Any]:
        """Yield the records. Making them is no wait for the server."""
        following = iter(records)
        while True:
            with self.elsewhere():
                if self._socket is None:  # the login is over
                    self._socket = self._connection.socket_among(open_sockets() - self._before)
                try:
                    record = next(following)
                except StopIteration:
                    return
            yield record

    def bytes_received(self) -> int:
        """See `Watched`."""
        return self._socket.bytes_received() if self._socket else 0

    def activity(self) -> Activity:
        """See `Watched`. Any other session of this process that computes may be this one."""
        return self._connection.activity_of_others()

    def end_on_server(self) -> None:
        """Do nothing: the session is not known. It ends with its connection."""

    def cancel_statement(self) -> None:
        """Close the connection, since no statement can be stopped."""
        self.ended_because = "the load was cancelled"
        self.abandon()

    def abandon(self) -> None:
        """See `Watched`."""
        if self._socket:
            self._socket.shut_down()

    def ping(self) -> None:
        """Do nothing: a load is never idle."""
