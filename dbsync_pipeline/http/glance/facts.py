"""What the page shows, read so that looking at it costs little.

Dagster's records (past syncs, the readiness checks) are read at each view. A ledger is read only if
its values are older than LEDGER_SECONDS, if a sync to that database ended since, or if a person
requests it: a standby that sleeps while nobody uses it is not woken by a page that is
loaded again and again. No table of the application is read.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbsync_pipeline.defs.readiness import LastCheck, last_check
from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror import pausing
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.mirror.ledger import Ledger, Publish, Term
from dbsync_pipeline.request import HistoryOptions
from dbsync_pipeline.runs import history, launch
from dbsync_pipeline.settings import Settings

LEDGER_SECONDS = 900.0
"""How old values of a ledger may be."""
SILENT_SECONDS = 60.0
"""How long a database that did not answer is left alone."""
SOONEST_SECONDS = 10.0
"""Requests to read again within this time read once."""
RUNS = 60
"""How many syncs the page shows at most."""


@dataclass(frozen=True)
class LedgerFacts:
    """What one ledger says: the highest term, the publish whose state the database holds, the
    newest publishes, and why the database is paused, if it is.
    """

    term: Term | None
    last: Publish | None
    publishes: Sequence[Publish]
    paused: str | None


@dataclass(frozen=True)
class Reading:
    """The facts of one ledger or why it could not be read, and when that was (UTC)."""

    read_at: dt.datetime
    facts: LedgerFacts | None
    error: DbsyncError | None = None


@dataclass(frozen=True)
class Facts:
    """Everything that the page shows, at one moment (UTC); `readings` and `checks` are by name."""

    at: dt.datetime
    databases: Sequence[Database]
    readings: Mapping[str, Reading]
    checks: Mapping[str, LastCheck]
    runs: Sequence[history.Run]


class Reader:
    """Reads the facts, one thread at a time, and keeps those of the ledgers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._databases = databases(settings)
        self._lock = threading.Lock()
        self._readings: dict[str, Reading] = {}

    def read(self, *, again: bool = False) -> Facts:
        """Return the facts; `again` reads every ledger, unless that was done a moment ago.

        A database that does not answer in time is not an error. Raise DbsyncError if Dagster's
        records cannot be read.
        """
        with self._lock:
            with launch.dagster_instance(self._settings) as instance:
                runs = history.read(instance, HistoryOptions(limit=RUNS))
                checks = {
                    database.name: check
                    for database in self._databases
                    if (check := last_check(instance, database.name)) is not None
                }
            now = dt.datetime.now(dt.UTC)
            self._read_ledgers(
                [
                    database
                    for database in self._databases
                    if _is_due(self._readings.get(database.name), database.name, runs, now, again)
                ]
            )
            ledgers = {
                name: reading.facts.publishes
                for name, reading in self._readings.items()
                if reading.facts is not None
            }
            joined = sorted(history.join(runs, ledgers), key=lambda run: run.started_at)
            readings = dict(self._readings)
        return Facts(
            dt.datetime.now(dt.UTC), self._databases, readings, checks, joined[: -RUNS - 1 : -1]
        )

    def _read_ledgers(self, due: Sequence[Database]) -> None:
        replies = ask(due, _read, self._settings.answer_seconds)
        now = dt.datetime.now(dt.UTC)
        for name, facts in replies.good.items():
            self._readings[name] = Reading(now, facts)
        for name, error in replies.failed.items():
            self._readings[name] = Reading(now, None, error)


def _is_due(
    reading: Reading | None,
    name: str,
    runs: Sequence[history.Run],
    now: dt.datetime,
    again: bool,
) -> bool:
    """Whether the ledger of that database is to be read."""
    if reading is None:
        return True
    age = (now - reading.read_at).total_seconds()
    if again:
        return age > SOONEST_SECONDS
    limit = SILENT_SECONDS if reading.facts is None else LEDGER_SECONDS
    return age > limit or any(
        run.target == name
        and run.seconds is not None
        and run.started_at + dt.timedelta(seconds=run.seconds) > reading.read_at
        for run in runs
    )


def _read(database: Database) -> LedgerFacts:
    with database.connect() as dialect:
        ledger = Ledger(dialect)
        return LedgerFacts(
            ledger.term(), ledger.last(), ledger.publishes(RUNS), pausing.reason(ledger)
        )
