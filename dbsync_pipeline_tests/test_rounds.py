"""The standbys of one round get one state of the source, whatever is written meanwhile, and none goes back."""

from __future__ import annotations

import datetime as dt
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dbsync_pipeline.errors import Refused
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.failover.promote import promote
from dbsync_pipeline.mirror.ledger import Ledger, Publish
from dbsync_pipeline.mirror.sync.rounds import Round
from dbsync_pipeline.request import SyncRequest
from dbsync_pipeline.runs import launch
from dbsync_pipeline.settings import DatabaseSetting, Settings, load
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.versions import as_of
from dbsync_pipeline_tests.worlds import (
    MODEL,
    SETTINGS,
    content,
    execute,
    insert,
    prepare,
    small_world,
    sync,
    user,
)

STANDBYS = ("linux", "azure", "third")
users = MODEL.table("users").sa


@pytest.fixture
def source(new_database: NewDatabase) -> Database:
    database = new_database("postgresql", "windows")
    prepare(database, small_world())
    return database


@pytest.fixture
def standbys(new_database: NewDatabase) -> list[Database]:
    return [new_database("postgresql", name, server=1) for name in STANDBYS]


@contextmanager
def writing(database: Database) -> Iterator[Callable[[], None]]:
    """Each transaction counts itself in all messages and documents; yields a wait for the next."""
    ending, written = threading.Event(), [0]

    def write() -> None:
        engine = database.engine()
        for number in itertools.count(1_000):
            if ending.is_set():
                return
            with engine.begin() as connection:
                for table, column in (("messages", "tokens"), ("documents", "size_bytes")):
                    connection.exec_driver_sql(f"UPDATE {table} SET {column} = {number}")
            written[0] = number

    def wait() -> None:
        before = written[0]
        while written[0] <= before + 1:
            assert writer.is_alive(), "the writer failed"
            time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield wait
    finally:
        ending.set()
        writer.join()


def test_all_standbys_of_a_round_get_one_whole_state(
    source: Database, standbys: list[Database]
) -> None:
    with writing(source) as next_write:
        for _ in range(3):
            with Round() as shared:
                publishes = []
                for standby in standbys:
                    publishes.append(sync(source, standby, shared=shared, round_id="one"))
                    next_write()
            states = [content(standby) for standby in standbys]
            assert states[0] == states[1] == states[2]
            counted = {row[5] for row in states[0]["messages"]}
            assert counted == {row[6] for row in states[0]["documents"]} and len(counted) == 1
            assert len({publish.snapshot_at for publish in publishes}) == 1
            assert {publish.round for publish in publishes} == {"one"}
        for standby in standbys:
            sync(source, standby)
            next_write()
        assert content(standbys[0]) != content(standbys[1]), "nobody wrote between two syncs"


def test_the_source_is_read_once(source: Database, standbys: list[Database]) -> None:
    for turn in range(3):
        execute(source, "UPDATE messages SET tokens = tokens + 1 WHERE id = 7")
        if turn == 2:  # nothing is known of an earlier state, as after a writer that ran on
            execute(standbys[1], "DELETE FROM dbsync.stamps")
        with Round() as shared:
            first, *others = [sync(source, standby, shared=shared) for standby in standbys]
        assert sum(table.rows_read or 0 for table in first.tables.values()) > 0
        for other in others:
            assert {table.rows_read for table in other.tables.values()} == {0}
            assert {name: table.digest for name, table in other.tables.items()} == {
                name: table.digest for name, table in first.tables.items()
            }


def test_a_full_pass_that_is_due_for_one_standby_is_made_of_what_the_round_has_not_hashed(
    source: Database, standbys: list[Database]
) -> None:
    """Its own rows are hashed; the source's were, at the date that the first standby's stamp says."""
    first, second, _ = standbys
    for standby in (first, second, first, second):  # again, since a first load may leave no stamps
        sync(source, standby)
    execute(second, "UPDATE dbsync.stamps SET digested_at = digested_at - interval '30 days'")
    execute(source, "UPDATE users SET name = 'new' WHERE id = 1")
    with Round() as shared:
        sync(source, first, shared=shared)
        publish = sync(source, second, shared=shared)
    assert {table.proof for table in publish.tables.values()} == {
        "digests: a full pass is due (target)"
    }
    assert content(second) == content(source)
    assert _hashed(second, "source") == _hashed(first, "source")
    assert all(hashed > publish.snapshot_at for hashed in _hashed(second, "target").values())


def _hashed(database: Database, side: str) -> dict[str, dt.datetime]:
    query = "SELECT table_name, digested_at FROM dbsync.stamps WHERE side = :side"
    with database.engine().connect() as connection:
        return {name: at for name, at in connection.execute(sa.text(query), {"side": side})}


def test_a_full_pass_that_is_due_for_all_is_made_once(
    source: Database, standbys: list[Database]
) -> None:
    always = SETTINGS.model_copy(update={"full_every": 0})
    for standby in standbys:
        sync(source, standby)
    execute(source, "UPDATE users SET name = 'new' WHERE id = 1")
    with Round() as shared:
        publishes = [sync(source, s, shared=shared, settings=always) for s in standbys]
    for publish, standby in zip(publishes, standbys, strict=True):
        assert {table.proof.split(" (")[0] for table in publish.tables.values()} == {
            "digests: a full pass is due"
        }
        assert content(standby) == content(source)
    assert {table.rows_read for table in publishes[2].tables.values()} == {0}


def test_rounds_follow_each_other_while_rows_are_written_at_random(
    source: Database, standbys: list[Database]
) -> None:
    """What one standby's look proved serves the next one, and the stamps that it leaves are right."""
    chance, keys = random.Random(7), itertools.count(10_000)
    for number in range(12):
        for _ in range(chance.randrange(3)):
            table = chance.choice(("users", "messages", "user_memory"))
            chosen = f"ctid = ANY(SELECT ctid FROM {table} ORDER BY random() LIMIT 3)"
            match chance.randrange(3):
                case 0:
                    execute(
                        source, f"DELETE FROM documents WHERE {chosen.replace(table, 'documents')}"
                    )
                case 1:
                    insert(source, {"users": [user(next(keys))]})
                case _:
                    column = {"users": "name", "messages": "content", "user_memory": "value"}[table]
                    execute(source, f"UPDATE {table} SET {column} = {column} || 'x' WHERE {chosen}")
        before = content(source)
        with Round() as shared:
            for standby in chance.sample(standbys, 3):
                sync(source, standby, shared=shared)
                if chance.random() < 0.5:
                    execute(source, f"UPDATE users SET name = 'late {number}' WHERE id = 3")
        for standby in standbys:
            assert content(standby) == before, f"round {number}"


def test_a_standby_that_received_a_later_state_does_not_go_back(
    source: Database, standbys: list[Database], caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = standbys
    with Round() as shared, caplog.at_level(logging.WARNING):
        sync(source, first, shared=shared)
        insert(source, {"users": [user(500)]})
        sync(source, second)
        assert sync(source, second, shared=shared).changed == 0
        sync(source, third, shared=shared)
    assert content(second) == content(third) == content(source) != content(first)
    assert "azure gets a later state" in caplog.text and "third gets" not in caplog.text


def test_a_standby_that_confirmed_a_later_state_does_not_go_back(
    source: Database, standbys: list[Database]
) -> None:
    """The source turns to other rows and back again; the round's state lies in between."""
    first, second, _ = standbys
    sync(source, second)
    before = content(source)
    execute(source, "UPDATE users SET name = 'other' WHERE id = 1")
    with Round() as shared:
        sync(source, first, shared=shared)
        execute(source, "UPDATE users SET name = 'User 1' WHERE id = 1")
        assert sync(source, second).changed == 0
        sync(source, second, shared=shared)
    assert content(second) == before == content(source) != content(first)


def test_a_primary_that_is_replaced_during_a_round_publishes_nothing_more(
    source: Database, standbys: list[Database], caplog: pytest.LogCaptureFixture
) -> None:
    """The last standby does not answer the promotion, so only the source can know of it."""
    linux, azure, _ = standbys
    for standby in (linux, azure):
        sync(source, standby)
    before = content(azure)
    execute(source, users.update().where(users.c.id == 1).values(name="new"))
    nowhere = replace(azure, url=azure.url.set(host="127.0.0.1", port=1, query={}))
    with Round() as shared:
        sync(source, linux, shared=shared)
        promotion = promote(settings_of(source, linux, nowhere), "linux")
        assert promotion.took == ("windows", "linux")
        with pytest.raises(Refused, match="linux is the primary"):
            sync(source, azure, shared=shared)
    assert "windows has recorded another term" in caplog.text
    assert content(azure) == before


def settings_of(*databases: Database) -> Settings:
    places = tuple(
        DatabaseSetting(
            name=database.name,
            url=SecretStr(database.url.render_as_string(hide_password=False)),
        )
        for database in databases
    )
    return SETTINGS.model_copy(update={"databases": places})


def test_a_round_goes_on_when_its_session_is_ended(
    source: Database, standbys: list[Database], caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = standbys
    with Round() as shared, caplog.at_level(logging.WARNING):
        sync(source, first, shared=shared)
        insert(source, {"users": [user(500)]})
        assert _end(source, "dbsync: round") == 1
        sync(source, second, shared=shared)
        insert(source, {"users": [user(501)]})
        sync(source, third, shared=shared)
    assert content(second) == content(third)
    assert len(content(second)["users"]) == len(content(first)["users"]) + 1
    assert "windows: the next standbys get a later state: " in caplog.text


def _end(database: Database, application: str) -> int:
    query = (
        as_of("SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 5000)) ")
        + "FROM pg_stat_activity WHERE application_name = :name AND datname = current_database()"
    )
    with database.engine().connect() as connection:
        return int(connection.scalar(sa.text(query), {"name": application}) or 0)


def test_somebody_who_waits_for_a_table_ends_the_sharing_and_not_the_round(
    source: Database, standbys: list[Database]
) -> None:
    """As for ALTER TABLE; he waits until the round's session lets go of the table."""
    first, second, _ = standbys
    waiting = threading.Thread(
        target=lambda: execute(source, "LOCK TABLE users", "UPDATE users SET name = 'locked'")
    )
    with Round() as shared:
        sync(source, first, shared=shared)
        waiting.start()
        while not _waits(source):
            time.sleep(0.05)
        sync(source, second, shared=shared)
        waiting.join()
    assert {row[2] for row in content(second)["users"]} == {"locked"}


def _waits(database: Database) -> bool:
    query = "SELECT FROM pg_stat_activity WHERE query LIKE 'LOCK%' AND wait_event_type = 'Lock'"
    with database.engine().connect() as connection:
        return bool(connection.execute(sa.text(query)).all())


def test_the_refusal_of_one_standby_leaves_the_state_to_the_next(
    source: Database, standbys: list[Database]
) -> None:
    first, second, third = standbys
    for standby in standbys:
        sync(source, standby)
    execute(second, "UPDATE users SET name = 'local'")
    execute(source, "UPDATE users SET name = 'new'")
    with Round() as shared:
        sync(source, first, shared=shared)
        execute(source, "UPDATE users SET name = 'newer'")
        with pytest.raises(Refused):
            sync(source, second, shared=shared)
        sync(source, third, shared=shared)
    assert content(first) == content(third)
    assert {row[2] for row in content(third)["users"]} == {"new"}


def test_no_session_is_left_after_a_round(source: Database, standbys: list[Database]) -> None:
    with Round() as shared:
        sync(source, standbys[0], shared=shared)
    assert _end(source, "dbsync: round") == 0


def test_an_engine_whose_snapshots_cannot_be_shared_gives_each_standby_its_own(
    new_database: NewDatabase,
) -> None:
    source, first, second = (new_database("sqlite", name) for name in ("windows", *STANDBYS[:2]))
    prepare(source, small_world())
    with Round() as shared:
        sync(source, first, shared=shared)
        insert(source, {"users": [user(500)]})
        sync(source, second, shared=shared)
    assert content(second) == content(source) != content(first)
    assert set(content(first)) == set(MODEL.names)


def test_a_command_gives_all_its_targets_one_state_and_history_knows_the_round(
    source: Database, standbys: list[Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for database in (source, *standbys[:2]):
        url = database.url.render_as_string(hide_password=False)
        monkeypatch.setenv(f"DBSYNC_{database.name.upper()}_URL", url)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    request = SyncRequest("windows", STANDBYS[:2], MODEL.names)
    with writing(source), launch.dagster_instance(load()) as instance:
        runs = launch.sync_all(instance, request)
    assert [run.succeeded for run in runs] == [True, True]
    assert {run.round for run in runs} == {request.round_id}
    assert content(standbys[0]) == content(standbys[1])
    publishes = [publish for standby in standbys[:2] if (publish := _last(standby))]
    assert len(publishes) == 2 and publishes[0].snapshot_at == publishes[1].snapshot_at
    assert {table.rows_read for table in publishes[1].tables.values()} == {0}


def _last(database: Database) -> Publish | None:
    with database.connect() as dialect:
        return Ledger(dialect).last()
