"""Databases of other people, without models: first sync, edits, second sync, verify, undo, and back again."""

from __future__ import annotations

import pytest

from dbsync_pipeline.errors import StructureError
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import TableResult
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.reflect.read import load, read
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.mirror.selection import TableFilter
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.owners import OWNERS, RENTALS
from dbsync_pipeline_tests.test_postgresql import rows, run
from dbsync_pipeline_tests.worlds import ANYTHING, SETTINGS, sync


def reflected(database: Database, skip: tuple[str, ...] = ()) -> Model:
    with database.connect() as dialect:
        structure = read(dialect, (), TableFilter((), skip))
    return Model(load(structure.source, "owners"), None, structure.skipped)


def assert_equal(source: Database, target: Database, model: Model) -> None:
    assert [verdict.table for verdict in verify(source, target, model) if not verdict.equal] == []
    if target.engine_name == "postgresql":  # by another way than the mirror's own
        for table in model.names:
            assert rows(target, table) == rows(source, table), table


def state(database: Database, model: Model) -> dict[str, list[str]]:
    """Every row of every table, as its engine writes it."""
    if database.engine_name == "postgresql":
        return {table: rows(database, table) for table in model.names}
    with database.engine().connect() as connection:
        return {
            table: sorted(map(repr, connection.exec_driver_sql(f"SELECT * FROM {table}")))
            for table in model.names
        }


def counts(result: TableResult) -> tuple[int, int, int]:
    return result.inserted, result.updated, result.deleted


@pytest.mark.parametrize(
    ("owner", "engine"),
    [
        *((name, "postgresql") for name in OWNERS),
        *((name, "sqlite") for name in ("music", "orders")),
    ],
)
def test_an_owners_database_is_mirrored_edited_verified_and_undone(
    owner: str, engine: str, new_database: NewDatabase
) -> None:
    source, target = new_database("postgresql", "windows"), new_database(engine, "linux", server=1)
    run(source, OWNERS[owner].create)
    model = reflected(source)
    first = sync(source, target, model=model)
    assert all(first.tables[name].inserted for name in model.names)
    assert_equal(source, target, model)
    before = state(target, model)
    run(source, OWNERS[owner].edit)
    second = sync(source, target, model=model, policy=ANYTHING)
    assert 0 < second.changed < first.changed / 5
    assert_equal(source, target, model)
    assert sync(source, target, model=model).changed == 0
    undone = undo(target, model, second.run_id, by="undo", settings=SETTINGS)
    assert {name: counts(result) for name, result in undone.tables.items()} == {
        name: counts(result)[::-1] for name, result in second.tables.items()
    }
    assert state(target, model) == before
    sync(source, target, model=model, policy=ANYTHING)
    assert_equal(source, target, model)


def test_a_table_with_values_of_a_composite_type_is_changed_and_undone(
    new_database: NewDatabase,
) -> None:
    source = new_database("postgresql", "windows")
    target = new_database("postgresql", "linux", server=1)
    run(
        source,
        "CREATE TYPE pair AS (x int, y int)",
        "CREATE TABLE places (id int PRIMARY KEY, at pair, visited pair[])",
        "INSERT INTO places SELECT n, (n, n)::pair, ARRAY[(n, 1)::pair] FROM generate_series(1, 9) n",
    )
    model = reflected(source)
    sync(source, target, model=model)
    before = state(target, model)
    run(source, "UPDATE places SET at = (0, 0)::pair, visited = '{}' WHERE id = 1")
    changed = sync(source, target, model=model, policy=ANYTHING)
    assert_equal(source, target, model)
    undo(target, model, changed.run_id, by="undo", settings=SETTINGS)
    assert state(target, model) == before


def test_what_another_engine_cannot_hold_is_refused_by_name_and_the_rest_is_mirrored(
    new_database: NewDatabase,
) -> None:
    source, target = new_database("postgresql", "windows"), new_database("sqlite", "linux")
    run(source, RENTALS.create)
    with pytest.raises(StructureError) as refused:
        sync(source, target, model=reflected(source))
    assert refused.value.table in RENTALS.only_postgresql
    assert "features" in refused.value.cause or refused.value.table != "film"
    model = reflected(source, RENTALS.only_postgresql)
    assert set(model.names) == {"store", "staff", "inventory", "payment"}
    sync(source, target, model=model)
    assert_equal(source, target, model)
