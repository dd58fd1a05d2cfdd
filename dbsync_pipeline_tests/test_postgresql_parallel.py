"""PostgreSQL reads a large table with several workers or connections, and the result is the same."""

from __future__ import annotations

import pytest

from dbsync_pipeline.dialects.digests import CANONICAL, Form
from dbsync_pipeline.dialects.postgresql.source import PostgreSQLSource
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import MODEL, execute, prepare, small_world

WORKERS_COST_NOTHING = (
    "SET LOCAL parallel_setup_cost = 0",
    "SET LOCAL parallel_tuple_cost = 0.01",
    "SET LOCAL min_parallel_table_scan_size = 0",
    "SET LOCAL min_parallel_index_scan_size = 0",
    "SET LOCAL max_parallel_workers_per_gather = 2",
)
"""A small table is read as a large one is."""


@pytest.mark.parametrize("own_format", [True, False], ids=["own", "canonical"])
def test_digests_of_parallel_workers_are_those_of_one_process(
    new_database: NewDatabase, own_format: bool
) -> None:
    database = new_database("postgresql", "windows")
    prepare(database, small_world(200))
    execute(database, "ANALYZE")
    with database.connect() as dialect:
        assert isinstance(dialect, PostgreSQLSource)
        dialect.snapshot()
        for table in MODEL.tables:
            form = Form(dialect.digest_format() if own_format else CANONICAL, 7, table.signatures)
            dialect._run("SET LOCAL max_parallel_workers_per_gather = 0")
            alone = dialect.digests(table, form)
            assert alone.total > 0
            for setting in WORKERS_COST_NOTHING:
                dialect._run(setting)
            if alone.total > 1_000:
                plan = _plan(dialect, dialect._digesting(table, form))
                assert "Workers Planned: 2" in plan and "Partial HashAggregate" in plan, plan
            assert not alone.differing(dialect.digests(table, form)).size


def test_a_rows_digest_is_computed_once(new_database: NewDatabase) -> None:
    """By the scan; the sums above it take its result."""
    database = new_database("postgresql", "windows")
    prepare(database, small_world())
    with database.connect() as dialect:
        assert isinstance(dialect, PostgreSQLSource)
        table = MODEL.table("messages")
        plan = _plan(dialect, dialect._digesting(table, Form(CANONICAL, 7)))
        assert "sha256" in plan[plan.index("Scan") :], plan


def _plan(dialect: PostgreSQLSource, sql: str) -> str:
    return "\n".join(line for (line,) in dialect._all(f"EXPLAIN (VERBOSE) {sql}"))
