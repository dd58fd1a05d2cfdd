"""How each database stands now: reachable, how large, what it last received, and how far it is from the primary."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror import term
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue import HELD
from dbsync_pipeline.mirror.schema import require
from dbsync_pipeline.mirror.session import Session
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

    What could not be found out is None, with the reason in `reason`.
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


def status(settings: Settings, model: Model) -> list[DatabaseStatus]:
    """The status of every configured database, in their order; all are asked at the same time, and none is changed."""
    known = databases(settings)
    primary_name = term.standing(known, settings).primary
    with ThreadPoolExecutor(len(known), thread_name_prefix="dbsync-status") as pool:
        found = list(pool.map(lambda one: _alone(one, primary_name, model), known))
        primary = next((one for one in found if one.role == "primary"), None)
        if primary is None or not primary.available:
            return found
        source = next(one for one in known if one.name == primary.name)
        compared = pool.map(lambda one, database: _compared(one, database, source, settings, model), found, known)
        return list(compared)


def _alone(database: Database, primary: str, model: Model) -> DatabaseStatus:
    role = "primary" if database.name == primary else "standby"
    result = DatabaseStatus(database.name, database.engine_name, role, available=False)
    started = time.monotonic()
    try:
        with database.connect() as dialect:
            result = replace(result, available=True, latency_ms=round((time.monotonic() - started) * 1000, 1))
            require(dialect, model)
            dialect.snapshot()
            ledger = Ledger(dialect)
            return replace(
                result,
                size_mb=round(dialect.size_bytes() / 1e6, 2),
                rows={table.name: dialect.count(table) for table in model.tables},
                last_publish=_last(ledger) if ledger.exists() else None,
                held=ledger.fact(HELD) if ledger.exists() else None,
            )
    except DbsyncError as error:
        return replace(result, reason=str(error))


def _last(ledger: Ledger) -> LastPublish | None:
    last = ledger.last()
    if last is None:
        return None
    age = (dt.datetime.now(dt.timezone.utc) - last.snapshot_at).total_seconds()
    return LastPublish(last.number, last.run_id, last.source, last.published_at, round(age, 1), last.partial, last.numbered)


def _compared(one: DatabaseStatus, database: Database, source: Database, settings: Settings, model: Model) -> DatabaseStatus:
    if one.name == source.name or one.reason is not None:
        return one
    try:
        with Session(source, database, model, run_id="status", settings=settings) as session:
            plan, _ = session.plan()
    except DbsyncError as error:
        return replace(one, reason=str(error))
    behind = {name: table.insert + table.update + table.delete for name, table in plan.tables.items() if not table.empty}
    return replace(one, in_sync=not behind, behind=behind)
