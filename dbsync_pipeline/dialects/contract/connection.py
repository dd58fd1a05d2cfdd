"""One open connection: opened, interrupted and ended; its transactions, locks and marks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

import sqlalchemy as sa

from dbsync_pipeline.errors import DbsyncError, Unavailable

LABEL: ContextVar[str] = ContextVar("dbsync_label", default="dbsync")
"""As what a server shows the sessions that are opened now."""


@contextmanager
def labelled(label: str) -> Iterator[None]:
    """Let servers show the sessions that are opened within as `label`."""
    token = LABEL.set(label)
    try:
        yield
    finally:
        LABEL.reset(token)


class Session(ABC):
    """One session: how it is opened, interrupted and ended, and what its errors mean."""

    engine_name: ClassVar[str]
    """The first word of the engine's URLs."""
    driver_errors: ClassVar[tuple[type[Exception], ...]]

    def __init__(self, name: str, connection: sa.Connection) -> None:
        self.name = name
        self.connection = connection

    @contextmanager
    def doing(self, operation: str, table: str | None = None) -> Iterator[None]:
        """Translate driver errors raised within, naming the operation and table, without chain."""
        try:
            yield
        except self.driver_errors as error:
            translation = self._translation(error, operation)
            if isinstance(translation, DbsyncError) and translation.table is None:
                translation.table = table
            raise translation from None

    def _translation(self, error: BaseException, operation: str) -> Exception:
        if why := self.ended_because():
            return Unavailable(
                why,
                operation=operation,
                database=self.name,
                remedy=f"see that the network to {self.name} and its server are well, then try "
                "again; DBSYNC_SILENCE_SECONDS is how long a silence may last",
            )
        return self.translate(error, self.name, operation)

    @classmethod
    @abstractmethod
    def engine(cls, url: sa.URL, *, connect_seconds: float, silence_seconds: float) -> sa.Engine:
        """Return a new engine without a pool, which pins the settings of each session.

        Servers show a session as the `LABEL` under which it was opened. One that waits for its
        server and receives no byte for `silence_seconds` is ended, unless the server says that it
        computes: see `watchdog`.
        """

    def ended_because(self) -> str | None:
        """Return why the watchdog ended the session; None if it did not."""
        return None

    @classmethod
    @abstractmethod
    def translate(cls, error: BaseException, name: str, operation: str) -> Exception:
        """Return the project's error for a driver's error in database `name`."""

    @abstractmethod
    def cancel(self) -> None:
        """Stop the running statement, without waiting for its end. Another thread may call this.

        If the statement does not end within seconds, the session is ended.
        """

    def close(self) -> None:
        """Roll back the open transaction and close the connection. A second call does nothing."""
        if not self.connection.closed:
            self.connection.invalidate()
            self.connection.close()

    def end(self) -> None:
        """End the session, on the server too, and return when it is gone.

        Nothing that it sent can be carried out afterwards. Raise Unavailable if the server cannot
        be asked. A second call does nothing.
        """
        self.close()


class Connection(Session):
    """A session's transactions, and facts about its database."""

    @classmethod
    def locate(cls, url: sa.URL, name: str, *, create: bool) -> sa.URL:
        """Return the URL to connect to, the same one in any working folder.

        Raise SettingsError or Unavailable if it cannot be a database.
        `create` allows a new database, for engines that create one when they open it.
        """
        assert url.get_backend_name() == cls.engine_name
        return url

    @classmethod
    def command(cls, url: sa.URL, name: str, statement: str) -> str:
        """Return what a person at a terminal types to run a statement in database `name`."""
        return f"in {name}: {statement}"

    def limit_lock_wait(self, seconds: float) -> None:
        """From now on wait at most this long for locks. Call it outside of transactions."""
        assert not self.connection.in_transaction()

    def commit(self) -> None:
        """Commit the open transaction."""
        transaction = self.connection.get_transaction()
        assert transaction is not None
        with self.doing("commit"):
            transaction.commit()

    def rollback(self) -> None:
        """Roll back the open transaction; without one do nothing."""
        with self.doing("roll back"):
            self.connection.rollback()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo what ran within if it fails; the open transaction stays usable."""
        with self.connection.begin_nested():
            yield

    @abstractmethod
    def size_bytes(self) -> int:
        """Return the size of the database."""

    def read_only_by_default(self) -> bool:
        """Return whether sessions are read-only here unless they ask, as those of this project do.

        An application's session does not ask.
        """
        return False

    @abstractmethod
    def set_marker(self, mark: int) -> None:
        """In the open transaction, set a mark that all sessions of this same database see."""

    @abstractmethod
    def sees_marker(self, mark: int) -> bool:
        """Return whether a session of this same database has set the mark."""
