"""Past syncs: Dagster's runs joined with the ledgers of the databases, however they were launched.

Every sync leaves the same traces in Dagster: the tags of its first step and the metadata of its
materializations. Whether it published is decided by the target's ledger: a run that was killed
after its commit did publish. If Dagster's store is lost, the ledgers still know what was published,
and only they know undos.

Cost: one query per page of runs, one for the events of each listed run, and two per ledger. Every
query has a limit.
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
    MetadataValue,
    RunRecord,
    RunsFilter,
)

from dbsync_pipeline.defs.alerts import RETRY_TAG
from dbsync_pipeline.defs.failures import GUARDS, UNKNOWN
from dbsync_pipeline.defs.run_tags import (
    ROUND_TAG,
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
from dbsync_pipeline.request import HistoryOptions

_EVENTS = {
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.RUN_FAILURE,
    DagsterEventType.RUN_CANCELED,
}
_FAILED = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
_PAGE = 100

NEWEST = HistoryOptions()
"""The newest runs, as many as `dbsync history` lists by default."""


@dataclass(frozen=True)
class TableCounts:
    """One table after a run: its rows, how many of them the run changed, and the bytes sent.

    `proof` says how both sides were compared, and why all rows were hashed if they were.
    """

    rows: int
    inserted: int
    updated: int
    deleted: int
    bytes: int
    proof: str = ""


@dataclass(frozen=True)
class Run:
    """One run on one target. Times are UTC; `seconds` and `phases` are seconds.

    `status` is Dagster's, None if Dagster has no record of the run. `reason` is why the run did not
    succeed. `published` and `number` come from the target's ledger; `published` is None if neither
    the ledger nor Dagster knows; `unknown` is true if the run itself could not find out, because it
    lost the reply to its COMMIT. `transient` is true if it failed and a retry can help. `verdicts`
    are the guards' refusals, each with `guard`, `table`, `found` and `remedy`. `allowed` are the
    overrides of the run. `undoes` is the number of the publish that an undo restored. `round` is
    the same for all targets of one request, schedule tick or backfill.
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
    unknown: bool = False
    transient: bool = False
    round: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether Dagster calls the run a success."""
        return self.status == "SUCCESS"

    @property
    def rows(self) -> int:
        """How many rows the tables of the run hold."""
        return sum(counts.rows for counts in self.tables.values())

    @property
    def changed(self) -> int:
        """How many rows the run inserted, updated or deleted."""
        return sum(
            counts.inserted + counts.updated + counts.deleted for counts in self.tables.values()
        )

    @property
    def bytes(self) -> int:
        """How many bytes the run sent to the target."""
        return sum(counts.bytes for counts in self.tables.values())


@dataclass(frozen=True)
class Past:
    """Runs, newest first, and why a ledger could not be read, by the database's name."""

    runs: list[Run]
    unread: Mapping[str, DbsyncError]


def past(
    instance: DagsterInstance,
    databases: Sequence[Database],
    options: HistoryOptions,
    *,
    seconds: float,
) -> Past:
    """Return the newest runs and publishes, newest first.

    A ledger that cannot be read within `seconds` is not an error: it is named in `unread`.
    """
    runs = read(instance, options)
    run_ids = [run.run_id for run in runs]
    targets = [database for database in databases if options.target in (None, database.name)]
    ledgers = ask(targets, lambda database: _publishes(database, options, run_ids), seconds)
    joined = [run for run in join(runs, ledgers.good) if not (options.failed and run.published)]
    joined.sort(key=lambda run: run.started_at, reverse=True)
    return Past(joined[: options.limit], ledgers.failed)


def read(instance: DagsterInstance, options: HistoryOptions = NEWEST) -> list[Run]:
    """Return the selected syncs according to Dagster, newest first, without those of other jobs."""
    runs: list[Run] = []
    for record in _records(instance, options):
        if _selected(record.dagster_run, options):
            runs.append(_run(instance, record))
        if len(runs) == options.limit:
            break
    return runs


def read_one(instance: DagsterInstance, run_id: str) -> Run:
    """Return the sync with that run id, according to Dagster."""
    (record,) = instance.get_run_records(RunsFilter(run_ids=[run_id]))
    return _run(instance, record)


def join(runs: Sequence[Run], ledgers: Mapping[str, Sequence[Publish]]) -> Iterator[Run]:
    """Yield the runs with what the ledgers record of them, and publishes that only a ledger knows.

    The ledgers are given by database. The order is undefined.
    """
    publishes: dict[str, list[Publish]] = {}
    for publish in (publish for ledger in ledgers.values() for publish in ledger):
        publishes.setdefault(publish.run_id, []).append(publish)
    for run in runs:
        published = publishes.pop(run.run_id, [])
        for publish in published:  # a failover publishes to several targets
            yield _with_publish(run, publish)
        if not published:
            unpublished = run.target in ledgers and run.published is None
            yield replace(run, published=False, unknown=False) if unpublished else run
    yield from (_of_ledger(publish) for alone in publishes.values() for publish in alone)


# What Dagster knows -------------------------------------------------------------------------------


def _records(instance: DagsterInstance, options: HistoryOptions) -> Iterator[RunRecord]:
    """Yield run records page by page, and stop when enough are read."""
    filters = RunsFilter(statuses=_FAILED) if options.failed else None
    size, cursor = min(_PAGE, options.limit), None
    while True:
        page = instance.get_run_records(filters, limit=size, cursor=cursor)
        yield from page
        if len(page) < size:
            return
        cursor, size = page[-1].dagster_run.run_id, _PAGE


def _selected(run: DagsterRun, options: HistoryOptions) -> bool:
    return (
        is_sync(run)
        and options.source in (None, source_of(run))
        and options.target in (None, target_of(run))
    )


def _run(instance: DagsterInstance, record: RunRecord) -> Run:
    run, events = record.dagster_run, _events(instance, record.dagster_run.run_id)
    materializations = [
        event.step_materialization_data.materialization
        for event in events
        if event.is_step_materialization
    ]
    metadata = _metadata(materializations[0]) if materializations else {}
    started = record.start_time or record.create_timestamp.timestamp()
    return Run(
        run_id=run.run_id,
        status=run.status.value,
        source=source_of(run),
        target=target_of(run),
        started_at=datetime.fromtimestamp(started, UTC),
        seconds=round(record.end_time - started, 3) if record.end_time else None,
        tables=dict(map(_table, materializations)),
        reason=reason(events),
        published=_published(run, metadata),
        number=metadata.get("publish_number"),
        phases={
            key.removeprefix("seconds_"): value
            for key, value in metadata.items()
            if key.startswith("seconds_")
        },
        verdicts=_verdicts(events),
        allowed=overrides_of(run),
        launched_by=launcher_of(run),
        unknown=any(UNKNOWN in metadata for metadata in _failure_metadata(events)),
        transient=run.status == DagsterRunStatus.FAILURE and run.tags.get(RETRY_TAG) == "true",
        round=run.tags.get(ROUND_TAG),
    )


def _events(instance: DagsterInstance, run_id: str) -> list[DagsterEvent]:
    records = instance.get_records_for_run(run_id, of_type=_EVENTS).records
    events = (record.event_log_entry.dagster_event for record in records)
    return [event for event in events if event is not None]


def _published(run: DagsterRun, metadata: Mapping[str, Any]) -> bool | None:
    """Return whether the run published; None if Dagster does not know."""
    if metadata:
        return "publish_number" in metadata
    return False if run.status == DagsterRunStatus.SUCCESS else None


def _metadata(materialization: AssetMaterialization) -> dict[str, Any]:
    # Former versions wrote blanks in the names.
    return {key.replace(" ", "_"): value.value for key, value in materialization.metadata.items()}


def _table(materialization: AssetMaterialization) -> tuple[str, TableCounts]:
    metadata = _metadata(materialization)
    name = str(metadata.get("dagster/table_name") or materialization.asset_key.to_user_string())
    keys = {
        "rows": "dagster/partition_row_count",
        "inserted": "inserted",
        "updated": "updated",
        "deleted": "deleted",
        "bytes": "bytes_moved",
    }
    numbers = {field: int(str(metadata.get(key) or 0)) for field, key in keys.items()}
    return name, TableCounts(**numbers, proof=str(metadata.get("proof") or ""))


def _verdicts(events: Iterable[DagsterEvent]) -> tuple[dict[str, Any], ...]:
    for metadata in _failure_metadata(events):
        if GUARDS in metadata:
            verdicts: Any = metadata[GUARDS].value
            return tuple(dict(verdict) for verdict in verdicts)
    return ()


def _failure_metadata(events: Iterable[DagsterEvent]) -> Iterator[Mapping[str, MetadataValue]]:
    for event in events:
        failure = event.step_failure_data.user_failure_data if event.is_step_failure else None
        if failure is not None:
            yield failure.metadata


# What the ledgers know ----------------------------------------------------------------------------


def _publishes(
    database: Database, options: HistoryOptions, run_ids: Sequence[str]
) -> list[Publish]:
    """Return the newest publishes, and those of Dagster's runs, which may be older.

    A run that found nothing to do has the publish that it confirmed, unless another one did since.
    """
    with database.connect() as dialect:
        ledger = Ledger(dialect)
        newest = []
        if not options.failed:
            newest = ledger.publishes(options.limit, source=options.source)
        older = set(run_ids) - {publish.run_id for publish in newest}
        if not older:
            return newest
        confirmed = ledger.confirmed()
        latest = [confirmed] if confirmed and confirmed.run_id in older else []
        return [*newest, *ledger.of_runs(sorted(older)), *latest]


def _with_publish(run: Run, publish: Publish) -> Run:
    """Return the run with the ledger's record of it, which is complete even if the process died."""
    recorded = _of_ledger(publish)
    return replace(
        run,
        published=recorded.published,
        unknown=False,
        number=recorded.number,
        source=recorded.source,
        target=recorded.target,
        phases=recorded.phases,
        tables=recorded.tables,
    )


def _of_ledger(publish: Publish) -> Run:
    seconds = sum(publish.seconds.values())
    return Run(
        run_id=publish.run_id,
        status=None,
        source=publish.source,
        target=publish.target,
        started_at=publish.published_at - timedelta(seconds=seconds),
        seconds=round(seconds, 3),
        tables={
            name: TableCounts(
                result.rows,
                result.inserted,
                result.updated,
                result.deleted,
                result.bytes,
                result.proof,
            )
            for name, result in publish.tables.items()
        },
        reason=None,
        published=True,
        number=publish.number,
        phases=dict(publish.seconds),
        undoes=publish.undoes,
        round=publish.round,
    )
