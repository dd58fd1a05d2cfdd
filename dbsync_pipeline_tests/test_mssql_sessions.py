"""Sessions on SQL Server: what they set when they open, and which servers are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.mssql.connection import Server
from dbsync_pipeline.dialects.mssql.dialect import MSSQL
from dbsync_pipeline.dialects.mssql.watched import WatchedConnection
from dbsync_pipeline.errors import DatabaseError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.worlds import MODEL, content, execute, prepare, small_world, sync

HOSTILE = (
    "SET NOCOUNT ON",
    "SET XACT_ABORT ON",
    "SET IMPLICIT_TRANSACTIONS OFF",
    "SET CONCAT_NULL_YIELDS_NULL OFF",
    "SET ANSI_NULLS OFF",
    "SET ANSI_PADDING OFF",
    "SET ANSI_WARNINGS OFF",
    "SET ARITHABORT OFF",
    "SET QUOTED_IDENTIFIER OFF",
    "SET DATEFORMAT dmy",
    "SET LANGUAGE Deutsch",
    "SET TEXTSIZE 10",
    "SET ROWCOUNT 1",
    "SET LOCK_TIMEOUT 0",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
)
"""Settings that a server's option *user options*, a login or a pool may leave to a new session."""

mssql_only = pytest.mark.parametrize("engine", [name for name in ENGINES if name == "mssql"])
both_drivers = pytest.mark.parametrize("driver", ["mssql", "mssql+pyodbc"])


@pytest.fixture
def hostile_sessions() -> Iterator[None]:
    """Open each session on SQL Server with hostile settings, before the mirror sets its own."""

    def set_all(connection: Any, _record: object) -> None:
        if not isinstance(connection, WatchedConnection):
            return
        for setting in HOSTILE:
            with contextlib.suppress(Exception):  # Babelfish does not know all of them
                connection.cursor().execute(setting)

    sa.event.listen(sa.Pool, "connect", set_all)
    yield
    sa.event.remove(sa.Pool, "connect", set_all)


@mssql_only
@both_drivers
def test_syncs_and_publish_numbers_do_not_depend_on_the_settings_of_a_session(
    engine: str, driver: str, new_database: NewDatabase, hostile_sessions: None
) -> None:
    """With NOCOUNT left on, numbers were claimed and never recorded: the next had the same."""
    windows, azure = new_database(engine, "windows"), new_database("sqlite", "azure")
    windows = Database(windows.name, windows.url.set(drivername=driver))
    prepare(windows, small_world())
    assert sync(windows, azure).numbered
    execute(windows, "UPDATE users SET name = 'another' WHERE id = 1")
    assert sync(windows, azure).numbered
    assert content(azure) == content(windows)
    linux = new_database(engine, "linux")
    linux = Database(linux.name, linux.url.set(drivername=driver))
    sync(azure, linux)
    assert content(linux) == content(windows)
    with windows.connect() as dialect:
        numbers = [publish.number for publish in Ledger(dialect).publishes()]
    assert len(numbers) == len(set(numbers))


@mssql_only
@both_drivers
def test_a_session_is_pinned(
    engine: str, driver: str, new_database: NewDatabase, hostile_sessions: None
) -> None:
    database = new_database(engine, "windows")
    database = Database(database.name, database.url.set(drivername=driver))
    with database.engine().connect() as connection:
        options = connection.exec_driver_sql("SELECT @@OPTIONS").scalar_one()
        timeout = connection.exec_driver_sql("SELECT @@LOCK_TIMEOUT").scalar_one()
        language = connection.exec_driver_sql("SELECT @@LANGUAGE").scalar_one()
    assert not options & 512, "NOCOUNT"
    assert options & 4096, "CONCAT_NULL_YIELDS_NULL"
    assert timeout == 30_000 and language == "us_english"


@mssql_only
@both_drivers
def test_the_version_is_read_whatever_the_server_calls_itself(
    engine: str, driver: str, new_database: NewDatabase
) -> None:
    """Babelfish and Aurora do not begin their @@VERSION with Microsoft."""
    database = new_database(engine, "windows")
    database = Database(database.name, database.url.set(drivername=driver))
    with database.engine().connect() as connection:
        server = connection.info["server"]
        assert server.version == connection.dialect.server_version_info
        assert isinstance(server.version[0], int)


@mssql_only
def test_tables_in_another_schema_than_the_default_one(
    engine: str, new_database: NewDatabase
) -> None:
    """Taken for missing, they would get a second, empty set beside them."""
    database = new_database(engine, "linux")
    names = [f"EXEC('CREATE TABLE app.{table} (id bigint)')" for table in MODEL.names]
    execute(database, "EXEC('CREATE SCHEMA app')", *names)
    with pytest.raises(DatabaseError, match="its tables are in schema app,") as refusal:
        schema.ensure(database, MODEL)
    assert "DEFAULT_SCHEMA = [app]" in str(refusal.value)
    execute(database, "EXEC('DROP TABLE app.users')")
    assert schema.ensure(database, MODEL) == list(MODEL.names)


@mssql_only
def test_writing_needs_a_transaction(engine: str, new_database: NewDatabase) -> None:
    """A session that commits each statement would publish in parts."""
    database = new_database(engine, "linux")
    prepare(database, small_world())
    with database.connect() as dialect:
        dialect.connection.connection.driver_connection.autocommit = True  # type: ignore[union-attr]
        with pytest.raises(DatabaseError, match="commits every statement"):
            dialect.begin([], wait_seconds=1)


@pytest.mark.parametrize(
    ("version", "edition", "babelfish", "too_old"),
    [
        ((13, 0, 7000), 3, False, True),
        ((14, 0, 3000), 2, False, True),
        ((15, 0, 2000), 3, False, False),
        ((16, 0, 1000), 4, False, False),
        ((12, 0, 2000), 5, False, False),  # Azure SQL Database
        ((12, 0, 2000), 8, False, False),  # Azure SQL Managed Instance
        ((12, 0, 2000), 3, True, False),
    ],
)
def test_servers_before_2019_are_refused_by_their_version(
    version: tuple[int, ...], edition: int, babelfish: bool, too_old: bool
) -> None:
    closed = []
    connection: Any = SimpleNamespace(
        connection=SimpleNamespace(driver_connection=None),
        info={"server": Server(version, edition, babelfish), "label": "dbsync"},
        get_execution_options=dict,
        close=lambda: closed.append(True),
    )
    if not too_old:
        MSSQL("azure", connection)
        return
    with pytest.raises(DatabaseError, match=rf"SQL Server {version[0]}\.0.*2019") as refusal:
        MSSQL("azure", connection)
    assert closed and "Remedy: upgrade the server" in str(refusal.value)
