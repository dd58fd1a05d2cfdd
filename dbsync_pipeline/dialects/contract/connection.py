"""The role of an open connection: its transactions, locks and marks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract.session import Session


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
