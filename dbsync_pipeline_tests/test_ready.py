"""Whether a standby could take over: each fact is found on a real database, and the verdict is a pure function of them."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from dbsync_pipeline.errors import Refused
from dbsync_pipeline.mirror import pausing, ready, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.distinct import duplicates
from dbsync_pipeline.mirror.failover.promote import promote
from dbsync_pipeline.mirror.ledger import Ledger, Publish
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.ready import (
    AGE,
    COUNTERS,
    DISTINCT,
    KEYS,
    RELEASED,
    STRUCTURE,
    WHOLE,
    WRITES,
    Facts,
)
from dbsync_pipeline.mirror.status import status
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.roles import Roles, administer, name
from dbsync_pipeline_tests.worlds import (
    MODEL,
    content,
    execute,
    prepare,
    sequence_gives,
    small_world,
    sync,
    user,
)

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
WHOLE_PUBLISH = Publish(1, "run", "windows", "linux", AT, AT, {}, {})
GOOD = Facts(last=WHOLE_PUBLISH, age_seconds=60)


@pytest.mark.parametrize(
    ("facts", "found", "is_ready"),
    [
        (GOOD, set(), True),
        (replace(GOOD, same_as="azure"), {DISTINCT}, False),
        (replace(GOOD, structure=("table users: missing",)), {STRUCTURE}, False),
        (replace(GOOD, orphans=("chats (user_id)",)), {KEYS}, False),
        (replace(GOOD, taken=("users",)), {COUNTERS}, False),
        (replace(GOOD, unwritable=("table users: disk full",)), {WRITES}, False),
        (replace(GOOD, last=None, age_seconds=None), {WHOLE}, False),
        (replace(GOOD, last=replace(WHOLE_PUBLISH, partial=True)), {WHOLE}, False),
        (replace(GOOD, held="paused"), {RELEASED}, False),
        (replace(GOOD, age_seconds=7201), {AGE}, True),
        (replace(GOOD, age_seconds=7201, held="paused"), {AGE, RELEASED}, False),
    ],
)
def test_the_verdict(facts: Facts, found: set[str], is_ready: bool) -> None:
    verdict = ready.judge(facts, 7200)
    assert (set(verdict.reasons), verdict.ready) == (found, is_ready)
    assert all(ready.remedy(check, "linux") for check in ready.CHECKS)


def test_the_remedy_for_the_configured_primary_that_is_a_standby_is_to_fail_back() -> None:
    assert "`dbsync failback`" in ready.remedy(WHOLE, "windows", "windows")
    assert "`dbsync sync --target linux`" in ready.remedy(WHOLE, "linux", "windows")
    assert ready.remedy(RELEASED, "windows", "windows") == "`dbsync resume windows`"


def facts(database: Database) -> Facts:
    with database.connect() as dialect:
        return ready.read(dialect, MODEL)


def test_a_standby_after_a_sync_is_ready_and_looking_changes_nothing(
    pair: tuple[Database, Database],
) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    before = content(target)
    for _ in range(2):
        found = facts(target)
        assert ready.judge(found, 3600).reasons == {}
    assert content(target) == before
    given = sequence_gives(
        target, {key: value for key, value in user(1, email="new").items() if key != "id"}
    )
    # a rolled back insert uses up a number, except on SQLite
    assert given == {"sqlite": 100_021, "postgresql": 100_023, "mssql": 100_024}[target.engine_name]


@pytest.fixture(params=ENGINES)
def standby(request: pytest.FixtureRequest, new_database: NewDatabase) -> Database:
    source, target = (
        new_database(request.param, "windows"),
        new_database(request.param, "linux", server=1),
    )
    prepare(source, small_world())
    sync(source, target)
    return target


def test_what_is_wrong_is_found(standby: Database) -> None:
    execute(standby, (MODEL.table("users").sa.insert(), [user(900_000)]))
    if standby.engine_name == "postgresql":
        assert facts(standby).taken == ("users.id",)
    _without_keys(standby, "DELETE FROM users WHERE id = 1")
    assert set(facts(standby).orphans) >= {"chats (user_id)", "user_memory (user_id)"}
    pausing.pause(standby, "a person said so")
    assert facts(standby).held == "a person said so"
    execute(standby, "ALTER TABLE users DROP COLUMN name")
    found = facts(standby)
    assert found.structure == ("table users: column name is missing",) and found.last is not None


def _without_keys(database: Database, statement: str) -> None:
    with database.engine().connect() as connection:
        connection.connection.cursor().execute(_KEYS_OFF[database.engine_name])
        connection.execute(sa.text(statement))
        connection.commit()


_KEYS_OFF = {
    "sqlite": "PRAGMA foreign_keys = OFF",
    "postgresql": "SET session_replication_role = replica",
    "mssql": "IF serverproperty('Babelfish') IS NULL "
    f"EXEC('{'; '.join(f'ALTER TABLE {table} NOCHECK CONSTRAINT ALL' for table in MODEL.names)}') "
    "ELSE EXEC('SELECT set_config(''session_replication_role'', ''replica'', false)')",
}


_COUNT_FROM_ONE = {
    "postgresql": "SELECT setval(pg_get_serial_sequence('users', 'id'), 1, false)",
    "mssql": "DBCC CHECKIDENT('users', RESEED, 0)",
}


@pytest.mark.parametrize(
    "standby", [engine for engine in ENGINES if engine != "sqlite"], indirect=True
)
def test_a_standby_that_gives_numbers_twice_is_not_ready(standby: Database) -> None:
    with standby.engine().begin() as connection:
        connection.exec_driver_sql(_COUNT_FROM_ONE[standby.engine_name])
    found = facts(standby)
    assert found.taken == ("users.id",)
    (refused,) = found.unwritable
    assert refused.startswith("table users: the number that the database gives to a new row")
    assert {COUNTERS, WRITES} == set(ready.judge(found, 3600).reasons)


SMALL = sa.MetaData()
sa.Table(
    "small",
    SMALL,
    sa.Column("id", sa.SmallInteger, sa.Identity(), primary_key=True),
    sa.Column("name", sa.Unicode(20), nullable=False),
)


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "sqlite"])
def test_a_check_uses_up_no_number_of_a_narrow_counter(
    new_database: NewDatabase, engine: str
) -> None:
    model = Model(SMALL, None)
    source, target = new_database(engine, "windows"), new_database(engine, "linux", server=1)
    schema.ensure(source, model)
    sync(source, target, model=model)
    with target.connect() as dialect:
        before = dialect.counters(model.tables)[0].last
        dialect.connection.rollback()
        for _ in range(3):
            assert ready.read(dialect, model).unwritable == ()
        assert dialect.counters(model.tables)[0].last == before


def test_a_standby_that_cannot_be_written_is_not_ready(
    new_database: NewDatabase, roles: Roles
) -> None:
    source, target = (
        new_database("postgresql", "windows"),
        new_database("postgresql", "linux", server=1),
    )
    prepare(source, small_world())
    sync(source, target)
    reader = roles.new(target)
    administer(
        target,
        f"GRANT USAGE ON SCHEMA dbsync TO {name(reader)}",
        f"GRANT pg_read_all_data TO {name(reader)}",
    )
    assert "permission denied" in facts(reader).unwritable[0]
    read_only = f'ALTER DATABASE "{target.url.database}" {{}} default_transaction_read_only'
    administer(target, read_only.format("SET") + " = on")
    found = facts(target)
    administer(target, "SET default_transaction_read_only = off", read_only.format("RESET"))
    assert len(found.unwritable) == len(MODEL.tables) and "read-only" in found.unwritable[0]


@pytest.mark.parametrize(
    "standby", ["postgresql"], indirect=True
)  # SQLite's writers wait by the connection's own time
def test_a_lock_of_somebody_who_writes_is_no_reason(standby: Database) -> None:
    with standby.engine().begin() as application:
        application.exec_driver_sql("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")
        assert facts(standby).unwritable == ()


# All databases ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


def test_status_says_who_could_take_over_or_why_not(places: Places) -> None:
    sync(places.named("windows"), places.named("linux"))
    sync(places.named("windows"), places.named("azure"), ["users"])
    windows, linux, azure = status(load(), MODEL)
    assert (windows.ready, linux.ready, azure.ready) == (None, True, False)
    assert azure.not_ready[WHOLE].startswith("not consistent") and linux.not_ready == {}
    places.out_of_reach("azure")
    places.set(DBSYNC_MAX_AGE_HOURS="0.000001")
    windows, linux, azure = status(load(), MODEL)
    assert (linux.ready, set(linux.not_ready)) == (True, {AGE})
    assert (azure.ready, set(azure.not_ready)) == (False, {ready.REACHABLE})


def test_two_names_of_one_database_are_one_standby(places: Places) -> None:
    sync(places.named("windows"), places.named("linux"))
    files = places.folder / ".dbsync"
    (files / "azure.db").unlink(missing_ok=True)
    (files / "azure.db").hardlink_to(files / "linux.db")  # the settings see two paths
    _, linux, azure = status(load(), MODEL)
    assert linux.ready and not azure.ready
    assert azure.not_ready[DISTINCT] == "it is the same database as linux"
    places.out_of_reach("windows")
    with pytest.raises(Refused, match=r"only 1 of the 2 databases .* same database as linux"):
        promote(load(), "linux")


def test_a_copy_of_a_database_is_a_database_of_its_own(places: Places) -> None:
    sync(places.named("windows"), places.named("linux"))
    files = places.folder / ".dbsync"
    shutil.copy(files / "linux.db", files / "azure.db")
    _, linux, azure = status(load(), MODEL)
    assert linux.ready and azure.ready


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "sqlite"])
def test_two_urls_of_one_server_are_found(new_database: NewDatabase, engine: str) -> None:
    linux = new_database(engine, "linux")
    schema.ensure(linux, MODEL)
    other = new_database(engine, "mars")
    schema.ensure(other, MODEL)
    with linux.connect() as dialect, other.connect() as copy, copy.connection.begin():
        identity = Ledger(dialect).identity()
        Ledger(copy).note("identity", identity)  # as in a copy made by a backup
    azure = Database("azure", linux.url)
    among = [linux, azure, other]
    assert duplicates(among, dict.fromkeys(("linux", "azure", "mars"), identity), 20) == {
        "azure": "linux"
    }


def test_a_survey_goes_on_without_the_primary(places: Places) -> None:
    sync(places.named("windows"), places.named("linux"))
    places.out_of_reach("windows")
    reports = {
        report.name: report for report in ready.survey(places.all(), load(), MODEL, seconds=20)
    }
    assert (
        reports["windows"].primary,
        reports["windows"].ready,
        set(reports["windows"].reasons),
    ) == (
        True,
        False,
        {ready.REACHABLE},
    )
    assert (
        reports["linux"].ready
        and reports["linux"].last is not None
        and set(reports["azure"].reasons) == {ready.REACHABLE}
    )
