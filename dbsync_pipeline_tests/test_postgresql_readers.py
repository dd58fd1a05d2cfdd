"""A first load that reads its source over several connections: one state, one transaction, and no wait without end."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import SharesSnapshots
from dbsync_pipeline.dialects.postgresql import readers
from dbsync_pipeline.errors import DatabaseError, Unavailable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Publish
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.proxy import (
    TO_SERVER,
    Connection,
    Piece,
    cut,
    delay,
    proxy_to,
    reached_by_proxy,
    stall,
    swallow,
)
from dbsync_pipeline_tests.roles import Roles
from dbsync_pipeline_tests.test_safety import free_after
from dbsync_pipeline_tests.versions import since
from dbsync_pipeline_tests.worlds import (
    MODEL,
    SETTINGS,
    content,
    execute,
    prepare,
    session,
    small_world,
    sync,
)

Pair = tuple[Database, Database]
READERS = 3
SEVERAL = SETTINGS.model_copy(update={"connections": READERS})
SILENCE = 2
"""Seconds, in place of the usual 60."""
behind_proxy = partial(reached_by_proxy, silence_seconds=SILENCE)


@pytest.fixture(autouse=True)
def _small_tables_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "SHARED_BYTES", 0)


@pytest.fixture
def pair(new_database: NewDatabase) -> Pair:
    """A source of some hundred pages, and an empty target on another server."""
    source, target = (
        new_database("postgresql", name, server=n) for n, name in enumerate(("windows", "linux"))
    )
    prepare(source, small_world(300))
    return source, target


load = partial(sync, settings=SEVERAL)


def carried(publish: Publish) -> dict[str, str]:
    return {name: table.carried for name, table in publish.tables.items()}


def ended() -> None:
    """No thread of a reader is left."""
    names = [thread.name for thread in threading.enumerate()]
    assert "dbsync-copy" not in names, names


def test_ranges_cover_every_page_once() -> None:
    for pages, number in itertools.product((0, 1, 2, 11, 12, 1_000, 10_000_000), (1, 2, 16)):
        found = readers.ranges(pages, number)
        assert found[0][0] == 0 and found[-1][1] is None
        assert [behind for _, behind in found[:-1]] == [first for first, _ in found[1:]]
        assert all(behind is None or behind - first <= 16_384 for first, behind in found)
        assert len(found) >= min(pages, number)


@since(14)
def test_several_connections_carry_the_same_rows(pair: Pair) -> None:
    published = load(*pair)
    assert content(pair[1]) == content(pair[0])
    assert set(carried(published).values()) == {"3 connections"}
    ended()


def test_one_connection_stays_possible_and_says_nothing(pair: Pair) -> None:
    alone = SETTINGS.model_copy(update={"connections": 1})
    assert set(carried(sync(*pair, settings=alone)).values()) == {""}
    assert content(pair[1]) == content(pair[0])


def test_a_small_table_is_read_over_one_connection(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "SHARED_BYTES", 2**30)
    assert set(carried(load(*pair)).values()) == {""}
    assert content(pair[1]) == content(pair[0])


def test_tables_without_a_row(pair: Pair) -> None:
    execute(pair[0], "TRUNCATE messages, documents, user_memory, chats, users CASCADE")
    load(*pair)
    execute(
        pair[0], "DELETE FROM users", "INSERT INTO users SELECT 1, 'a', 'b', 'c', true, NULL, now()"
    )
    assert load(*pair).changed == 1
    assert content(pair[1]) == content(pair[0])
    ended()


def test_a_row_of_many_megabytes_among_small_ones(pair: Pair) -> None:
    """Its main part is in a page, the rest is stored apart."""
    execute(pair[0], "UPDATE documents SET content = convert_to(repeat('añ', 6000000), 'UTF8') "
            "WHERE size_bytes = 7")  # fmt: skip
    load(*pair)
    assert content(pair[1]) == content(pair[0])


TABLES = (
    "CREATE TABLE parted (n int, v text) PARTITION BY LIST (n)",
    "CREATE TABLE parted_large PARTITION OF parted FOR VALUES IN (1, 2)",
    "CREATE TABLE parted_rest (v text, n int)",
    "ALTER TABLE parted ATTACH PARTITION parted_rest DEFAULT",
    "CREATE TABLE parent (n int, v text)",
    "CREATE TABLE child (extra int) INHERITS (parent)",
)


@since(14)
def test_partitions_children_and_rows_without_a_key(new_database: NewDatabase) -> None:
    """Every row is read once, by whichever connection, through the table that the models name."""
    source, target = (
        new_database("postgresql", name, server=n) for n, name in enumerate(("windows", "linux"))
    )
    metadata = sa.MetaData()
    for name in ("parted", "parent", "child"):
        extra = [sa.Column("extra", sa.Integer)] if name == "child" else []
        sa.Table(name, metadata, sa.Column("n", sa.Integer), sa.Column("v", sa.UnicodeText), *extra)
    rows = "SELECT n % {}, repeat(n::text, 50) FROM generate_series(1, {}) n"
    for database in (source, target):
        execute(database, *TABLES)
    execute(
        source,
        f"INSERT INTO parted {rows.format(7, 9_000)}",
        "INSERT INTO parted SELECT 9, 'equal' FROM generate_series(1, 500)",
        f"INSERT INTO parent {rows.format(3, 3_000)}",
        f"INSERT INTO child {rows.format(5, 5_000)}",
        "DELETE FROM parted WHERE n = 1",
    )
    published = load(source, target, model=Model(metadata))
    assert {name: table.inserted for name, table in published.tables.items()} == {
        "parted": 9_000 - 1_286 + 500,
        "parent": 3_000,
        "child": 5_000,
    }
    assert set(carried(published).values()) == {"3 connections"}
    assert content(target, Model(metadata)) == content(source, Model(metadata))


def test_writers_during_a_load_leave_one_whole_state(pair: Pair) -> None:
    """Each transaction moves the same rows to other pages, and counts itself in all of them."""
    source, target = pair
    ending = threading.Event()

    def write() -> None:
        engine = source.engine()
        for number in itertools.count(10_000):
            if ending.is_set():
                return
            with engine.begin() as connection:
                for table, column in (("messages", "tokens"), ("documents", "size_bytes")):
                    connection.exec_driver_sql(f"UPDATE {table} SET {column} = {number}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            load(source, target)
            state = content(target)
            counted = {row[5] for row in state["messages"]} | {row[6] for row in state["documents"]}
            assert len(counted) == 1 and len(state["messages"]) == 3_000
            execute(target, "DROP SCHEMA dbsync CASCADE", "TRUNCATE users CASCADE")
    finally:
        ending.set()
        writer.join()


# Failures ---------------------------------------------------------------------------------------

COPY = b"COPY (SELECT t."
"""How the statement of a reader begins; the sync's other COPY goes to the target."""


@since(14)
def test_a_reader_whose_session_is_ended_fails_the_whole_copy(pair: Pair) -> None:
    """By an administrator, while it sends rows."""
    source, target = pair
    prepare(target, {})
    execute(
        source,
        "ALTER TABLE documents ALTER content SET STORAGE EXTERNAL",
        "UPDATE documents SET content = convert_to(repeat('x', 300000), 'UTF8')",
    )
    killed: list[bool] = []

    def slow_down(connection: Connection) -> None:
        connection.proxy.everywhere(delay(0.02))
        killing.start()

    killing = threading.Thread(target=lambda: killed.append(_end_a_reader(source)))
    with behind_proxy(source) as (far, proxy):
        proxy.before(b'FROM ONLY "documents" t WHERE', TO_SERVER, slow_down)
        with pytest.raises(Unavailable) as raised:
            load(far, target)
    killing.join()
    assert killed == [True]
    assert raised.value.database == "windows" and raised.value.table == "documents"
    ended()
    free_after(source, target, 15)
    assert not any(content(target).values())


def _end_a_reader(source: Database) -> bool:
    """End the session of the youngest reader as soon as it sends rows; return whether there was."""
    query = (
        "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity "
        "WHERE query LIKE 'COPY (SELECT t.%' AND state = 'active' AND datname = current_database()"
        " AND pid <> pg_backend_pid() ORDER BY backend_start DESC LIMIT 1) reader"
    )
    with source.engine().connect() as connection:
        for _ in range(1_000):
            if ended := connection.scalar(sa.text(query)):
                return bool(ended)
            connection.rollback()
            time.sleep(0.01)
    return False


@pytest.mark.parametrize("how", ["cut", "stalled", "swallowed"])
def test_a_reader_that_is_lost_fails_the_whole_copy(pair: Pair, how: str) -> None:
    source, target = pair
    actions = {"cut": cut, "stalled": stall, "swallowed": swallow}
    prepare(target, {})
    with behind_proxy(source) as (far, proxy):
        proxy.before(COPY, TO_SERVER, lambda _: None)
        fired = proxy.before(COPY, TO_SERVER, actions[how])
        started = time.monotonic()
        with pytest.raises(Unavailable) as raised:
            load(far, target)
        seconds = time.monotonic() - started
    assert fired.is_set()
    assert raised.value.database == "windows" and raised.value.table is not None
    print(f"{how}: {raised.value.cause} after {seconds:.1f} s")
    ended()
    free_after(source, target, 15)
    assert not any(content(target).values())
    load(source, target)
    assert content(target) == content(source)


def test_a_lost_target_ends_the_readers(pair: Pair) -> None:
    source, target = pair
    with behind_proxy(target) as (far, proxy):
        fired = proxy.after(b'COPY "messages"', TO_SERVER, cut)
        with pytest.raises(Unavailable) as raised:
            load(source, far)
    assert fired.is_set() and raised.value.database == "linux"
    ended()


def test_a_cancelled_load_ends_within_seconds_whichever_reader_it_waits_for(pair: Pair) -> None:
    source, target = pair
    for nth in range(READERS):
        with behind_proxy(source) as (far, proxy):
            far = replace(far, silence_seconds=600)
            for _ in range(nth):
                proxy.before(COPY, TO_SERVER, lambda _: None)
            fired = proxy.before(COPY, TO_SERVER, swallow)
            with session(far, target, settings=SEVERAL) as cancelled:
                failures: list[Exception] = []
                thread = threading.Thread(target=_run, args=(cancelled, failures))
                thread.start()
                assert fired.wait(20)
                cancelled.cancel()
                thread.join(20)
                assert not thread.is_alive()
            (failure,) = failures  # the statement was cancelled, or its session ended before
            assert isinstance(failure, Unavailable | DatabaseError)
            ended()
            free_after(source, target, 15)


def _run(one: Any, failures: list[Exception]) -> None:
    try:
        one.ensure_schema()
        for table in MODEL.names:
            one.copy(table)
        one.publish()
    except Exception as error:
        failures.append(error)


def test_a_load_that_is_cut_at_any_statement_leaves_nothing_or_everything(pair: Pair) -> None:
    source, target = pair
    prepare(target, {})
    for n in itertools.count(1, 7):
        with proxy_to(source.url) as proxy:
            far = replace(source, url=proxy.url, silence_seconds=SILENCE)
            fired = proxy.before(Piece(n), TO_SERVER, cut)
            with contextlib.suppress(Unavailable):
                load(far, target)
        ended()
        free_after(source, target, 15)
        state = content(target)
        assert not any(state.values()) or state == content(source), n
        if not fired.is_set():
            break
    assert n > 60, "several connections send more statements than that"
    assert state == content(source)


# Fewer connections ------------------------------------------------------------------------------


@since(14)
def test_somebody_who_waits_to_alter_the_table_is_not_waited_for(pair: Pair) -> None:
    """The exporter's lock is in his way, and his request in the way of further readers."""
    source, target = pair
    prepare(target, {})
    waiting = threading.Event()
    altering = threading.Thread(
        target=lambda: execute(source, "ALTER TABLE messages ADD COLUMN later int")
    )
    with session(source, target, settings=SEVERAL) as one:
        one.ensure_schema()
        for table in MODEL.names:
            one.copy(table)
        altering.start()
        while not _waits(source):
            waiting.wait(0.1)
        published = one.publish()
    altering.join()
    busy = "1 connection: another session holds a lock on the tables"
    assert carried(published)["messages"] == busy
    assert carried(published)["users"] == "3 connections"


def _waits(database: Database) -> bool:
    query = "SELECT FROM pg_stat_activity WHERE query LIKE 'ALTER%' AND wait_event_type = 'Lock'"
    with database.engine().connect() as connection:
        return bool(connection.execute(sa.text(query)).all())


@since(14)
def test_a_role_that_may_open_two_connections_reads_over_two(pair: Pair, roles: Roles) -> None:
    source, target = pair
    prepare(target, {})
    owner = roles.new(source, "SUPERUSER")
    execute(source, f"ALTER ROLE {owner.url.username} NOSUPERUSER CONNECTION LIMIT 2")
    for grant in ("ALL ON SCHEMA public, dbsync", "ALL ON ALL TABLES IN SCHEMA public, dbsync",
                  "ALL ON ALL SEQUENCES IN SCHEMA public"):  # fmt: skip
        execute(source, f"GRANT {grant} TO {owner.url.username}")
    published = load(owner, target)
    why = "the server accepts no further connections of this role"
    # one that has just been closed may still count
    over = {f"1 connection: {why}", f"2 connections: {why}"}
    assert carried(published)["users"] == f"2 connections: {why}"
    assert set(carried(published).values()) <= over
    assert content(target) == content(source)


def test_the_server_shows_all_readers_as_the_same_run(pair: Pair) -> None:
    with pair[0].connect("dbsync run 7") as one:
        other = one.another()  # type: ignore[attr-defined]
        shown = sa.text("SELECT current_setting('application_name')")
        assert other.connection.scalar(shown) == one.connection.scalar(shown) == "dbsync run 7"
        other.close()


def test_a_snapshot_that_is_not_there_is_not_imported(pair: Pair) -> None:
    """As behind a balancer that leads to another server."""
    with pair[0].connect() as one, pair[0].connect() as other:
        assert isinstance(one, SharesSnapshots) and isinstance(other, SharesSnapshots)
        one.snapshot()
        name = one.export_snapshot()
        other.import_snapshot(name, [MODEL.table("users")])
        assert other.count(MODEL.table("users")) == 300
        one.close()
    with pair[0].connect() as late, pytest.raises(DatabaseError):
        assert isinstance(late, SharesSnapshots)
        late.import_snapshot(name, [MODEL.table("users")])
