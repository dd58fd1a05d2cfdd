"""Pause and resume a target: while it is paused, schedules and sensors do not sync it. An explicit
`dbsync sync` still does.

The reason is a fact in the target's own ledger, so every machine that looks at the target sees it.
"""

from __future__ import annotations

from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror import outcome
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger

FACT = "held"
"""The name under which the ledger stores the reason; older versions wrote it, so it stays."""


def pause(database: Database, reason: str) -> str | None:
    """Pause the target for this reason, in one transaction; return the reason it was paused for
    before, or None.

    A second call replaces the reason. Raise SettingsError if the database has no ledger,
    Unavailable if it does not answer.
    """
    return _replace(database, reason)


def resume(database: Database) -> str | None:
    """Resume syncs of the target, in one transaction; return the reason it was paused for, None if
    it was not paused.

    A second call changes nothing. Raise SettingsError if the database has no ledger, Unavailable if
    it does not answer.
    """
    return _replace(database, None)


def paused(database: Database) -> str | None:
    """Return why the target is paused, None if it is not. Raise DbsyncError if the database cannot
    be read.
    """
    with database.connect() as dialect:
        return reason(Ledger(dialect))


def reason(ledger: Ledger) -> str | None:
    """Return why the database of an open ledger is paused, None if it is not or has no ledger."""
    return ledger.fact(FACT)


def _replace(database: Database, reason: str | None) -> str | None:
    with (
        database.connect() as dialect,
        outcome.transaction(
            dialect,
            database,
            lambda again: Ledger(again).fact(FACT) == reason,
            operation="pause" if reason is not None else "resume",
        ),
    ):
        ledger = Ledger(dialect)
        if not ledger.exists():
            raise SettingsError(
                "it has no ledger, so it cannot be paused",
                operation="pause" if reason is not None else "resume",
                database=database.name,
                remedy=f"`dbsync tables create --database {database.name}`",
            )
        before = ledger.fact(FACT)
        ledger.note(FACT, reason)
    return before
