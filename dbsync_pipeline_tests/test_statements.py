"""How many statements a sync of nothing sends: few, and no more for a hundred tables than for five."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.postgresql.watched import WatchedConnection, WatchedCursor
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.test_look import new_database, servers
from dbsync_pipeline_tests.worlds import MODEL, execute, prepare, small_world, sync

__all__ = ["new_database", "servers"]  # transactions of other tests would count as changes

MOST = {"postgresql": 50, "sqlite": 70}
"""Statements of a sync of nothing, in both databases, with those of the two connections."""


def many_tables(number: int) -> Model:
    metadata = sa.MetaData()
    for n in range(number):
        sa.Table(
            f"table_{n:03}",
            metadata,
            sa.Column("id", sa.BigInteger, primary_key=True),
            sa.Column("parent", sa.ForeignKey(f"table_{n - 1:03}.id") if n else sa.BigInteger),
            sa.Column("name", sa.Unicode(50), nullable=False),
        )
    return Model(metadata)


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """The statements of all connections that are opened within, as the drivers get them."""
    sent: list[str] = []

    class Counting(WatchedCursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            sent.append(str(query))
            super().execute(query, vars)

    def count(connection: Any, _record: object) -> None:
        if isinstance(connection, WatchedConnection):
            connection.cursor_factory = Counting
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(sent.append)

    sa.event.listen(sa.pool.Pool, "connect", count, insert=True)
    try:
        yield sent
    finally:
        sa.event.remove(sa.pool.Pool, "connect", count)


@pytest.fixture(params=["postgresql", "sqlite"])
def pair(request: pytest.FixtureRequest, new_database: NewDatabase) -> tuple[Database, Database]:
    engine = request.param
    return new_database(engine, "windows", server=0), new_database(engine, "linux", server=1)


def _of_nothing(source: Database, target: Database, model: Model) -> list[str]:
    """The statements of the shortest of a few syncs: a server's own transactions come in between."""
    sync(source, target, model=model)
    runs = []
    for _ in range(6):
        with statements() as sent:
            assert sync(source, target, model=model).changed == 0
        runs.append(sent)
    return min(runs, key=len)


def test_a_sync_of_nothing_sends_few_statements(pair: tuple[Database, Database]) -> None:
    source, target = pair
    prepare(source, small_world())
    sent = _of_nothing(source, target, MODEL)
    assert 10 < len(sent) <= MOST[source.engine_name], "\n".join(sent)


def test_a_sync_of_nothing_sends_a_table_no_statement_but_its_rows(
    pair: tuple[Database, Database],
) -> None:
    """SQLite reads the rows of each table to hash them; PostgreSQL only looks at its catalog."""
    source, target = pair
    few, many = many_tables(3), many_tables(30)
    prepare(source, {}, few)
    prepare(target, {}, few)
    first = len(_of_nothing(source, target, few))
    prepare(source, {}, many)
    prepare(target, {}, many)
    more = len(_of_nothing(source, target, many)) - first
    assert more <= {"postgresql": 0, "sqlite": 27 * 2}[source.engine_name]


def test_a_changed_structure_is_compared_again(pair: tuple[Database, Database]) -> None:
    source, target = pair
    prepare(source, small_world())
    before = len(_of_nothing(source, target, MODEL))
    execute(target, "ALTER TABLE users ADD COLUMN more int")
    with statements() as sent, pytest.raises(Exception, match="column more is not in the models"):
        sync(source, target)
    execute(target, "ALTER TABLE users DROP COLUMN more")
    with statements() as sent:
        sync(source, target)
    if source.engine_name == "postgresql":  # SQLite's definition is the same text again
        assert len(sent) > before
    assert len(_of_nothing(source, target, MODEL)) <= before + 3
