"""What stands in the place of a table or of its key is called by its name."""

from __future__ import annotations

import contextlib

import psycopg2
import pytest
import sqlalchemy as sa

from dbsync_pipeline.errors import Refused, StructureError, Unavailable
from dbsync_pipeline.mirror import differences, known_structure, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.reflect.read import Structure, load, read
from dbsync_pipeline.mirror.selection import TableFilter
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.test_postgresql import rows, run
from dbsync_pipeline_tests.test_statements import statements
from dbsync_pipeline_tests.versions import as_of, postgresql
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
    assert schema.check(target, model) == {"t": [differences.NO_TABLE]}
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
        run(target, as_of(f"SELECT pg_terminate_backend({process}, 5000)"))
        with pytest.raises(Unavailable, match="the connection was lost"):
            differences.missing(dialect, model)


TABLES = (
    "CREATE TYPE mood AS ENUM ('good', 'bad')",
    "CREATE DOMAIN short AS varchar(5)",
    "CREATE TABLE parent (id int PRIMARY KEY, name text, UNIQUE (name))",
    """CREATE TABLE child (
        id int PRIMARY KEY, parent int REFERENCES parent, mood mood, price numeric(8, 2),
        code short, name text COLLATE "C", twice int GENERATED ALWAYS AS (id * 2) STORED)""",
    "CREATE UNIQUE INDEX child_code ON child (code)",
    "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id)",
    "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (9)",
)
CHANGES = (
    "ALTER TABLE child ADD COLUMN more int",
    "ALTER TABLE child DROP COLUMN price",
    "ALTER TABLE child RENAME COLUMN price TO cost",
    "ALTER TABLE child ALTER price TYPE numeric(9, 2)",
    "ALTER TABLE child ALTER price TYPE float USING price::float",
    "ALTER TABLE child ALTER price SET NOT NULL",
    "ALTER TABLE child ALTER price SET DEFAULT 0",
    'ALTER TABLE child ALTER name TYPE text COLLATE "POSIX"',
    "ALTER TABLE child ALTER twice DROP EXPRESSION",
    *(["ALTER TABLE child ALTER twice SET EXPRESSION AS (id * 3)"] if postgresql() >= 17 else []),
    "ALTER TABLE child ALTER id ADD GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE child DROP CONSTRAINT child_pkey",
    "ALTER TABLE child DROP CONSTRAINT child_parent_fkey",
    "ALTER TABLE child ALTER CONSTRAINT child_parent_fkey DEFERRABLE INITIALLY DEFERRED",
    "ALTER TABLE child DROP CONSTRAINT child_parent_fkey,"
    " ADD CONSTRAINT child_parent_fkey FOREIGN KEY (parent) REFERENCES parent ON DELETE CASCADE",
    "ALTER TABLE child DROP CONSTRAINT child_parent_fkey,"
    " ADD CONSTRAINT child_parent_fkey FOREIGN KEY (parent) REFERENCES child",
    "DROP INDEX child_code",
    "DROP INDEX child_code; CREATE INDEX child_code ON child (code)",
    "DROP INDEX child_code; CREATE UNIQUE INDEX child_code ON child (mood)",
    "DROP INDEX child_code; CREATE UNIQUE INDEX child_code ON child (code) WHERE id > 0",
    "DROP INDEX child_code; CREATE UNIQUE INDEX child_code ON child (lower(code))",
    "ALTER TABLE parent DROP CONSTRAINT parent_name_key",
    "ALTER TYPE mood RENAME VALUE 'bad' TO 'sad'",
    "ALTER TYPE mood RENAME TO temper",
    "CREATE SCHEMA other; ALTER TYPE mood SET SCHEMA other",
    "CREATE DOMAIN long AS varchar(9); ALTER TABLE child ALTER code TYPE long",
    "CREATE SCHEMA other; ALTER TABLE parent SET SCHEMA other",
    "DROP TABLE child",
    "DROP TABLE child; CREATE VIEW child AS SELECT 1 AS id",
    "ALTER TABLE child SET UNLOGGED",
    "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (9) TO (17)",
    "DROP TABLE parted_1; CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (8)",
)


def test_databases_with_the_same_structure_have_the_same_mark_and_each_change_another_one(
    pair: tuple[Database, Database],
) -> None:
    run(pair[0], *TABLES)
    run(pair[1], "CREATE TABLE before (id int)", *TABLES)  # so that no oid is the same
    model = Model(load(structure(pair[0]).source, "all"))
    with pair[0].connect() as one, pair[1].connect() as other:
        mark = known_structure.mark(model, one)
        assert mark is not None and known_structure.mark(model, other) == mark
        marks = {mark}
        for change in CHANGES:
            with other.connection.begin_nested() as altered:
                other.connection.exec_driver_sql(change)
                marks.add(str(known_structure.mark(model, other)))
                altered.rollback()
            assert known_structure.mark(model, other) == mark, change
        assert len(marks) == 1 + len(CHANGES)


def test_a_structure_that_was_seen_in_another_database_is_not_read_again(
    pair: tuple[Database, Database],
) -> None:
    for database in pair:
        run(database, *TABLES)
    model = Model(load(structure(pair[0]).source, "all"))
    with statements() as first:
        assert not any(schema.check(pair[0], model).values())
    with statements() as second:
        assert not any(schema.check(pair[1], model).values())
    assert len(second) < len(first) / 2
    run(pair[1], "ALTER TABLE child ALTER price SET NOT NULL")
    assert schema.check(pair[1], model)["child"] == [
        "column price is not nullable here, nullable in the models"
    ]
