"""End runs whose process is gone, so that they do not block their target's queue.

A sync writes every half minute that it is alive (`watcher.py`). The reaper, a sensor, fails a run
that has not done so for three minutes. It covers what Dagster's own monitoring cannot see: a run of
the command line that was killed, and a machine that is gone.
"""

from __future__ import annotations

from datetime import UTC, datetime

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from dbsync_pipeline.defs.run_tags import ALIVE_TAG, SILENT, is_sync


def reaper_sensor() -> SensorDefinition:
    """Return the sensor; it starts with the daemon."""

    @sensor(
        name="end_dead_runs",
        minimum_interval_seconds=60,
        default_status=DefaultSensorStatus.RUNNING,
        description="End the runs whose process is gone, so that they do not block their target's "
        "queue.",
    )
    def end(context: SensorEvaluationContext) -> SkipReason:
        ended = end_dead_runs(context.instance, datetime.now(UTC))
        return SkipReason(f"ended {', '.join(ended)}" if ended else "every started run is alive")

    return end


def end_dead_runs(instance: DagsterInstance, now: datetime) -> list[str]:
    """Fail the syncs that gave no sign of life for three minutes; return their ids.

    What they published stays published; their databases roll back the rest. If such a process is
    alive after all, the lock on its target still excludes others.
    """
    records = instance.get_run_records(
        RunsFilter(statuses=[DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING])
    )
    dead = [
        record.dagster_run
        for record in records
        if is_dead(record.dagster_run, record.update_timestamp, now)
    ]
    for run in dead:
        if run.status == DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run)
        else:
            instance.report_run_failed(
                run, "the run's process is gone: it gave no sign of life for three minutes"
            )
    return [run.run_id for run in dead]


def is_dead(run: DagsterRun, updated_at: datetime, now: datetime) -> bool:
    """Return whether the process of a started run is gone.

    Only this project's runs give signs of life; a sync that ended before its first one counts too.
    An update of the run's record is also a sign, because a retry starts with its parent's tags.
    """
    sign = run.tags.get(ALIVE_TAG)
    if sign is None and not is_sync(run):
        return False
    signs = [updated_at, *([datetime.fromisoformat(sign)] if sign else [])]
    return now - max(signs) > SILENT
