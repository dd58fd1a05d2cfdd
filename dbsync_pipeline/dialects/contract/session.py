"""The role of one session: opened, interrupted and ended."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract.translation import Translation


class Session(Translation):
    """How a session is opened, interrupted and ended."""

    engine_name: ClassVar[str]
    """The first word of the engine's URLs."""

    def __init__(self, name: str, connection: sa.Connection) -> None:
        self.name = name
        self.connection = connection

    @classmethod
    @abstractmethod
    def engine(cls, url: sa.URL, *, connect_seconds: float, silence_seconds: float) -> sa.Engine:
        """Return a new engine without a pool, which pins the settings of each session.

        Servers show a session as the `LABEL` under which it was opened. One that waits for its
        server and receives no byte for `silence_seconds` is ended, unless the server says that it
        computes: see `watchdog`.
        """

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
