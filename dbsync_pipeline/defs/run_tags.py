"""What a run leaves in Dagster's store, read back: which runs are ours, from where to where, and why one failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunsFilter,
)

SOURCE_TAG = "dbsync/source"
TARGET_TAG = "dbsync/target"
# Tags that begin with `.dagster/` are hidden by Dagster's pages.
ALIVE_TAG = ".dagster/dbsync_alive_at"
"""When the run's process last gave a sign of life."""
ALERTED_TAG = ".dagster/dbsync_alerted"
"""The run's own id once its process has told of its failure; a retry has its parent's tags, and another id."""
NOTE_TAG = "dbsync/note"
"""What a person has to be told of a run that succeeded."""
DOOR_TAG = "dbsync/door"
"""Through which of our own doors the run was asked for, where that is not the command line."""
PARTITION_TAG = "dagster/partition"
JOB = "sync_job"
FAILOVER = ("failover_job", "failback_job", "primary_back_job")
UPKEEP = ("readiness_job", "retention_job")
LOCATION = "dbsync_pipeline.definitions"
STANDBY = ("dbsync", "standby")
"""The key of the asset whose checks say whether a database could take over; its runs copy nothing."""

_UNSAID = "This run has been marked as failed from outside the execution context."
"""What Dagster says of a run whose process was killed, or could not be started; how it was is another event of the run."""
_GONE = "the run's process is gone: it was killed, or could not start; Dagster's log of the run says which"

_GOING = [
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
    """Whether a run of Dagster's store is one of this project's syncs."""
    if run.job_name == JOB or TARGET_TAG in run.tags:
        return True
    # A run that ended before its first step, launched from the UI as a materialization.
    origin = run.remote_job_origin
    return (
        origin is not None
        and origin.location_name == LOCATION
        and PARTITION_TAG in run.tags
        and not is_look(run)
    )


def is_look(run: DagsterRun) -> bool:
    """Whether a run only looks at a standby, asked for from the UI."""
    return any(tuple(key.path) == STANDBY for key in run.asset_selection or ())


def source_of(run: DagsterRun) -> str | None:
    """The source's name: as the run's first step noted it, else as the launch said it."""
    if SOURCE_TAG in run.tags:
        return run.tags[SOURCE_TAG]
    found = configured(run, "resources", "sync", "config", "source")
    return None if found is None else str(found)


def allowed_in(run: DagsterRun) -> dict[str, Any]:
    """What a person let the guards pass in the run, by the names of the settings."""
    return dict(configured(run, "ops", "sync", "ops", "ensure_schema", "config") or {})


def configured(run: DagsterRun, *path: str) -> Any:
    """What stands there in the run's config; None for nothing."""
    found: Any = run.run_config
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found or None


def target_of(run: DagsterRun) -> str | None:
    """The target's name, which is the run's partition."""
    return run.tags.get(TARGET_TAG) or run.tags.get(PARTITION_TAG)


def launcher_of(run: DagsterRun) -> str:
    """What launched the run: a schedule, a sensor or a backfill, with its name; `ui`, `api`, or `command line`."""
    for tag, word in _LAUNCHERS.items():
        if tag in run.tags:
            return f"{word} {run.tags[tag]}"
    return run.tags.get(DOOR_TAG) or ("command line" if run.remote_job_origin is None else "ui")


def automatic(tags: Mapping[str, str]) -> bool:
    """Whether no person asked for the run of these tags: a schedule or a sensor did."""
    return "dagster/schedule_name" in tags or "dagster/sensor_name" in tags


def active_run(instance: DagsterInstance, target: str) -> DagsterRun | None:
    """A sync to that target that waits in the queue or runs."""
    found = instance.get_runs(RunsFilter(statuses=_GOING, tags={PARTITION_TAG: target}))
    return next(filter(is_sync, found), None)


def reason(events: Iterable[DagsterEvent]) -> str | None:
    """The first useful text of a failure: what a step said of its own accord, else the message of the exception, else of the event."""
    for event in events:
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data and failure.user_failure_data.description:
                return failure.user_failure_data.description
            return _message(failure.error) or event.message
        if event.event_type in (DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED):
            return _GONE if event.message == _UNSAID else event.message
    return None


def _message(error: Any) -> str | None:
    """The innermost message of a stored exception."""
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return None
    return (
        "interrupted"
        if error.cls_name == "DagsterExecutionInterruptedError"
        else str(error.message).strip()
    )
