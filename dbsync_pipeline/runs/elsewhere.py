"""Syncs where the deployment's run launcher runs them: submitted to the queue, followed from here.

With Celery, Docker, Kubernetes or ECS as run launcher, this process is not the place for a sync: it
may have neither the memory nor the network of a worker. Its runs are then queued as those of the
pages are, and the daemon starts them. The store records how far they are; ending the wait by Ctrl-C
cancels them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultRunLauncher,
    QueuedRunCoordinator,
    RunsFilter,
)

# Private, because Dagster exports no workspace; its own commands open one in the same way.
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget

from dbsync_pipeline import signals
from dbsync_pipeline.defs.run_tags import JOB, PROGRESS_TAG
from dbsync_pipeline.errors import DbsyncError, SettingsError, Unavailable
from dbsync_pipeline.mirror.sync.session import Observer
from dbsync_pipeline.runs import history

WORKSPACE = "workspace.yaml"
"""The file in the working folder that says where the definitions are; Dagster's own commands read
it too. Without it they are this package's."""

DAEMON = "QUEUED_RUN_COORDINATOR"
"""The part of the daemon that starts queued runs."""
SILENT_SECONDS = 300.0
"""A daemon that gave no sign of life for so long is gone; it gives one every half minute."""
_LOOK_SECONDS = 1.0
_NO_RETRIES = {"dagster/max_retries": "0"}
"""The caller decides about the next attempt, as after a sync in this process."""

_LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}
"""


@dataclass(frozen=True)
class Submission:
    """One run of `sync_job` to submit, and the observer of its progress."""

    tags: Mapping[str, str]
    config: Mapping[str, Any]
    assets: Sequence[AssetKey]
    observe: Observer


def runs_elsewhere(instance: DagsterInstance) -> bool:
    """Return whether the instance has another run launcher than Dagster's default, which starts
    runs beside the code server on this machine."""
    return not isinstance(instance.run_launcher, DefaultRunLauncher)


def run_all(instance: DagsterInstance, submissions: Sequence[Submission]) -> list[history.Run]:
    """Submit all runs, follow them to their ends, and return their records in the same order.

    Runs that have not ended are cancelled if this raises: KeyboardInterrupt after Ctrl-C,
    Unavailable if no daemon starts queued runs, SettingsError if no code location has the tables.
    """
    require_daemon(instance)
    following: list[_Following] = []
    try:
        with _workspace(instance) as workspace:
            for submission in submissions:
                run_id = _submit(workspace, submission)
                following.append(_Following(run_id, submission.observe))
        _follow(instance, following)
    except BaseException:
        _cancel(instance, following)
        raise
    return [run.ended(instance) for run in following]


def require_daemon(instance: DagsterInstance) -> None:
    """Raise Unavailable if runs wait in a queue and no daemon has given a sign of life."""
    if not isinstance(instance.run_coordinator, QueuedRunCoordinator):
        return
    beat = instance.get_daemon_heartbeats().get(DAEMON)
    if beat is None or time.time() - beat.timestamp > SILENT_SECONDS:
        raise Unavailable(
            "no daemon starts the queued runs: it gave no sign of life for "
            f"{SILENT_SECONDS / 60:.0f} minutes",
            operation="sync",
            remedy="start Dagster's daemon with the same DAGSTER_HOME: `dagster-daemon run`",
        )


@contextmanager
def _workspace(instance: DagsterInstance) -> Iterator[WorkspaceProcessContext]:
    target = (
        WorkspaceFileTarget([WORKSPACE])
        if Path(WORKSPACE).exists()
        else ModuleTarget("dbsync_pipeline.definitions", None, None, None)
    )
    # stdout is the result of this command: the code server may not log there
    with WorkspaceProcessContext(instance, target, code_server_log_level="CRITICAL") as workspace:
        yield workspace


def _submit(workspace: WorkspaceProcessContext, submission: Submission) -> str:
    """Queue one run, and return its id."""
    from dagster_graphql.cli import execute_query  # takes more than a second to import

    location, repository = _location(workspace, submission.assets)
    tags = {**submission.tags, **_NO_RETRIES, PROGRESS_TAG: "{}"}
    params = {
        "selector": {
            "repositoryLocationName": location,
            "repositoryName": repository,
            "jobName": JOB,
            "assetSelection": [{"path": list(key.path)} for key in submission.assets],
        },
        "runConfigData": dict(submission.config),
        "executionMetadata": {
            "tags": [{"key": key, "value": value} for key, value in tags.items()]
        },
    }
    result = execute_query(workspace, _LAUNCH, {"params": params})
    response = (result.get("data") or {}).get("launchRun") or {}
    if response.get("__typename") != "LaunchRunSuccess":
        errors = [response, *response.get("errors", ()), *result.get("errors", ())]
        cause = "; ".join(str(error["message"]) for error in errors if "message" in error)
        raise DbsyncError(
            f"Dagster did not accept the run: {cause.splitlines()[0] if cause else 'no reason'}",
            operation="sync",
            remedy="see that the workers and this command have the same version and settings",
        )
    return str(response["run"]["runId"])


def _location(workspace: WorkspaceProcessContext, assets: Sequence[AssetKey]) -> tuple[str, str]:
    """Return the names of the code location and the repository that have the tables."""
    context = workspace.create_request_context()
    for location in context.code_locations:
        for repository in location.get_repositories().values():
            known = {node.asset_key for node in repository.get_asset_node_snaps(JOB)}
            if repository.has_job(JOB) and known.issuperset(assets):
                return location.name, repository.name
    failed = [
        f"{name} could not be loaded"
        for name, entry in context.get_code_location_entries().items()
        if entry.load_error
    ]
    raise SettingsError(
        "no code location has the tables of this sync" + "".join(f"; {why}" for why in failed),
        operation="sync",
        remedy=f"run `dagster definitions validate` where you run this command; {WORKSPACE} there "
        "must name the code location",
    )


@dataclass
class _Following:
    """A run that was submitted, and what was seen of it."""

    run_id: str
    observe: Observer
    over: bool = False
    seen: set[str] = field(default_factory=set)

    def look(self, run: DagsterRun) -> None:
        """Pass the progress on that the run has recorded since the last look."""
        self.over = run.is_finished
        for table, (phase, done, total) in json.loads(run.tags.get(PROGRESS_TAG, "{}")).items():
            self.seen.add(table)
            self.observe(table, phase, done, total)

    def ended(self, instance: DagsterInstance) -> history.Run:
        """Return the run's record; show the tables that were too quick for a look."""
        run = history.read_one(instance, self.run_id)
        for table, counts in run.tables.items():
            if table not in self.seen:
                self.observe(table, "prove", counts.rows, counts.rows)
        return run


def _follow(instance: DagsterInstance, following: Sequence[_Following]) -> None:
    """Return when all runs have ended."""
    while waiting := {run.run_id: run for run in following if not run.over}:
        time.sleep(_LOOK_SECONDS)
        signals.check()
        runs = instance.get_runs(RunsFilter(run_ids=list(waiting)))
        for run in runs:
            waiting.pop(run.run_id).look(run)
        for deleted in waiting.values():
            raise DbsyncError(
                f"run {deleted.run_id} was deleted before it ended",
                operation="sync",
                remedy="`dbsync history` shows what was published",
            )
        if any(run.status == DagsterRunStatus.QUEUED for run in runs):
            require_daemon(instance)


def _cancel(instance: DagsterInstance, following: Sequence[_Following]) -> None:
    """Cancel the runs that have not ended. Each ends by itself: its worker rolls it back."""
    for run in following:
        if not run.over:
            instance.run_coordinator.cancel_run(run.run_id)
