"""Arrays of PostgreSQL that are JSON on other engines, in both spellings of a model."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from dbsync_pipeline.errors import Unrepresentable
from dbsync_pipeline.mirror import ready
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import ANYTHING, SETTINGS, execute, prepare, sync


def _json(array: sa.types.TypeEngine[object]) -> sa.types.TypeEngine[object]:
    return sa.JSON(none_as_null=True).with_variant(array, "postgresql")


MODEL = Model(sa.MetaData())
sa.Table(
    "lists",
    MODEL.metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("tags", _json(ARRAY(sa.Unicode(20))), nullable=False),
    sa.Column("numbers", _json(ARRAY(sa.BigInteger))),
    sa.Column("flags", _json(ARRAY(sa.Boolean))),
    sa.Column("grid", _json(ARRAY(sa.Integer, dimensions=2))),
    sa.Column("prices", _json(ARRAY(sa.Numeric(10, 2)))),
    sa.Column(
        "other", ARRAY(sa.Text).with_variant(sa.JSON(), "sqlite").with_variant(sa.JSON(), "mssql")
    ),
    sa.Column("body", JSONB().with_variant(sa.JSON(), "sqlite").with_variant(sa.JSON(), "mssql")),
)
lists = MODEL.table("lists").sa
HARD = ["", " ", "a,b", '"', "\\", "{}", "NULL", "null", "é\n🚀", None]
ROWS = [
    {"id": 1, "tags": HARD, "numbers": [2**63 - 1, -(2**63), None], "flags": [True, False, None]},
    {"id": 2, "tags": [], "grid": [[1, 2], [3, None]], "other": ["x"], "body": {"a": [1]}},
    {"id": 3, "tags": ["x"], "numbers": []},
]


def _rows() -> list[dict[str, object]]:
    nothing = dict.fromkeys(column.name for column in lists.columns)
    return [{**nothing, "other": [], "body": {}, **row} for row in ROWS]


def test_arrays_reach_every_engine_and_come_back(pair: tuple[Database, Database]) -> None:
    source, target = pair
    rows = _rows()
    if source.engine_name == "postgresql":  # which writes both digits after the point
        rows[2]["prices"] = ["1.00", "12.50"]
    prepare(source, {"lists": rows}, MODEL)
    if source.engine_name == "mssql" != target.engine_name:  # it compares no JSON by value
        text = sa.text("UPDATE lists SET tags = :text WHERE id = 1")
        execute(source, text.bindparams(text=json.dumps(HARD, ensure_ascii=False)))
    sync(source, target, model=MODEL)
    assert all(table.equal for table in verify(source, target, MODEL))
    for database in pair:
        with database.engine().connect() as connection:
            shown = connection.execute(sa.select(lists).order_by("id")).mappings().all()
        assert [row["tags"] for row in shown] == [HARD, [], ["x"]]
        assert shown[0]["numbers"] == [2**63 - 1, -(2**63), None]
        assert shown[1]["grid"] == [[1, 2], [3, None]] and shown[1]["body"] == {"a": [1]}
        assert shown[0]["flags"] == [True, False, None] and shown[2]["numbers"] == []
    execute(source, lists.update().where(lists.c.id == 1).values(tags=["new"], other=["y", "z"]))
    execute(source, lists.delete().where(lists.c.id == 2))
    publish = sync(source, target, model=MODEL, policy=ANYTHING)
    changed = publish.tables["lists"]
    assert (changed.updated, changed.deleted) == (1, 1)
    assert all(table.equal for table in verify(source, target, MODEL))
    undo(target, MODEL, publish.run_id, by="a test", settings=SETTINGS)
    with target.engine().connect() as connection:
        assert connection.execute(sa.select(lists.c.tags).order_by("id")).scalars().all() == [
            HARD,
            [],
            ["x"],
        ]
    with target.connect() as dialect:
        assert ready.read(dialect, MODEL).unwritable == ()


@pytest.mark.parametrize(
    ("column", "text", "why"),
    [
        ("tags", '{"a": 1}', "it is none"),
        ("tags", "[1]", "another type"),
        ("tags", '[{"a": 1}]', "another type"),
        ("numbers", '["1"]', "another type"),
        ("numbers", "[1.5]", "another type"),
        ("flags", "[0]", "another type"),
        ("grid", "[[]]", "no empty array"),
        ("grid", "[[1], [2, 3]]", ""),
        ("numbers", "[9223372036854775808]", ""),
    ],
)
def test_json_that_is_no_such_array_is_refused_by_its_key(
    new_database: NewDatabase, column: str, text: str, why: str
) -> None:
    source, target = new_database("sqlite", "windows"), new_database("postgresql", "linux")
    prepare(source, {"lists": _rows()}, MODEL)
    execute(
        source, sa.text(f"UPDATE lists SET {column} = :text WHERE id = 3").bindparams(text=text)
    )
    with pytest.raises(Unrepresentable, match=rf"column {column} .*key \(3\).*{why}"):
        sync(source, target, model=MODEL)
