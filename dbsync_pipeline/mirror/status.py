"""The status of each database: whether it answers, its size, what it last received, and how far it
is from the primary.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror import ready
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.ledger import Publish
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.schema import require
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.settings import Settings

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class LastPublish:
    """The last publish that a standby received.

    `confirmations` counts the syncs that found nothing to do since, the last one at `confirmed_at`;
    `age_seconds` counts from the snapshot of the last one of all these.
    `proofs` says by table how both sides were compared, and why all rows were hashed if they were.
    To compare, the source read `rows_read` rows, by their headers or whole and counted for each
    pass, and `bytes_read` of its disk (None if it does not tell), in `read_seconds`; None in a
    ledger of a former version.
    """

    number: int
    run_id: str
    source: str
    published_at: dt.datetime
    age_seconds: float
    partial: bool
    numbered: bool
    confirmed_at: dt.datetime | None = None
    confirmations: int = 0
    proofs: Mapping[str, str] = field(default_factory=dict)
    rows_read: int | None = None
    bytes_read: int | None = None
    read_seconds: float | None = None


@dataclass(frozen=True)
class DatabaseStatus:
    """One database. The names of the fields are those of the JSON. What could not be read is None,
    and `reason` says why.

    `behind` has by table the rows that a sync from the primary would insert, update or delete.
    `ready` says whether the application could write to a standby now; `not_ready` has a reason for
    each check that fails. `held` is why it is paused. `term` is the highest term that it recorded.
    `lacks` has, for the primary, the states that standbys hold and it does not know: it was
    restored from a backup. `size_mb` is in 1,000,000 bytes.
    """

    name: str
    engine: str
    role: str
    available: bool
    reason: str | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    last_publish: LastPublish | None = None
    held: str | None = None
    in_sync: bool | None = None
    behind: Mapping[str, int] = field(default_factory=dict)
    term: int | None = None
    ready: bool | None = None
    not_ready: Mapping[str, str] = field(default_factory=dict)
    lacks: Mapping[str, int] = field(default_factory=dict)


def status(settings: Settings, model: Model) -> list[DatabaseStatus]:
    """Return the status of every configured database, in their order. All are read at the same
    time, and no row is changed.
    """
    known = [database.at_once for database in databases(settings)]
    standing = term.standing(known, settings)
    with ThreadPoolExecutor(len(known), thread_name_prefix="dbsync-status") as pool:
        statuses = list(pool.map(lambda entry: _by_itself(entry, standing, settings, model), known))
        primary = next((entry for entry in statuses if entry.role == "primary"), None)
        if primary is None or not primary.available:
            return statuses
        source = next(entry for entry in known if entry.name == primary.name)
        compared = list(
            pool.map(
                lambda status, database: _compared(status, database, source, settings, model),
                statuses,
                known,
            )
        )
    lacks = {entry.name: state for entry, state in compared if state is not None}
    return [
        replace(entry, lacks=lacks) if entry.name == source.name else entry for entry, _ in compared
    ]


def _by_itself(
    database: Database, standing: term.Standing, settings: Settings, model: Model
) -> DatabaseStatus:
    """The status of a database without a comparison with the primary."""
    name = database.name
    role = "primary" if name == standing.primary else "standby"
    recorded = standing.taken.get(name)
    result = DatabaseStatus(
        name, database.engine_name, role, available=False, term=recorded.n if recorded else None
    )
    started = time.monotonic()
    try:
        with database.connect() as dialect:
            latency = round((time.monotonic() - started) * 1000, 1)
            result = replace(result, available=True, latency_ms=latency)
            equal = False
            if role == "standby":
                facts = replace(ready.read(dialect, model), same_as=standing.duplicates.get(name))
                result, equal = _judged(result, facts, settings), not facts.structure
            if not equal:
                require(dialect, model)
            dialect.snapshot()
            rows = {table.name: dialect.rows(table) for table in model.tables}
            return replace(result, size_mb=round(dialect.size_bytes() / 1e6, 2), rows=rows)
    except DbsyncError as error:
        if role == "primary":
            return replace(result, reason=str(error))
        not_ready = result.not_ready or {ready.REACHABLE: error.cause}
        return replace(result, reason=str(error), ready=False, not_ready=not_ready)


def _judged(result: DatabaseStatus, facts: ready.Facts, settings: Settings) -> DatabaseStatus:
    verdict = ready.judge(facts, settings.max_age_seconds)
    last = None
    if facts.last is not None and facts.age_seconds is not None:
        last = _last(facts.last, facts.age_seconds)
    return replace(
        result, last_publish=last, held=facts.held, ready=verdict.ready, not_ready=verdict.reasons
    )


def _last(last: Publish, age_seconds: float) -> LastPublish:
    results = last.tables.values()
    seconds = _sum(result.read_seconds for result in results)
    return LastPublish(
        last.number,
        last.run_id,
        last.source,
        last.published_at,
        round(age_seconds, 1),
        last.partial,
        last.numbered,
        last.confirmed_at,
        last.confirmations,
        {name: result.proof for name, result in last.tables.items()},
        _sum(result.rows_read for result in results),
        _sum(result.bytes_read for result in results),
        None if seconds is None else round(seconds, 3),
    )


def _sum(values: Iterable[Number | None]) -> Number | None:
    """The sum of the values; None if one of them is not known."""
    known = list(values)
    return None if None in known else sum(known)  # type: ignore[arg-type]


def _compared(
    status: DatabaseStatus, database: Database, source: Database, settings: Settings, model: Model
) -> tuple[DatabaseStatus, int | None]:
    """The status of a standby compared with the primary, and its state if the primary does not know
    it and differs.
    """
    if status.name == source.name or status.reason is not None:
        return status, None
    try:
        with Session(source, database, model, run_id="status", settings=settings) as session:
            plan, _ = session.plan()
    except DbsyncError as error:
        return replace(status, reason=str(error)), None
    behind = {
        name: table.insert + table.update + table.delete
        for name, table in plan.tables.items()
        if not table.empty
    }
    return replace(status, in_sync=not behind, behind=behind), plan.unknown if behind else None
