"""A source may hold rows that violate its own foreign keys: SQLite checks keys for who asks for it only."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
import sqlalchemy as sa

from dbsync_pipeline.columns import distinct
from dbsync_pipeline.errors import DatabaseError
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.roles import Roles, administer, name
from dbsync_pipeline_tests.worlds import ANYTHING, content, execute, prepare, sync

MODEL = Model(sa.MetaData())
sa.Table("posts", MODEL.metadata, sa.Column("id", distinct(9), primary_key=True))
sa.Table(
    "tags",
    MODEL.metadata,
    sa.Column("post", sa.ForeignKey("posts.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tag", distinct(9), primary_key=True),
)


@pytest.fixture(params=["sqlite", "postgresql", "owner"])
def target(request: pytest.FixtureRequest, new_database: NewDatabase) -> Database:
    """A standby: a file, a superuser's database, or one of a role that may not switch keys off."""
    if request.param != "owner":
        return new_database(request.param, "linux")
    made, roles = new_database("postgresql", "linux"), Roles()
    request.addfinalizer(roles.drop)
    owner = roles.new(made)
    administer(
        made,
        f"GRANT CREATE ON DATABASE {made.url.database} TO {name(owner)}",
        f"GRANT CREATE ON SCHEMA public TO {name(owner)}",
    )
    return owner


@pytest.mark.parametrize("synced_before", [False, True])
def test_rows_of_the_source_that_no_parent_has_are_named_by_their_keys(
    new_database: NewDatabase, target: Database, synced_before: bool
) -> None:
    source = new_database("sqlite", "windows")
    world = {"posts": [{"id": "a"}, {"id": "b"}], "tags": [{"post": "a", "tag": "x"}]}
    prepare(source, world, MODEL)
    if synced_before:
        sync(source, target, model=MODEL)
    before = content(target, MODEL) if synced_before else None
    with contextlib.closing(sqlite3.connect(str(source.url.database))) as file:
        file.execute("INSERT INTO tags VALUES ('gone', 'y')")
        file.commit()
    with pytest.raises(DatabaseError) as refused:
        sync(source, target, model=MODEL, policy=ANYTHING)
    assert "(post) to posts does not hold in windows itself" in refused.value.cause
    assert "gone/y" in refused.value.cause and refused.value.table == "tags"
    assert "correct or delete these rows on windows" in (refused.value.remedy or "")
    assert before is None or content(target, MODEL) == before
    execute(source, "DELETE FROM tags WHERE post = 'gone'")
    sync(source, target, model=MODEL, policy=ANYTHING)
    assert content(target, MODEL) == content(source, MODEL)
