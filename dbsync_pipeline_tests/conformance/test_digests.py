"""Digests are equal exactly if the rows are equal.

The canonical form agrees on every engine, and each engine's own format is tested against it.
"""

from __future__ import annotations

import datetime as dt
import decimal
import random
from typing import Any

import numpy as np
import pytest

from dbsync_pipeline.dialects import canonical
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import CANONICAL, Digests, Form
from dbsync_pipeline.dialects.table import RowKey, Table
from dbsync_pipeline.mirror.compare import buckets_for
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.worlds import (
    MODEL,
    NOON,
    chat,
    document,
    execute,
    memory,
    message,
    open_dialect,
    prepare,
    user,
)

TEXTS = ["", "|", "~", "1|", "a", "á", "a\u0301", "漢字", "🙂", "x" * 150, "1:a|", " ", "\\N", "\n"]


def hard_world(seed: int) -> dict[str, list[dict[str, Any]]]:
    rng = random.Random(seed)
    texts = lambda: rng.choice(TEXTS)  # noqa: E731
    world = {
        "users": [
            user(
                n * 3 + rng.choice((0, 1)) + 10_000 * (n % 5),
                email=f"{n}{texts()}",
                name=rng.choice([None, texts()]),
                is_active=n % 2 == 0,
                preferences=rng.choice([None, {}, [texts()], {"a": {"b": None}}]),
            )
            for n in range(1, 400)
        ],
    }
    ids = [row["id"] for row in world["users"]]
    world["chats"] = [
        chat(n, rng.choice(ids), title=texts(), updated_at=rng.choice([None, NOON]))
        for n in range(300)
    ]
    world["messages"] = [
        message(
            n,
            rng.randrange(300),
            id=rng.randrange(-(2**60), 2**60),
            role=rng.choice(["user", "tool"]),
            content=texts(),
            tokens=rng.choice([None, 0, -5]),
            cost=rng.choice([None, decimal.Decimal("-1.5"), decimal.Decimal("0")]),
            created_at=NOON + dt.timedelta(microseconds=rng.randrange(-(10**16), 10**16)),
        )
        for n in range(500)
    ]
    world["documents"] = [
        document(n, rng.choice(ids), content=rng.choice([None, b"", b"|", rng.randbytes(200)]))
        for n in range(200)
    ]
    world["user_memory"] = [
        memory(user_id, f"{texts()}{n}", importance=rng.choice([0.0, 0.1, -1e300, rng.random()]))
        for n, user_id in enumerate(rng.choices(ids, k=300))
    ]
    return world


def rows_of(dialect: Dialect, table: Table, form: Form) -> dict[RowKey, Any]:
    everywhere = np.arange(form.buckets)
    return {
        row.key: (row.bucket, row.digest) for row in dialect.row_digests(table, form, everywhere)
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_the_canonical_digest_is_the_references(engine: str, new_database: NewDatabase) -> None:
    database = new_database(engine, "windows")
    prepare(database, hard_world(1))
    dialect = open_dialect(database)
    for table in MODEL.tables:
        form = Form(CANONICAL, 31)
        places = [[column.name for column in table.columns].index(part.name) for part in table.key]
        form_of, bucket_of = (
            canonical.form_of(table.columns),
            canonical.bucket_of(table.key, form.buckets),
        )
        expected = {}
        for batch in dialect.read(table):
            for row in batch:
                key = tuple(row[place] for place in places)
                expected[key] = (bucket_of(key), canonical.halves(canonical.digest(form_of(row))))
        assert rows_of(dialect, table, form) == expected
        gathered = Digests.gather(form, _summed(expected))
        assert not gathered.differing(dialect.digests(table, form)).size
    dialect.close()


def _summed(rows: dict[RowKey, Any]) -> list[tuple[int, int, int, int]]:
    sums: dict[int, list[int]] = {}
    for bucket, (first, second) in rows.values():
        mine = sums.setdefault(bucket, [0, 0, 0])
        mine[0], mine[1], mine[2] = mine[0] + 1, mine[1] + first, mine[2] + second
    return [(bucket, *values) for bucket, values in sums.items()]  # type: ignore[misc]


MUTATIONS: dict[str, tuple[str, ...]] = {
    "users": (
        "name = name || ' '",
        "name = NULL",
        "is_active = NOT is_active",
        "email = email || '~'",
        "preferences = NULL",
    ),
    "chats": ("title = title || 'x'", "updated_at = NULL", "is_archived = NOT is_archived"),
    "messages": (
        "tokens = 0",
        "tokens = NULL",
        "cost = 0.000001",
        "content = content || '|'",
        "parent_id = id",
    ),
    "documents": ("size_bytes = size_bytes + 1", "content = NULL", "filename = ''"),
    "user_memory": ("importance = importance + 1e-9", "value = ''", "embedding = NULL"),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engines_own_form_sees_exactly_what_the_canonical_sees(
    engine: str, new_database: NewDatabase
) -> None:
    one, other = new_database(engine, "windows", server=0), new_database(engine, "linux", server=1)
    world = hard_world(2)
    for database in (one, other):
        prepare(database, world)
    execute(
        other,
        *[
            f"UPDATE {table} SET {_spoken(change, engine)} WHERE {_some(table, n)}"
            for table, changes in MUTATIONS.items()
            for n, change in enumerate(changes)
        ],
    )
    left, right = open_dialect(one), open_dialect(other)
    assert left.digest_format() == right.digest_format() != CANONICAL
    for table in MODEL.tables:
        seen = {}
        for family in (CANONICAL, left.digest_format()):
            form = Form(family, buckets_for(500))
            ours, theirs = rows_of(left, table, form), rows_of(right, table, form)
            assert len(ours) == len(theirs) == len(world[table.name])
            seen[family] = sum(1 for key in ours if ours[key] != theirs[key])
            differing = {
                bucket for key, (bucket, digest) in ours.items() if theirs[key] != (bucket, digest)
            }
            assert (
                set(left.digests(table, form).differing(right.digests(table, form)).tolist())
                == differing
            )
        assert len(set(seen.values())) == 1 and 0 < seen[CANONICAL] < len(world[table.name]), (
            table.name,
            seen,
        )
    left.close(), right.close()


def _spoken(change: str, engine: str) -> str:
    return change.replace("||", "+").replace("NOT ", "1 - ") if engine == "mssql" else change


def _some(table: str, n: int) -> str:
    return {"users": f"id % 11 = {n}", "messages": f"abs(id) % 11 = {n}"}.get(
        table, f"user_id % 13 = {n}" if table != "documents" else f"size_bytes % 13 = {n}"
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("canonically", [True, False])
def test_rows_of_one_bucket_that_swap_a_value_are_noticed(
    engine: str, canonically: bool, new_database: NewDatabase
) -> None:
    """A hash that is linear in its fields keeps its sum over two rows that swap a value."""
    database: Database = new_database(engine, "windows")
    prepare(
        database,
        {
            "users": [
                user(1, name="a"),
                user(2, name="b"),
                user(3, name="c", password_hash="1"),
                user(4, name="d", password_hash="2"),
            ]
        },
    )
    dialect = open_dialect(database)
    form, table = (
        Form(CANONICAL if canonically else dialect.digest_format(), 1),
        MODEL.table("users"),
    )
    before = dialect.digests(table, form)
    dialect.close()
    for one, two, column in (("1", "2", "name"), ("3", "4", "password_hash")):
        execute(
            database,
            f"UPDATE users SET {column} = CASE id WHEN {one} "
            f"THEN (SELECT {column} FROM users WHERE id = {two}) "
            f"ELSE (SELECT {column} FROM users WHERE id = {one}) END WHERE id IN ({one}, {two})",
        )
        dialect = open_dialect(database)
        after = dialect.digests(table, form)
        dialect.close()
        assert (before.first != after.first).any() and (before.second != after.second).any()
        before = after


def test_digests_survive_the_ledger() -> None:
    form = Form("any", 3)
    digests = Digests.gather(form, [(0, 2, 2**70 + 5, -1), (2, 1, -(2**63), 7)])
    again = Digests.from_bytes(form, digests.to_bytes())
    assert not digests.differing(again).size
    assert str(digests) == str(again)
