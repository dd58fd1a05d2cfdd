"""Partitions that come, go or change on the primary after the standby was made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dbsync_pipeline.dialects.postgresql.dialect import PostgreSQL
from dbsync_pipeline.errors import DatabaseError, StructureError, Transient
from dbsync_pipeline.mirror import compare
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.test_postgresql import Ready, rows, run, two  # noqa: F401
from dbsync_pipeline_tests.worlds import ANYTHING, SETTINGS, session, sync

EVENTS = (
    "CREATE TABLE part (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
    "CREATE TABLE part_2025 PARTITION OF part FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
)
PART_2026 = (
    "CREATE TABLE part_2026 PARTITION OF part FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"
)
PARTITIONS = """
SELECT c.oid::regclass::text, pg_get_expr(relpartbound, c.oid), pg_get_partkeydef(c.oid),
  ARRAY(SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = c.oid ORDER BY 1),
  ARRAY(SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k WHERE conrelid = c.oid ORDER BY 1)
FROM pg_partition_tree('part') JOIN pg_class c ON c.oid = relid ORDER BY 1"""


@pytest.fixture
def events(two: Ready) -> Iterator[tuple[Database, Database, Model]]:  # noqa: F811
    """A synced pair of a table with one partition, and a second sync that found nothing to do: from
    then on the structure of both sides is known.
    """
    source, target, model = two(*EVENTS)
    run(source, "INSERT INTO part VALUES (1, '2025-05-05', 'a')")
    sync(source, target, model=model)
    sync(source, target, model=model)
    yield source, target, model


def assert_equal(source: Database, target: Database, model: Model) -> None:
    assert rows(target, "part") == rows(source, "part")
    assert all(table.equal for table in verify(source, target, model))


def test_a_partition_that_the_standby_lacks_is_created_with_all_that_is_its_own(
    events: tuple[Database, Database, Model],
) -> None:
    source, target, model = events
    run(
        source,
        f"{PART_2026} PARTITION BY LIST (id)",
        "CREATE TABLE part_2026_x PARTITION OF part_2026 FOR VALUES IN (2)",
        'CREATE TABLE "part_2026 rest" PARTITION OF part_2026 DEFAULT',
        "CREATE INDEX ON part_2026_x (lower(v)); CREATE INDEX ON part (v)",
        "ALTER TABLE part_2026_x ADD CHECK (v <> '%')",
        "INSERT INTO part VALUES (2, '2026-05-05', '100%'), (3, '2026-05-05', 'y')",
    )
    run(target, "CREATE INDEX ON part (v)")
    with session(source, target, model=model) as planned:
        plan, _ = planned.plan()
        assert plan.tables["part"].insert == 2
    with session(source, target, model=model) as one:
        assert one.ensure_schema() == ["part_2026", '"part_2026 rest"', "part_2026_x"]
        one.copy("part")
        assert one.publish().tables["part"].inserted == 2
    assert run(target, PARTITIONS) == run(source, PARTITIONS)
    assert_equal(source, target, model)
    with session(source, target, model=model) as again:
        assert again.ensure_schema() == []


def test_rows_of_a_partition_that_was_detached_or_dropped_go_through_the_guards(
    events: tuple[Database, Database, Model],
) -> None:
    source, target, model = events
    run(source, PART_2026, "INSERT INTO part VALUES (2, '2026-05-05', 'b')")
    sync(source, target, model=model)
    run(source, "ALTER TABLE part DETACH PARTITION part_2025", "DROP TABLE part_2026")
    sync(source, target, model=model, policy=ANYTHING)
    assert rows(target, "part") == []
    assert_equal(source, target, model)
    run(
        source,
        "ALTER TABLE part ATTACH PARTITION part_2025 FOR VALUES FROM ('2025-01-01') "
        "TO ('2026-01-01')",
    )
    sync(source, target, model=model, policy=ANYTHING)
    assert_equal(source, target, model)


def statements(error: StructureError) -> list[str]:
    """The SQL that a remedy names, before its second way."""
    assert error.remedy is not None
    return error.remedy.partition(": ")[2].partition("; or, ")[0].split("; ")


def test_a_partition_with_other_bounds_is_refused_and_its_remedy_works(
    events: tuple[Database, Database, Model],
) -> None:
    source, target, model = events
    wider = "FOR VALUES FROM ('2024-01-01') TO ('2026-01-01')"
    run(
        source,
        "ALTER TABLE part DETACH PARTITION part_2025",
        f"ALTER TABLE part ATTACH PARTITION part_2025 {wider}",
        "INSERT INTO part VALUES (2, '2024-05-05', 'b')",
    )
    for work in ("ensure_schema", "plan"):
        with (
            session(source, target, model=model) as one,
            pytest.raises(StructureError, match="its partition part_2025 is of part") as refused,
        ):
            getattr(one, work)()
    assert refused.value.database == "linux" and refused.value.table == "part"
    run(target, *statements(refused.value))
    sync(source, target, model=model)
    assert_equal(source, target, model)


OVERLAPPING = (
    "DROP TABLE part_2025",
    "CREATE TABLE part_old PARTITION OF part FOR VALUES FROM (MINVALUE) TO ('2026-01-01')",
    "INSERT INTO part VALUES (1, '2025-05-05', 'a'), (2, '2024-05-05', 'b')",
)


def refused_by_all(source: Database, target: Database, model: Model, cause: str) -> StructureError:
    """The error by which `plan` and `sync` refuse, the same for both."""
    errors = []
    for work in ("ensure_schema", "plan"):
        with (
            session(source, target, model=model) as one,
            pytest.raises(StructureError, match=cause) as refused,
        ):
            getattr(one, work)()
        errors.append(refused.value)
    assert str(errors[0]) == str(errors[1]) and errors[0].database == "linux"
    return errors[0]


def test_rows_of_a_new_partition_in_another_one_of_the_standby_are_named_by_plan_too(
    events: tuple[Database, Database, Model],
) -> None:
    source, target, model = events
    run(source, *OVERLAPPING)
    error = refused_by_all(source, target, model, "rows that belong in part_old are in part_2025")
    run(target, *statements(error))
    sync(source, target, model=model, policy=ANYTHING)
    assert_equal(source, target, model)


def test_a_partition_that_overlaps_one_of_the_standby_is_refused_and_its_remedy_works(
    events: tuple[Database, Database, Model],
) -> None:
    source, target, model = events
    run(source, *OVERLAPPING)
    run(target, "DELETE FROM part")
    with pytest.raises(StructureError, match="would overlap") as refused:
        sync(source, target, model=model)
    assert "it lacks partitions of windows" in refused.value.cause
    run(target, *statements(refused.value))
    sync(source, target, model=model, policy=ANYTHING)
    assert_equal(source, target, model)


def test_rows_of_a_new_partition_in_the_default_one_of_the_standby_are_named(
    two: Ready,  # noqa: F811
) -> None:
    source, target, model = two(*EVENTS, "CREATE TABLE part_rest PARTITION OF part DEFAULT")
    run(source, "INSERT INTO part VALUES (1, '2026-05-05', '100%')")
    sync(source, target, model=model)
    run(source, "DELETE FROM part", PART_2026, "INSERT INTO part VALUES (1, '2026-05-05', 'a')")
    error = refused_by_all(source, target, model, "that belong in part_2026 are in part_rest")
    assert "dbsync tables recreate --database linux" in (error.remedy or "")
    run(target, "DROP TABLE part", *EVENTS, "CREATE TABLE part_rest PARTITION OF part DEFAULT")
    sync(source, target, model=model, policy=ANYTHING)
    assert_equal(source, target, model)


def test_a_new_partition_below_one_by_hash_is_created(two: Ready) -> None:  # noqa: F811
    """Which hash partition takes a row is said by the number of its table, in one database only."""
    source, target, model = two(
        "CREATE TABLE part (id int, day date, PRIMARY KEY (id, day)) PARTITION BY HASH (id)",
        "CREATE TABLE part_a PARTITION OF part FOR VALUES WITH (MODULUS 1, REMAINDER 0) "
        "PARTITION BY RANGE (day)",
        "CREATE TABLE part_rest PARTITION OF part_a DEFAULT",
    )
    run(source, PART_2026.replace("OF part ", "OF part_a "))
    run(source, "INSERT INTO part VALUES (1, '2026-05-05')")
    with session(source, target, model=model) as planned:
        assert planned.plan()[0].tables["part"].insert == 1
    sync(source, target, model=model)
    assert_equal(source, target, model)


def test_a_standby_that_is_divided_otherwise_keeps_its_partitions(
    events: tuple[Database, Database, Model],
) -> None:
    source, target, model = events
    run(
        target,
        "DROP TABLE part",
        EVENTS[0].replace("RANGE (day)", "HASH (id)"),
        "CREATE TABLE part_all PARTITION OF part FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    )
    run(source, PART_2026, "INSERT INTO part VALUES (2, '2026-05-05', 'b')")
    sync(source, target, model=model, policy=ANYTHING)
    assert_equal(source, target, model)


def test_a_table_that_begins_to_inherit_while_its_parent_is_read_adds_no_rows_to_it(
    two: Ready,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target, model = two("CREATE TABLE parent (id int PRIMARY KEY, v text)")
    run(
        source,
        "INSERT INTO parent SELECT g, 'x' FROM generate_series(1, 1000) g",
        "CREATE TABLE child (id int PRIMARY KEY, v text)",
        "INSERT INTO child SELECT g, 'of the child' FROM generate_series(2001, 3000) g",
    )
    sync(source, target, model=model)
    run(source, "UPDATE parent SET v = 'y' WHERE id % 3 = 0")
    read = compare.row_digests

    def inherit_and_read(*of: Any) -> Any:
        run(source, "ALTER TABLE child INHERIT parent")
        monkeypatch.undo()
        return read(*of)

    monkeypatch.setattr(compare, "row_digests", inherit_and_read)
    sync(source, target, model=model)
    assert rows(target, "parent") == rows(source, "ONLY parent")
    with pytest.raises(StructureError, match="child inherits from it"):
        sync(source, target, model=model)


@pytest.mark.parametrize("full_every", [0, SETTINGS.full_every], ids=["hashed", "headers"])
def test_a_partition_that_is_attached_while_its_table_is_read_publishes_no_part_of_it(
    full_every: int,
    two: Ready,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its rows are in the snapshot from that moment, since they were committed before it.

    Rows that were hashed before it are in the digests without them, so the proof fails, too.
    """
    bounds = "FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')"
    source, target, model = two(*EVENTS, f"CREATE TABLE part_old PARTITION OF part {bounds}")
    fill = "INSERT INTO part SELECT n, '{}', 'x' FROM generate_series(1, 1000) n"
    run(source, fill.format("2024-05-05"), "ALTER TABLE part DETACH PARTITION part_old")
    run(source, fill.format("2025-05-05"))
    sync(source, target, model=model)
    before = rows(target, "part")
    run(source, "DELETE FROM part WHERE id IN (1, 500)")  # their groups are read row by row
    settings = SETTINGS.model_copy(update={"full_every": full_every})
    read = compare.row_digests

    def attach_and_read(*of: Any) -> Any:
        run(source, f"ALTER TABLE part ATTACH PARTITION part_old {bounds}")
        return read(*of)

    monkeypatch.setattr(compare, "row_digests", attach_and_read)
    with pytest.raises(Transient, match="a partition was attached while the table was read"):
        sync(source, target, model=model, settings=settings)
    assert rows(target, "part") == before
    monkeypatch.undo()
    sync(source, target, model=model)
    assert_equal(source, target, model)


def test_a_table_that_has_the_name_of_a_partition_is_named(
    events: tuple[Database, Database, Model],
) -> None:
    source, target, model = events
    run(target, "CREATE TABLE part_2026 (id int)")
    run(source, PART_2026, "INSERT INTO part VALUES (2, '2026-05-05', 'b')")
    with pytest.raises(StructureError, match="something else has the name") as refused:
        sync(source, target, model=model)
    assert "rename or drop part_2026 in linux" in (refused.value.remedy or "")
    run(target, "ALTER TABLE part_2026 RENAME TO other")
    sync(source, target, model=model)
    assert_equal(source, target, model)


def test_a_partition_that_another_sync_creates_meanwhile_is_not_in_the_way(
    events: tuple[Database, Database, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, model = events
    run(source, PART_2026, "INSERT INTO part VALUES (2, '2026-05-05', 'b')")
    create = PostgreSQL.create_partitions

    def too_late(dialect: PostgreSQL, *missing: Any) -> None:
        run(target, PART_2026)
        create(dialect, *missing)

    monkeypatch.setattr(PostgreSQL, "create_partitions", too_late)
    sync(source, target, model=model)
    assert_equal(source, target, model)


def test_a_partition_that_is_created_after_the_structures_were_compared_needs_another_sync(
    events: tuple[Database, Database, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, model = events
    begin = PostgreSQL.begin

    def create_and_begin(dialect: PostgreSQL, *tables: Any, **wait: Any) -> None:
        run(source, PART_2026, "INSERT INTO part VALUES (2, '2026-05-05', 'b')")
        begin(dialect, *tables, **wait)

    monkeypatch.setattr(PostgreSQL, "begin", create_and_begin)
    with pytest.raises(DatabaseError) as failed:
        sync(source, target, model=model)
    assert "run the sync again" in (failed.value.remedy or "")
    monkeypatch.undo()
    sync(source, target, model=model)
    assert_equal(source, target, model)
