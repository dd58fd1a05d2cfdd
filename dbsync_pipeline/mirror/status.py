"""How each database stands now: reachable, how large, what it last received, and how far it is from the primary."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror import ready
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.ledger import Publish
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.schema import require
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.settings import Settings


@dataclass(frozen=True)
class LastPublish:
    """The newest publish that a standby received; `age_seconds` counts from the moment of the source's state that it holds."""

    number: int
    run_id: str
    source: str
    published_at: dt.datetime
    age_seconds: float
    partial: bool
    numbered: bool


@dataclass(frozen=True)
class DatabaseStatus:
    """One database. `behind` has the rows of each table that a sync from the primary would insert, update or delete.

    `ready` says of a standby whether the application could write there now, and `not_ready` by check why not; a check may also say that
    a ready standby is old. `term` is the highest that the database took. `lacks` says of the primary which state each standby holds that it
    does not know: it was restored from a backup. What could not be found out is None, with the reason in `reason`.
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
    """The status of every configured database, in their order; all are asked at the same time, and none is changed."""
    known = [database.at_once for database in databases(settings)]
    standing = term.standing(known, settings)
    with ThreadPoolExecutor(len(known), thread_name_prefix="dbsync-status") as pool:
        found = list(pool.map(lambda one: _alone(one, standing, settings, model), known))
        primary = next((one for one in found if one.role == "primary"), None)
        if primary is None or not primary.available:
            return found
        source = next(one for one in known if one.name == primary.name)
        compared = list(
            pool.map(
                lambda one, database: _compared(one, database, source, settings, model),
                found,
                known,
            )
        )
    lacks = {one.name: state for one, state in compared if state is not None}
    return [replace(one, lacks=lacks) if one.name == source.name else one for one, _ in compared]


def _alone(
    database: Database, standing: term.Standing, settings: Settings, model: Model
) -> DatabaseStatus:
    role, taken = (
        "primary" if database.name == standing.primary else "standby",
        standing.taken.get(database.name),
    )
    result = DatabaseStatus(
        database.name, database.engine_name, role, available=False, term=taken.n if taken else None
    )
    started = time.monotonic()
    try:
        with database.connect() as dialect:
            result = replace(
                result, available=True, latency_ms=round((time.monotonic() - started) * 1000, 1)
            )
            equal = False
            if role == "standby":
                facts = ready.read(dialect, model)
                result, equal = _judged(result, facts, settings), not facts.structure
            if not equal:
                require(dialect, model)
            dialect.snapshot()
            size, rows = (
                dialect.size_bytes(),
                {table.name: dialect.rows(table) for table in model.tables},
            )
            return replace(result, size_mb=round(size / 1e6, 2), rows=rows)
    except DbsyncError as error:
        if role == "primary":
            return replace(result, reason=str(error))
        return replace(
            result,
            reason=str(error),
            ready=False,
            not_ready=result.not_ready or {ready.REACHABLE: error.cause},
        )


def _judged(result: DatabaseStatus, facts: ready.Facts, settings: Settings) -> DatabaseStatus:
    verdict = ready.judge(facts, settings.max_age_seconds)
    last = (
        None
        if facts.last is None or facts.age_seconds is None
        else _last(facts.last, facts.age_seconds)
    )
    return replace(
        result, last_publish=last, held=facts.held, ready=verdict.ready, not_ready=verdict.reasons
    )


def _last(last: Publish, age: float) -> LastPublish:
    return LastPublish(
        last.number,
        last.run_id,
        last.source,
        last.published_at,
        round(age, 1),
        last.partial,
        last.numbered,
    )


def _compared(
    one: DatabaseStatus, database: Database, source: Database, settings: Settings, model: Model
) -> tuple[DatabaseStatus, int | None]:
    """The status of a standby beside the primary, and the number of its state where the primary does not know it and differs."""
    if one.name == source.name or one.reason is not None:
        return one, None
    try:
        with Session(source, database, model, run_id="status", settings=settings) as session:
            plan, _ = session.plan()
    except DbsyncError as error:
        return replace(one, reason=str(error)), None
    behind = {
        name: table.insert + table.update + table.delete
        for name, table in plan.tables.items()
        if not table.empty
    }
    return replace(one, in_sync=not behind, behind=behind), plan.unknown if behind else None
