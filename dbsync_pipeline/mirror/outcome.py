"""Commit, and know whether it happened also if the server's reply is lost.

A connection can be lost after COMMIT was sent and before its reply arrived. The transaction may
then be committed, rolled back, or its COMMIT may still be on its way. So the old session is ended
on the server first, which stops a COMMIT that is on its way, and then the database is asked by a
new connection. Both are tried again until the database has been unreachable for as long as a
connection may be silent (`Database.silence_seconds`). After that the outcome is unknown, and
reported so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import OutcomeUnknown, Transient, Unavailable
from dbsync_pipeline.mirror.database import Database

_PAUSE_SECONDS = 1.0

Recorded = Callable[[Dialect], bool]
"""Returns, on a new connection, whether the database has what the transaction wrote."""


def commit(dialect: Dialect, database: Database, recorded: Recorded, *, operation: str) -> None:
    """Commit the open transaction of `dialect`, a connection to `database`.

    Raise the error of the commit if the transaction was rolled back, and OutcomeUnknown if that
    cannot be determined: the database will show it, once it answers. The connection is closed if it
    was lost although the transaction was committed: see `usable`.
    """
    try:
        dialect.commit()
    except Unavailable as error:
        if not _was_committed(dialect, database, recorded, operation):
            raise error from None
        dialect.close()


@contextmanager
def transaction(
    dialect: Dialect, database: Database, recorded: Recorded, *, operation: str
) -> Iterator[None]:
    """Begin a transaction, and commit it at the end as `commit` does; roll it back on an error."""
    with dialect.doing(operation):
        dialect.connection.begin()
        try:
            yield
        except BaseException:
            dialect.rollback()
            raise
    commit(dialect, database, recorded, operation=operation)


@contextmanager
def usable(dialect: Dialect, database: Database) -> Iterator[Dialect]:
    """Yield the connection that a transaction was committed on, or a new one if it was lost."""
    if not dialect.connection.closed:
        yield dialect
        return
    with database.connect() as another:
        yield another


def _was_committed(
    dialect: Dialect, database: Database, recorded: Recorded, operation: str
) -> bool:
    deadline = time.monotonic() + database.silence_seconds
    while True:
        try:
            dialect.end()
            with database.at_once.connect("dbsync outcome") as again:
                return recorded(again)
        except Transient:
            if time.monotonic() >= deadline:
                raise _unknown(database, operation) from None
        time.sleep(_PAUSE_SECONDS)


def _unknown(database: Database, operation: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        "the connection was lost during COMMIT, and the database has not answered for "
        f"{database.silence_seconds:g} seconds since: whether it was committed is unknown",
        operation=operation,
        database=database.name,
        remedy=f"when {database.name} answers again, `dbsync history` shows what was published, "
        "and the same command can be run again safely",
    )
