"""After a sync the standby's counters give free numbers that their columns can hold."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.counters import Counter
from dbsync_pipeline.mirror import ready, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import SETTINGS, execute, insert, sync

Pair = tuple[Database, Database]


def _model(*columns: sa.Column[Any], sequence: sa.Sequence | None = None) -> Model:
    metadata = sa.MetaData()
    if sequence is not None:
        sequence._set_metadata(metadata)
    sa.Table("things", metadata, *columns, sa.Column("name", sa.Unicode(20)))
    return Model(metadata)


def _reasons(database: Database, model: Model) -> dict[str, str]:
    with database.connect() as dialect:
        return dict(ready.judge(ready.read(dialect, model), 3600).reasons)


def _insert(database: Database, model: Model, **row: Any) -> int:
    """Insert a row as an application would; return the number that the database gave it."""
    (table,) = model.tables
    with database.engine().begin() as connection:
        connection.execute(table.sa.insert().values(name="new", **row))
        numbered = next(
            column for column in table.sa.columns if isinstance(column.type, sa.Integer)
        )
        query = sa.select(numbered).where(table.sa.c.name == "new")
        return int(connection.execute(query).scalar_one())


def _synced(pair: Pair, model: Model, rows: list[dict[str, Any]]) -> Database:
    source, target = pair
    schema.ensure(source, model)
    insert(source, {"things": rows}, model)
    sync(source, target, model=model)
    assert _reasons(target, model) == {}
    return target


def test_a_small_key_does_not_pass_its_end(pair: Pair) -> None:
    if pair[1].engine_name == "sqlite" or pair[0].engine_name == "sqlite":
        pytest.skip("SQLite numbers INTEGER PRIMARY KEY only")
    model = _model(sa.Column("id", sa.SmallInteger, primary_key=True))
    target = _synced(pair, model, [{"name": "a"}, {"name": "b"}])
    assert 100 < _insert(target, model) < 2**15


def test_a_key_without_autoincrement_moves_the_counters_of_other_engines(pair: Pair) -> None:
    model = _model(sa.Column("id", sa.Integer, primary_key=True))
    target = _synced(pair, model, [{"name": "a"}, {"name": "b"}])
    gap = 0 if target.engine_name == "sqlite" else SETTINGS.key_gap
    assert _insert(target, model) > 2 + gap


def test_a_second_number_beside_a_uuid_key_goes_on(pair: Pair) -> None:
    if "sqlite" in (pair[0].engine_name, pair[1].engine_name):
        pytest.skip("SQLite numbers keys only")
    model = _model(
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("number", sa.BigInteger, sa.Identity(), unique=True, nullable=False),
    )
    rows = [{"id": uuid.UUID(int=n), "name": "a"} for n in range(5)]
    target = _synced(pair, model, rows)
    assert _insert(target, model, id=uuid.UUID(int=9)) > 5 + SETTINGS.key_gap


@pytest.fixture
def two(new_database: NewDatabase) -> Pair:
    return new_database("postgresql", "windows"), new_database("postgresql", "linux", server=1)


@pytest.mark.parametrize("in_database", [False, True], ids=["by SQLAlchemy", "by a default"])
def test_a_sequence_that_no_column_owns_is_moved(two: Pair, in_database: bool) -> None:
    sequence = sa.Sequence("numbers of things")
    default = {"server_default": sequence.next_value()} if in_database else {}
    model = _model(
        sa.Column("id", sa.Integer, sequence, primary_key=True, **default), sequence=sequence
    )
    target = _synced(two, model, [{"name": "a"}, {"name": "b"}])
    assert _insert(target, model) > 2 + SETTINGS.key_gap


def test_a_sequence_that_fills_no_column_is_moved(two: Pair) -> None:
    model = _model(sa.Column("id", sa.Integer, primary_key=True), sequence=sa.Sequence("tickets"))
    source, target = two
    schema.ensure(source, model)
    execute(source, "SELECT nextval('tickets') FROM generate_series(1, 7)")
    sync(source, target, model=model)
    with target.engine().begin() as connection:
        assert connection.scalar(sa.text("SELECT nextval('tickets')")) == 8 + SETTINGS.key_gap


def test_an_identity_that_counts_down_is_moved_down(two: Pair) -> None:
    identity = sa.Identity(always=True, start=-1, increment=-2, minvalue=-1000, maxvalue=-1)
    model = _model(sa.Column("id", sa.Integer, identity, primary_key=True))
    target = _synced(two, model, [{"name": "a"}, {"name": "b"}])
    number = _insert(target, model)
    assert -1000 <= number < -50 and number % 2 == 1


def test_a_standby_whose_next_number_is_taken_is_not_ready(two: Pair) -> None:
    sequence = sa.Sequence("numbers")
    model = _model(sa.Column("id", sa.Integer, sequence, primary_key=True), sequence=sequence)
    target = _synced(two, model, [{"name": "a"}])
    execute(target, "SELECT setval('numbers', 1, false)")
    assert "things.id" in _reasons(target, model)[ready.COUNTERS]


def _counter(**given: Any) -> Counter:
    return Counter("t.id", "t_id_seq", **{"last": None, "highest": None, **given})


@pytest.mark.parametrize(
    ("standby", "source", "value"),
    [
        (_counter(), _counter(last=7, highest=5), 107),
        (_counter(last=3), _counter(last=7), 107),
        (_counter(last=107), _counter(last=7), None),
        (_counter(last=200, highest=7), _counter(last=7), None),
        (_counter(), _counter(highest=7, movable=False), 107),
        (_counter(movable=False), _counter(last=7), None),
        (_counter(last=5, highest=3), None, None),
        (_counter(last=3, highest=5), None, 105),
        (_counter(step=10), _counter(last=7), 107),
        (_counter(step=30), _counter(last=7), 127),
        (_counter(step=-1, end=-(2**31)), _counter(last=-7, step=-1), -107),
        (_counter(end=2**15 - 1), _counter(last=32_700), 32_706),
        (_counter(end=127), _counter(last=126), 127),
        (_counter(end=127), _counter(last=127), 127),
        (_counter(last=127, end=127), _counter(last=127), None),
    ],
)
def test_how_far_a_counter_is_moved(
    standby: Counter, source: Counter | None, value: int | None
) -> None:
    assert standby.target(source, 100) == value
