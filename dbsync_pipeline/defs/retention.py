"""Delete what Dagster keeps of old runs, and of scheduled runs that found nothing to do.

The ledgers keep every publish for good, and the number and time of the confirmations of the last.
"""

# No `from __future__ import annotations` here: Dagster reads the ops' annotations as objects.
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    JobDefinition,
    OpExecutionContext,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    in_process_executor,
    job,
    op,
    sensor,
)

from dbsync_pipeline.defs.run_tags import (
    FAILOVER,
    QUIET_TAG,
    QUIET_TARGET_TAG,
    UPKEEP,
    checks_standby,
    is_automatic,
    is_sync,
)
from dbsync_pipeline.defs.sqlite_storage import delete_event_file
from dbsync_pipeline.mirror.ledger import Publish
from dbsync_pipeline.settings import load
from dbsync_pipeline.text import count

_UPKEEP_DAYS = 2.0
_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
_LIMIT = 5_000
"""Runs of one kind that one call deletes at most; the next day's run continues."""


@op
def delete_old_runs(context: OpExecutionContext) -> None:
    """Delete records and logs of runs that ended more than DBSYNC_HISTORY_DAYS ago; those of upkeep
    runs after two days."""
    deleted = delete_runs(context.instance, load().history_days)
    context.log.info(f"{count(deleted, 'run')} deleted")


def delete_runs(instance: DagsterInstance, days: float) -> int:
    """Delete this project's runs that ended more than `days` days ago, at most 5,000 of a kind;
    return how many. Runs of other projects stay."""
    syncs = [
        run
        for run in _ended(instance, days)
        if is_sync(run) or run.job_name in FAILOVER or checks_standby(run)
    ]
    upkeep = [run for name in UPKEEP for run in _ended(instance, min(days, _UPKEEP_DAYS), name)]
    old = {run.run_id: run for run in (*syncs, *upkeep)}
    for run in old.values():
        _delete(instance, run)
    return len(old)


def _delete(instance: DagsterInstance, run: DagsterRun) -> None:
    instance.compute_log_manager.delete_logs(prefix=[run.run_id])
    instance.delete_run(run.run_id)
    delete_event_file(instance.event_log_storage, run.run_id)


def _ended(
    instance: DagsterInstance, days: float, job_name: str | None = None
) -> Sequence[DagsterRun]:
    before = datetime.now(UTC) - timedelta(days=days)
    filters = RunsFilter(job_name=job_name, statuses=_ENDED, updated_before=before)
    return instance.get_runs(filters, limit=_LIMIT)


def mark_quiet(context: OpExecutionContext, published: Publish) -> None:
    """Mark this run as one that found nothing to do, if a schedule or a sensor launched it."""
    if published.confirmations and is_automatic(context.run.tags):
        tags = {
            QUIET_TAG: str(published.confirmations),
            QUIET_TARGET_TAG: published.target,
        }
        context.instance.add_run_tags(context.run_id, tags)


def fold_quiet_runs(instance: DagsterInstance, targets: Sequence[str]) -> int:
    """Keep, of the ended runs that found nothing to do, only the newest of each target; return how
    many were deleted, at most 5,000 of each.
    """
    folded = 0
    for target in targets:
        filters = RunsFilter(statuses=[DagsterRunStatus.SUCCESS], tags={QUIET_TARGET_TAG: target})
        for run in instance.get_runs(filters, limit=_LIMIT)[1:]:
            _delete(instance, run)
            folded += 1
    return folded


def folding_sensor(targets: Sequence[str]) -> SensorDefinition:
    """Return the sensor that folds quiet runs; it starts with the daemon."""

    @sensor(
        name="fold_quiet_runs",
        minimum_interval_seconds=60,
        default_status=DefaultSensorStatus.RUNNING,
        description="Delete the scheduled runs that found nothing to do, but for the last of each "
        "standby, whose tag has their number.",
    )
    def fold(context: SensorEvaluationContext) -> SkipReason:
        return SkipReason(f"{count(fold_quiet_runs(context.instance, targets), 'run')} folded")

    return fold


def retention_job() -> JobDefinition:
    """Return the job that deletes old runs; a schedule runs it once a day."""

    @job(
        name="retention_job",
        executor_def=in_process_executor,
        description="Delete old runs. The databases' ledgers keep what was published.",
    )
    def retention() -> None:
        delete_old_runs()

    return retention
