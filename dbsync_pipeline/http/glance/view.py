"""What the facts mean: a verdict for each database and one for all of them. Pure functions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dbsync_pipeline.defs.readiness import LastCheck
from dbsync_pipeline.defs.schedules import is_check_overdue
from dbsync_pipeline.http.glance import plot
from dbsync_pipeline.http.glance.facts import Facts, LedgerFacts, Reading
from dbsync_pipeline.http.glance.plot import Plot
from dbsync_pipeline.mirror import ready
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.runs.history import Run
from dbsync_pipeline.settings import Settings

LISTED = 12
"""How many syncs the table lists."""

_ENDED = {None, "SUCCESS", "FAILURE", "CANCELED"}


class Level(StrEnum):
    """How urgent something is; the name of its colour."""

    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    UNKNOWN = "unknown"


class State(StrEnum):
    """What a database is, in one word of the page's texts."""

    PRIMARY = "primary"
    READY = "ready"
    OLD = "old"
    STALE = "stale"
    NOT_READY = "not_ready"
    SILENT = "silent"
    UNCHECKED = "unchecked"


_LEVELS = {
    State.PRIMARY: Level.GOOD,
    State.READY: Level.GOOD,
    State.OLD: Level.WARN,
    State.STALE: Level.WARN,
    State.NOT_READY: Level.BAD,
    State.SILENT: Level.BAD,
    State.UNCHECKED: Level.UNKNOWN,
}


class Outcome(StrEnum):
    """How a sync ended."""

    PUBLISHED = "published"
    EQUAL = "equal"
    UNDONE = "undone"
    REFUSED = "refused"
    FAILED = "failed"
    RUNNING = "running"


@dataclass(frozen=True)
class Reason:
    """Why a standby is not ready: the check, what was seen, and the command that fixes it."""

    check: str
    text: str
    remedy: str


@dataclass(frozen=True)
class Holding:
    """The state that a standby holds: whose, of which moment, its number, rows and tables."""

    source: str
    snapshot_at: dt.datetime
    age_seconds: float
    number: int
    partial: bool
    rows: int
    tables: int


@dataclass(frozen=True)
class Sync:
    """A past sync and how it ended."""

    run: Run
    outcome: Outcome

    @property
    def level(self) -> Level:
        """Red for a sync that did not publish."""
        if self.outcome is Outcome.RUNNING:
            return Level.UNKNOWN
        return Level.BAD if self.outcome in (Outcome.REFUSED, Outcome.FAILED) else Level.GOOD


@dataclass(frozen=True)
class Place:
    """One database. `reasons` are those that still stand; `last` is its newest ended sync."""

    name: str
    engine: str
    state: State
    reading: Reading
    check: LastCheck | None = None
    reasons: tuple[Reason, ...] = ()
    holding: Holding | None = None
    last: Sync | None = None
    plot: Plot | None = None

    @property
    def level(self) -> Level:
        """The colour of its state."""
        return _LEVELS[self.state]

    @property
    def warns(self) -> bool:
        """Whether it could take over, but something about it needs a look."""
        return self.level is Level.WARN or (self.last is not None and self.last.level is Level.BAD)


@dataclass(frozen=True)
class View:
    """The page as values. `headline` is a text's name, with what it speaks of in `about`."""

    at: dt.datetime
    level: Level
    headline: str
    about: Mapping[str, Any]
    primary: Place
    standbys: tuple[Place, ...]
    term: int
    pending: str | None
    syncs: tuple[Sync, ...] = field(default=())

    @property
    def oldest_seconds(self) -> float | None:
        """The age of the oldest state that a standby holds."""
        ages = [place.holding.age_seconds for place in self.standbys if place.holding]
        return max(ages, default=None)

    @property
    def read_at(self) -> dt.datetime:
        """When the oldest values of a ledger were read."""
        return min(place.reading.read_at for place in (self.primary, *self.standbys))


def look(facts: Facts, settings: Settings) -> View:
    """Return what the facts mean."""
    standing = term.judge(
        {
            name: reading.facts.term
            for name, reading in facts.readings.items()
            if reading.facts is not None
        },
        {
            name: reading.error.cause
            for name, reading in facts.readings.items()
            if reading.error is not None
        },
        settings.primary,
    )
    ended = [run for run in facts.runs if run.status in _ENDED]
    seconds = plot.window(ended, facts.at)
    places = [
        _primary(database, facts.readings[database.name])
        if database.name == standing.primary
        else _standby(database, facts, ended, seconds, settings)
        for database in facts.databases
    ]
    standbys = tuple(place for place in places if place.name != standing.primary)
    (primary,) = (place for place in places if place.name == standing.primary)
    level, headline, about = _headline(primary, standbys)
    return View(
        facts.at,
        level,
        headline,
        about,
        primary,
        standbys,
        standing.term.n,
        str(standing.pending) if standing.pending else None,
        tuple(Sync(run, outcome(run)) for run in facts.runs[:LISTED]),
    )


def outcome(run: Run) -> Outcome:
    """Return how the sync ended."""
    if run.status not in _ENDED:
        return Outcome.RUNNING
    if run.published:
        if run.undoes is not None:
            return Outcome.UNDONE
        return Outcome.PUBLISHED if run.changed else Outcome.EQUAL
    if run.verdicts:
        return Outcome.REFUSED
    return Outcome.EQUAL if run.succeeded else Outcome.FAILED


def _primary(database: Database, reading: Reading) -> Place:
    state = State.PRIMARY if reading.facts is not None else State.SILENT
    return Place(database.name, database.engine_name, state, reading)


def _standby(
    database: Database, facts: Facts, ended: Sequence[Run], seconds: int, settings: Settings
) -> Place:
    name, reading = database.name, facts.readings[database.name]
    check = facts.checks.get(name)
    own = [run for run in ended if run.target == name]
    holding = _holding(reading.facts, facts.at)
    reasons = tuple(
        Reason(check_name, text, ready.remedy(check_name, name, settings.primary))
        for check_name, text in _reasons(reading, check, holding, settings)
    )
    return Place(
        name,
        database.engine_name,
        _state(reading, check, reasons, facts.at, settings),
        reading,
        check,
        reasons,
        holding,
        Sync(own[0], outcome(own[0])) if own else None,
        plot.draw(own, facts.at, seconds),
    )


def _holding(ledger: LedgerFacts | None, now: dt.datetime) -> Holding | None:
    if ledger is None or ledger.last is None:
        return None
    last = ledger.last
    return Holding(
        last.source,
        last.snapshot_at,
        (now - last.snapshot_at).total_seconds(),
        last.number,
        last.partial,
        sum(table.rows for table in last.tables.values()),
        len(last.tables),
    )


def _reasons(
    reading: Reading, check: LastCheck | None, holding: Holding | None, settings: Settings
) -> Iterator[tuple[str, str]]:
    """Yield (check, text): what the ledger says now, and of the last check what it cannot say."""
    if reading.facts is None:
        yield ready.REACHABLE, reading.error.cause if reading.error else ""
        return
    known = ready.Facts(
        last=reading.facts.last,
        age_seconds=holding.age_seconds if holding else None,
        held=reading.facts.paused,
    )
    now = ready.judge(known, settings.max_age_seconds).reasons
    then = check.reasons if check else {}
    for name in ready.CHECKS:
        if name in now:
            yield name, now[name]
        elif name in then and name not in (
            ready.REACHABLE,
            ready.WHOLE,
            ready.RELEASED,
            ready.AGE,
        ):
            yield name, then[name]


def _state(
    reading: Reading,
    check: LastCheck | None,
    reasons: Sequence[Reason],
    now: dt.datetime,
    settings: Settings,
) -> State:
    if reading.facts is None:
        return State.SILENT
    wrong = {reason.check for reason in reasons}
    if wrong - {ready.AGE}:
        return State.NOT_READY
    if check is None or (not check.ready and ready.REACHABLE in check.reasons):
        return State.UNCHECKED
    if wrong:
        return State.OLD
    if is_check_overdue(check.checked_at, now, settings):
        return State.STALE
    return State.READY


def _headline(primary: Place, standbys: Sequence[Place]) -> tuple[Level, str, dict[str, Any]]:
    usable = sum(place.level in (Level.GOOD, Level.WARN) for place in standbys)
    about = {
        "name": primary.name,
        "ready": usable,
        "all": len(standbys),
        "names": [place.name for place in standbys],
    }
    if primary.state is State.SILENT:
        return Level.BAD, "head_primary_silent", about
    if not standbys:
        return Level.UNKNOWN, "head_no_standby", about
    bad = [place for place in standbys if place.level is Level.BAD]
    if usable + len(bad) < len(standbys) and not (usable and bad):
        return Level.BAD if bad else Level.UNKNOWN, "head_unchecked", about
    if usable < len(standbys):
        return (Level.WARN, "head_some", about) if usable else (Level.BAD, "head_none", about)
    if any(place.warns for place in standbys):
        return Level.WARN, "head_warns", about
    return Level.GOOD, "head_all", about
