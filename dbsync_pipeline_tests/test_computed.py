"""Columns that the databases compute: they are not copied, and both sides must compute them alike."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.sqlite.reflection import expressions
from dbsync_pipeline.dialects.sqlite.sql import in_one_way
from dbsync_pipeline.errors import StructureError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.reflect.read import load, read
from dbsync_pipeline.mirror.selection import TableFilter
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.test_postgresql import Ready, rows, run, two  # noqa: F401
from dbsync_pipeline_tests.versions import since
from dbsync_pipeline_tests.worlds import execute, session, sync

KINDS = ("STORED", pytest.param("VIRTUAL", marks=since(18)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schema_name", ["public", '"odd Name"'])
def test_an_expression_that_differs_is_refused_and_its_remedy_works(
    two: Ready,  # noqa: F811
    kind: str,
    schema_name: str,
) -> None:
    table = f'CREATE TABLE {schema_name}.items (id int PRIMARY KEY, n int, "Twice" int)'
    computed = f"GENERATED ALWAYS AS (n * 2) {kind}"
    source, target, _ = two(
        'CREATE SCHEMA "odd Name"', table.replace('"Twice" int', f'"Twice" int {computed}')
    )
    metadata = sa.MetaData()
    with source.engine().connect() as connection:
        metadata.reflect(connection, schema=None if schema_name == "public" else "odd Name")
    model, name = Model(metadata), f"{schema_name}.items"
    run(source, f"INSERT INTO {name} VALUES (1, 7)")
    for _ in range(2):
        sync(source, target, model=model)
    run(
        target,
        f'ALTER TABLE {name} DROP COLUMN "Twice"',
        f'ALTER TABLE {name} ADD COLUMN "Twice" int {computed.replace("* 2", "* 3")}',
    )
    for work in ("ensure_schema", "plan"):
        with (
            session(source, target, model=model) as one,
            pytest.raises(StructureError, match=r"computed as \(n \* 3\) here, and as") as refused,
        ):
            getattr(one, work)()
    assert refused.value.remedy is not None and refused.value.database == "linux"
    run(target, *refused.value.remedy.partition(": ")[2].split("; "))
    sync(source, target, model=model)
    assert rows(target, name) == rows(source, name) == ["(1,7,14)"]
    assert all(each.equal for each in verify(source, target, model))


@pytest.mark.parametrize("persisted", [True, False])
def test_verify_finds_a_value_that_is_computed_otherwise(
    persisted: bool, new_database: NewDatabase
) -> None:
    def items(expression: str) -> Model:
        metadata = sa.MetaData()
        sa.Table(
            "items",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("n", sa.Integer),
            sa.Column("twice", sa.Integer, sa.Computed(expression, persisted=persisted)),
        )
        return Model(metadata)

    source, target = new_database("sqlite", "windows"), new_database("sqlite", "linux")
    schema.ensure(source, items("n * 2"))
    schema.ensure(target, items("n * 3"))
    for database in (source, target):
        execute(database, "INSERT INTO items (id, n) VALUES (1, 7), (2, 0)")
    (found,) = verify(source, target, items("n * 2"))
    assert (found.differing, found.keys) == (1, ((1,),))


@since(18)
def test_stored_here_and_virtual_there_is_equal(two: Ready) -> None:  # noqa: F811
    table = "CREATE TABLE items (id int PRIMARY KEY, n int, d int GENERATED ALWAYS AS (n * 2) {})"
    source, target, model = two(table.format("STORED"))
    _replace(target, table.format("VIRTUAL"))
    run(source, "INSERT INTO items VALUES (1, 7)")
    sync(source, target, model=model)
    assert all(each.equal for each in verify(source, target, model))


def _replace(database: Database, table: str) -> None:
    run(database, "DROP TABLE items", table)


SQLITE = 'CREATE TABLE items (id INTEGER PRIMARY KEY, n INT, "tw, ice" INT {})'
BY_TWO = "GENERATED ALWAYS AS (n * 2 /* twice */) {} NOT NULL"


@pytest.mark.parametrize("stored", ["", "STORED"])
def test_an_expression_that_differs_in_sqlite_is_refused_and_its_remedy_works(
    stored: str, new_database: NewDatabase
) -> None:
    source, target = new_database("sqlite", "windows"), new_database("sqlite", "linux")
    for database, computed in ((source, BY_TWO), (target, "AS (n * 3) {} NOT NULL")):
        with database.connect(create=True) as dialect, dialect.connection.begin():
            dialect.connection.exec_driver_sql(SQLITE.format(computed.format(stored)))
    with source.connect() as dialect:
        model = Model(load(read(dialect, (), TableFilter()).source, "items"))
    execute(source, "INSERT INTO items (id, n) VALUES (1, 7)")
    for work in ("ensure_schema", "plan"):
        with (
            session(source, target, model=model) as one,
            pytest.raises(StructureError, match=r"computed as n\*3 here, and as n\*2") as refused,
        ):
            getattr(one, work)()
    assert refused.value.remedy is not None and refused.value.database == "linux"
    execute(target, *refused.value.remedy.partition(": ")[2].split("; "))
    for _ in range(2):
        sync(source, target, model=model)
    with target.engine().connect() as connection:
        assert connection.exec_driver_sql("SELECT * FROM items").all() == [(1, 7, 14)]
    assert all(each.equal for each in verify(source, target, model))


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("n * 2", "(( N*2 ))", True),
        ('lower("Name") || [n]', "LOWER(name)||`N` -- x", True),
        ("n IS NOT NULL", "n is  not\nnull", True),
        ("(a) + (b)", "(a + b)", False),
        ("'A'", "'a'", False),
        ('"null"', "null", False),
        ("a b", "ab", False),
        ("n * 2", "n * 3", False),
    ],
)
def test_sqlite_expressions_are_alike_if_their_tokens_are(
    one: str, other: str, alike: bool
) -> None:
    assert (in_one_way(one) == in_one_way(other)) == alike


def test_sqlite_expressions_are_read_from_the_text_of_the_table() -> None:
    text = """create table "t, (x" (id integer primary key, -- a, b as (q)
      n int default (1+(2)), d int as (n*2), "e, as" text as (n||'),('||"n") stored,
      [f f] int generated always as ((n*3)) virtual not null, g AS(n),
      h int as (case when n > 1 then 2 else (3) end) not null, check (n > (1)), unique (n))"""
    assert expressions(text) == {
        "d": "n*2",
        "e, as": "n||'),('||\"n\"",
        "f f": "(n*3)",
        "g": "n",
        "h": "case when n > 1 then 2 else (3) end",
    }


def test_a_short_generated_column_of_sqlite_is_read_with_its_expression(
    new_database: NewDatabase,
) -> None:
    source, target = new_database("sqlite", "windows"), new_database("sqlite", "linux")
    with source.connect(create=True) as dialect, dialect.connection.begin():
        dialect.connection.exec_driver_sql(
            "CREATE TABLE items (id INTEGER PRIMARY KEY, n INT, d INT AS (n * 2), "
            "e INT AS (n * 3) STORED, f INT GENERATED ALWAYS AS (n + 1))"
        )
    with source.connect() as dialect:
        model = Model(load(read(dialect, (), TableFilter()).source, "items"))
    execute(source, "INSERT INTO items (id, n) VALUES (1, 7)")
    sync(source, target, model=model)
    with target.engine().connect() as connection:
        assert connection.exec_driver_sql("SELECT * FROM items").all() == [(1, 7, 14, 21, 8)]
    assert all(each.equal for each in verify(source, target, model))
