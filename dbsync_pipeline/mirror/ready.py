"""Whether the application could write to a standby now: facts read from the database, and one pure
function that judges them.

Only the standby itself is read, so the verdict does not depend on the primary. Whether it can be
written to is tried: see `trial`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror import differences, pausing, remedies, trial
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.mirror.ledger import Ledger, Publish
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.own_keys import violated
from dbsync_pipeline.settings import Settings

REACHABLE = "reachable"
DISTINCT = "distinct"
STRUCTURE = "structure"
KEYS = "foreign_keys"
COUNTERS = "counters"
WRITES = "writes"
WHOLE = "whole"
RELEASED = "released"
AGE = "age"

CHECKS: Mapping[str, str] = {
    REACHABLE: "It answers.",
    DISTINCT: "No other configured name leads to it.",
    STRUCTURE: "Every table exists and equals the models.",
    KEYS: "Every foreign key holds.",
    COUNTERS: "The next number that the database gives to a new row is free.",
    WRITES: "A row was inserted into every table with numbers of the database, and rolled back.",
    WHOLE: "It holds one past state of the primary for all tables together.",
    RELEASED: "It is not paused: schedules sync it.",
    AGE: "Its state is no older than DBSYNC_MAX_AGE_HOURS.",
}
"""The checks, with what each says if it passes; `reasons` has the keys of those that do not."""

_REMEDIES: Mapping[str, str] = {
    REACHABLE: "see that its server runs and that its URL is right",
    DISTINCT: "correct the URL, or remove the setting, of one of the two names",
    STRUCTURE: "`dbsync tables check --database {}` lists all differences",
    KEYS: "`dbsync sync --target {} --overwrite`, or fix the rows",
    COUNTERS: "`dbsync sync --target {}` moves the counters",
    WRITES: "`dbsync sync --target {}` moves the counters; "
    "if it is a privilege, grant it to the application's role",
    WHOLE: "`dbsync sync --target {}`",
    RELEASED: "`dbsync resume {}`",
    AGE: "`dbsync sync --target {}`; see that Dagster's daemon runs, or why its runs fail: "
    "`dbsync history --target {}`",
}


@dataclass(frozen=True)
class Facts:
    """What was read. If the structure differs, nothing that depends on it was read.

    `structure` lists the differences, `orphans` the foreign keys that do not hold, `taken` the
    counters whose next number is taken, and `unwritable` why a table cannot be written to. `last`
    is the publish whose state it holds; `age_seconds` counts from the source's snapshot. `held` is
    why it is paused, `same_as` another configured name of the same database.
    """

    structure: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    unwritable: tuple[str, ...] = ()
    last: Publish | None = None
    age_seconds: float | None = None
    held: str | None = None
    same_as: str | None = None


@dataclass(frozen=True)
class Readiness:
    """`ready`: the application could write there now. `reasons` are by check; a standby that is
    only too old is ready.
    """

    ready: bool
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """What a survey found about one database. Of the primary it only says whether it answers."""

    name: str
    primary: bool
    ready: bool
    reasons: Mapping[str, str]
    last: Publish | None = None
    age_seconds: float | None = None


def survey(
    among: Sequence[Database], settings: Settings, model: Model, *, seconds: float
) -> list[Report]:
    """Return a report on each database, in their order; all are read at the same time, each within
    `seconds`. Changes no row.
    """
    standing = term.standing(among, settings)

    def report(database: Database) -> Report:
        if database.name == standing.primary:
            return _primary_report(database)
        return _report(database, standing.duplicates.get(database.name), settings, model)

    return [
        _unreachable(name, name == standing.primary, reply)
        if isinstance(reply, DbsyncError)
        else reply
        for name, reply in ask(among, report, seconds).items()
    ]


def _primary_report(database: Database) -> Report:
    with database.connect():
        return Report(database.name, True, True, {})


def _report(database: Database, same_as: str | None, settings: Settings, model: Model) -> Report:
    with database.connect() as dialect:
        facts = replace(read(dialect, model), same_as=same_as)
    verdict = judge(facts, settings.max_age_seconds)
    return Report(
        database.name, False, verdict.ready, verdict.reasons, facts.last, facts.age_seconds
    )


def _unreachable(name: str, primary: bool, error: DbsyncError) -> Report:
    return Report(name, primary, False, {REACHABLE: error.cause})


def remedy(check: str, name: str, configured: str | None = None) -> str:
    """Return how to fix a check that failed on the standby of that name; `configured` is the
    primary of the settings.

    If that is this standby, another database replaced it: a sync would be refused because of the
    rows that only it has.
    """
    template = _REMEDIES[check]
    if name == configured and "`dbsync sync" in template:
        return remedies.failback(name)
    return template.replace("{}", name)


def judge(facts: Facts, max_age_seconds: float) -> Readiness:
    """Return the verdict on a standby."""
    reasons = dict(_reasons(facts, max_age_seconds))
    return Readiness(not set(reasons) - {AGE}, reasons)


def _reasons(facts: Facts, max_age_seconds: float) -> Iterator[tuple[str, str]]:
    if facts.same_as is not None:
        yield DISTINCT, f"it is the same database as {facts.same_as}"
    if facts.structure:
        yield STRUCTURE, "; ".join(facts.structure)
    if facts.orphans:
        yield KEYS, f"these foreign keys do not hold: {', '.join(facts.orphans)}"
    if facts.taken:
        yield COUNTERS, f"the next number is taken in {', '.join(facts.taken)}"
    if facts.unwritable:
        yield WRITES, "; ".join(facts.unwritable)
    if facts.last is None:
        yield WHOLE, "it was never published to"
    elif facts.last.partial:
        yield WHOLE, "not consistent: its last publish was partial"
    if facts.held is not None:
        yield RELEASED, f"paused: {facts.held}"
    if facts.age_seconds is not None and facts.age_seconds > max_age_seconds:
        hours, allowed = facts.age_seconds / 3600, max_age_seconds / 3600
        yield AGE, f"its state is {hours:.1f} hours old, {allowed:g} are allowed"


def read(dialect: Dialect, model: Model) -> Facts:
    """Return the facts of one database, read by an open connection outside of transactions. Leaves
    none open, and changes no row.

    Reads the columns of every foreign key. Raises DbsyncError if the database cannot be read.
    """
    structure = tuple(
        f"table {table}: {text}"
        for table, texts in differences.find(dialect, model).items()
        for text in texts
    )
    last, held = _ledger(dialect)
    age = None if last is None else (dt.datetime.now(dt.UTC) - last.as_of).total_seconds()
    if structure:
        if model.why_unknown:
            structure = (model.why_unknown,)
        return Facts(structure, last=last, age_seconds=age, held=held)
    orphans = tuple(
        f"{table.name} ({', '.join(key.column_keys)})"
        for table, key, _ in violated(dialect, model.tables)
    )
    counters = dialect.counters(model.tables)
    taken = tuple(counter.name for counter in counters if counter.next_is_taken)
    dialect.rollback()
    unwritable = tuple(trial.refusals(dialect, model, counters))
    return Facts((), orphans, taken, unwritable, last, age, held)


def _ledger(dialect: Dialect) -> tuple[Publish | None, str | None]:
    """The last publish, and why the database is paused."""
    ledger = Ledger(dialect)
    facts = ledger.last(), pausing.reason(ledger)
    dialect.rollback()
    return facts
