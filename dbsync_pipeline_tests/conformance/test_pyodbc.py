"""Whole syncs by pyodbc, the second driver of SQL Server, with every engine.

Both drivers read the result. Values that an application with pyodbc would damage are written by
the first driver.
"""

from __future__ import annotations

import datetime as dt

import pytest

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline_tests.conformance.test_types import KINDS, ROWS
from dbsync_pipeline_tests.conftest import PAIRS
from dbsync_pipeline_tests.worlds import (
    MODEL,
    NOON,
    SETTINGS,
    content,
    execute,
    hard_world,
    message,
    prepare,
    sequence_gives,
    small_world,
    sync,
    user,
)

Pair = tuple[Database, Database]
BY_PYODBC = [pair for pair in PAIRS if "mssql" in str(pair.id)]
"""Empty without such a server, which pytest reports."""

pytestmark = pytest.mark.parametrize("pair", BY_PYODBC, indirect=True)

users, messages = MODEL.table("users").sa, MODEL.table("messages").sa


def by_pyodbc(database: Database) -> Database:
    """Return the database, with the other driver where it is SQL Server."""
    url = (
        database.url.set(drivername="mssql+pyodbc")
        if database.engine_name == "mssql"
        else database.url
    )
    return Database(database.name, url)


def test_a_first_sync_a_change_a_second_sync_and_an_undo(pair: Pair) -> None:
    """The application uses pyodbc too."""
    source, target = map(by_pyodbc, pair)
    prepare(source, small_world())
    sync(source, target)
    before = content(target)
    assert before == content(source) == content(pair[0])
    execute(
        source,
        users.update()
        .where(users.c.id == 1)
        .values(name="né漢🙂", updated_at=NOON - dt.timedelta(days=365)),
        users.update().where(users.c.id == 2).values(email="free@example.org"),
        users.update().where(users.c.id == 3).values(email="u2@example.org"),
        messages.delete().where(messages.c.id == 200),
        (messages.insert(), [message(9001, 1), message(9002, 1, parent_id=9001)]),
    )
    second = sync(source, target, run_id="second")
    results = {name: (r.inserted, r.updated, r.deleted) for name, r in second.tables.items()}
    assert results["users"] == (0, 3, 0) and results["messages"] == (2, 0, 1)
    assert content(target) == content(source) == content(pair[1])
    assert sync(source, target, run_id="third").changed == 0
    undo(target, MODEL, "second", by="undo of second", settings=SETTINGS)
    assert content(target) == before
    fresh = {name: value for name, value in user(77).items() if name != "id"}
    assert sequence_gives(target, fresh) > SETTINGS.key_gap


def test_hard_values_arrive_exactly(pair: Pair) -> None:
    source, target = map(by_pyodbc, pair)
    prepare(source, hard_world())
    sync(source, target)
    assert content(target) == content(source) == content(pair[1])
    assert sync(source, target).changed == 0


def test_every_type_arrives_at_its_extremes(pair: Pair) -> None:
    """Some in an empty table, and some by staging."""
    source, target = map(by_pyodbc, pair)
    prepare(pair[0], {"kinds": ROWS[8:]}, KINDS)
    sync(source, target, model=KINDS)
    table = KINDS.tables[0].sa
    execute(pair[0], *[table.insert().values(row) for row in ROWS[:8]])
    result = sync(source, target, model=KINDS).tables["kinds"]
    assert (result.inserted, result.updated, result.deleted) == (8, 0, 0)
    assert content(pair[1], KINDS) == content(pair[0], KINDS)
    assert sync(source, target, model=KINDS).changed == 0


def test_a_text_and_bytes_of_ten_megabytes(pair: Pair) -> None:
    source, target = map(by_pyodbc, pair)
    text, data = "ä🙂漢 b" * 1_000_000, bytes(range(250)) * 40_000
    prepare(source, {"kinds": [{**ROWS[8], "long": text, "bytes": data}]}, KINDS)
    sync(source, target, model=KINDS)
    assert content(target, KINDS) == content(source, KINDS) == content(pair[1], KINDS)
