"""A SQL Server goes silent without closing: the wait ends, its session too, and the next sync works."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.watchdog import Activity
from dbsync_pipeline.errors import DbsyncError, Unavailable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.proxy import TO_CLIENT, TO_SERVER, Proxy, proxy_to
from dbsync_pipeline_tests.test_safety import free_after
from dbsync_pipeline_tests.worlds import (
    MODEL,
    content,
    execute,
    is_babelfish,
    prepare,
    session,
    small_world,
    sync,
    user,
)

pytestmark = pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine == "mssql"])

SILENCE = 3
"""Seconds, in place of the usual 60."""
SLACK = 15
"""Seconds beyond the silence until the wait ends."""

users = MODEL.table("users").sa


@pytest.fixture(scope="module")
def source(shared_database: NewDatabase) -> Database:
    made = shared_database("postgresql", "windows")
    prepare(made, small_world())
    return made


@pytest.fixture(scope="module")
def target(shared_database: NewDatabase, source: Database) -> Database:
    made = shared_database("mssql", "linux")
    sync(source, made)
    return made


@pytest.fixture
def far(target: Database) -> Iterator[tuple[Database, Proxy]]:
    """The target through a proxy that can read what is sent."""
    with proxy_to(target.url) as proxy:
        url = proxy.url.update_query_dict({"Encrypt": "no"})
        yield replace(target, url=url, silence_seconds=SILENCE), proxy


def sent(text: str) -> bytes:
    """As TDS sends the text of a statement."""
    return text.encode("utf-16-le")


LOST = {
    "a lock": sent("sp_getapplock"),
    "a digest": sent("hashbytes"),
    "a write": sent("UPDATE t SET"),
}


@pytest.mark.parametrize(
    ("driver", "statement"),
    [
        *(("mssql+mssqlpython", statement) for statement in LOST),
        # loading rows, pyodbc waits for the server without letting another thread run: the proxy's neither
        *(("mssql+pyodbc", statement) for statement in LOST if statement != "a write"),
    ],
)
def test_a_reply_that_does_not_arrive(
    source: Database,
    target: Database,
    far: tuple[Database, Proxy],
    statement: str,
    driver: str,
    engine: str,
) -> None:
    """The server has executed the statement, and its reply is lost on the way."""
    execute(source, users.update().where(users.c.id < 5).values(name=f"{statement} {driver}"))
    before, (slow, proxy) = content(target), far
    slow = replace(slow, url=slow.url.set(drivername=driver))
    started = list[float]()

    def lose(connection: object) -> None:
        started.append(time.monotonic())
        connection.stall(TO_CLIENT)  # type: ignore[attr-defined]

    proxy.after(LOST[statement], TO_SERVER, lose)
    with pytest.raises(Unavailable, match="went silent"):
        sync(source, slow)
    seconds = time.monotonic() - started[0]
    print(f"{statement}: ended {seconds:.1f} s after the last byte")
    assert seconds < SILENCE + SLACK
    free_after(source, target, SLACK)
    assert content(target) == before
    assert sync(source, target).changed == 4


def test_a_bulk_load_that_is_not_confirmed(
    source: Database, target: Database, far: tuple[Database, Proxy], engine: str
) -> None:
    """The load has a connection of its own, which only the driver knows."""
    execute(source, *(users.insert().values(user(number)) for number in range(1000, 1150)))
    slow, proxy = far
    fired = proxy.after(
        sent("INSERT BULK"), TO_SERVER, lambda connection: connection.stall(TO_CLIENT)
    )
    try:
        with pytest.raises(Unavailable, match="went silent"):
            sync(source, slow)
        assert fired.is_set()
        assert sync(source, target).changed == 150
    finally:
        execute(source, users.delete().where(users.c.id >= 1000))
        sync(source, target)


def test_a_statement_that_computes_for_long_is_not_silent(target: Database, engine: str) -> None:
    compute = "SELECT count(*) FROM generate_series(1, 80000000) n"
    statement = compute if is_babelfish(target) else "WAITFOR DELAY '00:00:06'"
    with replace(target, silence_seconds=1).connect() as dialect:
        started = time.monotonic()
        dialect.connection.execute(sa.text(statement))
        assert time.monotonic() - started > 2, "it was not long"
        assert dialect.ended_because() is None


def test_what_the_server_says_of_a_session(target: Database, engine: str) -> None:
    with target.connect() as dialect:
        raw = dialect._raw  # type: ignore[attr-defined]
        assert raw.activity() is Activity.WAITING
        assert raw.bytes_received() > 0
        dialect.end()
        assert raw.activity() is Activity.WAITING
        assert dialect.connection.closed


def test_sessions_that_log_in_together_know_their_own_sockets(
    target: Database, engine: str
) -> None:
    found = list[object]()

    def log_in() -> None:
        with target.connect() as dialect:
            barrier.wait(60)
            found.append(dialect._raw._socket)  # type: ignore[attr-defined]

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=log_in) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 4 and None not in found


@pytest.mark.parametrize("during", ["hashbytes", "INSERT BULK"])
def test_a_cancelled_sync_ends_within_seconds(
    source: Database, target: Database, far: tuple[Database, Proxy], engine: str, during: str
) -> None:
    execute(source, *(users.insert().values(user(number)) for number in range(1000, 1150)))
    slow, proxy = far
    slow = replace(slow, silence_seconds=600)
    fired = proxy.before(sent(during), TO_SERVER, lambda connection: connection.swallow())
    failures: list[DbsyncError] = []

    def copy(cancelled: object) -> None:
        try:
            for table in MODEL.names:
                cancelled.copy(table)  # type: ignore[attr-defined]
        except DbsyncError as error:
            failures.append(error)

    with session(source, slow) as cancelled:
        cancelled.ensure_schema()
        thread = threading.Thread(target=copy, args=(cancelled,))
        thread.start()
        assert fired.wait(60)
        started = time.monotonic()
        cancelled.cancel()
        assert time.monotonic() - started < 0.5, "the caller is not blocked"
        thread.join(SLACK)
        assert not thread.is_alive()
    assert [type(failure) for failure in failures] == [Unavailable]
    assert "cancelled" in failures[0].cause
    free_after(source, target, SLACK)
    execute(source, users.delete().where(users.c.id >= 1000))
