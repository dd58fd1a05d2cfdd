"""Many tables and wide ones work, and the questions about their existence do not grow with them."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from dbsync_pipeline.defs.assets import table_assets
from dbsync_pipeline.mirror import differences, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.worlds import insert, sync


def many(tables: int, columns: int = 3) -> Model:
    metadata = sa.MetaData()
    for number in range(tables):
        sa.Table(
            f"t{number:03}",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            *(sa.Column(f"c{place}", sa.Integer) for place in range(1, columns)),
        )
    return Model(metadata)


def statements(database: Database, model: Model) -> int:
    """How many statements it takes to learn which tables are missing: none is."""
    with database.connect() as dialect:
        counted: list[str] = []
        sa.event.listen(
            dialect.connection.engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, *_: counted.append(statement),
        )
        assert differences.missing(dialect, model) == []
    return len(counted)


def test_existing_tables_are_listed_and_not_asked_for_one_by_one(
    twins: tuple[Database, Database],
) -> None:
    few, all_tables = many(5), many(40)
    schema.ensure(twins[0], all_tables)
    assert statements(twins[0], few) == statements(twins[0], all_tables) <= 2


def test_a_hundred_and_fifty_tables_are_a_graph_with_an_op_each() -> None:
    graph = table_assets(many(150), ["windows", "linux"])
    assert len(graph.keys) == 150
    assert len(list(graph.check_specs)) == 150


@pytest.mark.parametrize("columns", [300])
def test_a_table_of_300_columns_is_carried(columns: int, pair: tuple[Database, Database]) -> None:
    source, target = pair
    model = many(1, columns)
    schema.ensure(source, model)
    row = {"id": 1, **{f"c{place}": place for place in range(1, columns)}}
    insert(source, {"t000": [row, {**dict.fromkeys(row), "id": 2}]}, model)
    assert sync(source, target, model=model).tables["t000"].inserted == 2
    assert [table.equal for table in verify(source, target, model)] == [True]
    assert sync(source, target, model=model).tables["t000"].inserted == 0
