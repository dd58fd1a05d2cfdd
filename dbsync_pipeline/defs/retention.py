"""Delete what Dagster keeps of old runs. The ledgers keep every publish for good."""

# No `from __future__ import annotations` here: Dagster reads the ops' annotations as objects.
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobDefinition,
    OpExecutionContext,
    RunsFilter,
    in_process_executor,
    job,
    op,
)

from dbsync_pipeline.defs.run_tags import FAILOVER, UPKEEP, checks_standby, is_sync
from dbsync_pipeline.defs.sqlite_storage import delete_event_file
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
    for run in (*syncs, *upkeep):
        instance.compute_log_manager.delete_logs(prefix=[run.run_id])
        instance.delete_run(run.run_id)
        delete_event_file(instance.event_log_storage, run.run_id)
    return len(syncs) + len(upkeep)


def _ended(
    instance: DagsterInstance, days: float, job_name: str | None = None
) -> Sequence[DagsterRun]:
    before = datetime.now(UTC) - timedelta(days=days)
    filters = RunsFilter(job_name=job_name, statuses=_ENDED, updated_before=before)
    return instance.get_runs(filters, limit=_LIMIT)


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
