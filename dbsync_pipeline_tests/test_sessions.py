"""A session does not depend on what the server, the database or the role sets by default."""

from __future__ import annotations

import contextlib
import threading

import psycopg2
import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects import place
from dbsync_pipeline.dialects.postgresql.connection import PINS
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    content,
    execute,
    hard_world,
    prepare,
    sync,
)

HOSTILE = {
    "array_nulls": "off",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "datestyle": "SQL, DMY",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "exit_on_error": "on",
    "extra_float_digits": "-15",
    "idle_in_transaction_session_timeout": "1s",
    "idle_session_timeout": "1s",
    "intervalstyle": "sql_standard",
    "lock_timeout": "1ms",
    "quote_all_identifiers": "on",
    "row_security": "on",
    "search_path": "public, pg_temp, pg_catalog",
    "session_replication_role": "replica",
    "standard_conforming_strings": "off",
    "statement_timeout": "100",
    "timezone": "Asia/Kathmandu",
    "transaction_timeout": "1s",
    "transform_null_equals": "on",
    "work_mem": "64kB",
    "xmlbinary": "hex",
}


def _make_hostile(database: Database) -> None:
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with contextlib.closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT name FROM pg_settings")
        known = {name.lower() for (name,) in cursor.fetchall()}
        for name, value in HOSTILE.items():
            if name in known:
                value = value if name == "search_path" else f"'{value}'"
                cursor.execute(f"ALTER DATABASE {database.url.database} SET {name} = {value}")


@pytest.fixture
def servers_databases(new_database: NewDatabase) -> tuple[Database, Database]:
    return new_database("postgresql", "windows"), new_database("postgresql", "linux", server=1)


def test_a_postgresql_session_sets_what_it_relies_on(new_database: NewDatabase) -> None:
    database = new_database("postgresql", "windows")
    prepare(database, {})
    _make_hostile(database)
    with database.connect() as dialect:
        shown = dict(
            dialect.connection.exec_driver_sql(
                "SELECT lower(name), current_setting(name) FROM pg_settings"
            ).all()
        )
    pinned = {name: value for name, value in PINS.items() if not name.startswith("tcp_")}
    expected = {**pinned, "client_encoding": "UTF8", "session_replication_role": "origin"}
    assert {name: shown[name] for name in expected if name in shown} == {
        name: value for name, value in expected.items() if name in shown
    }
    assert "pg_" not in shown["search_path"]


@pytest.mark.parametrize("hostile", ["windows", "linux", "both"])
def test_a_sync_between_hostile_databases_carries_every_value(
    servers_databases: tuple[Database, Database], hostile: str
) -> None:
    source, target = servers_databases
    prepare(source, hard_world())
    prepare(target, {})
    expected = content(source)
    for database in (source, target):
        if hostile in (database.name, "both"):
            _make_hostile(database)
    sync(source, target)
    assert content(target) == expected
    users = MODEL.table("users").sa
    execute(source, users.update().values(name="é€"), users.delete().where(users.c.id == 100))
    sync(source, target, policy=ANYTHING)
    assert content(target) == content(source)
    assert all(one.equal for one in verify(source, target, MODEL))


def test_a_sync_from_sqlite_into_a_hostile_database_carries_every_value(
    new_database: NewDatabase,
) -> None:
    source, target = new_database("sqlite", "windows"), new_database("postgresql", "linux")
    world = hard_world()
    world["messages"] = [row for row in world["messages"] if row["cost"] is None]
    prepare(source, world)
    prepare(target, {})
    _make_hostile(target)
    sync(source, target)
    assert all(one.equal for one in verify(source, target, MODEL))


def test_a_sqlite_session_sets_what_it_relies_on(new_database: NewDatabase) -> None:
    database = new_database("sqlite", "windows")
    prepare(database, {})
    with database.connect() as dialect:
        for name, value in {
            "foreign_keys": 1,
            "ignore_check_constraints": 0,
            "query_only": 0,
            "synchronous": 2,
        }.items():
            assert dialect.connection.exec_driver_sql(f"PRAGMA {name}").scalar() == value


def test_a_process_has_one_engine_per_database_and_uses_no_session_twice(
    new_database: NewDatabase,
) -> None:
    """Caches are shared; what a session has set is not, and each is shown under its own label."""
    database = new_database("postgresql", "linux")
    shown: dict[int, str] = {}

    def look(label: str) -> None:
        with database.connect(label) as dialect:
            pid, name = dialect.connection.execute(
                sa.text(
                    "SELECT pid, application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
                )
            ).one()
            dialect.connection.exec_driver_sql("SET statement_timeout = 1234")
            dialect.connection.commit()
            shown[pid] = name

    labels = [f"dbsync run {n}" for n in range(8)]
    threads = [threading.Thread(target=look, args=(label,)) for label in labels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(shown.values()) == labels, "eight sessions"
    with database.connect() as dialect:
        assert dialect.connection.scalar(sa.text("SHOW statement_timeout")) == "0"
        assert dialect.connection.engine is database.engine()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("postgres://app@h/d", "postgresql+psycopg2://owner:x@H:5432/d"),
        ("mssql://app@h/d", "mssql+pyodbc://app@h:1433/D?driver=x"),
        ("sqlite:///a/../b.db", "sqlite:///b.db"),
        ("mssql+pyodbc:///?odbc_connect=x", "mssql+pyodbc:///?odbc_connect=x"),
    ],
)
def test_two_urls_of_one_database_are_recognised(one: str, other: str) -> None:
    assert place(one) == place(other) != ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("postgresql://h/d", "postgresql://h:5433/d"),
        ("postgresql://h/d", "mssql://h/d"),
        ("sqlite:///a.db", "sqlite:///b.db"),
    ],
)
def test_two_urls_of_two_databases_are_told_apart(one: str, other: str) -> None:
    assert place(one) != place(other)
