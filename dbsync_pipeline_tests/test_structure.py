"""What stands in the place of a table or of its key is called by its name."""

from __future__ import annotations

import contextlib

import psycopg2
import pytest
import sqlalchemy as sa

from dbsync_pipeline.errors import Refused, StructureError, Unavailable
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.reflect.read import Structure, load, read
from dbsync_pipeline.mirror.selection import TableFilter
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.test_postgresql import rows, run
from dbsync_pipeline_tests.worlds import execute, sync


def structure(database: Database) -> Structure:
    with database.connect() as dialect:
        return read(dialect, (), TableFilter())


@pytest.fixture
def pair(new_database: NewDatabase) -> tuple[Database, Database]:
    return new_database("postgresql", "windows"), new_database("postgresql", "linux", server=1)


def test_an_unfinished_unique_index_is_no_key(pair: tuple[Database, Database]) -> None:
    source, target = pair
    run(
        source, "CREATE TABLE t (a int NOT NULL, b text)", "INSERT INTO t VALUES (1, 'x'), (1, 'y')"
    )
    with contextlib.suppress(psycopg2.errors.UniqueViolation):
        run(source, "CREATE UNIQUE INDEX CONCURRENTLY t_a ON t (a)")
    found = structure(source)
    assert "the index t_a of t: it is not valid" in found.notes
    model = Model(load(found.source, "t"))
    assert model.table("t").keyless
    sync(source, target, model=model)
    assert rows(target, "t") == rows(source, "t")


def test_models_that_take_an_unfinished_index_for_a_key_are_refused(
    pair: tuple[Database, Database],
) -> None:
    source, target = pair
    run(target, "CREATE TABLE t (a int NOT NULL, b text)", "CREATE UNIQUE INDEX t_a ON t (a)")
    model = Model(load(structure(target).source, "t"))
    run(
        source, "CREATE TABLE t (a int NOT NULL, b text)", "INSERT INTO t VALUES (1, 'x'), (1, 'y')"
    )
    with contextlib.suppress(psycopg2.errors.UniqueViolation):
        run(source, "CREATE UNIQUE INDEX CONCURRENTLY t_a ON t (a)")
    with pytest.raises(StructureError, match="the unique key on a, which distinguishes"):
        sync(source, target, model=model)


@pytest.mark.parametrize("engine", ["postgresql", "sqlite"])
def test_a_view_with_the_name_of_a_table_is_called_a_view(
    engine: str, new_database: NewDatabase
) -> None:
    source, target = new_database(engine, "windows"), new_database(engine, "linux", server=1)
    with source.connect(create=True) as dialect, dialect.connection.begin():
        dialect.connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    model = Model(load(structure(source).source, "t"))
    schema.ensure(target, model)
    execute(target, "ALTER TABLE t RENAME TO u", "CREATE VIEW t AS SELECT * FROM u")
    assert schema.check(target, model) == {"t": [schema.NO_TABLE]}
    with pytest.raises(StructureError, match="a view") as refused:
        sync(source, target, model=model)
    assert "`dbsync tables create --database linux`" in (refused.value.remedy or "")
    execute(target, "DROP VIEW t", "ALTER TABLE u RENAME TO t")
    sync(source, target, model=model)


def test_a_table_whose_name_has_other_capitals_is_refused_with_its_name(
    new_database: NewDatabase,
) -> None:
    source, target = new_database("sqlite", "windows"), new_database("sqlite", "linux", server=1)
    for database, name in ((source, "Users"), (target, "users")):
        with database.connect(create=True) as dialect, dialect.connection.begin():
            dialect.connection.exec_driver_sql(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY)")
    model = Model(load(structure(source).source, "Users"))
    assert schema.check(target, model) == {"Users": ["its name is users here"]}
    with pytest.raises(StructureError, match="its name is users here") as refused:
        sync(source, target, model=model)
    assert "write the name in the models" in (refused.value.remedy or "")
    execute(target, "ALTER TABLE users RENAME TO moved", 'ALTER TABLE moved RENAME TO "Users"')
    sync(source, target, model=model)


def test_the_word_autoincrement_counts_only_where_sqlite_reads_it(
    new_database: NewDatabase,
) -> None:
    source, target = new_database("sqlite", "windows"), new_database("sqlite", "linux", server=1)
    create = "CREATE TABLE t (id INTEGER PRIMARY KEY, is_autoincrement INT /* AUTOINCREMENT */)"
    with source.connect(create=True) as dialect, dialect.connection.begin():
        dialect.connection.exec_driver_sql(create)
    sync(source, target, model=(model := Model(load(structure(source).source, "t"))))
    with target.connect() as dialect:
        assert [counter.movable for counter in dialect.counters(model.tables)] == [False]


@pytest.mark.parametrize("engine", ["postgresql", "sqlite"])
def test_a_source_without_a_ledger_gets_one_with_its_first_sync(
    engine: str, new_database: NewDatabase
) -> None:
    source, target = new_database(engine, "windows"), new_database(engine, "linux", server=1)
    with source.connect(create=True) as dialect, dialect.connection.begin():
        dialect.connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    model = Model(load(structure(source).source, "t"))
    assert sync(source, target, model=model).numbered
    with source.connect() as dialect:
        assert Ledger(dialect).number() == 1


def test_a_table_that_lost_its_key_is_refused_with_the_cause(
    pair: tuple[Database, Database],
) -> None:
    source, target = pair
    run(source, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'x')")
    sync(source, target, model=Model(load(structure(source).source, "t")))
    for database in pair:
        run(
            database, "ALTER TABLE t DROP CONSTRAINT t_pkey", "ALTER TABLE t ALTER id DROP NOT NULL"
        )
    run(source, "INSERT INTO t VALUES (2, 'y'), (2, 'y')", "DELETE FROM t WHERE id = 1")
    with pytest.raises(Refused) as refused:
        sync(source, target, model=Model(load(structure(source).source, "t")))
    assert "the table's key is another one or is gone" in refused.value.cause


def test_a_connection_that_is_lost_while_tables_are_listed_is_not_taken_for_a_missing_table(
    pair: tuple[Database, Database],
) -> None:
    source, target = pair
    run(source, "CREATE TABLE t (a int PRIMARY KEY)")
    model = Model(load(structure(source).source, "t"))
    with target.connect() as dialect:
        process = dialect.connection.scalar(sa.text("SELECT pg_backend_pid()"))
        run(target, f"SELECT pg_terminate_backend({process}, 5000)")
        with pytest.raises(Unavailable, match="the connection was lost"):
            schema.missing(dialect, model)
