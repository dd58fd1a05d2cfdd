"""A server goes silent without closing: every wait ends, locks are free, the next sync works."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.postgresql import copy
from dbsync_pipeline.errors import DbsyncError, Unavailable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline_tests.conftest import NewDatabase
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
