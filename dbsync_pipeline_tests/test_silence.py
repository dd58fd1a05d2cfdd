"""A server goes silent without closing: every wait ends, locks are free, the next sync works."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.postgresql import copy
from dbsync_pipeline.errors import DbsyncError, Unavailable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.runs import launch
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.processes import ROOT, job_execute
from dbsync_pipeline_tests.proxy import (
    TO_CLIENT,
    TO_SERVER,
    Action,
    Connection,
    reached_by_proxy,
    stall,
    swallow,
)
from dbsync_pipeline_tests.test_safety import free_after
from dbsync_pipeline_tests.worlds import (
    MODEL,
    content,
    execute,
    session,
    sync,
    synced_pair,
    user,
)

Pair = tuple[Database, Database]
SILENCE = 2
"""Seconds, in place of the usual 60."""
LOAD = 5
"""Seconds that Dagster may take to end its run on a machine where other tests run."""

users = MODEL.table("users").sa
behind_proxy = partial(reached_by_proxy, silence_seconds=SILENCE)


@pytest.fixture
def pair(new_database: NewDatabase) -> Pair:
    """Two servers that are equal but for a few rows: one inserted, four changed, one deleted."""
    source, target = synced_pair(new_database)
    execute(
        source,
        users.insert().values(user(900)),
        users.update().where(users.c.id < 5).values(name="new"),
    )
    return source, target


PHASES = {
    "compare": b'DECLARE "dbsync_',
    "publish": b"DELETE FROM",
}


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_reply_that_does_not_arrive(pair: Pair, side: str) -> None:
    """The server has executed the statement, and its rows are lost on the way."""
    source, target = pair
    with behind_proxy(source if side == "source" else target) as (slow, proxy):
        proxy.after(
            PHASES["compare"],
            TO_SERVER,
            lambda connection: connection.stall(TO_CLIENT),
        )
        with pytest.raises(Unavailable, match="went silent"):
            sync(*((slow, target) if side == "source" else (source, slow)))
    assert sync(source, target).changed == 5


def test_a_sync_ends_when_new_connections_are_silent_too(pair: Pair) -> None:
    """The server cannot be asked, nor made to end the session; its locks are free once it can."""
    source, target = pair
    before = content(target)
    with behind_proxy(target) as (far, proxy):

        def lose_everything(connection: Connection) -> None:
            proxy._connect_seconds = 600
            connection.swallow()

        proxy.before(PHASES["publish"], TO_SERVER, lose_everything)
        started = time.monotonic()
        with pytest.raises(Unavailable, match="went silent"):
            sync(source, far)
        assert time.monotonic() - started < SILENCE + 15
    free_after(source, target, 10)
    assert content(target) == before


def test_a_statement_that_computes_for_long_is_not_silent(pair: Pair) -> None:
    database = replace(pair[0], silence_seconds=1)
    with database.connect() as dialect:
        started = time.monotonic()
        dialect.connection.execute(sa.text("SELECT pg_sleep(6)"))
        assert time.monotonic() - started >= 6
        assert dialect.ended_because() is None


def test_the_side_that_waits_for_the_other_sides_computation_is_not_silent(pair: Pair) -> None:
    """The target waits in the middle of a COPY while the source computes its rows."""
    source, target = (replace(database, silence_seconds=1) for database in pair)
    slow = "SELECT n FROM generate_series(1, 3) n, pg_sleep(5)"
    with source.connect() as out, target.connect() as into:
        into.connection.exec_driver_sql("CREATE TEMPORARY TABLE numbers (n int)")
        sender, receiver = (side.connection.connection.driver_connection for side in (out, into))
        moved = copy.pipe(
            sender,
            lambda file: sender.cursor().copy_expert(
                f"COPY ({slow}) TO STDOUT (FORMAT binary)", file
            ),
            lambda file: copy.copy_in(receiver, "COPY numbers FROM STDIN (FORMAT binary)", file),
        )
    assert moved.rows == 3


def test_a_fence_that_waits_is_not_silent(pair: Pair) -> None:
    """A transaction of which no reply is due may be idle for as long as it takes."""
    database = replace(pair[0], silence_seconds=1)
    with database.connect() as dialect:
        dialect.begin(MODEL.tables, wait_seconds=5)
        time.sleep(4)
        assert dialect.count(MODEL.table("users")) == 21


def test_an_open_transaction_is_used_before_a_server_ends_it_as_idle(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbsync_pipeline.dialects.watchdog._PING_SECONDS", 1)
    with pair[0].connect() as dialect:
        dialect.connection.exec_driver_sql("SET idle_in_transaction_session_timeout = '3s'")
        dialect.connection.commit()
        dialect.snapshot()
        time.sleep(7)
        assert dialect.count(MODEL.table("users")) == 21


@pytest.mark.parametrize("action", [stall, swallow], ids=["stalled", "swallowed"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_cancelled_sync_ends_within_seconds_whatever_it_waits_for(
    pair: Pair, side: str, action: Action
) -> None:
    source, target = pair
    with behind_proxy(source if side == "source" else target) as (slow, proxy):
        slow = replace(slow, silence_seconds=600)
        fired = proxy.before(PHASES["compare"], TO_SERVER, action)
        sides = (slow, target) if side == "source" else (source, slow)
        with session(*sides) as cancelled:
            cancelled.ensure_schema()
            failures: list[DbsyncError] = []
            thread = threading.Thread(target=_copy_all, args=(cancelled, failures))
            thread.start()
            assert fired.wait(10)
            started = time.monotonic()
            cancelled.cancel()
            assert time.monotonic() - started < 0.5, "the caller is not blocked"
            thread.join(10)
            assert not thread.is_alive()
        assert [type(failure) for failure in failures] == [Unavailable]
        assert "cancelled" in failures[0].cause
        free_after(source, target, 10)


def _copy_all(copying: Session, failures: list[DbsyncError]) -> None:
    try:
        for table in MODEL.names:
            copying.copy(table)
    except DbsyncError as error:
        failures.append(error)


_PROGRAM = """
import sys
from dbsync_pipeline_tests.test_silence import MODEL, Database, sa, session
source, target = (
    Database(name, sa.make_url(url), silence_seconds=600)
    for name, url in zip(("windows", "linux"), sys.argv[1:])
)
with session(source, target) as one:
    one.ensure_schema()
    for table in MODEL.names:
        one.copy(table)
    one.publish()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_process_that_waits_for_a_silent_server(pair: Pair, number: int) -> None:
    source, target = pair
    with behind_proxy(target) as (slow, proxy):
        fired = proxy.before(PHASES["publish"], TO_SERVER, swallow)
        urls = [one.url.render_as_string(hide_password=False) for one in (source, slow)]
        with subprocess.Popen([sys.executable, "-c", _PROGRAM, *urls], cwd=ROOT) as syncing:
            assert fired.wait(60)
            time.sleep(1)
            started = time.monotonic()
            syncing.send_signal(number)
            syncing.wait(20)
            seconds = time.monotonic() - started
        assert seconds < 10
        print(f"{signal.Signals(number).name}: ended after {seconds:.1f} s")
    assert sync(source, target).changed == 5


COMMANDS = {
    "dbsync sync": [sys.executable, "-m", "dbsync_pipeline.cli.entry", "sync", "--target", "linux"],
    "dagster job execute": [sys.executable, "-m", *job_execute("linux")],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_whose_target_is_silent(
    pair: Pair,
    command: str,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = pair
    with behind_proxy(target) as (slow, proxy):
        for name, database in {"WINDOWS": source, "LINUX": slow}.items():
            url = database.url.render_as_string(hide_password=False)
            monkeypatch.setenv(f"DBSYNC_{name}_URL", url)
        monkeypatch.setenv("DBSYNC_SILENCE_SECONDS", "600")
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        launch.prepare_home(load())
        fired = proxy.before(PHASES["publish"], TO_SERVER, swallow)
        with subprocess.Popen(COMMANDS[command], cwd=tmp_path) as syncing:
            assert fired.wait(120)
            time.sleep(1)
            started = time.monotonic()
            syncing.send_signal(number)
            syncing.wait(30)
            seconds = time.monotonic() - started
        print(f"{command}, {signal.Signals(number).name}: {seconds:.1f} s, {syncing.returncode}")
        assert seconds < 10 + LOAD
        assert syncing.returncode != 0
    assert sync(source, target).changed == 5
