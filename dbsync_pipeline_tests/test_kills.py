"""`kill -9` of whatever runs heals without a person: real processes, real databases, and Dagster's store in PostgreSQL."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter, reconstructable
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from dbsync_pipeline.defs import run_tags
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.request import HistoryOptions
from dbsync_pipeline.runs import history, launch
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.processes import job_execute, started, until
from dbsync_pipeline_tests.receiver import Receiver
from dbsync_pipeline_tests.worlds import MODEL, content, execute, sync, user

QUEUED, STARTED, SUCCESS, FAILURE = (
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.SUCCESS,
    DagsterRunStatus.FAILURE,
)
DAEMON = ("dagster._daemon", "run", "-m", "dbsync_pipeline.definitions")
"""As the service of docs/operations.md runs it."""
LOCATION = "dbsync_pipeline.definitions"
"""The name that Dagster gives to the code location of that module."""

users = MODEL.table("users").sa
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a module of Dagster's for those places; it, and all that it started, ends with the test."""
    made: list[subprocess.Popen[str]] = []
    with open(tmp_path / "processes.log", "wb") as log:

        def start(places: Places, *module: str) -> subprocess.Popen[str]:
            made.append(started(places, *module, output=log, start_new_session=True))
            return made[-1]

        yield start
        for process in made:
            with contextlib.suppress(ProcessLookupError):  # nothing of it is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def kill(process: subprocess.Popen[str]) -> None:
    """That process alone; what it started goes on."""
    process.kill()
    process.wait()


def queue(instance: DagsterInstance, target: str) -> str:
    """A run in the daemon's queue, as the pages and the schedules put it there; its id."""
    location = ManagedGrpcPythonEnvCodeLocationOrigin(
        LoadableTargetOrigin(module_name="dbsync_pipeline.definitions"), LOCATION
    )
    run = instance.create_run_for_job(
        launch.sync_job(),
        tags={run_tags.PARTITION_TAG: target},
        remote_job_origin=RemoteRepositoryOrigin(location, "__repository__").get_job_origin(
            run_tags.JOB
        ),
        job_code_origin=reconstructable(launch.sync_job).get_python_origin(),
    )
    instance.run_coordinator.submit_run(SubmitRunContext(run, workspace=None))  # type: ignore[arg-type]
    return run.run_id


def status(instance: DagsterInstance, run_id: str) -> DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def worker_of(instance: DagsterInstance, run_id: str) -> int:
    """The process of a run that the daemon has launched."""
    events = instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT)
    (pid,) = [
        found[1]
        for event in events
        if (found := re.match(r"Started process for run \(pid: (\d+)\)", event.message))
    ]
    return int(pid)


def retry_of(instance: DagsterInstance, run_id: str) -> str | None:
    """The run that Dagster tries that one again by, once it runs."""
    found = instance.get_run_ids(
        RunsFilter(tags={"dagster/root_run_id": run_id}, statuses=[STARTED])
    )
    return found[0] if found else None


@contextmanager
def writing(database: Database) -> Iterator[None]:
    """The application is in the middle of a transaction there, for whose end a sync waits."""
    with database.engine().begin() as application:
        application.exec_driver_sql("LOCK TABLE users IN ROW EXCLUSIVE MODE")
        yield


def waits(database: Database) -> bool:
    """Whether a sync waits for the tables of that database."""
    waiting = "relation = 'users'::regclass AND mode = 'ShareRowExclusiveLock' AND NOT granted"
    with database.engine().connect() as connection:
        return bool(connection.scalar(sa.text(f"SELECT count(*) FROM pg_locks WHERE {waiting}")))


def let_minutes_pass(instance: DagsterInstance, store: Database, run_id: str) -> None:
    """As if the daemon had been down for four minutes, in which that run gave no sign of life."""
    ago = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=4)
    instance.add_run_tags(run_id, {run_tags.ALIVE_TAG: ago.isoformat()})
    earlier = "UPDATE runs SET update_timestamp = update_timestamp - interval '4 minutes' WHERE run_id = :id"
    execute(store, sa.text(earlier).bindparams(id=run_id))
    for sensor in instance.all_instigator_state():
        data = sensor.sensor_instigator_data
        if sensor.name == "end_dead_runs" and data is not None:
            ticked = data._replace(
                last_tick_timestamp=ago.timestamp(), last_tick_start_timestamp=ago.timestamp()
            )
            instance.update_instigator_state(sensor.with_data(ticked))


def test_a_worker_the_daemon_and_a_command_are_killed_and_the_targets_are_synced_all_the_same(
    new_database: NewDatabase,
    start: Start,
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    windows, linux, azure, store = (
        new_database("postgresql", name) for name in ("windows", "linux", "azure", "store")
    )
    for name, database in {
        "WINDOWS": windows,
        "LINUX": linux,
        "AZURE": azure,
        "DAGSTER_STORAGE": store,
    }.items():
        monkeypatch.setenv(f"DBSYNC_{name}_URL", database.url.render_as_string(hide_password=False))
    monkeypatch.setenv("DBSYNC_ALERT_URLS", f"json://{receiver.address}/in")
    monkeypatch.setenv("DBSYNC_LOCK_SECONDS", "600")
    monkeypatch.setenv("DBSYNC_SCHEDULE", "0 0 29 2 *")  # no tick comes in between
    places = Places(tmp_path, monkeypatch)  # with a small world in windows
    for standby in (linux, azure):
        sync(windows, standby)
    execute(windows, (users.insert(), [user(500)]))

    with places.dagster() as instance:
        with writing(linux):
            with writing(azure):
                command, daemon = start(places, *job_execute("azure")), start(places, *DAEMON)
                worked = queue(instance, "linux")
                until("both wait for their target", lambda: waits(linux) and waits(azure))

                kill(command)
                until("the database has noticed", lambda: not waits(azure))
            (commanded,) = [
                run.run_id for run in instance.get_runs() if run.remote_job_origin is None
            ]
            after_command = queue(instance, "azure")

            os.kill(worker_of(instance, worked), signal.SIGKILL)
            until("its run has failed", lambda: status(instance, worked) == FAILURE)
            until("the database has noticed", lambda: not waits(linux))
            retried = until(
                "it is tried again, and waits", lambda: waits(linux) and retry_of(instance, worked)
            )
            after_retry = queue(instance, "linux")

            kill(daemon)
        until("what ran goes on without a daemon", lambda: status(instance, retried) == SUCCESS)
        assert content(linux) == content(windows)
        assert status(instance, commanded) == STARTED  # nobody has looked for it yet
        assert status(instance, after_retry) == status(instance, after_command) == QUEUED

        execute(windows, (users.insert(), [user(501)]))
        let_minutes_pass(instance, store, commanded)
        start(places, *DAEMON)  # what a service manager does at once
        until("the silent run is ended", lambda: status(instance, commanded) == FAILURE)
        for queued in (after_retry, after_command):
            until("the queue moves on", lambda run_id=queued: status(instance, run_id) == SUCCESS)  # type: ignore[misc]
        assert content(linux) == content(azure) == content(windows)

        told = until(
            "it is told of", lambda: [one for one in receiver.alerts if "was not synced" in one[0]]
        )
        ((title, body),) = told  # and not of what was tried again
        assert title == "dbsync: azure was not synced from windows" and commanded in body

        past = {
            run.run_id: run
            for run in history.past(instance, places.all(), HistoryOptions(), seconds=60).runs
        }
    for run_id, why in {worked: "it was killed", commanded: "no sign of life"}.items():
        assert (
            not past[run_id].succeeded
            and past[run_id].published is False
            and why in (past[run_id].reason or "")
        )
    for run_id in (retried, after_retry, after_command):
        assert (
            past[run_id].succeeded
            and past[run_id].published
            and past[run_id].tables["users"].inserted > 0
        )
