"""Tables without a primary key: a unique key serves, and without one equal rows are counted."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from dbsync_pipeline.columns import Key, distinct, reference
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import Refused, StructureError, Unrepresentable
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.compare import _difference_in_copies
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.merge import merge
from dbsync_pipeline.mirror.rescue.read import rescued_rows
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import PAIRS, NewDatabase
from dbsync_pipeline_tests.worlds import ANYTHING, SETTINGS, execute, insert, session, sync

Pair = tuple[Database, Database]
Rows = list[dict[str, Any]]
WITH_ADDRESSES = [pair for pair in PAIRS if "mssql" not in str(pair.id)]

VISITS = Model(sa.MetaData())
sa.Table("pages", VISITS.metadata, sa.Column("id", Key, primary_key=True))
visits = sa.Table(
    "visits",
    VISITS.metadata,
    sa.Column("page_id", Key, reference("pages.id")),
    sa.Column("path", sa.Unicode(50)),
    sa.Column("seconds", sa.Float(53)),
)


def visit(page: int | None = None, path: str | None = None, seconds: float | None = None) -> Any:
    return {"page_id": page, "path": path, "seconds": seconds}


def copies(database: Database, model: Model = VISITS) -> dict[str, Counter[str]]:
    """The rows of each table without a key, and how often each is there."""
    with database.engine().connect() as connection:
        return {
            table.name: Counter(repr(tuple(row)) for row in connection.execute(sa.select(table.sa)))
            for table in model.tables
            if table.keyless
        }


def replace(database: Database, rows: Rows) -> None:
    execute(database, visits.delete(), *([(visits.insert(), rows)] if rows else []))


@pytest.fixture(params=WITH_ADDRESSES)
def two(request: pytest.FixtureRequest, new_database: NewDatabase) -> Pair:
    source, target = (
        new_database(engine, name, server=n)
        for n, (engine, name) in enumerate(zip(request.param, ("windows", "linux"), strict=True))
    )
    schema.ensure(source, VISITS)
    insert(source, {"pages": [{"id": 1}, {"id": 2}]}, VISITS)
    return source, target


FIRST: Rows = [
    *[visit(1, "/", 0.5)] * 3,
    *[visit(1, "/", None)] * 2,
    *[visit()] * 2,
    *[visit(2, f"/{number}", number / 7) for number in range(400)],
]


def test_copies_are_counted_from_the_first_sync_to_the_undo_of_the_undo(two: Pair) -> None:
    source, target = two
    replace(source, FIRST)
    assert sync(source, target, model=VISITS).tables["visits"].inserted == len(FIRST)
    assert copies(target) == copies(source)
    first = copies(target)
    assert sync(source, target, model=VISITS).changed == 0

    second = [*FIRST[1:4], *[visit()] * 4, *FIRST[7:], visit(2, "new", 1.5), visit(2, "new", 1.5)]
    replace(source, second)
    done = sync(source, target, model=VISITS)
    counts = done.tables["visits"]
    assert (counts.inserted, counts.updated, counts.deleted) == (4, 0, 2)
    assert copies(target) == copies(source)
    assert all(table.equal for table in verify(source, target, VISITS))
    later = copies(target)

    undone = undo(target, VISITS, done.run_id, by="undo", settings=SETTINGS)
    assert copies(target) == first
    assert (undone.tables["visits"].inserted, undone.tables["visits"].deleted) == (2, 4)
    undo(target, VISITS, "undo", by="redo", settings=SETTINGS)
    assert copies(target) == later


def test_the_undo_of_the_first_load_empties_the_table(two: Pair) -> None:
    source, target = two
    replace(source, FIRST)
    done = sync(source, target, model=VISITS)
    undo(target, VISITS, done.run_id, by="undo", settings=SETTINGS)
    assert copies(target)["visits"] == Counter()


def test_one_copy_more_on_the_standby_is_a_local_write_at_risk(two: Pair) -> None:
    source, target = two
    replace(source, FIRST)
    sync(source, target, model=VISITS)
    execute(target, visits.insert().values(visit(1, "/", 0.5)))
    with session(source, target, model=VISITS) as one:
        plan, findings = one.plan()
    assert (plan.tables["visits"].delete, plan.tables["visits"].insert) == (1, 0)
    assert [finding.guard for finding in findings] == ["local writes"]
    assert "0.5" not in findings[0].found, "a row is named by its address, never by its values"
    assert [table.differing for table in verify(source, target, VISITS)] == [0, 1]
    with pytest.raises(Refused):
        sync(source, target, model=VISITS)
    done = sync(source, target, model=VISITS, policy=ANYTHING)
    assert copies(target) == copies(source)
    ((_, rescued),) = list(rescued_rows(target, VISITS, done.run_id))
    assert [(row["dbsync_change"], row["path"]) for row in rescued] == [("deleted", "/")]
    put_back, rest = merge(target, VISITS, done.run_id)
    assert (put_back, rest) == ({"visits": 0}, {"visits": [()]}), "it is listed, and not put back"


def test_a_standby_that_passes_it_on_has_the_same_digests(two: Pair) -> None:
    source, target = two
    replace(source, FIRST)
    sync(source, target, model=VISITS)
    with target.connect() as dialect:
        ledger = Ledger(dialect)
        digests = ledger.digests("visits")
        assert digests is not None and digests.total == len(FIRST)
        assert digests.form.columns == Table(visits).signatures
        assert not any("key" in signature for _, signature in digests.form.columns)


@pytest.mark.parametrize("engines", [("postgresql", "postgresql")], ids="-".join)
def test_row_headers_prove_a_table_without_a_key(
    engines: tuple[str, str], new_database: NewDatabase
) -> None:
    source, target = (new_database(engine, f"db{n}", server=n) for n, engine in enumerate(engines))
    schema.ensure(source, VISITS)
    insert(source, {"pages": [{"id": 1}, {"id": 2}]}, VISITS)
    replace(source, FIRST)
    sync(source, target, model=VISITS)
    execute(source, visits.insert().values(visit(1, "/", 0.5)))
    sync(source, target, model=VISITS)
    execute(source, "CREATE TABLE noise (x int)", "DROP TABLE noise")
    proofs = {sync(source, target, model=VISITS).tables["visits"].proof for _ in range(2)}
    assert all(proof.split(":")[0] in ("row headers", "snapshot") for proof in proofs), proofs
    assert copies(target) == copies(source)


_VALUES = st.builds(
    visit,
    st.sampled_from([None, 1, 2]),
    st.sampled_from([None, "", "a", "b"]),
    st.sampled_from([None, 0.0, 1.5]),
)
_SOME = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(st.lists(st.lists(_VALUES, max_size=12), min_size=2, max_size=3))
@_SOME
def test_any_multisets_follow_each_other_and_are_undone(two: Pair, states: list[Rows]) -> None:
    source, target = two
    before: list[dict[str, Counter[str]]] = []
    runs: list[str] = []
    for rows in states:
        replace(source, rows)
        schema.ensure(target, VISITS)
        earlier = copies(target)
        publish = sync(source, target, model=VISITS, policy=ANYTHING)
        if not publish.confirmations:  # a sync that found nothing cannot be undone
            before.append(earlier)
            runs.append(publish.run_id)
        assert copies(target) == copies(source)
        assert all(table.equal for table in verify(source, target, VISITS))
    for run, expected in zip(reversed(runs), reversed(before), strict=True):
        undo(target, VISITS, run, by=f"undo {run}"[:36], settings=SETTINGS)
        assert copies(target) == expected


@given(st.lists(st.integers(0, 4), max_size=30), st.lists(st.integers(0, 4), max_size=30))
def test_the_difference_of_two_multisets_is_exact(source: list[int], target: list[int]) -> None:
    left: dict[Any, Any] = {("s", n): digest for n, digest in enumerate(source)}
    right: dict[Any, Any] = {("t", n): digest for n, digest in enumerate(target)}
    changes = _difference_in_copies(7, left, right)
    assert set(changes.new) <= set(left) and set(changes.gone) <= set(right)
    after = Counter(target)
    after.subtract(Counter(right[key] for key in changes.gone))
    after.update(Counter(left[key] for key in changes.new))
    assert +after == Counter(source) and min(after.values(), default=0) >= 0
    assert not {left[key] for key in changes.new} & {right[key] for key in changes.gone}


# Keys other than the primary one -------------------------------------------------------------------


def test_a_unique_key_without_null_serves_and_the_shortest_is_taken() -> None:
    def key_of(*parts: Any) -> tuple[str, ...] | None:
        columns = [sa.Column(name, sa.Integer, nullable=name == "c") for name in ("a", "b", "c")]
        return Table(sa.Table("t", sa.MetaData(), *columns, *parts)).key_names

    assert key_of() is None
    assert key_of(sa.UniqueConstraint("a", "b")) == ("a", "b")
    assert key_of(sa.UniqueConstraint("a", "b"), sa.UniqueConstraint("b")) == ("b",)
    assert key_of(sa.UniqueConstraint("c")) is None, "NULL may be there twice"
    assert key_of(sa.Index("i", "b", unique=True)) == ("b",)
    assert key_of(sa.Index("i", "b")) is None
    assert key_of(sa.Index("i", "b", unique=True, postgresql_where=sa.text("a > 0"))) is None
    assert key_of(sa.Index("i", sa.text("lower(b)"), unique=True)) is None


UNIQUE = Model(sa.MetaData())
sa.Table(
    "names",
    UNIQUE.metadata,
    sa.Column("name", distinct(40), nullable=False, unique=True),
    sa.Column("value", sa.Integer),
)


@pytest.mark.parametrize("pair", WITH_ADDRESSES, indirect=True)
def test_a_row_is_updated_by_its_unique_key(pair: Pair) -> None:
    source, target = pair
    schema.ensure(source, UNIQUE)
    names = UNIQUE.table("names").sa
    insert(source, {"names": [{"name": f"n{n}", "value": n} for n in range(300)]}, UNIQUE)
    sync(source, target, model=UNIQUE)
    execute(source, names.update().where(names.c.name == "n7").values(value=-7))
    done = sync(source, target, model=UNIQUE)
    assert (done.tables["names"].updated, done.changed) == (1, 1)
    undo(target, UNIQUE, done.run_id, by="undo", settings=SETTINGS)
    with target.engine().connect() as connection:
        query = sa.select(names.c.value).where(names.c.name == "n7")
        assert connection.scalar(query) == 7


@pytest.mark.parametrize("engine", ["postgresql", "sqlite"])
def test_a_unique_key_that_the_database_lacks_is_named(
    engine: str, new_database: NewDatabase
) -> None:
    database = new_database(engine, "windows")
    with database.connect(create=True) as dialect, dialect.connection.begin():
        text = "varchar(40)"
        dialect.connection.execute(
            sa.text(f"CREATE TABLE names (name {text} NOT NULL, value integer)")
        )
    with database.connect() as dialect, pytest.raises(StructureError, match="unique key on name"):
        schema.require(dialect, UNIQUE)


def test_a_unique_key_that_only_included_a_column_is_told_from_one_that_has_it(
    new_database: NewDatabase,
) -> None:
    source, target = (new_database("postgresql", f"db{n}", server=n) for n in range(2))
    model = Model(sa.MetaData())
    number, value = sa.Column("number", Key, nullable=False), sa.Column("value", Key)
    sa.Table("names", model.metadata, number, value, sa.Index("by_number", number, unique=True))
    include = "CREATE UNIQUE INDEX by_number ON names (number) INCLUDE (value)"
    for database in (source, target):
        schema.ensure(database, model)
        execute(database, "DROP INDEX by_number", include)
    for _ in range(2):
        sync(source, target, model=model)
    execute(
        source, "DROP INDEX by_number", "CREATE UNIQUE INDEX by_number ON names (number, value)"
    )
    with pytest.raises(StructureError, match="unique key on number"):
        sync(source, target, model=model)


# Types without equality ----------------------------------------------------------------------------

ODD = Model(sa.MetaData())


class _Native(sa.types.UserDefinedType[Any]):
    """A type of PostgreSQL by its name."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


sa.Table(
    "odd",
    ODD.metadata,
    sa.Column("doc", postgresql.JSON),
    sa.Column("area", _Native("polygon")),
    sa.Column("place", _Native("point")),
    sa.Column("number", sa.Float(53)),
)
_ODD_ROWS = (
    "('{\"a\": 1}', '((0,0),(1,2))', '(1,2)', 'NaN')",
    "('{\"a\":1}', '((0,0),(1,3))', '(1,2)', '-0')",
    "(NULL, NULL, NULL, NULL)",
)


def test_types_without_equality_are_compared_by_their_text(new_database: NewDatabase) -> None:
    source, target = (new_database("postgresql", f"db{n}", server=n) for n in range(2))
    schema.ensure(source, ODD)
    values = ", ".join(_ODD_ROWS[n % 3] for n in range(9))
    execute(source, f"INSERT INTO odd VALUES {values}".replace(":", "\\:"))
    sync(source, target, model=ODD)
    assert _as_text(target) == _as_text(source)
    execute(target, "DELETE FROM odd WHERE ctid = (SELECT min(ctid) FROM odd WHERE doc IS NULL)")
    execute(
        target, "DELETE FROM odd WHERE ctid = (SELECT min(ctid) FROM odd WHERE area IS NOT NULL)"
    )
    apart = _as_text(target)
    done = sync(source, target, model=ODD)
    assert done.tables["odd"].inserted == 2 and _as_text(target) == _as_text(source)
    undo(target, ODD, done.run_id, by="undo", settings=SETTINGS)
    assert _as_text(target) == apart


def _as_text(database: Database) -> Counter[str]:
    with database.engine().connect() as connection:
        return Counter(connection.scalars(sa.text("SELECT odd::text FROM odd")))


def test_partitions_have_rows_at_the_same_address(new_database: NewDatabase) -> None:
    source, target = (new_database("postgresql", f"db{n}", server=n) for n in range(2))
    create = (
        "CREATE TABLE visits (page_id bigint, path varchar(50), seconds float8) "
        "PARTITION BY LIST (page_id)",
        "CREATE TABLE visits_1 PARTITION OF visits FOR VALUES IN (1)",
        "CREATE TABLE visits_2 PARTITION OF visits FOR VALUES IN (2)",
    )
    model = Model(sa.MetaData())
    columns = (sa.Column("path", sa.Unicode(50)), sa.Column("seconds", sa.Float(53)))
    sa.Table("visits", model.metadata, sa.Column("page_id", sa.BigInteger), *columns)
    for database in (source, target):
        execute(database, *create)
    rows = "(1, 'a', 1), (2, 'a', 1), (1, 'a', 1), (2, 'a', 1), (1, 'b', 2)"
    execute(source, f"INSERT INTO visits VALUES {rows}")
    sync(source, target, model=model)
    execute(source, "DELETE FROM visits_2 WHERE ctid = '(0,1)'")
    done = sync(source, target, model=model)
    assert (done.tables["visits"].deleted, done.changed) == (1, 1)
    assert copies(target, model) == copies(source, model)


# What is refused -----------------------------------------------------------------------------------


def test_a_value_that_the_target_cannot_hold_is_refused_without_showing_the_row(
    new_database: NewDatabase,
) -> None:
    source, target = new_database("postgresql", "windows"), new_database("sqlite", "linux")
    schema.ensure(source, VISITS)
    execute(source, visits.insert().values(visit(None, "secret path", math.nan)))
    with pytest.raises(Unrepresentable) as refused:
        sync(source, target, model=VISITS)
    assert "column seconds of a row of this table, which has no key" in str(refused.value)
    assert "secret path" not in str(refused.value)


def test_a_sqlite_table_whose_columns_hide_every_address_is_refused(
    new_database: NewDatabase,
) -> None:
    model = Model(sa.MetaData())
    sa.Table("t", model.metadata, *(sa.Column(n, sa.Integer) for n in ("rowid", "oid", "_rowid_")))
    source, target = new_database("sqlite", "windows"), new_database("sqlite", "linux")
    schema.ensure(source, model)
    insert(source, {"t": [{"rowid": 1, "oid": 1, "_rowid_": 1}]}, model)
    sync(source, target, model=model)
    insert(source, {"t": [{"rowid": 2, "oid": 1, "_rowid_": 1}]}, model)
    with pytest.raises(StructureError, match="all names by which SQLite numbers rows"):
        sync(source, target, model=model)


def test_a_wide_table_with_a_column_called_rowid(new_database: NewDatabase) -> None:
    """A function of SQLite's has at most 127 arguments."""
    model = Model(sa.MetaData())
    names = ["rowid", *(f"c{n}" for n in range(200))]
    wide = sa.Table("wide", model.metadata, *(sa.Column(n, sa.Integer) for n in names))
    numbers = random.Random(7)
    rows = [{name: numbers.randrange(3) for name in names} for _ in range(30)]
    source, target = new_database("postgresql", "windows"), new_database("sqlite", "linux")
    schema.ensure(source, model)
    insert(source, {"wide": rows * 2}, model)
    sync(source, target, model=model)
    execute(source, wide.delete().where(wide.c.c0 == 1))
    done = sync(source, target, model=model, policy=ANYTHING)
    assert copies(target, model) == copies(source, model)
    undo(target, model, done.run_id, by="undo", settings=SETTINGS)
    assert sum(copies(target, model)["wide"].values()) == 60
