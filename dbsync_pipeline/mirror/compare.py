"""What differs between two databases: buckets of rows by their digests, then the rows of the buckets that differ.

Both databases compute the digests of their own rows at the same time; what travels is three numbers a bucket, and for a bucket that
differs one digest a row. Rows themselves do not travel here.

        source                     target
    bucket 0   128 rows  a1b2…  =  128 rows  a1b2…      alike: nothing more to do
    bucket 1   128 rows  77f0…  ≠  127 rows  5c3e…      compare its rows, by key
    bucket 2   …
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import CANONICAL, Form, RowDigest
from dbsync_pipeline.dialects.table import Kind, RowKey, Table
from dbsync_pipeline.errors import StructureError

ROWS_A_BUCKET = 128

_PRIMES = (
    1,
    3,
    7,
    13,
    31,
    61,
    127,
    251,
    509,
    1021,
    2039,
    4093,
    8191,
    16_381,
    32_749,
    65_521,
    131_071,
    262_139,
    524_287,
    1_048_573,
)
"""The greatest primes below powers of two: a table's number of buckets stays the same while the table grows, and memory is bounded."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Changes:
    """The keys of one bucket that differ: rows that only the source has, that differ, and that only the target has.

    `rows` is how many rows the bucket has, in the source and in the target.
    """

    bucket: int
    new: list[RowKey]
    changed: list[RowKey]
    gone: list[RowKey]
    rows: tuple[int, int]

    @property
    def any(self) -> bool:
        return bool(self.new or self.changed or self.gone)


def digest_format_of(source: Dialect, target: Dialect, tables: tuple[Table, ...]) -> str:
    """The engines' own form where both sides share it, else the canonical one.

    Raises StructureError where the canonical form is needed and a table has a column that has none.
    """
    if type(source) is type(target):
        return (
            source.digest_format()
            if source.digest_format() == target.digest_format()
            else CANONICAL
        )
    require_carried(source.engine_name, target.engine_name, tables)
    return CANONICAL


def require_carried(source: str, target: str, tables: tuple[Table, ...]) -> None:
    """Raises StructureError where a column's values cannot be carried between these engines."""
    if source == target:
        return
    for table in tables:
        for column in table.columns:
            if column.kind is Kind.OPAQUE:
                raise StructureError(
                    f"column {column.name} of type {type(column.type).__name__} cannot be carried between {source} and "
                    f"{target} exactly",
                    table=table.name,
                    remedy="give the column a type that both engines hold",
                )


def buckets_for(rows: int) -> int:
    """How many buckets serve a table of so many rows: about one for every 128."""
    return next((prime for prime in _PRIMES if prime * ROWS_A_BUCKET >= rows), _PRIMES[-1])


def serves(buckets: int, rows: int) -> bool:
    """Is this number of buckets, which another publish chose, still good for so many rows?"""
    return buckets / 8 <= buckets_for(rows) <= buckets * 8


def both(one: Callable[[], A], other: Callable[[], B]) -> tuple[A, B]:
    """The results of two calls that run at the same time. Both have ended when an error of either is raised."""
    with ThreadPoolExecutor(1, thread_name_prefix="dbsync") as pool:
        later = pool.submit(other)
        first = one()
    return first, later.result()


def changes(
    source: Dialect, target: Dialect, table: Table, form: Form, buckets: np.ndarray
) -> Iterator[Changes]:
    """The differences in these buckets, bucket by bucket; no more than two buckets are held at once."""
    theirs = _by_bucket(target.row_digests(table, form, buckets))
    waiting = next(theirs, None)
    for bucket, ours in _by_bucket(source.row_digests(table, form, buckets)):
        while waiting is not None and waiting[0] < bucket:
            yield _difference(waiting[0], {}, waiting[1])
            waiting = next(theirs, None)
        if waiting is not None and waiting[0] == bucket:
            yield _difference(bucket, ours, waiting[1])
            waiting = next(theirs, None)
        else:
            yield _difference(bucket, ours, {})
    while waiting is not None:
        yield _difference(waiting[0], {}, waiting[1])
        waiting = next(theirs, None)


def _by_bucket(rows: Iterator[RowDigest]) -> Iterator[tuple[int, dict[RowKey, object]]]:
    for bucket, group in groupby(rows, key=lambda row: row.bucket):
        yield bucket, {row.key: row.digest for row in group}


def _difference(bucket: int, ours: dict[RowKey, object], theirs: dict[RowKey, object]) -> Changes:
    return Changes(
        bucket,
        new=[key for key in ours if key not in theirs],
        changed=[key for key, digest in ours.items() if key in theirs and theirs[key] != digest],
        gone=[key for key in theirs if key not in ours],
        rows=(len(ours), len(theirs)),
    )
