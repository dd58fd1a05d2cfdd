"""What happened: Dagster's runs as plain records, however they were launched.

A sync from the UI, a schedule, `dbsync sync` or `dagster job execute` leaves the same traces: the tags of its first step and the metadata
of its materializations. Both are read here and nowhere else. Reading costs one query for the runs, and one for the events of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from dagster import AssetMaterialization, DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, RunRecord, RunsFilter

from dbsync_pipeline.defs.resources import SOURCE_TAG, TARGET_TAG

JOB = "sync_job"
LOCATION = "dbsync_pipeline.definitions"
PARTITION_TAG = "dagster/partition"

_TELLING = {
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.RUN_FAILURE,
    DagsterEventType.RUN_CANCELED,
}
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
    """One run on one target. `status` is Dagster's word; times are UTC; `reason` says why it did not succeed."""

    run_id: str
    status: str
    source: str | None
    target: str | None
    started_at: datetime
    seconds: float | None
    tables: dict[str, TableCounts]
    reason: str | None

    @property
    def succeeded(self) -> bool:
        return self.status == "SUCCESS"


def read(instance: DagsterInstance, limit: int = 20) -> list[Run]:
    """The last `limit` syncs, newest first; runs of other jobs in the same store are passed over."""
    found: list[Run] = []
    cursor: str | None = None
    while len(found) < limit:
        page = instance.get_run_records(limit=min(_PAGE, limit), cursor=cursor)
        found += [_run(instance, record) for record in page if _is_sync(record.dagster_run)]
        if len(page) < min(_PAGE, limit):
            break
        cursor = page[-1].dagster_run.run_id
    return found[:limit]


def read_one(instance: DagsterInstance, run_id: str) -> Run:
    """The sync of that run id."""
    (record,) = instance.get_run_records(RunsFilter(run_ids=[run_id]))
    return _run(instance, record)


def _is_sync(run: DagsterRun) -> bool:
    if run.job_name == JOB or TARGET_TAG in run.tags:
        return True
    # A run that ended before its first step, launched from the UI as a materialization.
    origin = run.remote_job_origin
    return origin is not None and origin.location_name == LOCATION and PARTITION_TAG in run.tags


def _run(instance: DagsterInstance, record: RunRecord) -> Run:
    run = record.dagster_run
    events = [entry.event_log_entry.dagster_event for entry in instance.get_records_for_run(run.run_id, of_type=_TELLING).records]
    told = [event for event in events if event is not None]
    began = record.start_time or record.create_timestamp.timestamp()
    return Run(
        run_id=run.run_id,
        status=run.status.value,
        source=run.tags.get(SOURCE_TAG) or _configured_source(run),
        target=run.tags.get(TARGET_TAG) or run.tags.get(PARTITION_TAG),
        started_at=datetime.fromtimestamp(began, timezone.utc),
        seconds=round(record.end_time - began, 3) if record.end_time else None,
        tables=dict(_table(event.step_materialization_data.materialization) for event in told if event.is_step_materialization),
        reason=_reason(told),
    )


def _configured_source(run: DagsterRun) -> str | None:
    """What the launch said of the source; for a run that ended before its first step."""
    found: Any = run.run_config
    for key in ("resources", "sync", "config", "source"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found or None


def _table(materialization: AssetMaterialization) -> tuple[str, TableCounts]:
    said = {key: value.value for key, value in materialization.metadata.items()}
    name = str(said.get("dagster/table_name") or materialization.asset_key.to_user_string())
    words = {
        "rows": "dagster/row_count",
        "inserted": "inserted",
        "updated": "updated",
        "deleted": "deleted",
        "bytes": "bytes moved",
    }
    return name, TableCounts(**{word: int(str(said.get(key) or 0)) for word, key in words.items()})


def _reason(events: Iterable[DagsterEvent]) -> str | None:
    """The first useful text of a failure: what a step said of its own accord, else the message of the exception, else of the event."""
    for event in events:
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data and failure.user_failure_data.description:
                return failure.user_failure_data.description
            return _message(failure.error) or event.message
        if event.event_type in (DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED):
            return event.message
    return None


def _message(error: Any) -> str | None:
    """The innermost message of a stored exception."""
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return None
    return "interrupted" if error.cls_name == "DagsterExecutionInterruptedError" else str(error.message).strip()
