"""Celery as the run launcher: Redis, two workers, the daemon and `dbsync sync`, each in processes of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.processes import ROOT, free_port, started, until
from dbsync_pipeline_tests.test_kills import DAEMON, waits, writing
from dbsync_pipeline_tests.worlds import MODEL, content, execute, sync, user

users = MODEL.table("users").sa
REDIS = shutil.which("redis-server")
WORKER = "-A dbsync_pipeline.launchers.worker worker -Q dagster --concurrency 1 -n"
"""As docs/many-machines.md starts it, with a name of its own."""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_database: NewDatabase) -> Places:
    """Three PostgreSQL databases, a store in PostgreSQL, and the settings of deploy/ for Celery."""
    for name in ("windows", "linux", "azure", "store"):
        url = new_database("postgresql", name).url.render_as_string(hide_password=False)
        variable = "DAGSTER_STORAGE" if name == "store" else name.upper()
        monkeypatch.setenv(f"DBSYNC_{variable}_URL", url)
    monkeypatch.setenv("DBSYNC_LOCK_SECONDS", "600")
    monkeypatch.setenv("DBSYNC_SCHEDULE", "0 0 29 2 *")  # no tick comes in between
    made = Places(tmp_path, monkeypatch)
    config = yaml.safe_load((ROOT / "deploy" / "dagster.celery.yaml").read_text())
    config["run_monitoring"]["poll_interval_seconds"] = 2
    (made.dagster_home / "dagster.yaml").write_text(yaml.safe_dump(config))
    return made


@contextmanager
def deployment(places: Places, port: int) -> Iterator[None]:
    """Redis, two workers and the daemon, until they have all begun."""
    assert REDIS
    quiet = subprocess.DEVNULL
    broker = [REDIS, "--port", str(port), "--save", "", "--dir", str(places.folder)]
    places.set(
        CELERY_BROKER_URL=f"redis://127.0.0.1:{port}/0",
        CELERY_RESULT_BACKEND=f"redis://127.0.0.1:{port}/1",
    )
    processes = [subprocess.Popen(broker, stdout=quiet, stderr=quiet, start_new_session=True)]
    log = open(places.folder / "processes.log", "wb")  # noqa: SIM115 - closed below
    try:
        for module in (
            ("celery", *WORKER.split(), "first@%h"),
            ("celery", *WORKER.split(), "second@%h"),
            DAEMON,
        ):
            processes.append(started(places, *module, output=log, start_new_session=True))
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


@contextmanager
def command(places: Places, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """`dbsync`, which is killed if it has not ended by itself."""
    with open(places.folder / "command.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dbsync_pipeline.cli.entry", *words],
            env=places.environment(ROOT),
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def newest(instance: DagsterInstance, count: int = 1) -> list[DagsterRun]:
    return list(instance.get_runs(limit=count))


def process_of(instance: DagsterInstance, run: DagsterRun) -> int:
    """The process that executes the steps of the run, as its events say."""
    events = instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
    found = (re.search(r"in process \(pid: (\d+)\)", event.message) for event in events)
    return int(next(match[1] for match in found if match))


@pytest.mark.skipif(not REDIS, reason="redis-server is not installed")
def test_commands_sync_on_two_workers_cancel_there_and_survive_the_death_of_one(
    places: Places,
) -> None:
    windows, linux, azure = (places.named(name) for name in ("windows", "linux", "azure"))
    for standby in (linux, azure):
        sync(windows, standby)
    execute(windows, (users.insert(), [user(500)]))
    with deployment(places, free_port()), places.dagster() as instance:
        until("the daemon is alive", lambda: instance.get_daemon_heartbeats())
        both_at_once(places, instance)
        assert content(linux) == content(azure) == content(windows)

        before = content(linux)
        execute(windows, "UPDATE users SET name = 'new' WHERE id = 1")
        with writing(linux):
            ctrl_c_cancels(places, instance, linux)
        assert content(linux) == before

        with writing(linux):
            a_worker_is_killed(places, instance, linux)
        assert content(linux) == before
        with command(places, "sync", "--target", "linux") as again:
            assert again.wait(120) == 0
        assert content(linux) == content(windows)


def both_at_once(places: Places, instance: DagsterInstance) -> None:
    linux, azure = places.named("linux"), places.named("azure")
    with command(places, "sync") as process:
        with writing(linux), writing(azure):
            until("both runs wait for their targets", lambda: waits(linux) and waits(azure))
            assert len({process_of(instance, run) for run in newest(instance, 2)}) == 2
        assert process.wait(120) == 0, (places.folder / "command.log").read_text()


def ctrl_c_cancels(places: Places, instance: DagsterInstance, linux: Database) -> None:
    with command(places, "sync", "--target", "linux") as process:
        until("the run waits for its target", lambda: waits(linux))
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) == 130
        except subprocess.TimeoutExpired:
            pytest.fail((places.folder / "command.log").read_text())
    (run,) = newest(instance)

    def cancelled() -> bool:
        return newest(instance)[0].status == DagsterRunStatus.CANCELED

    until("the run is cancelled, not failed", cancelled)
    until("its session has ended", lambda: not waits(linux))
    assert newest(instance)[0].run_id == run.run_id, "it was tried again"


def a_worker_is_killed(places: Places, instance: DagsterInstance, linux: Database) -> None:
    with command(places, "sync", "--target", "linux") as process:
        until("the run waits for its target", lambda: waits(linux))
        (run,) = newest(instance)
        os.kill(process_of(instance, run), signal.SIGKILL)
        assert process.wait(120) == 1
    assert newest(instance)[0].status == DagsterRunStatus.FAILURE
    until("its session has ended", lambda: not waits(linux))
