"""Who is told when a run fails, and how a run ends whose process is gone.

A failure is told of once. A run of the command line (`dbsync sync`, `dagster job execute`) may have no daemon behind it, so its own
process tells, and marks the run before it ends, which is before the daemon can see it. Of every other run the daemon tells, since it
alone knows whether the run will be tried again; so it does of a command-line run that was killed before it could speak.

Only what a retry can mend is tried again: Dagster's retries are for runs whose process died (`dagster.yaml`), and a step that fails by
a Transient error puts its run among them by a tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    Failure,
    HookContext,
    HookDefinition,
    RunFailureSensorContext,
    RunsFilter,
    RunStatusSensorContext,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    failure_hook,
    run_failure_sensor,
    run_status_sensor,
    sensor,
)

from dbsync_pipeline import notify
from dbsync_pipeline.defs.run_tags import (
    ALERTED_TAG,
    ALIVE_TAG,
    FAILOVER,
    NOTE_TAG,
    UPKEEP,
    is_look,
    is_sync,
    reason,
    source_of,
    target_of,
)
from dbsync_pipeline.settings import load

RETRY_TAG = "dagster/retry_on_asset_or_op_failure"
WILL_RETRY_TAG = "dagster/will_retry"
SILENT = timedelta(minutes=3)
"""A run gives a sign of life every half minute; after this time without one its process is gone."""


def failure_alert() -> HookDefinition:
    """What the failing process itself does: mark a failure that a retry can mend, and tell of it where the daemon will not."""

    @failure_hook(name="failure_told")
    def tell(context: HookContext) -> None:
        run, error = context.instance.get_run_by_id(context.run_id), context.op_exception
        can_mend = isinstance(error, Failure) and error.allow_retries
        context.instance.add_run_tags(
            context.run_id, {RETRY_TAG: str(can_mend).lower()}
        )  # a retry has its parent's tags
        if run is not None and speaks_for_itself(run):
            context.instance.add_run_tags(run.run_id, {ALERTED_TAG: run.run_id})
            why = error.description if isinstance(error, Failure) else None
            notify.send(load(), *failure_text(run, why), context.log.warning)

    return tell


def sensors() -> list[SensorDefinition]:
    """All that the daemon watches; they run as soon as it does."""
    return [_alert_on_failure(), _alert_on_note(), _end_dead_runs()]


def _alert_on_failure() -> SensorDefinition:
    @run_failure_sensor(
        name="alert_on_failure",
        monitor_all_code_locations=True,  # else runs of the command line are not seen
        default_status=DefaultSensorStatus.RUNNING,
        description="Send an alert of each failed run that its own process has not told of and that is not tried again.",
    )
    def tell(context: RunFailureSensorContext) -> None:
        if is_unreported(context.dagster_run):
            why = reason([*context.get_step_failure_events(), context.failure_event])
            notify.send(load(), *failure_text(context.dagster_run, why), context.log.warning)

    return tell


def _alert_on_note() -> SensorDefinition:
    @run_status_sensor(
        name="alert_on_note",
        run_status=DagsterRunStatus.SUCCESS,
        monitor_all_code_locations=True,
        default_status=DefaultSensorStatus.RUNNING,
        description="Send an alert of each failover and failback, and of the return of the configured primary.",
    )
    def tell(context: RunStatusSensorContext) -> SkipReason | None:
        run = context.dagster_run
        if run.job_name not in FAILOVER or NOTE_TAG not in run.tags:
            return SkipReason("there is nothing to tell of it")
        notify.send(
            load(),
            f"dbsync: {run.job_name} has run",
            f"{run.tags[NOTE_TAG]}\nRun {run.run_id}",
            context.log.warning,
        )
        return None

    return tell


def _end_dead_runs() -> SensorDefinition:
    @sensor(
        name="end_dead_runs",
        minimum_interval_seconds=60,
        default_status=DefaultSensorStatus.RUNNING,
        description="End the runs whose process is gone, so that they do not block their target's queue.",
    )
    def end(context: SensorEvaluationContext) -> SkipReason:
        ended = end_dead_runs(context.instance, datetime.now(UTC))
        return SkipReason(
            f"ended {', '.join(ended)}" if ended else "every run that runs gives signs of life"
        )

    return end


def end_dead_runs(instance: DagsterInstance, now: datetime) -> list[str]:
    """Fail the syncs that have given no sign of life for three minutes; returns their ids.

    What they published stays so; what they did not, their databases have rolled back. Should the process live after all, its
    target's lock still keeps others out.
    """
    records = instance.get_run_records(
        RunsFilter(statuses=[DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING])
    )
    dead = [
        one.dagster_run for one in records if is_dead(one.dagster_run, one.update_timestamp, now)
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
    """Whether the process of a run that runs is gone. A sync that ended before its first sign is told by being one.

    The run's record counts as a sign too, since a retry starts with its parent's tags.
    """
    sign = run.tags.get(ALIVE_TAG)
    if sign is None and not is_sync(run):
        return False
    signatures = [updated_at, *([datetime.fromisoformat(sign)] if sign else [])]
    return now - max(signatures) > SILENT


def speaks_for_itself(run: DagsterRun) -> bool:
    """Whether the run was started by a command, not by the daemon or the UI."""
    return run.remote_job_origin is None


def is_unreported(run: DagsterRun) -> bool:
    """Whether the daemon is to tell of this failed run."""
    if (
        not (is_sync(run) or is_look(run) or run.job_name in (*FAILOVER, *UPKEEP))
        or run.tags.get(ALERTED_TAG) == run.run_id
    ):
        return False
    return speaks_for_itself(run) or not _tried_again(run.tags)


def _tried_again(tags: Mapping[str, str]) -> bool:
    return tags.get(WILL_RETRY_TAG) == "true"


def failure_text(run: DagsterRun, why: str | None) -> tuple[str, str]:
    """(title, body) of an alert."""
    target = target_of(run)
    what = (
        f"{target} was not synced from {source_of(run) or 'the primary'}"
        if target and is_sync(run)
        else f"{run.job_name} failed"
    )
    return f"dbsync: {what}", f"{why or 'its process ended without a word'}\nRun {run.run_id}"
