"""Run syncs, failovers and failbacks as Dagster jobs, so that history has them all.

The command line and the HTTP API use it. A sync is one run per target, in this process or, if the
deployment has a run launcher of its own, where that runs it (`elsewhere.py`). Failover and failback
always run in this process: they must work while the deployment does not. This module also creates
the store of Dagster's runs before its first use.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster import DagsterEvent, DagsterInstance, JobDefinition, execute_job, reconstructable
from filelock import FileLock

from dbsync_pipeline import signals
from dbsync_pipeline.defs.failover import REPORT
from dbsync_pipeline.defs.keys import asset_keys
from dbsync_pipeline.defs.resources import OBSERVER, ROUND
from dbsync_pipeline.defs.run_tags import (
    COMMAND_LINE,
    INTERFACE_TAG,
    JOB,
    PARTITION_TAG,
    ROUND_TAG,
    TARGET_TAG,
)
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror.sync.rounds import Round
from dbsync_pipeline.mirror.sync.session import Observer
from dbsync_pipeline.mirror.sync.task import ignore_progress
from dbsync_pipeline.policy import Overrides
from dbsync_pipeline.request import SyncRequest
from dbsync_pipeline.runs import elsewhere, history
from dbsync_pipeline.settings import Settings


def prepare_home(settings: Settings) -> Path:
    """Create Dagster's store with the project's `dagster.yaml`, and return its folder.

    A second call changes nothing. Raise SettingsError if the folder cannot be created or written
    to.
    """
    with dagster_instance(settings):
        return settings.dagster_home


@contextmanager
def dagster_instance(settings: Settings) -> Iterator[DagsterInstance]:
    """Open Dagster's persistent store of runs, and create it if it does not exist.

    Raise SettingsError if its folder cannot be created or written to.
    """
    with ExitStack() as opened:
        with signals.kept():
            instance = opened.enter_context(_open(settings.dagster_home))
        yield instance


def _open(home: Path) -> DagsterInstance:
    """Open the store in the folder, and create both if they do not exist.

    A lock keeps two processes from creating the tables of a new SQLite store at the same time,
    which would fail; the first query creates them.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "dbsync.lock"):
            if not (home / "dagster.yaml").exists():
                shutil.copyfile(_dagster_yaml(), home / "dagster.yaml")
            instance = DagsterInstance.from_config(str(home))
            instance.get_run_records(limit=1)
    except OSError as error:
        raise SettingsError(
            f"Dagster's runs cannot be kept in {home}: {error.strerror or type(error).__name__}",
            operation="open Dagster's store",
            remedy="set DBSYNC_HOME (or DAGSTER_HOME, if you set it) to a folder that can be "
            "created and written to",
        ) from None
    return instance


def sync_all(
    instance: DagsterInstance,
    request: SyncRequest,
    watch: Callable[[str], Observer | None] = lambda _: None,
    launched_by: str = COMMAND_LINE,
) -> list[history.Run]:
    """Run one sync per target to its end, and return their records in the order of the targets.

    In this process the targets have their turns, and get the same state of a PostgreSQL source; the
    deployment's own run launcher may run them at once. The failure of one does not stop the others.
    `watch` returns the observer of a target, `launched_by` is what history shows.
    Raise KeyboardInterrupt after Ctrl-C, and what `elsewhere.run_all` raises.
    """
    if not elsewhere.runs_elsewhere(instance):
        with _round(request):
            return [
                sync(instance, request, target, watch(target), launched_by)
                for target in request.targets
            ]
    assets = list(asset_keys(request.tables).values())
    return elsewhere.run_all(
        instance,
        [
            elsewhere.Submission(
                _tags(request, target, launched_by),
                _run_config(request),
                assets,
                watch(target) or ignore_progress,
            )
            for target in request.targets
        ],
    )


@contextmanager
def _round(request: SyncRequest) -> Iterator[None]:
    """Let the syncs of several targets share the source's state."""
    if len(request.targets) == 1:
        yield
        return
    with Round() as shared:
        token = ROUND.set(shared)
        try:
            yield
        finally:
            ROUND.reset(token)


def sync(
    instance: DagsterInstance,
    request: SyncRequest,
    target: str,
    observe: Observer | None = None,
    launched_by: str = COMMAND_LINE,
) -> history.Run:
    """Run `sync_job` on one target of the request to its end in this process, and return its
    record. Raise KeyboardInterrupt after a Ctrl-C, also if Dagster caught it.
    """
    token = OBSERVER.set(observe)
    try:
        with (
            signals.kept(),
            execute_job(
                reconstructable(sync_job),
                instance,
                run_config={**_run_config(request), **_QUIET},
                tags=_tags(request, target, launched_by),
                asset_selection=list(asset_keys(request.tables).values()),
                raise_on_error=False,
            ) as result,
        ):
            return history.read_one(instance, result.run_id)
    finally:
        OBSERVER.reset(token)


def _tags(request: SyncRequest, target: str, launched_by: str) -> dict[str, str]:
    return {
        PARTITION_TAG: target,
        TARGET_TAG: target,
        ROUND_TAG: request.round_id,
        INTERFACE_TAG: launched_by,
    }


def sync_in_new_process(
    settings: Settings, request: SyncRequest, launched_by: str
) -> list[history.Run]:
    """Do `sync_all` with a store of its own; for a process that was started for it."""
    with dagster_instance(settings) as instance:
        return sync_all(instance, request, launched_by=launched_by)


@dataclass(frozen=True)
class JobRun:
    """How a run of the failover or failback job ended.

    `report` is what it found and did, None if it failed before that; `note` is the same as text.
    """

    run_id: str
    status: str | None
    reason: str | None
    note: str | None
    report: Mapping[str, Any] | None

    @property
    def succeeded(self) -> bool:
        """Whether Dagster calls the run a success."""
        return self.status == "SUCCESS"


def failover(instance: DagsterInstance) -> JobRun:
    """Run `failover_job` to its end."""
    return _run(instance, failover_job, {}, None)


def failback(instance: DagsterInstance, overrides: Overrides, observe: Observer) -> JobRun:
    """Run `failback_job` to its end."""
    return _run(
        instance, failback_job, {"ops": {"fail_back": {"config": overrides.given}}}, observe
    )


def _run(
    instance: DagsterInstance,
    job: Callable[[], JobDefinition],
    config: dict[str, Any],
    observe: Observer | None,
) -> JobRun:
    token = OBSERVER.set(observe)
    try:
        with execute_job(
            reconstructable(job), instance, run_config={**config, **_QUIET}, raise_on_error=False
        ) as result:
            metadata = {
                key: value.value
                for event in result.all_events
                for key, value in _metadata(event).items()
            }
            run = history.read_one(instance, result.run_id)
            return JobRun(
                run.run_id, str(run.status), run.reason, metadata.get("note"), metadata.get(REPORT)
            )
    finally:
        OBSERVER.reset(token)


def _metadata(event: DagsterEvent) -> Mapping[str, Any]:
    """Return the metadata of a step's output, or of its failure."""
    if event.is_successful_output:
        return event.step_output_data.metadata
    if event.is_step_failure and event.step_failure_data.user_failure_data:
        return event.step_failure_data.user_failure_data.metadata
    return {}


def failover_job() -> JobDefinition:
    """Return `failover_job` as Dagster's server loads it."""
    return _job("failover_job")


def failback_job() -> JobDefinition:
    """Return `failback_job` as Dagster's server loads it."""
    return _job("failback_job")


def primary_back_job() -> JobDefinition:
    """Return `primary_back_job` as Dagster's server loads it."""
    return _job("primary_back_job")


def sync_job() -> JobDefinition:
    """Return `sync_job` as Dagster's server loads it."""
    return _job(JOB)


def _job(name: str) -> JobDefinition:
    from dbsync_pipeline.definitions import defs

    return defs.resolve_job_def(name)


# Dagster's log would hide the progress; every event is in its store anyway.
_QUIET: Mapping[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def _run_config(request: SyncRequest) -> dict[str, Any]:
    return {
        "resources": {"sync": {"config": {"source": request.source}}},
        "ops": {"sync": {"ops": {"ensure_schema": {"config": request.overrides.given}}}},
    }


def _dagster_yaml() -> Path:
    """Return the project's `dagster.yaml`: beside the package in a checkout, else inside it."""
    package = Path(__file__).parents[1]
    inside = package / "dagster.yaml"
    return inside if inside.exists() else package.parent / "dagster.yaml"
