"""The role of translating a driver's errors into the project's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from dbsync_pipeline.errors import DbsyncError, Unavailable


class Translation(ABC):
    """What the errors of a session mean."""

    name: str
    """The database's name in the settings."""
    driver_errors: ClassVar[tuple[type[Exception], ...]]

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

    def ended_because(self) -> str | None:
        """Return why the watchdog ended the session; None if it did not."""
        return None

    @classmethod
    @abstractmethod
    def translate(cls, error: BaseException, name: str, operation: str) -> Exception:
        """Return the project's error for a driver's error in database `name`."""
