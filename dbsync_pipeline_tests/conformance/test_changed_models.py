"""The models change, and every database with them: that is nobody's write, and nothing that was kept is lost by it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from dbsync_pipeline.dialects.digests import Form
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import Refused
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.failover.observe import local_writes
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.export import export
from dbsync_pipeline.mirror.rescue.merge import merge
from dbsync_pipeline.mirror.rescue.read import rescued_rows
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.policy import Policy
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import SETTINGS, content, execute, prepare, sync

Pair = tuple[Database, Database]
Columns = dict[str, sa.types.TypeEngine[Any]]

BEFORE: Columns = {"id": sa.Integer(), "name": sa.Unicode(50), "city": sa.Unicode(50)}
MORE: Columns = {
    "id": sa.Integer(),
    "phone": sa.Unicode(50),
    "city": sa.Unicode(50),
    "name": sa.Unicode(50),
}
"""One more, and in another order."""
LESS: Columns = {"id": sa.Integer(), "name": sa.Unicode(50)}


def model_of(columns: Columns) -> Model:
    metadata = sa.MetaData()
    made = (
        sa.Column(name, type_, primary_key=name == "id", autoincrement=False)
        for name, type_ in columns.items()
    )
    sa.Table("people", metadata, *made)
    return Model(metadata)


def alter(database: Database, verb: str, *words: Any, **more: Any) -> None:
    """One of Alembic's operations on the table, as the application's own migration does it."""
    with database.engine().begin() as connection:
        getattr(Operations(MigrationContext.configure(connection)), verb)("people", *words, **more)


def as_of_version_2(database: Database) -> None:
    """Its ledger, as it was before it had the columns of digests, rounds of publishes and stamps."""
    with database.connect() as dialect, dialect.connection.begin():
        here = f"{dialect.ledger_schema}." if dialect.ledger_schema else "dbsync_"
        dialect.connection.execute(sa.text(f"ALTER TABLE {here}publishes DROP COLUMN round"))
        dialect.connection.execute(sa.text(f"ALTER TABLE {here}digests DROP COLUMN columns"))
        dialect.connection.execute(sa.text(f"DROP TABLE {here}stamps"))
        Ledger(dialect).note("version", "2")


def published(pair: Pair) -> Pair:
    """Both sides equal, after a first publish and a second one that changed row 1 and deleted row 2."""
    source, target = pair
    before = model_of(BEFORE)
    people = before.table("people").sa
    prepare(
        source,
        {"people": [{"id": n, "name": f"name {n}", "city": "León"} for n in range(1, 400)]},
        before,
    )
    sync(source, target, model=before)
    execute(
        source,
        people.update().where(people.c.id == 1).values(name="second"),
        people.delete().where(people.c.id == 2),
    )
    sync(source, target, model=before, run_id="second")
    return pair


def changed(pair: Pair, columns: Columns) -> Model:
    """The models of these columns, and both databases with them."""
    for database in published(pair):
        for name in columns.keys() - BEFORE.keys():
            alter(database, "add_column", sa.Column(name, columns[name]))
        for name in BEFORE.keys() - columns.keys():
            alter(database, "drop_column", name)
    return model_of(columns)


def rename(database: Database, model: Model, key: int, name: str) -> None:
    people = model.table("people").sa
    execute(database, people.update().where(people.c.id == key).values(name=name))


def test_an_added_column_is_no_local_write(pair: Pair) -> None:
    source, target = pair
    model = changed(pair, MORE)
    people = model.table("people").sa
    assert local_writes(target, model) == (), (
        "or the application would be taken to have moved there"
    )
    execute(source, people.update().where(people.c.id == 7).values(phone="123", name="new"))
    assert sync(source, target, model=model).changed == 1
    assert content(target, model) == content(source, model)
    assert local_writes(target, model) == ()
    execute(target, people.update().where(people.c.id == 8).values(phone="456"))
    assert local_writes(target, model) == ("people",), (
        "once it was published, the new column is guarded too"
    )
    with pytest.raises(Refused, match=r"were written since .* with keys 8 \(local writes\)"):
        sync(source, target, model=model)


def test_what_somebody_wrote_before_a_column_came_is_still_seen(pair: Pair) -> None:
    source, target = pair
    model = changed(pair, MORE)
    rename(target, model, 300, "precious")
    rename(source, model, 7, "new")
    assert local_writes(target, model) == ("people",)
    with pytest.raises(Refused, match=r"were written since .* with keys 300 \(local writes\)"):
        sync(source, target, model=model)


def test_where_a_column_went_nobody_says_that_somebody_wrote(pair: Pair) -> None:
    """Whether somebody did cannot be told: what a sync would change is at risk, and the application is not taken to have moved."""
    source, target = pair
    model = changed(pair, LESS)
    assert local_writes(target, model) is None
    rename(source, model, 7, "new")
    before = content(target, model)
    with pytest.raises(
        Refused,
        match=r"cannot be determined, since columns were removed .* with keys 7 \(local writes\)",
    ):
        sync(source, target, model=model)
    assert content(target, model) == before
    sync(source, target, model=model, policy=Policy(overwrite=True))
    assert content(target, model) == content(source, model) and local_writes(target, model) == ()


def test_equal_databases_need_no_permission_after_a_column_went(pair: Pair) -> None:
    source, target = pair
    model = changed(pair, LESS)
    assert sync(source, target, model=model).changed == 0
    rename(source, model, 7, "new")
    assert sync(source, target, model=model).changed == 1
    assert content(target, model) == content(source, model)


def test_a_longer_text_leaves_the_digests_what_they_are(pair: Pair) -> None:
    _, target = published(pair)
    assert local_writes(target, model_of({**BEFORE, "name": sa.Unicode(60)})) == ()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (sa.DateTime(), sa.DateTime(timezone=True)),
        (sa.Numeric(10, 2), sa.Numeric(10, 3)),
        (sa.Integer(), sa.Unicode(20)),
        (sa.Uuid(), sa.Uuid(native_uuid=False)),
    ],
)
def test_digests_of_another_type_are_not_compared(
    before: sa.types.TypeEngine[Any], after: sa.types.TypeEngine[Any]
) -> None:
    here, then = (model_of({**BEFORE, "value": type_}).table("people") for type_ in (after, before))
    assert Form("canonical", 1, then.signatures).table_as_digested(here) is None
    assert Form("canonical", 1, then.signatures).table_as_digested(then) is then
    assert Form("canonical", 1, then.signatures[::-1]).table_as_digested(then) == Table(
        then.sa, tuple(name for name, _ in then.signatures[::-1])
    )


def test_digests_by_another_key_are_not_compared() -> None:
    """Its columns in another order put a row into another bucket."""
    numbers = [sa.Column(name, sa.Integer) for name in ("x", "y", "z")]
    keys = [("x", "y"), ("y", "x"), ("x",), ("x", "y", "z")]
    tables = [
        Table(
            sa.Table(
                "k", sa.MetaData(), *(c._copy() for c in numbers), sa.PrimaryKeyConstraint(*key)
            )
        )
        for key in keys
    ]
    for one, other in itertools.permutations(tables, 2):
        assert Form("canonical", 1, other.signatures).table_as_digested(one) is None


def test_rows_rescued_before_the_change_are_shown_exported_and_merged(
    pair: Pair, tmp_path: Path
) -> None:
    _, target = pair
    model = changed(pair, MORE)
    ((_, rows),) = rescued_rows(target, model, "second")
    by_key = {row["id"]: row for row in rows}
    assert by_key[1] == {"dbsync_change": "replaced", "id": 1, "city": "León", "name": "name 1"}
    (file,) = export(target, model, "second", tmp_path)
    assert sorted(pq.read_table(file).column("id").to_pylist()) == [1, 2]
    put, rest = merge(target, model, "second")
    assert (put, rest) == ({"people": 1}, {"people": [(1,)]})
    assert (2, None, "León", "name 2") in content(target, model)["people"]


def test_rows_with_a_column_that_went_are_shown_whole_and_not_merged(
    pair: Pair, tmp_path: Path
) -> None:
    _, target = pair
    model = changed(pair, LESS)
    ((_, rows),) = rescued_rows(target, model, "second")
    assert {row["id"]: row["city"] for row in rows} == {1: "León", 2: "León"}
    (file,) = export(target, model, "second", tmp_path)
    assert pq.read_table(file).column("city").to_pylist() == ["León", "León"]
    before = content(target, model)
    with pytest.raises(Refused, match=r"values in city, which the models no longer have"):
        merge(target, model, "second")
    assert content(target, model) == before


@pytest.mark.parametrize(("columns", "named"), [(MORE, "phone"), (LESS, "city")])
def test_an_undo_across_the_change_is_refused_and_says_so(
    pair: Pair, columns: Columns, named: str
) -> None:
    _, target = pair
    model = changed(pair, columns)
    before = content(target, model)
    with pytest.raises(Refused, match=f"the models have changed since that publish, in {named}"):
        undo(target, model, "second", by="undo", settings=SETTINGS, overwrite=True)
    assert content(target, model) == before


def test_a_publish_after_the_change_can_be_undone(pair: Pair) -> None:
    source, target = pair
    model = changed(pair, MORE)
    before = content(target, model)
    rename(source, model, 7, "new")
    sync(source, target, model=model, run_id="third")
    undo(target, model, "third", by="undo", settings=SETTINGS)
    assert content(target, model) == before and local_writes(target, model) == ()
    undo(target, model, "undo", by="again", settings=SETTINGS)
    assert content(target, model) == content(source, model)
    undo(target, model, "again", by="once more", settings=SETTINGS)
    assert content(target, model) == before
    with pytest.raises(Refused, match="the models have changed since that publish, in phone"):
        undo(target, model, "second", by="too far", settings=SETTINGS)


def test_a_publish_before_a_text_got_longer_can_be_undone(new_database: NewDatabase) -> None:
    pair = new_database("postgresql", "windows"), new_database("postgresql", "linux", server=1)
    published(pair)
    for database in pair:
        alter(database, "alter_column", "name", type_=sa.Unicode(60))
    longer = model_of({**BEFORE, "name": sa.Unicode(60)})
    undo(pair[1], longer, "second", by="undo", settings=SETTINGS)
    assert [row[1] for row in content(pair[1], longer)["people"] if row[0] in (1, 2)] == [
        "name 1",
        "name 2",
    ]


def test_a_ledger_without_columns_is_of_the_models_that_bring_it_up(pair: Pair) -> None:
    _, target = published(pair)
    as_of_version_2(target)
    schema.ensure(target, model_of(BEFORE))
    alter(target, "add_column", sa.Column("phone", sa.Unicode(50)))
    assert local_writes(target, model_of(MORE)) == ()


def test_a_source_whose_ledger_is_of_a_former_version_is_read(pair: Pair) -> None:
    """It received once, as after a failback, and no sync brings a source's ledger up."""
    target, source = published(pair)
    model = model_of(BEFORE)
    as_of_version_2(source)
    sync(source, target, model=model, policy=Policy(overwrite=True))
    rename(source, model, 7, "new")
    sync(source, target, model=model, policy=Policy(overwrite=True))
    assert content(target, model) == content(source, model)
