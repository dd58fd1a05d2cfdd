"""What happened: Dagster's runs joined with the ledgers of the databases, as plain records, however they were launched.

A sync from the UI, a schedule, `dbsync sync` or `dagster job execute` leaves the same traces in Dagster: the tags of its first step and
the metadata of its materializations. Whether it published is what the target's ledger says: a run that was killed after its commit
published, and where Dagster's store is lost the ledgers still tell what was published. Undos stand in the ledgers alone.

Reading costs one query for a page of runs, one for the events of each run that is wanted, and two for each ledger; none is read
without a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import (
    AssetMaterialization,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunRecord,
    RunsFilter,
)

from dbsync_pipeline.defs.failures import GUARDS
from dbsync_pipeline.defs.run_tags import INTERFACE_TAG as INTERFACE_TAG
from dbsync_pipeline.defs.run_tags import JOB as JOB
from dbsync_pipeline.defs.run_tags import PARTITION_TAG as PARTITION_TAG
from dbsync_pipeline.defs.run_tags import (
    is_sync,
    launcher_of,
    overrides_of,
    reason,
    source_of,
    target_of,
)
from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.mirror.ledger import Ledger, Publish

_TELLING = {
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.RUN_FAILURE,
    DagsterEventType.RUN_CANCELED,
}
_FAILED = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
_PAGE = 100


@dataclass(frozen=True)
class TableCounts:
    """What a run published of one table: its rows then, and how many of them it changed; `bytes` is what was sent for it."""

    rows: int
    inserted: int
    updated: int
    deleted: int
    bytes: int


@dataclass(frozen=True)
class Run:
    """One run on one target. Times are UTC; `reason` says why it did not succeed.

    `status` is Dagster's word, None where Dagster knows nothing of the run. `published` and `number` are the ledger's; `published` is
    None where neither the ledger nor Dagster could tell. `phases` are seconds. `verdicts` are the guards' that refused, each with
    `guard`, `table`, `found` and `remedy`; `allowed` is what a person let pass. `undoes` is the number of the publish that an undo took back.
    """

    run_id: str
    status: str | None
    source: str | None
    target: str | None
    started_at: datetime
    seconds: float | None
    tables: dict[str, TableCounts]
    reason: str | None
    published: bool | None = None
    number: int | None = None
    phases: dict[str, float] = field(default_factory=dict)
    verdicts: tuple[dict[str, Any], ...] = ()
    allowed: dict[str, Any] = field(default_factory=dict)
    launched_by: str | None = None
    undoes: int | None = None

    @property
    def succeeded(self) -> bool:
        return self.status == "SUCCESS"


@dataclass(frozen=True)
class Wanted:
    """Which runs: at most `limit`, from that source, to that target, only those that ended without a publish."""

    limit: int = 20
    source: str | None = None
    target: str | None = None
    failed: bool = False


@dataclass(frozen=True)
class Past:
    """Runs, newest first, and why a ledger could not be read, by its database."""

    runs: list[Run]
    unread: Mapping[str, DbsyncError]


def past(
    instance: DagsterInstance, databases: Sequence[Database], wanted: Wanted, *, seconds: float
) -> Past:
    """The newest runs and publishes, newest first. A ledger that is not read within `seconds` is no failure: it is named in `unread`."""
    runs = read(instance, wanted)
    asked = [database for database in databases if wanted.target in (None, database.name)]
    answers = ask(asked, lambda one: _entries(one, wanted, [run.run_id for run in runs]), seconds)
    joined = [run for run in join(runs, answers.good) if not (wanted.failed and run.published)]
    joined.sort(key=lambda run: run.started_at, reverse=True)
    return Past(joined[: wanted.limit], answers.failed)


def read(instance: DagsterInstance, wanted: Wanted = Wanted()) -> list[Run]:
    """The wanted syncs as Dagster has them, newest first; runs of other jobs in the same store are passed over."""
    found: list[Run] = []
    for record in _records(instance, wanted):
        if _is_wanted(record.dagster_run, wanted):
            found.append(_run(instance, record))
        if len(found) == wanted.limit:
            break
    return found


def read_one(instance: DagsterInstance, run_id: str) -> Run:
    """The sync of that run id, as Dagster has it."""
    (record,) = instance.get_run_records(RunsFilter(run_ids=[run_id]))
    return _run(instance, record)


def join(runs: Sequence[Run], ledgers: Mapping[str, Sequence[Publish]]) -> Iterator[Run]:
    """The runs with what the ledgers, by database, say of them, and what only the ledgers know; in no order."""
    entries: dict[str, list[Publish]] = {}
    for entry in (entry for publications in ledgers.values() for entry in publications):
        entries.setdefault(entry.run_id, []).append(entry)
    for run in runs:
        published = entries.pop(run.run_id, [])
        for entry in published:  # several for a failover
            yield _with_entry(run, entry)
        if not published:
            unpublished = run.target in ledgers and run.published is None
            yield replace(run, published=False) if unpublished else run
    yield from (_of_ledger(entry) for alone in entries.values() for entry in alone)


# Dagster's side --------------------------------------------------------------------------------------------------------


def _records(instance: DagsterInstance, wanted: Wanted) -> Iterator[RunRecord]:
    """Page by page, so that no more is read than is looked at."""
    filters = RunsFilter(statuses=_FAILED) if wanted.failed else None
    size, cursor = min(_PAGE, wanted.limit), None
    while True:
        page = instance.get_run_records(filters, limit=size, cursor=cursor)
        yield from page
        if len(page) < size:
            return
        cursor, size = page[-1].dagster_run.run_id, _PAGE


def _is_wanted(run: DagsterRun, wanted: Wanted) -> bool:
    return (
        is_sync(run)
        and wanted.source in (None, source_of(run))
        and wanted.target in (None, target_of(run))
    )


def _run(instance: DagsterInstance, record: RunRecord) -> Run:
    run = record.dagster_run
    events = [
        entry.event_log_entry.dagster_event
        for entry in instance.get_records_for_run(run.run_id, of_type=_TELLING).records
    ]
    told = [event for event in events if event is not None]
    made = [
        event.step_materialization_data.materialization
        for event in told
        if event.is_step_materialization
    ]
    said = _said(made[0]) if made else {}
    began = record.start_time or record.create_timestamp.timestamp()
    return Run(
        run_id=run.run_id,
        status=run.status.value,
        source=source_of(run),
        target=target_of(run),
        started_at=datetime.fromtimestamp(began, UTC),
        seconds=round(record.end_time - began, 3) if record.end_time else None,
        tables=dict(map(_table, made)),
        reason=reason(told),
        published="publish number" in said
        if made
        else False
        if run.status == DagsterRunStatus.SUCCESS
        else None,
        number=said.get("publish number"),
        phases={
            key.removeprefix("seconds "): value
            for key, value in said.items()
            if key.startswith("seconds ")
        },
        verdicts=_verdicts(told),
        allowed=overrides_of(run),
        launched_by=launcher_of(run),
    )


def _said(materialization: AssetMaterialization) -> dict[str, Any]:
    return {key: value.value for key, value in materialization.metadata.items()}


def _table(materialization: AssetMaterialization) -> tuple[str, TableCounts]:
    said = _said(materialization)
    name = str(said.get("dagster/table_name") or materialization.asset_key.to_user_string())
    words = {
        "rows": "dagster/row_count",
        "inserted": "inserted",
        "updated": "updated",
        "deleted": "deleted",
        "bytes": "bytes moved",
    }
    return name, TableCounts(**{word: int(str(said.get(key) or 0)) for word, key in words.items()})


def _verdicts(events: Iterable[DagsterEvent]) -> tuple[dict[str, Any], ...]:
    for event in events:
        failure = event.step_failure_data.user_failure_data if event.is_step_failure else None
        if failure is not None and GUARDS in failure.metadata:
            found: Any = failure.metadata[GUARDS].value
            return tuple(dict(one) for one in found)
    return ()


# The ledgers' side -----------------------------------------------------------------------------------------------------


def _entries(database: Database, wanted: Wanted, run_ids: Sequence[str]) -> list[Publish]:
    """The newest publishes, and those of the runs that Dagster named, which may be older."""
    with database.connect() as dialect:
        ledger = Ledger(dialect)
        if not ledger.exists():
            return []
        newest = [] if wanted.failed else ledger.publishes(wanted.limit, source=wanted.source)
        rest = set(run_ids) - {entry.run_id for entry in newest}
        return newest + (ledger.of_runs(sorted(rest)) if rest else [])


def _with_entry(run: Run, entry: Publish) -> Run:
    """The ledger's word; where the process ended after its commit, it is the only one."""
    ours = _of_ledger(entry)
    said = {
        name: getattr(ours, name)
        for name in ("published", "number", "source", "target", "phases", "tables")
    }
    return replace(run, **said)


def _of_ledger(entry: Publish) -> Run:
    seconds = sum(entry.seconds.values())
    return Run(
        run_id=entry.run_id,
        status=None,
        source=entry.source,
        target=entry.target,
        started_at=entry.published_at - timedelta(seconds=seconds),
        seconds=round(seconds, 3),
        tables={
            name: TableCounts(
                result.rows, result.inserted, result.updated, result.deleted, result.bytes
            )
            for name, result in entry.tables.items()
        },
        reason=None,
        published=True,
        number=entry.number,
        phases=dict(entry.seconds),
        undoes=entry.undoes,
    )
