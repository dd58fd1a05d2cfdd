"""Facts of a week, as the page reads them: three databases, a sync every six hours, one refusal."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from dbsync_pipeline.defs.readiness import LastCheck
from dbsync_pipeline.http.glance.facts import Facts, LedgerFacts, Reading
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Publish, TableResult, Term
from dbsync_pipeline.runs.history import Run, TableCounts
from dbsync_pipeline.settings import Settings

NOW = dt.datetime(2026, 11, 26, 14, 20, tzinfo=dt.UTC)
SETTINGS = Settings()
ROWS = {"users": 48_210, "chats": 131_077, "messages": 1_904_322}

REFUSAL = {
    "guard": "local writes",
    "table": "users",
    "found": "rows of azure were written since its last publish: "
    "up to 2 rows would be changed or deleted, with keys 311, 312",
    "remedy": "if this is what you want: `dbsync sync --source windows --target azure --overwrite`",
}


def run(target: str, *, hours: float, rows: int = 12) -> Run:
    """A sync to that target so many hours ago, which changed so many rows."""
    return Run(
        run_id=f"{target}-{hours}",
        status="SUCCESS",
        source="windows",
        target=target,
        started_at=NOW - dt.timedelta(hours=hours),
        seconds=2.4 + rows / 9_000,
        tables={"messages": TableCounts(ROWS["messages"], rows, 0, 0, rows * 311)},
        reason=None,
        published=True,
        launched_by="schedule every_standby",
    )


def runs(refused: bool) -> list[Run]:
    """The runs of seven days, newest first."""
    chance = random.Random(4)
    syncs = [
        run(target, hours=2.33 + 6 * number + late, rows=int(chance.lognormvariate(7.5, 1.6)))
        for number in range(28)
        for target, late in (("linux", 0.0), ("azure", -0.03))
    ]
    syncs[8] = replace(syncs[8], tables={}, seconds=2.1)  # nothing to change
    del syncs[20:22]  # the machine was off
    if refused:
        syncs[1] = replace(
            syncs[1], status="FAILURE", tables={}, published=False, verdicts=(REFUSAL,), reason=""
        )
    return sorted(syncs, key=lambda sync: sync.started_at, reverse=True)


def _publish(sync: Run, number: int) -> Publish:
    assert sync.source and sync.target
    return Publish(
        number,
        sync.run_id,
        sync.source,
        sync.target,
        sync.started_at,
        sync.started_at,
        {table: TableResult(rows, 0, 0, 0, 0, "", 0.1) for table, rows in ROWS.items()},
        {},
        numbered=True,
        state=number,
    )


def _of(name: str, past: Sequence[Run], term: Term | None) -> Reading:
    newest = next((sync for sync in past if sync.target == name and sync.published), None)
    last = _publish(newest, 112) if newest else None
    return Reading(NOW - dt.timedelta(minutes=4), LedgerFacts(term, last, (), None))


def facts(*, refused: bool = True, term: Term | None = None) -> Facts:
    """The facts: the last sync to azure was refused, all else is well."""
    past = runs(refused)
    engines = {"windows": "postgresql", "linux": "postgresql", "azure": "mssql"}
    named = [Database(name, sa.URL.create(engine)) for name, engine in engines.items()]
    check = LastCheck(True, {}, NOW - dt.timedelta(minutes=6))
    return Facts(
        NOW,
        named,
        {database.name: _of(database.name, past, term) for database in named},
        {database.name: check for database in named},
        past,
    )


def well() -> Facts:
    """The facts of a week without a refusal."""
    return facts(refused=False)


def promoted(name: str) -> Facts:
    """The facts after a promotion that every database recorded."""
    return facts(refused=False, term=Term(1, name))
