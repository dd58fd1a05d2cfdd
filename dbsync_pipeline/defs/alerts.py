"""Alerts of failed runs, and of failovers that succeeded.

Each failure is alerted once. A command-line run (`dbsync sync`, `dagster job execute`) may have no
daemon to report it, so its own process sends the alert and marks the run before the run ends, hence
before the daemon can see it. The daemon alerts for all other runs, because only it knows whether a
run will be retried, and for a command-line run that was killed before it could send anything.

Only failures that a retry can fix are retried. Dagster's retries are for runs whose process died
(`dagster.yaml`); a step that fails with a Transient error adds its run to them by a tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

from dagster import (
    DagsterInstance,
    DagsterLogManager,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    Failure,
    RunFailureSensorContext,
    RunStatusSensorContext,
    SensorDefinition,
    SkipReason,
    run_failure_sensor,
    run_status_sensor,
)

from dbsync_pipeline import notify
from dbsync_pipeline.defs.run_tags import (
    ALERTED_TAG,
    FAILOVER,
    NOTE_TAG,
    UPKEEP,
    checks_standby,
    is_alive,
    is_sync,
    reason,
    source_of,
    target_of,
)
from dbsync_pipeline.settings import load

RETRY_TAG = "dagster/retry_on_asset_or_op_failure"
WILL_RETRY_TAG = "dagster/will_retry"


class RunContext(Protocol):
    """The part of an op's context that identifies its run."""

    @property
    def instance(self) -> DagsterInstance:
        """The store of the run."""

    @property
    def run_id(self) -> str:
        """The run's id."""

    @property
    def log(self) -> DagsterLogManager:
        """The run's log."""


def report_failure(context: RunContext, failure: Failure) -> None:
    """Mark whether a retry can fix the failure, and send the alert if the daemon will not.

    The failing process calls it.
    """
    run = context.instance.get_run_by_id(context.run_id)
    # Set either way: a retry inherits its parent's tags.
    tags = {RETRY_TAG: str(failure.allow_retries).lower()}
    if run is None or not is_command_line_run(run):
        context.instance.add_run_tags(context.run_id, tags)
        return
    context.instance.add_run_tags(context.run_id, {**tags, ALERTED_TAG: run.run_id})
    notify.send(load(), *failure_text(run, failure.description), context.log.warning)


def sensors() -> list[SensorDefinition]:
    """Return the sensors that send alerts; both start with the daemon."""
    return [_alert_on_failure(), _alert_on_note()]


def _alert_on_failure() -> SensorDefinition:
    @run_failure_sensor(
        name="alert_on_failure",
        monitor_all_code_locations=True,  # runs of the command line have no code location
        default_status=DefaultSensorStatus.RUNNING,
        description="Send an alert for each failed run that will not be retried, unless its own "
        "process has sent one.",
    )
    def alert(context: RunFailureSensorContext) -> None:
        if needs_alert(context.dagster_run):
            cause = reason([*context.get_step_failure_events(), context.failure_event])
            notify.send(load(), *failure_text(context.dagster_run, cause), context.log.warning)

    return alert


def _alert_on_note() -> SensorDefinition:
    @run_status_sensor(
        name="alert_on_note",
        run_status=DagsterRunStatus.SUCCESS,
        monitor_all_code_locations=True,
        default_status=DefaultSensorStatus.RUNNING,
        description="Send an alert for each failover and failback, and when the configured primary "
        "returns.",
    )
    def alert(context: RunStatusSensorContext) -> SkipReason | None:
        run = context.dagster_run
        if run.job_name not in FAILOVER or NOTE_TAG not in run.tags:
            return SkipReason("the run has no note to send")
        title, body = f"dbsync: {run.job_name} has run", f"{run.tags[NOTE_TAG]}\nRun {run.run_id}"
        notify.send(load(), title, body, context.log.warning)
        return None

    return alert


def is_command_line_run(run: DagsterRun) -> bool:
    """Return whether a command, not the daemon or the UI, started the run."""
    return run.remote_job_origin is None


def needs_alert(run: DagsterRun) -> bool:
    """Return whether the daemon must send the alert for this failed run.

    Not for a run in a command's own process that gives signs of life: a launcher that does not know
    it made the daemon fail it. The process goes on, and reports its own failure.
    """
    known = is_sync(run) or checks_standby(run) or run.job_name in (*FAILOVER, *UPKEEP)
    if not known or run.tags.get(ALERTED_TAG) == run.run_id:
        return False
    if is_command_line_run(run):
        return not is_alive(run, datetime.now(UTC))
    return not _will_retry(run.tags)


def _will_retry(tags: Mapping[str, str]) -> bool:
    return tags.get(WILL_RETRY_TAG) == "true"


def failure_text(run: DagsterRun, cause: str | None) -> tuple[str, str]:
    """Return (title, body) of the alert for a failed run."""
    target = target_of(run)
    what = (
        f"{target} was not synced from {source_of(run) or 'the primary'}"
        if target and is_sync(run)
        else f"{run.job_name} failed"
    )
    return f"dbsync: {what}", f"{cause or 'its process ended without a message'}\nRun {run.run_id}"
