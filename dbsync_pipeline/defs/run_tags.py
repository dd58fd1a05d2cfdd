"""What a run leaves in Dagster's store, read back: whether it is this project's, its source and
target, and why it failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from dagster import (
    AssetKey,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunsFilter,
)

from dbsync_pipeline.defs.keys import table_keys

SOURCE_TAG = "dbsync/source"
TARGET_TAG = "dbsync/target"
# Dagster's pages hide tags that begin with `.dagster/`.
ROUND_TAG = ".dagster/dbsync_round"
"""The same for the runs of one request, one schedule tick or one backfill, one run per target."""
ALIVE_TAG = ".dagster/dbsync_alive_at"
"""When the run's process last wrote that it is alive."""
SILENT = timedelta(minutes=3)
"""A run without a sign of life for this long is dead; a live one gives one every half minute."""
ALERTED_TAG = ".dagster/dbsync_alerted"
"""The run's own id once its process has sent the alert of its failure. A retry inherits its
parent's tags but has another id, so an inherited tag does not count."""
NOTE_TAG = "dbsync/note"
"""What a person must know about a run that succeeded."""
QUIET_TAG = "dbsync/nothing_to_do"
"""Set on a scheduled run that confirmed the last publish: how many such runs there were since."""
QUIET_TARGET_TAG = ".dagster/dbsync_quiet"
"""The target of such a run, by which it is found."""
INTERFACE_TAG = "dbsync/interface"
"""Which of the project's interfaces asked for the run."""
COMMAND_LINE = "command line"
PROGRESS_TAG = ".dagster/dbsync_progress"
"""JSON: (phase, rows done, rows in all) by table, of the tables that moved last. Only a run that is
followed from another process has it."""
PARTITION_TAG = "dagster/partition"
JOB = "sync_job"
FAILOVER = ("failover_job", "failback_job", "primary_back_job")
UPKEEP = ("readiness_job", "retention_job")
STANDBY = ("dbsync", "standby")
"""How the keys of the assets begin whose checks say whether a database could take over. Their runs
copy nothing."""

_ENDED_FROM_OUTSIDE = "This run has been marked as failed from outside the execution context."
"""Dagster's message for a run whose process was killed or could not start; another event of the run
has the cause."""
_PROCESS_GONE = (
    "the run's process is gone: it was killed, or could not start; "
    "Dagster's log of the run says which"
)

_UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
_LAUNCHERS = {
    "dagster/schedule_name": "schedule",
    "dagster/sensor_name": "sensor",
    "dagster/backfill": "backfill",
}


def is_sync(run: DagsterRun) -> bool:
    """Return whether the run is one of this project's syncs: by its job, its tag, or the tables
    that it selects. The name of the code location does not matter."""
    if run.job_name == JOB or TARGET_TAG in run.tags:
        return True
    # A materialization from the pages that ended before its first step has neither.
    return PARTITION_TAG in run.tags and not _selected(run).isdisjoint(table_keys())


def _selected(run: DagsterRun) -> set[AssetKey]:
    """Return the assets that the run selects, or whose checks it selects."""
    checks = run.asset_check_selection or ()
    return {*(run.asset_selection or ()), *(check.asset_key for check in checks)}


def checks_standby(run: DagsterRun) -> bool:
    """Return whether the run only checks whether standbys could take over."""
    return any(tuple(key.path[: len(STANDBY)]) == STANDBY for key in _selected(run))


def is_alive(run: DagsterRun, now: datetime) -> bool:
    """Return whether the run's process wrote less than three minutes ago that it is alive."""
    sign = run.tags.get(ALIVE_TAG)
    return sign is not None and now - datetime.fromisoformat(sign) <= SILENT


def source_of(run: DagsterRun) -> str | None:
    """Return the source's name: as the run's first step recorded it, else as the run's config has
    it."""
    if SOURCE_TAG in run.tags:
        return run.tags[SOURCE_TAG]
    source = config_value(run, "resources", "sync", "config", "source")
    return None if source is None else str(source)


def overrides_of(run: DagsterRun) -> dict[str, Any]:
    """Return what a person allowed for the run, by the names of the settings."""
    return dict(config_value(run, "ops", "sync", "ops", "ensure_schema", "config") or {})


def config_value(run: DagsterRun, *path: str) -> Any:
    """Return the value at `path` in the run's config; None if there is none or it is empty."""
    value: Any = run.run_config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value or None


def target_of(run: DagsterRun) -> str | None:
    """Return the target's name, which is the run's partition."""
    return run.tags.get(TARGET_TAG) or run.tags.get(PARTITION_TAG)


def round_of(run: DagsterRun) -> str:
    """Return the round that the run belongs to: that of its request, tick or backfill, else the run
    itself.

    An automatic retry stays in the round of its parent. A run that a person executes again does
    not, although it inherits the tags: it may be days later.
    """
    tags = run.tags
    by_person = "dagster/parent_run_id" in tags and "dagster/retry_number" not in tags
    inherited = tags.get(ROUND_TAG) or tags.get("dagster/backfill")
    return run.run_id if by_person or not inherited else inherited


def launcher_of(run: DagsterRun) -> str:
    """Return what launched the run: `schedule NAME`, `sensor NAME`, `backfill ID`, `ui`, `api` or
    `command line`."""
    for tag, kind in _LAUNCHERS.items():
        if tag in run.tags:
            return f"{kind} {run.tags[tag]}"
    return run.tags.get(INTERFACE_TAG) or (COMMAND_LINE if run.remote_job_origin is None else "ui")


def is_automatic(tags: Mapping[str, str]) -> bool:
    """Return whether a schedule or a sensor, not a person, launched the run with these tags."""
    return "dagster/schedule_name" in tags or "dagster/sensor_name" in tags


def active_run(instance: DagsterInstance, target: str) -> DagsterRun | None:
    """Return a sync to `target` that is queued or runs."""
    runs = instance.get_runs(RunsFilter(statuses=_UNFINISHED, tags={PARTITION_TAG: target}))
    return next(filter(is_sync, runs), None)


def reason(events: Iterable[DagsterEvent]) -> str | None:
    """Return the first useful text of a failure: the step's own description, else the exception's
    message, else the event's."""
    for event in events:
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data and failure.user_failure_data.description:
                return failure.user_failure_data.description
            return _message(failure.error) or event.message
        if event.event_type in (DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED):
            return _PROCESS_GONE if event.message == _ENDED_FROM_OUTSIDE else event.message
    return None


def _message(error: Any) -> str | None:
    """Return the innermost message of a stored exception."""
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return None
    interrupted = error.cls_name == "DagsterExecutionInterruptedError"
    return "interrupted" if interrupted else str(error.message).strip()
