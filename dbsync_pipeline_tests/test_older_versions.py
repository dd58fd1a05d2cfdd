"""What is written otherwise for older versions of the engines. Most of it runs on the newest version as well.

The suite itself runs on an older PostgreSQL with `TEST_POSTGRESQL_BIN` (see `versions.py`).
"""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.digests import PLAIN, Form
from dbsync_pipeline.dialects.postgresql import connection as postgresql
from dbsync_pipeline.dialects.postgresql.dialect import PostgreSQL
from dbsync_pipeline.dialects.postgresql.expressions import Expressions
from dbsync_pipeline.dialects.sqlite import connection as sqlite
from dbsync_pipeline.dialects.sqlite import reflection
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DatabaseError
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.reflect.read import load
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.test_postgresql import rows
from dbsync_pipeline_tests.test_structure import structure
from dbsync_pipeline_tests.versions import postgresql as server_version
from dbsync_pipeline_tests.versions import since
from dbsync_pipeline_tests.worlds import execute, sync

MOMENTS = Table(
    sa.Table(
        "moments",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("instant", sa.DateTime(timezone=True)),
        sa.Column("local", sa.DateTime),
        sa.Column("day", sa.Date),
        sa.Column("clock", sa.Time),
    )
)
NATIVE = Form("of this server", 8)
FILL = """
CREATE TABLE moments (id int PRIMARY KEY, instant timestamptz, local timestamp, day date, clock time);
INSERT INTO moments VALUES
  (1, '294276-12-31 23:59:59.999999+00', '294276-12-31 23:59:59.999999', '5874897-12-31', '24:00'),
  (2, '9999-12-31 23:59:59.999999+00', '9999-12-31 23:59:59.999999', '9999-12-31', '23:59:59.999999'),
  (3, '4713-01-01 00:00:00.000001+00 BC', '4713-01-01 00:00:00.000001 BC', '4713-01-01 BC', '00:00'),
  (4, 'infinity', 'infinity', 'infinity', NULL), (5, '-infinity', '-infinity', '-infinity', NULL),
  (6, NULL, NULL, NULL, NULL);
INSERT INTO moments SELECT n, '2242-03-21 19:29:19.996801+00'::timestamptz + n * interval '7919.000001 h',
  '2242-03-21 19:29:19.996801'::timestamp + n * interval '7919.000001 h' FROM generate_series(7, 3000) n"""


@pytest.fixture
def moments(new_database: NewDatabase) -> Database:
    database = new_database("postgresql", "windows")
    with database.engine().begin() as connection:
        connection.exec_driver_sql(FILL)
    return database


@pytest.mark.parametrize("version", [13, 14])
def test_moments_are_the_numbers_that_the_server_stores(version: int, moments: Database) -> None:
    own = Expressions(server_version())
    for column in MOMENTS.columns:
        old, new = (each.plain(column) for each in (Expressions(version), own))
        with moments.engine().connect() as connection:
            differing = connection.exec_driver_sql(
                f"SELECT count(*) FROM moments t WHERE {old} IS DISTINCT FROM {new}"
            )
            assert differing.scalar() == 0, column.name


@pytest.mark.parametrize("version", [13, pytest.param(14, marks=since(14))])
@pytest.mark.parametrize("form", [PLAIN, NATIVE])
def test_each_value_of_a_row_changes_its_digest(
    version: int, form: Form, moments: Database
) -> None:
    first, second = Expressions(version).halves(form)
    digest = f"SELECT {first}, {second} FROM (SELECT {Expressions(version).row(MOMENTS, form)} AS r FROM moments t WHERE id = 2) x"
    with moments.engine().connect() as connection:
        digests = {tuple(connection.exec_driver_sql(digest).one())}
        for change in (
            "instant = instant - interval '1 us'",
            "local = local - interval '1 us'",
            "day = NULL",
            "clock = clock - interval '1 us'",
        ):
            connection.exec_driver_sql(f"UPDATE moments SET {change} WHERE id = 2")
            digests.add(tuple(connection.exec_driver_sql(digest).one()))
    assert len(digests) == 5
    assert all(abs(half) < 2**63 for halves in digests for half in halves)


@pytest.mark.parametrize(
    ("engine", "cause"),
    [
        ("postgresql", r"the server is PostgreSQL \d+, and the mirror needs 99 or later"),
        ("sqlite", r"this Python has SQLite [\d.]+, and the mirror needs 99\.0 or later"),
    ],
)
def test_a_version_that_is_too_old_is_refused(
    engine: str, cause: str, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_OLDEST_VERSION", 99)
    monkeypatch.setattr(sqlite, "_OLDEST_VERSION", (99, 0))
    with (
        pytest.raises(DatabaseError, match=cause) as refused,
        new_database(engine, "windows").connect(create=True),
    ):
        pass
    assert refused.value.remedy is not None and refused.value.database == "windows"


def test_tables_behind_a_virtual_one_are_known_by_their_names(new_database: NewDatabase) -> None:
    """SQLite before 3.37 does not list them as such."""
    with new_database("sqlite", "windows").connect(create=True) as dialect:
        for create in (
            "CREATE VIRTUAL TABLE search USING fts5(mail)",
            "CREATE VIRTUAL TABLE older USING fts4(mail)",
            "CREATE VIRTUAL TABLE area USING rtree(id, low, high)",
            "CREATE TABLE search_log (id INTEGER PRIMARY KEY)",
        ):
            dialect.connection.exec_driver_sql(create)
        named = reflection.named_behind(["search", "older", "area"])
        own = set(sa.inspect(dialect.connection).get_table_names())
        assert own - named - {"search", "older", "area"} == {"search_log"}
        assert dialect.places(()) == [(None, "search_log")]


def test_servers_of_two_versions_pass_on_what_other_engines_cannot_hold(
    moments: Database, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rows pass as plain values, as between engines."""
    monkeypatch.setattr(PostgreSQL, "digest_format", lambda self: self.name)
    source, target = moments, new_database("postgresql", "linux", server=1)
    execute(
        source,
        "ALTER TABLE moments ADD n numeric(8, 2) DEFAULT 'NaN', ADD f float8 DEFAULT '-Infinity'",
    )
    model = Model(load(structure(source).source, "moments"))
    sync(source, target, model=model)
    assert rows(target, "moments") == rows(source, "moments")
    (equal,) = verify(source, target, model)
    assert equal.equal and equal.source_rows == 3000
    execute(source, "UPDATE moments SET local = '-infinity', n = 1, f = 'NaN' WHERE id = 2")
    assert sync(source, target, model=model).tables["moments"].updated == 1
    assert all(table.equal for table in verify(source, target, model))
