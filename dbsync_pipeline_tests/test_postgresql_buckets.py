"""PostgreSQL looks up the rows of a few buckets by ranges of integer keys, and they are those that a scan finds."""

from __future__ import annotations

import numpy as np
import pytest

from dbsync_pipeline.dialects.digests import CANONICAL, Form
from dbsync_pipeline.dialects.postgresql.source import PostgreSQLSource
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline_tests.test_postgresql import Ready, run, two  # noqa: F401

BUCKETS = 67
ENDS = {"smallint": 2**15, "int": 2**31, "bigint": 2**63}


def digested_by_bucket(dialect: PostgreSQLSource, model: Model, form: Form) -> list[int]:
    """The rows of each bucket, digested bucket by bucket and compared with the digests of all."""
    table = model.table("t")
    whole = dialect.digests(table, form)
    for bucket in range(form.buckets):
        only = np.array([bucket])
        alone = dialect.digests(table, form, only)
        assert bucket not in whole.differing(whole.replaced(only, alone))
        streamed = list(dialect.row_digests(table, form, only))
        assert {row.bucket for row in streamed} <= {bucket}
        assert len(streamed) == whole.rows[bucket]
    return [int(rows) for rows in whole.rows]


@pytest.mark.parametrize("type_", ENDS)
@pytest.mark.parametrize("format_", ["own", CANONICAL])
def test_the_rows_of_each_bucket_are_the_same_by_ranges_and_by_a_scan(
    two: Ready,  # noqa: F811
    type_: str,
    format_: str,
) -> None:
    source, _, model = two(f"CREATE TABLE t (id {type_} PRIMARY KEY, v text)")
    near = "SELECT n, n::text FROM generate_series(-9000, 9000, 7) n"
    near += " UNION SELECT n, 'edge' FROM unnest(ARRAY[-129, -127, 0, 127, 129]) n"
    run(source, f"INSERT INTO t {near}")
    with source.connect() as dialect:
        assert isinstance(dialect, PostgreSQLSource)
        own = dialect.digest_format() if format_ == "own" else format_
        form = Form(own, BUCKETS, model.table("t").signatures)
        rows = digested_by_bucket(dialect, model, form)
        assert sum(rows) == 2_577 and min(rows) > 0
        few = dialect._in_buckets(model.table("t"), form, np.array([0, 1]))
        assert few.count("BETWEEN") == 8
        dialect.rollback()
        for end in (-ENDS[type_], ENDS[type_] - 1):
            run(source, f"INSERT INTO t VALUES ({end}, 'end')")
        assert sum(digested_by_bucket(dialect, model, form)) == 2_579
        few = dialect._in_buckets(model.table("t"), form, np.array([0, 1]))
        assert ("BETWEEN" in few) is (type_ == "smallint"), "else there are too many"


@pytest.mark.parametrize("rows", [0, 1])
def test_a_table_with_hardly_any_rows_has_buckets_too(two: Ready, rows: int) -> None:  # noqa: F811
    source, _, model = two("CREATE TABLE t (id int PRIMARY KEY, v text)")
    run(source, f"INSERT INTO t SELECT -n, 'x' FROM generate_series(1, {rows}) n")
    with source.connect() as dialect:
        assert isinstance(dialect, PostgreSQLSource)
        form = Form(CANONICAL, BUCKETS, model.table("t").signatures)
        assert digested_by_bucket(dialect, model, form) == [rows] + [0] * (BUCKETS - 1)


def test_a_few_buckets_of_a_large_table_are_looked_up_in_its_index(two: Ready) -> None:  # noqa: F811
    source, _, model = two("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
    run(source, "INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 50000) n")
    run(source, "ANALYZE t")
    with source.connect() as dialect:
        assert isinstance(dialect, PostgreSQLSource)
        table, form = model.table("t"), Form(CANONICAL, 397)
        plans = [
            "\n".join(line for (line,) in dialect._all(f"EXPLAIN {sql}"))
            for sql in (dialect._digesting(table, form, np.arange(n)) for n in (3, 300))
        ]
        assert "Index Scan" in plans[0] and "Seq Scan" not in plans[0], plans[0]
        assert "Seq Scan" in plans[1] and "Index" not in plans[1], plans[1]
