"""Constraints that PostgreSQL checks for new rows only: rows that are older, and violate them, reach the standbys."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest

from dbsync_pipeline.errors import DatabaseError
from dbsync_pipeline.mirror import ready, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.reflect.read import load, read
from dbsync_pipeline.mirror.selection import TableFilter
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.roles import Roles, administer, name
from dbsync_pipeline_tests.test_postgresql import rows, run
from dbsync_pipeline_tests.worlds import ANYTHING, execute, sync

TABLES = (
    "CREATE TABLE parent (id int PRIMARY KEY, v int, boss int)",
    "CREATE TABLE child (id int PRIMARY KEY, parent int, v int)",
    "CREATE TABLE part (id int, day date, v int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
    "CREATE TABLE part_2025 PARTITION OF part FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    "INSERT INTO parent VALUES (1, 1, NULL), (2, -5, 77)",
    "INSERT INTO child VALUES (1, 1, 1), (2, 99, 2)",
    "INSERT INTO part VALUES (1, '2025-05-05', -1), (2, '2025-05-06', 500)",
    "ALTER TABLE child ADD CONSTRAINT known FOREIGN KEY (parent) REFERENCES parent NOT VALID",
    "ALTER TABLE parent ADD CONSTRAINT led FOREIGN KEY (boss) REFERENCES parent NOT VALID",
    "ALTER TABLE parent ADD CONSTRAINT positive CHECK (v > 0) NOT VALID",
    "ALTER TABLE part ADD CONSTRAINT positive CHECK (v > 0) NOT VALID",
    "ALTER TABLE part_2025 ADD CONSTRAINT small CHECK (v < 100) NOT VALID",
)
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, convalidated, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f') ORDER BY 1, 2"""


@pytest.fixture
def source(new_database: NewDatabase) -> Database:
    made = new_database("postgresql", "windows")
    run(made, *TABLES)
    return made


@pytest.fixture
def model(source: Database) -> Model:
    with source.connect() as dialect:
        return Model(load(read(dialect, (), TableFilter.of("", "")).source, "not_valid"))


@pytest.fixture(params=["superuser", "owner"])
def standby(request: pytest.FixtureRequest, new_database: NewDatabase) -> Iterator[Database]:
    """A database of PostgreSQL's, for a superuser or for the owner of the tables."""
    made = new_database("postgresql", "linux", server=1)
    roles = Roles()
    if request.param == "superuser":
        yield made
        return
    owner = roles.new(made)
    administer(made, f"GRANT CREATE ON DATABASE {made.url.database} TO {name(owner)}")
    administer(made, f"GRANT CREATE ON SCHEMA public TO {name(owner)}")
    yield owner
    roles.drop()


def assert_equal(source: Database, target: Database, model: Model) -> None:
    assert all(table.equal for table in verify(source, target, model))
    with target.connect() as dialect:
        assert ready.read(dialect, model).orphans == ()


def test_older_rows_and_the_constraints_as_they_are_reach_a_standby(
    source: Database, standby: Database, model: Model
) -> None:
    sync(source, standby, model=model)
    assert_equal(source, standby, model)
    assert run(standby, CONSTRAINTS) == run(source, CONSTRAINTS) != []
    with pytest.raises(psycopg2.errors.CheckViolation):
        run(standby, "INSERT INTO parent VALUES (9, -9, NULL)")
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        run(standby, "INSERT INTO child VALUES (9, 99, 9)")
    execute(source, "UPDATE child SET v = 7 WHERE id = 2", "DELETE FROM parent WHERE id = 2")
    execute(source, "INSERT INTO child VALUES (3, 1, 3)")
    sync(source, standby, model=model, policy=ANYTHING)
    assert_equal(source, standby, model)


def test_tables_that_are_created_again_are_filled_again(
    source: Database, standby: Database, model: Model
) -> None:
    """Their standby is not new, so its constraints are not dropped for a first load."""
    sync(source, standby, model=model)
    schema.recreate(standby, model)
    sync(source, standby, model=model, policy=ANYTHING)
    assert_equal(source, standby, model)
    assert run(standby, CONSTRAINTS) == run(source, CONSTRAINTS)


def test_they_reach_a_standby_that_has_no_such_constraints(
    source: Database, new_database: NewDatabase, model: Model
) -> None:
    target = new_database("sqlite", "azure")
    sync(source, target, model=model)
    assert_equal(source, target, model)
    execute(source, "UPDATE child SET v = 7 WHERE id = 2", "INSERT INTO child VALUES (3, 1, 3)")
    sync(source, target, model=model, policy=ANYTHING)
    assert_equal(source, target, model)


def test_a_row_that_a_constraint_of_the_standby_alone_refuses_is_named_with_the_remedy(
    source: Database, new_database: NewDatabase, model: Model
) -> None:
    target = new_database("postgresql", "linux", server=1)
    schema.ensure(target, model)
    run(target, "ALTER TABLE parent ADD CONSTRAINT low CHECK (v < 0)")
    with pytest.raises(DatabaseError, match="low") as refused:
        sync(source, target, model=model)
    assert "ALTER TABLE parent DROP CONSTRAINT low" in (refused.value.remedy or "")
    assert rows(target, "parent") == []
