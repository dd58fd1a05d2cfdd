"""`dbsync tables recreate` where a database has more than the models: views that have a table's name, or depend on one."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from dbsync_pipeline.errors import DatabaseError, StructureError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.worlds import execute

METADATA = sa.MetaData()
THINGS = sa.Table("things", METADATA, sa.Column("id", sa.Integer, primary_key=True))
MODEL = Model(METADATA)


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, new_database: NewDatabase) -> Database:
    return new_database(request.param, "linux")


def test_a_view_with_the_name_of_a_table_is_refused_by_name(database: Database) -> None:
    schema.ensure(database, Model(sa.MetaData()))
    execute(database, "CREATE VIEW things AS SELECT 1 AS id")
    with pytest.raises(StructureError, match=r"(?s)table things: a view has.*DROP VIEW things"):
        schema.recreate(database, MODEL)
    execute(database, "DROP VIEW things")
    assert schema.recreate(database, MODEL) == ["things"]


def test_tables_that_a_view_depends_on_are_recreated_or_refused_by_its_name(
    database: Database,
) -> None:
    schema.ensure(database, MODEL)
    execute(database, THINGS.insert().values(id=1), "CREATE VIEW big AS SELECT id FROM things")
    if database.engine_name != "postgresql":  # other engines allow it, and the view works again
        assert schema.recreate(database, MODEL) == ["things"]
        execute(database, "SELECT id FROM big")
        return
    with pytest.raises(DatabaseError, match=r"view big depends on table things(?s:.)*drop what"):
        schema.recreate(database, MODEL)
    with database.connect() as dialect:
        assert dialect.count(MODEL.table("things")) == 1
