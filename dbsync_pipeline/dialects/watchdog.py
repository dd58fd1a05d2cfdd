"""Ends waits for a server that has gone silent without closing the connection.

A proxy, a firewall or a storage that acknowledges packets and sends nothing back keeps a driver
waiting for good: TCP sees a healthy connection. One thread of this process looks every second at
all sessions that wait for their server.

    bytes arrive                                         nothing to do
    no byte for the session's limit                      ask the server, by a second connection
        the server says that the session computes        it is alive; ask again after the limit
        it does not, or nobody answers                   end the session there, then the wait

The wait ends with an error, which the session's dialect reports as `Unavailable`. Its locks are
free as soon as the server has ended the session. `interrupt` ends a wait at once.
"""

from __future__ import annotations

import enum
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbsync_pipeline.deadline import run_until

_LOOK_SECONDS = 1.0
_ASK_SECONDS = 5.0
"""How long a server may take to say what a session does, or to end it."""
_CANCEL_SECONDS = 1.0
"""How long a cancelled statement may take to end before its session is ended."""
_END_SECONDS = 3.0
"""How long the end of a cancelled session may take on its server before its wait ends anyway."""
_REPLY_SECONDS = 1.0
"""How long a reply may be on its way after the server has finished a statement."""
_PING_SECONDS = 600.0
"""After this time without a statement an open transaction is used, so that no server ends it as
idle while the other side of a sync computes."""
_RETRY_SECONDS = 5.0
_RETRIES = 120


class Activity(enum.Enum):
    """What a server says of a session."""

    COMPUTING = "it executes a statement"
    WAITING = "it waits for its client, or is gone"
    UNREACHABLE = "the server does not answer"


class Watched(ABC):
    """A session whose waits are watched. Its methods are safe to call from any thread."""

    silence_seconds: float

    def __init__(self, silence_seconds: float) -> None:
        self.silence_seconds = silence_seconds
        self.ended_because: str | None = None
        """Why the watchdog ended the session; None while it has not."""
        self._waits: dict[int, float] = {}
        self.used_at = time.monotonic()
        """When the last statement ended (monotonic seconds)."""
        self.examined_since: float | None = None
        """The `silent_since` for which the server was asked last."""
        self._received = 0
        self._asked_at = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Surround every call of the driver that waits for the server."""
        thread = threading.get_ident()
        before = self._waits.get(thread)
        self._waits[thread] = time.monotonic()
        try:
            yield
        finally:
            self.used_at = time.monotonic()
            if before is None:
                self._waits.pop(thread, None)
            else:
                self._waits[thread] = self.used_at

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Surround what a call of the driver does without the server, such as reading a file."""
        thread = threading.get_ident()
        waited = self._waits.pop(thread, None)
        try:
            yield
        finally:
            if waited is not None:
                self._waits[thread] = time.monotonic()

    @property
    def waiting_since(self) -> float | None:
        """When (monotonic seconds) the session began to wait for its server; None if it has not."""
        waits = list(self._waits.values())
        return min(waits) if waits else None

    @property
    def silent_since(self) -> float | None:
        """When (monotonic seconds) the last byte came while more are due; None if none is due."""
        since = self.waiting_since
        return None if since is None else max(since, self._asked_at)

    def look(self) -> None:
        """Note whether bytes arrived since the last look."""
        received = self.bytes_received()
        if received != self._received:
            self._received, self._asked_at = received, time.monotonic()

    def proved_alive(self) -> None:
        """Note that the server says that the session computes."""
        self._asked_at = time.monotonic()

    @property
    def unused_seconds(self) -> float:
        """Seconds since the last statement ended; 0 during one."""
        return 0.0 if self._waits else time.monotonic() - self.used_at

    def bytes_received(self) -> int:
        """Return how many bytes the session's connection has received; 0 if that is not known."""
        return 0

    @abstractmethod
    def activity(self) -> Activity:
        """Ask the server what the session does, by another connection."""

    @abstractmethod
    def end_on_server(self) -> None:
        """End the session on the server, by another connection; raise if that fails."""

    @abstractmethod
    def cancel_statement(self) -> None:
        """Ask the server to stop the running statement; may block."""

    @abstractmethod
    def abandon(self) -> None:
        """Close the connection's socket, so that the driver's call returns with an error."""

    @abstractmethod
    def ping(self) -> None:
        """Execute a statement if a transaction is open and no statement runs."""


_watched: weakref.WeakSet[Watched] = weakref.WeakSet()
_lock = threading.Lock()
_started = threading.Event()


def watch(session: Watched) -> None:
    """Watch the session until it is garbage."""
    with _lock:
        _watched.add(session)
        if not _started.is_set():
            _started.set()
            threading.Thread(target=_look, name="dbsync-watchdog", daemon=True).start()


def interrupt(session: Watched) -> None:
    """Stop the session's running statement without blocking the caller.

    If the statement does not end within seconds, end the session.
    """
    _in_background(lambda: _interrupt(session))


def _sessions() -> list[Watched]:
    with _lock:
        return [session for session in _watched if session.ended_because is None]


def _look() -> None:
    while True:
        time.sleep(_LOOK_SECONDS)
        for session in _sessions():
            session.look()
            since = session.silent_since
            if since is not None and time.monotonic() - since >= session.silence_seconds:
                if session.examined_since != since:
                    session.examined_since = since
                    _in_background(_examination(session, since))
            elif session.unused_seconds >= _PING_SECONDS:
                session.used_at = time.monotonic()
                _in_background(session.ping)


def _examination(session: Watched, since: float) -> Callable[[], None]:
    return lambda: _examine(session, since)


def _examine(session: Watched, since: float) -> None:
    activity = _ask(session)
    if activity is Activity.WAITING:
        time.sleep(_REPLY_SECONDS)
        activity = _ask(session)
    if session.silent_since != since:
        return
    if activity is Activity.COMPUTING:
        session.proved_alive()
    else:
        seconds = round(time.monotonic() - since)
        why = f"the connection went silent: no byte arrived for {seconds} seconds"
        _end(session, why, _ASK_SECONDS if activity is Activity.WAITING else 0)


def _interrupt(session: Watched) -> None:
    since = session.waiting_since
    _in_background(session.cancel_statement)
    deadline = time.monotonic() + _CANCEL_SECONDS
    while since is not None and session.waiting_since == since:
        if time.monotonic() >= deadline:
            return _end(session, "the statement was cancelled", _END_SECONDS)
        time.sleep(0.05)


def _end(session: Watched, why: str, first_seconds: float) -> None:
    """End the session on the server, then the wait, so that its locks are free when it ends.

    The wait ends after `first_seconds` at the latest; 0 if the server does not answer anyway.
    """
    session.ended_because = why
    ended = first_seconds > 0 and _done(session.end_on_server, first_seconds)
    session.abandon()
    for _ in range(_RETRIES):
        if ended:
            return
        time.sleep(_RETRY_SECONDS)
        ended = _done(session.end_on_server, _ASK_SECONDS)


def _ask(session: Watched) -> Activity:
    replies = run_until({"ask": session.activity}, _ASK_SECONDS, label="dbsync-watchdog")
    reply = replies.get("ask")
    return reply if isinstance(reply, Activity) else Activity.UNREACHABLE


def _done(work: Callable[[], None], seconds: float) -> bool:
    replies = run_until({"end": work}, seconds, label="dbsync-watchdog")
    return "end" in replies and not isinstance(replies["end"], BaseException)


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="dbsync-watchdog-work", daemon=True).start()
