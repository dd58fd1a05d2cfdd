"""Syncs, failovers and failbacks run through Dagster in this process, one run per target, so that history has them all.

Both doors use it. It owns the store of Dagster's runs: where it is, and that it is
complete before anyone uses it.
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
from dbsync_pipeline.defs.assets import asset_key
from dbsync_pipeline.defs.failover import REPORT
from dbsync_pipeline.defs.resources import OBSERVER
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror.sync.session import Observer
from dbsync_pipeline.policy import Overrides
from dbsync_pipeline.request import SyncRequest
from dbsync_pipeline.runs import history
from dbsync_pipeline.settings import Settings


def prepare_home(settings: Settings) -> Path:
    """Make Dagster's store if it is not there yet, with the project's `dagster.yaml`; a second call changes nothing.

    Raises SettingsError where the folder cannot be made or written to.

    Two processes that meet in a new SQLite store trip over each other's tables, so the first one makes it alone.
    """
    home = settings.dagster_home
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "dbsync.lock"):
            if not (home / "dagster.yaml").exists():
                shutil.copyfile(_dagster_yaml(), home / "dagster.yaml")
            with DagsterInstance.from_config(str(home)) as instance:
                instance.get_run_records(limit=1)
    except OSError as error:
        raise SettingsError(
            f"Dagster's runs cannot be kept in {home}: {error.strerror or type(error).__name__}",
            operation="open Dagster's store",
            remedy="set DBSYNC_HOME, or DAGSTER_HOME where it is set, to a folder that can be made and written to",
        ) from None
    return home


@contextmanager
def dagster_instance(settings: Settings) -> Iterator[DagsterInstance]:
    """Dagster's lasting store of runs, made first if need be."""
    with ExitStack() as opened:
        with signals.kept():
            instance = opened.enter_context(
                DagsterInstance.from_config(str(prepare_home(settings)))
            )
        yield instance


def sync(
    instance: DagsterInstance,
    choice: SyncRequest,
    target: str,
    observe: Observer | None = None,
    door: str | None = None,
) -> history.Run:
    """One run of `sync_job` on one of the choice's targets, to its end; whether it succeeded is in the record.

    `door` is what history calls the run's launcher where it is not the command line.
    """
    watching = OBSERVER.set(observe)
    try:
        with execute_job(
            reconstructable(sync_job),
            instance,
            run_config=_run_config(choice),
            tags={history.PARTITION_TAG: target, **({history.INTERFACE_TAG: door} if door else {})},
            asset_selection=[asset_key(table) for table in choice.tables],
            raise_on_error=False,
        ) as result:
            return history.read_one(instance, result.run_id)
    finally:
        OBSERVER.reset(watching)


def sync_all(settings: Settings, choice: SyncRequest, door: str) -> list[history.Run]:
    """One run per target, in turn; one that fails does not hold the next one back."""
    with dagster_instance(settings) as instance:
        return [sync(instance, choice, target, door=door) for target in choice.targets]


@dataclass(frozen=True)
class JobRun:
    """How a run of a job that is no sync ended. `report` is what it saw and did, null where it did not come so far; `note` is that for a person."""

    run_id: str
    status: str | None
    reason: str | None
    note: str | None
    report: Mapping[str, Any] | None

    @property
    def succeeded(self) -> bool:
        return self.status == "SUCCESS"


def failover(instance: DagsterInstance) -> JobRun:
    """One run of `failover_job`, to its end."""
    return _run(instance, failover_job, {}, None)


def failback(instance: DagsterInstance, overrides: Overrides, observe: Observer) -> JobRun:
    """One run of `failback_job`, to its end."""
    return _run(
        instance, failback_job, {"ops": {"fail_back": {"config": overrides.given}}}, observe
    )


def _run(
    instance: DagsterInstance,
    job: Callable[[], JobDefinition],
    config: dict[str, Any],
    observe: Observer | None,
) -> JobRun:
    watching = OBSERVER.set(observe)
    try:
        with execute_job(
            reconstructable(job), instance, run_config={**config, **_QUIET}, raise_on_error=False
        ) as result:
            said = {
                key: value.value
                for event in result.all_events
                for key, value in _said(event).items()
            }
            run = history.read_one(instance, result.run_id)
            return JobRun(
                run.run_id, str(run.status), run.reason, said.get("note"), said.get(REPORT)
            )
    finally:
        OBSERVER.reset(watching)


def _said(event: DagsterEvent) -> Mapping[str, Any]:
    """The metadata of a step's output, or of its failure."""
    if event.is_successful_output:
        return event.step_output_data.metadata
    if event.is_step_failure and event.step_failure_data.user_failure_data:
        return event.step_failure_data.user_failure_data.metadata
    return {}


def failover_job() -> JobDefinition:
    """The job as the server loads it."""
    return _job("failover_job")


def failback_job() -> JobDefinition:
    """The job as the server loads it."""
    return _job("failback_job")


def primary_back_job() -> JobDefinition:
    """The job as the server loads it."""
    return _job("primary_back_job")


def sync_job() -> JobDefinition:
    """The job as the server loads it."""
    return _job(history.JOB)


def _job(name: str) -> JobDefinition:
    from dbsync_pipeline.definitions import defs

    return defs.resolve_job_def(name)


# Dagster's own log would bury the progress; its store keeps every event all the same.
_QUIET: Mapping[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def _run_config(choice: SyncRequest) -> dict[str, Any]:
    return {
        "resources": {"sync": {"config": {"source": choice.source}}},
        "ops": {"sync": {"ops": {"ensure_schema": {"config": choice.overrides.given}}}},
        **_QUIET,
    }


def _dagster_yaml() -> Path:
    """The project's `dagster.yaml`: at the top of a checkout, inside the package once installed."""
    package = Path(__file__).parents[1]
    inside = package / "dagster.yaml"
    return inside if inside.exists() else package.parent / "dagster.yaml"
