"""A command is interrupted while a driver waits in a call that no signal ends: it ends, its session is gone from the server,
its locks are free, and the next sync works."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.runs import launch
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.processes import ROOT, job_execute, until
from dbsync_pipeline_tests.proxy import TO_SERVER, proxy_to, swallow
from dbsync_pipeline_tests.test_safety import LABEL, free_after
from dbsync_pipeline_tests.worlds import (
    MODEL,
    content,
    execute,
    is_babelfish,
    prepare,
    small_world,
    sync,
    synced_pair,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no signals")

FOREVER = 600
"""Seconds that each of these waits would last."""
DEADLINE = 120
"""Seconds after which a test is given up."""

users = MODEL.table("users").sa
NUMBERS = [signal.SIGINT, signal.SIGTERM]
COMMANDS = {
    "dbsync sync": [sys.executable, "-m", "dbsync_pipeline.cli.entry", "sync", "--target", "linux"],
    "dagster job execute": [sys.executable, "-m", *job_execute("linux")],
}


@dataclass
class Command:
    """A command of which the output is kept."""

    process: subprocess.Popen[bytes]
    log: Path

    def interrupted(self, number: int) -> str:
        """What it printed until it ended; it is sent the signal."""
        started = time.monotonic()
        self.process.send_signal(number)
        status = self.process.wait(DEADLINE)
        seconds = time.monotonic() - started
        print(f"{signal.Signals(number).name}: status {status} after {seconds:.1f} s")
        assert status != 0
        return self.log.read_text()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Command]:
    """Starts a command on two databases, which waits for anything for as long as is allowed."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for setting in ("SILENCE", "CONNECT", "LOCK"):
        monkeypatch.setenv(f"DBSYNC_{setting}_SECONDS", str(FOREVER))

    def started(command: str, source: Database, target: Database) -> Command:
        for name, database in {"WINDOWS": source, "LINUX": target}.items():
            url = database.url.render_as_string(hide_password=False)
            monkeypatch.setenv(f"DBSYNC_{name}_URL", url)
        launch.prepare_home(load())
        log = tmp_path / "output"
        with log.open("wb") as output:
            process = subprocess.Popen(
                COMMANDS[command], cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT
            )
        return Command(process, log)

    return started


Start = Callable[[str, Database, Database], Command]


_SESSIONS = {
    "postgresql": f"SELECT count(*) FROM pg_stat_activity WHERE {LABEL}",
    "mssql": "SELECT count(session_id) FROM sys.dm_exec_sessions WHERE database_id = db_id() "
    f"AND substring(context_info, 1, 10) = 0x{b'dbsync run'.hex()}",
}


def sessions(database: Database) -> int:
    """How many sessions of syncs the server has."""
    with database.engine().connect() as connection:
        return int(connection.scalar(sa.text(_SESSIONS[database.engine_name])) or 0)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_target_that_falls_silent_while_it_is_written(
    new_database: NewDatabase, start: Start, command: str, number: int
) -> None:
    source, target = synced_pair(new_database)
    execute(source, users.update().where(users.c.id < 5).values(name="new"))
    before = content(target)
    with proxy_to(target.url) as proxy:
        fired = proxy.before(b"DELETE FROM", TO_SERVER, swallow)
        syncing = start(command, source, replace(target, url=proxy.url))
        assert fired.wait(DEADLINE)
        assert sessions(target) > 0
        output = syncing.interrupted(number)
        if command == "dagster job execute":
            assert "RUN_FAILURE" in output, "Dagster has ended its run"
            assert "DagsterExecutionInterruptedError" in output, "and knows why"
        until("the session has ended on the server", lambda: sessions(target) == 0)
    free_after(source, target, DEADLINE)
    assert content(target) == before
    assert sync(source, target).changed == 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_accepts_a_connection_and_does_not_reply(
    new_database: NewDatabase, start: Start, command: str
) -> None:
    source = new_database("postgresql", "windows")
    prepare(source, small_world())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(DEADLINE)
        url = sa.make_url(f"postgresql://bob@127.0.0.1:{silent.getsockname()[1]}/nowhere")
        syncing = start(command, source, Database("linux", url))
        connection, _ = silent.accept()
        time.sleep(1)
        syncing.interrupted(signal.SIGINT)
        connection.close()


@contextmanager
def writer(database: Database) -> Iterator[None]:
    """Somebody who has the lock of a SQLite file."""
    with database.connect() as holder:
        holder.begin(MODEL.tables, wait_seconds=1)
        yield


@pytest.mark.parametrize("command", COMMANDS)
def test_a_sqlite_file_that_another_process_has_locked(
    new_database: NewDatabase, start: Start, command: str
) -> None:
    source, target = (new_database("sqlite", name) for name in ("windows", "linux"))
    prepare(source, small_world())
    sync(source, target)
    with writer(target):
        syncing = start(command, source, target)
        process, file = psutil.Process(syncing.process.pid), str(target.url.database)
        until("the file is open", lambda: file in [one.path for one in process.open_files()])
        time.sleep(1)
        syncing.interrupted(signal.SIGINT)
    free_after(source, target, DEADLINE)


_WAITING = """
SELECT count(*) FROM sys.dm_exec_requests r
INNER JOIN sys.dm_exec_sessions s ON s.session_id = r.session_id
WHERE s.database_id = db_id() AND r.wait_type LIKE 'LCK%'"""
_BABELFISH_WAITING = """
SELECT count(*) FROM pg_stat_activity a INNER JOIN sys.dm_exec_sessions s ON s.session_id = a.pid
WHERE s.database_id = db_id() AND a.wait_event_type = 'Lock'"""


def waiting(database: Database) -> int:
    """How many sessions of a database of SQL Server wait for a lock."""
    question = _BABELFISH_WAITING if is_babelfish(database) else _WAITING
    with database.engine().connect() as connection:
        return int(connection.scalar(sa.text(question)) or 0)


@pytest.mark.parametrize("engine", [name for name in ENGINES if name == "mssql"])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_table_of_sql_server_that_the_application_writes_to(
    new_database: NewDatabase, start: Start, command: str, number: int, engine: str
) -> None:
    source, target = new_database("sqlite", "windows"), new_database(engine, "linux")
    prepare(source, small_world())
    sync(source, target)
    execute(source, users.update().where(users.c.id < 5).values(name="new"))
    before = content(target)
    with target.engine().connect() as application:
        application.execute(users.update().where(users.c.id == 9).values(name="application"))
        syncing = start(command, source, target)
        until("the sync waits for the lock", lambda: waiting(target) == 1)
        syncing.interrupted(number)
        if not is_babelfish(target):  # there a statement runs to its end
            until("the session has ended on the server", lambda: sessions(target) == 0)
        application.rollback()
    until("the session has ended on the server", lambda: sessions(target) == 0)
    free_after(source, target, DEADLINE)
    assert content(target) == before
    assert sync(source, target).changed == 4


_ENDLESS = """
import sys
from dbsync_pipeline_tests.test_interrupted import Database, sa
database = Database("windows", sa.make_url(sys.argv[1]))
with database.connect() as dialect:
    print("connected", flush=True)
    dialect.connection.exec_driver_sql(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT count(*) FROM n"
    )
"""


def test_a_statement_of_sqlite_that_does_not_end(new_database: NewDatabase) -> None:
    database = new_database("sqlite", "windows")
    prepare(database, small_world())
    url = database.url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, url],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as endless:
        assert endless.stdout is not None and endless.stderr is not None
        assert endless.stdout.readline() == b"connected\n"
        time.sleep(1)
        endless.send_signal(signal.SIGINT)
        endless.wait(DEADLINE)
        assert b"KeyboardInterrupt" in endless.stderr.read()
