"""What Dagster keeps of runs is forgotten after a time; the ledgers keep every publish for good."""

# No `from __future__ import annotations` here: Dagster reads the ops' annotations as objects.
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

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
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage

from dbsync_pipeline.defs.run_tags import FAILOVER, UPKEEP, is_look, is_sync
from dbsync_pipeline.settings import load
from dbsync_pipeline.text import count

_UPKEEP_DAYS = 2.0
_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
_MOST = 5_000


@op
def forget_old_runs(context: OpExecutionContext) -> None:
    """Delete the records and logs of runs that ended more than DBSYNC_HISTORY_DAYS ago; those that only look after the syncs go sooner."""
    forgotten = forget(context.instance, load().history_days)
    context.log.info(f"{count(forgotten, 'run')} forgotten")


def forget(instance: DagsterInstance, days: float) -> int:
    """Forget this project's runs that ended so long ago, at most 5,000 of a kind; returns how many. Runs of other projects stay."""
    syncs = [
        run
        for run in _ended(instance, days)
        if is_sync(run) or run.job_name in FAILOVER or is_look(run)
    ]
    upkeep = [run for name in UPKEEP for run in _ended(instance, min(days, _UPKEEP_DAYS), name)]
    for run in (*syncs, *upkeep):
        instance.compute_log_manager.delete_logs(prefix=[run.run_id])
        instance.delete_run(run.run_id)
        _remove_file(instance, run.run_id)
    return len(syncs) + len(upkeep)


def _remove_file(instance: DagsterInstance, run_id: str) -> None:
    """With SQLite the events of a run have a file of their own, which Dagster empties and leaves."""
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        for ending in ("", "-wal", "-shm"):
            Path(storage.path_for_shard(run_id) + ending).unlink(missing_ok=True)


def _ended(
    instance: DagsterInstance, days: float, job_name: str | None = None
) -> Sequence[DagsterRun]:
    before = datetime.now(UTC) - timedelta(days=days)
    return instance.get_runs(
        RunsFilter(job_name=job_name, statuses=_ENDED, updated_before=before), limit=_MOST
    )


def retention_job() -> JobDefinition:
    """Once a day."""

    @job(
        name="retention_job",
        executor_def=in_process_executor,
        description="Forget old runs. What was published stays in the databases' ledgers.",
    )
    def forget_runs() -> None:
        forget_old_runs()

    return forget_runs
