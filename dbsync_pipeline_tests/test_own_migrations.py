"""Databases whose structure an application's own migrations alter: dbsync compares it, and stands back."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from dbsync_pipeline.errors import DbsyncError, SettingsError, StructureError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.migrate.apply import migrate
from dbsync_pipeline.mirror.migrate.write import write
from dbsync_pipeline.mirror.model import REVISIONS_OFF, Model, load_model
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.roles import Roles, administer, name
from dbsync_pipeline_tests.worlds import content, execute, insert, session, sync

Pair = tuple[Database, Database]

REVISION = """
\"\"\"Add phones.\"\"\"
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade():
    op.add_column("people", sa.Column("phone", sa.Unicode(20)))
"""


def model_of(folder: Path | None, *columns: str) -> Model:
    metadata = sa.MetaData()
    texts = (sa.Column(column, sa.Unicode(20)) for column in columns)
    sa.Table("people", metadata, sa.Column("id", sa.BigInteger, primary_key=True), *texts)
    return Model(metadata, folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one revision of ours, which adds a column."""
    made = tmp_path / "dbsync_revisions"
    made.mkdir()
    (made / "0001_phones.py").write_text(REVISION)
    return made


@pytest.fixture(params=("postgresql", "sqlite"))
def pair(request: pytest.FixtureRequest, new_database: NewDatabase) -> Pair:
    """Both have the application's table, the source one row, and no trace of dbsync."""
    source, target = (new_database(request.param, name) for name in ("windows", "linux"))
    before = model_of(None, "full_name")
    for database in (source, target):
        with database.connect(create=True) as dialect, dialect.connection.begin():
            before.metadata.create_all(dialect.connection)
    insert(source, {"people": [{"id": 1, "full_name": "Ada"}]}, before)
    return source, target


def own_revision(database: Database, number: str) -> None:
    execute(
        database,
        "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)",
        f"INSERT INTO alembic_version VALUES ('{number}')",
    )


def noted(database: Database) -> str | None:
    with database.connect() as dialect:
        return revisions.noted(dialect)


def lacking(database: Database, model: Model) -> list[str]:
    return [revision.number for revision in revisions.lacking(database, model)]


def test_the_setting_is_not_taken_for_a_folder() -> None:
    assert load_model("dbsync_pipeline.models", Path("off")).revisions == REVISIONS_OFF
    model = load_model("dbsync_pipeline.models", Path("on"))
    assert model.revisions is not None and model.revisions.is_absolute()


def test_off_no_sync_reads_or_records_a_revision(pair: Pair) -> None:
    model = model_of(REVISIONS_OFF, "full_name")
    schema.ensure(pair[0], model)
    sync(*pair, model=model)
    assert content(pair[1], model) == content(pair[0], model)
    assert (noted(pair[0]), noted(pair[1])) == (None, None)
    assert migrate(pair[1], model, wait_seconds=1) == ()
    with pair[1].connect() as dialect:
        assert "DBSYNC_REVISIONS is off" in revisions.standing_back(dialect, model)
    with pytest.raises(SettingsError, match="DBSYNC_REVISIONS is off"):
        write(pair[0], model, "phones")


def test_where_the_application_records_revisions_ours_are_neither_run_nor_needed(
    pair: Pair, folder: Path
) -> None:
    for database in pair:
        own_revision(database, "3f2a")
    model = model_of(folder, "full_name")
    assert migrate(pair[0], model, wait_seconds=1) == ()
    assert lacking(pair[0], model) == []
    assert "alembic_version has 3f2a" in revisions.why_not(pair[0], model)
    sync(*pair, model=model)
    assert noted(pair[1]) is None
    assert schema.check(pair[1], model) == {"people": []}, "the column was not added"
    with pair[1].connect() as dialect:
        version = dialect.connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    assert version == "3f2a"


def test_a_structure_that_differs_names_the_revisions_of_both_sides(
    pair: Pair, folder: Path
) -> None:
    own_revision(pair[0], "9b1c")
    execute(pair[0], "ALTER TABLE people ADD COLUMN phone varchar(20)")
    model = model_of(folder, "full_name", "phone")
    expected = "column phone is missing; alembic_version: windows has 9b1c, linux has none"
    with session(*pair, model=model) as one, pytest.raises(StructureError) as refused:
        one.ensure_schema()
    assert expected in str(refused.value) and refused.value.database == "linux"
    own_revision(pair[1], "3f2a")
    with session(*pair, model=model) as one, pytest.raises(StructureError) as refused:
        one.plan()
    assert "windows has 9b1c, linux has 3f2a" in str(refused.value)
    assert "the application's own migrations" in str(refused.value.remedy)
    assert "dbsync migrate" not in str(refused.value.remedy)


def test_a_database_that_has_ours_gets_ours_although_it_has_the_application_s_too(
    pair: Pair, folder: Path
) -> None:
    model = model_of(folder, "full_name", "phone")
    own_revision(pair[0], "3f2a")
    execute(pair[0], "ALTER TABLE people ADD COLUMN phone varchar(20)")
    with pair[0].connect() as dialect:
        dialect.prepare()
        schema.create_ledger(dialect, pair[0], model)
        with dialect.connection.begin():
            revisions.note(dialect, model)
    (folder / "0002_fax.py").write_text(
        REVISION.replace('"0001", None', '"0002", "0001"').replace("phone", "fax")
    )
    grown = model_of(folder, "full_name", "phone", "fax")
    assert [one.number for one in migrate(pair[0], grown, wait_seconds=1)] == ["0002"]
    assert schema.check(pair[0], grown) == {"people": []}


def test_an_alembic_version_that_the_role_may_not_read_hinders_nothing(
    new_database: NewDatabase, roles: Roles, folder: Path
) -> None:
    owner = new_database("postgresql", "windows")
    model = model_of(folder, "full_name")
    with owner.connect() as dialect, dialect.connection.begin():
        model.metadata.create_all(dialect.connection)
    own_revision(owner, "3f2a")
    reader = roles.new(owner)
    administer(owner, f"GRANT SELECT ON people TO {name(reader)}")
    with reader.connect() as dialect:
        schema.require(dialect, model)
        with dialect.connection.begin():
            assert revisions.own(dialect, model) is None
            assert dialect.count(model.table("people")) == 0, "the transaction goes on"


def test_a_column_that_was_dropped_by_hand_ends_no_migration_without_a_remedy(
    pair: Pair, folder: Path
) -> None:
    before = model_of(None, "full_name")
    for database in pair:
        schema.ensure(database, before)
    sync(*pair, model=before)
    execute(pair[1], "ALTER TABLE people DROP COLUMN full_name")
    with pytest.raises(DbsyncError) as refused:
        migrate(pair[1], model_of(folder, "full_name", "phone"), wait_seconds=1)
    assert refused.value.remedy is not None and "full_name" in refused.value.cause
