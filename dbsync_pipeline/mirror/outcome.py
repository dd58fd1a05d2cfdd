"""Commit, and know whether it happened also if the server's reply is lost.

A connection can be lost after COMMIT was sent and before its reply arrived. The transaction may
then be committed, rolled back, or its COMMIT may still be on its way. So the old session is ended
on the server first, which stops a COMMIT that is on its way, and then the database is asked by a new
connection. Both are tried again until the database has been unreachable for as long as a connection
may be silent (`Database.silence_seconds`). After that the outcome is unknown, and reported so.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import OutcomeUnknown, Transient, Unavailable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger

_PAUSE_SECONDS = 1.0

Recorded = Callable[[Ledger], bool]
"""Returns whether a ledger has what the transaction wrote there."""


def commit(dialect: Dialect, database: Database, recorded: Recorded, *, operation: str) -> None:
    """Commit the open transaction of `dialect`, a connection to `database`.

    Raise the error of the commit if the transaction was rolled back, and OutcomeUnknown if nobody
    can tell: the ledger will, once the database answers.
    """
    try:
        dialect.commit()
    except Unavailable as error:
        if not _was_committed(dialect, database, recorded, operation):
            raise error from None


def _was_committed(
    dialect: Dialect, database: Database, recorded: Recorded, operation: str
) -> bool:
    deadline = time.monotonic() + database.silence_seconds
    while True:
        try:
            dialect.end()
            with database.at_once.connect("dbsync outcome") as again:
                return recorded(Ledger(again))
        except Transient:
            if time.monotonic() >= deadline:
                raise unknown(database, operation) from None
        time.sleep(_PAUSE_SECONDS)


def unknown(database: Database, operation: str) -> OutcomeUnknown:
    """Return the error of an operation whose COMMIT may or may not have been carried out."""
    return OutcomeUnknown(
        "the connection was lost during COMMIT, and the database has not answered since for "
        f"{database.silence_seconds:g} seconds: whether it was committed is unknown",
        operation=operation,
        database=database.name,
        remedy=f"when {database.name} answers again, `dbsync history` shows whether it was "
        "published; another sync is safe at any time",
    )
