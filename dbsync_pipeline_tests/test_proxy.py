"""The proxy that other tests break connections with does what it says, in front of a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
import sqlalchemy as sa

from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.proxy import (
    TO_CLIENT,
    TO_SERVER,
    Action,
    Connection,
    Proxy,
    cut,
    cut_and_refuse,
    delay,
    proxy_to,
    stall,
    swallow,
)


@pytest.fixture
def proxy(shared_database: NewDatabase) -> Iterator[Proxy]:
    with proxy_to(shared_database("postgresql", "linux").url) as proxy:
        yield proxy


def connect(proxy: Proxy) -> psycopg2.extensions.connection:
    return psycopg2.connect(proxy.url.render_as_string(hide_password=False))


def ask(connection: psycopg2.extensions.connection, question: str) -> object:
    cursor = connection.cursor()
    cursor.execute(question)
    return cursor.fetchone()[0]  # type: ignore[index]


def rows(proxy: Proxy, table: str) -> object:
    return ask(connect(proxy), f"SELECT count(*) FROM {table}")


def test_without_a_trigger_everything_is_forwarded(proxy: Proxy) -> None:
    assert ask(connect(proxy), "SELECT repeat('x', 1000000)") == "x" * 1_000_000


@pytest.mark.parametrize("forwarded", [True, False], ids=["after it", "before it"])
def test_cut_at_commit(proxy: Proxy, forwarded: bool) -> None:
    table = "made" if forwarded else "not_made"
    connection = connect(proxy)
    ask(connection, f"CREATE TABLE {table} (n int); SELECT 1")
    connection.commit()
    ask(connection, f"INSERT INTO {table} VALUES (1) RETURNING n")
    fired = (proxy.after if forwarded else proxy.before)(b"COMMIT", TO_SERVER, cut)
    with pytest.raises(psycopg2.OperationalError):
        connection.commit()
    assert fired.is_set()
    deadline = time.monotonic() + 5
    while rows(proxy, table) != int(forwarded):
        assert time.monotonic() < deadline


def test_cut_at_a_byte_of_the_answers(proxy: Proxy) -> None:
    connection = connect(proxy)
    fired = proxy.after(500_000, TO_CLIENT, cut)
    assert ask(connection, "SELECT repeat('x', 1000)") == "x" * 1000
    with pytest.raises(psycopg2.OperationalError):
        ask(connection, "SELECT repeat('x', 1000000)")
    assert fired.is_set()


@pytest.mark.parametrize("action", [stall, swallow])
def test_a_silent_connection_stays_open_and_others_are_served(proxy: Proxy, action: Action) -> None:
    connection = connect(proxy)
    proxy.after(b"silent", TO_SERVER, action)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, connection, "SELECT 'silent'")
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.5)
        assert ask(connect(proxy), "SELECT 1") == 1
        if action is stall:
            proxy.everywhere(Connection.resume)
            assert answer.result(timeout=10) == "silent"
        else:
            proxy.everywhere(cut)
            with pytest.raises(psycopg2.OperationalError):
                answer.result(timeout=10)


def test_delay(proxy: Proxy) -> None:
    connection = connect(proxy)
    proxy.everywhere(delay(0.2))
    began = time.monotonic()
    ask(connection, "SELECT 1")
    assert time.monotonic() - began >= 0.4


def test_refuse_for_a_while(proxy: Proxy) -> None:
    connection = connect(proxy)
    proxy.everywhere(cut_and_refuse(0.5))
    for question in (lambda: ask(connection, "SELECT 1"), lambda: connect(proxy)):
        with pytest.raises(psycopg2.OperationalError):
            question()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert ask(connect(proxy), "SELECT 1") == 1
            break
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline


def test_the_url_keeps_all_but_the_address(proxy: Proxy) -> None:
    url = sa.make_url("postgresql://bob:p%40ss@/db?host=/tmp&sslmode=disable")
    with proxy_to(url) as other:
        assert other.url.password == "p@ss" and other.url.query == {"sslmode": "disable"}
        assert other.url.host == "127.0.0.1" and other.url.database == "db"
