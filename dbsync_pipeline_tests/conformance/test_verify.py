"""`verify` trusts no ledger: it says what differs now, row by row, and changes nothing."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.merge import merge
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    content,
    execute,
    prepare,
    small_world,
    sync,
    user,
)

users, documents = (MODEL.table(name).sa for name in ("users", "documents"))


def test_equal_databases_are_found_equal_and_every_difference_is_named(
    pair: tuple[Database, Database],
) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    assert all(verdict.equal for verdict in verify(source, target, MODEL))
    execute(
        target,
        users.update().where(users.c.id == 3).values(name="x"),
        (users.insert(), [user(700)]),
        documents.delete().where(documents.c.size_bytes == 7),
    )
    before = content(target)
    found = {verdict.table: verdict for verdict in verify(source, target, MODEL)}
    assert (found["users"].differing, found["documents"].differing) == (2, 1)
    assert {str(key[0]) for key in found["users"].keys} == {"3", "700"}
    assert found["chats"].equal and not found["users"].equal
    assert content(target) == before


def test_a_key_that_is_nan_is_one_key(new_database: NewDatabase) -> None:
    """To PostgreSQL NaN equals NaN, and to Python it does not."""
    model = Model(sa.MetaData())
    kinds = {"double": sa.Float(53), "digits": sa.Numeric(10, 2)}
    for name, kind in kinds.items():
        key = sa.Column("key", kind, primary_key=True, autoincrement=False)
        sa.Table(name, model.metadata, key, sa.Column("text", sa.UnicodeText))
    source, target = (
        new_database("postgresql", name, server=n) for n, name in enumerate(("windows", "linux"))
    )
    rows = [{"key": key, "text": "old"} for key in ("NaN", 1, 2)]
    prepare(source, {name: rows for name in kinds}, model)
    sync(source, target, model=model)
    assert all(verdict.equal for verdict in verify(source, target, model))
    new = "UPDATE {} SET text = 'new' WHERE key = 'NaN'"
    execute(source, *(new.format(name) for name in kinds))
    found = verify(source, target, model)
    assert [verdict.differing for verdict in found] == [1, 1]
    assert [str(verdict.keys[0][0]).lower() for verdict in found] == ["nan", "nan"]
    publish = sync(source, target, model=model)
    assert {
        name: (result.inserted, result.updated, result.deleted)
        for name, result in publish.tables.items()
    } == dict.fromkeys(kinds, (0, 1, 0))
    assert all(verdict.equal for verdict in verify(source, target, model))
    execute(source, *(f"DELETE FROM {name}" for name in kinds))
    run_id = sync(source, target, model=model, policy=ANYTHING).run_id
    execute(target, *(f"INSERT INTO {name} VALUES ('NaN', 'taken')" for name in kinds))
    put_back, rest = merge(target, model, run_id)
    assert put_back == dict.fromkeys(kinds, 2)
    kept = {name: [str(key[0]).lower() for key in keys] for name, keys in rest.items()}
    assert kept == {name: ["nan"] for name in kinds}


@pytest.mark.parametrize("engines", [("postgresql",) * 2, ("postgresql", "sqlite")])
def test_columns_that_the_database_computes_are_compared_although_not_copied(
    engines: tuple[str, str], new_database: NewDatabase
) -> None:
    model = Model(sa.MetaData())
    number, double = sa.Column("number", sa.Integer), sa.Computed("number * 2", persisted=True)
    key = sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)
    sa.Table("sums", model.metadata, key, number, sa.Column("double", sa.Integer, double))
    source, target = (
        new_database(engine, name, server=n)
        for n, (engine, name) in enumerate(zip(engines, ("windows", "linux"), strict=True))
    )
    create_sums(source, factor=2)
    prepare(source, {"sums": [{"id": 1, "number": 1}, {"id": 2, "number": 0}]}, model)
    create_sums(target, factor=3)
    sync(source, target, model=model)
    (verdict,) = verify(source, target, model)
    assert (verdict.differing, [str(key[0]) for key in verdict.keys]) == (1, ["1"])
    execute(target, "DROP TABLE sums")
    create_sums(target, factor=2)
    sync(source, target, model=model, policy=ANYTHING)
    assert verify(source, target, model)[0].equal


def create_sums(database: Database, factor: int) -> None:
    """The table as an owner made it. On PostgreSQL its expression is the same for every factor, as a sync requires it."""
    with database.connect(create=True) as dialect, dialect.connection.begin():
        kind, expression = "INTEGER", f"number * {factor}"
        if database.engine_name == "postgresql":
            kind, expression = "BIGINT", "multiple(number)"
            dialect.connection.execute(
                sa.text(
                    "CREATE OR REPLACE FUNCTION multiple(integer) RETURNS integer IMMUTABLE "
                    f"LANGUAGE sql AS 'SELECT $1 * {factor}'"
                )
            )
        dialect.connection.execute(
            sa.text(
                f"CREATE TABLE sums (id {kind} NOT NULL PRIMARY KEY, number INTEGER, "
                f"double INTEGER GENERATED ALWAYS AS ({expression}) STORED)"
            )
        )
