"""What differs between two databases: buckets of rows by digest, then the rows that differ.

Both databases compute the digests of their own rows at the same time. Three numbers per bucket are
sent, and one digest per row of a bucket that differs. The rows themselves are not sent here.

        source                     target
    bucket 0   128 rows  a1b2…  =  128 rows  a1b2…      equal: nothing more to do
    bucket 1   128 rows  77f0…  ≠  127 rows  5c3e…      compare its rows, by key
    bucket 2   …
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby, islice
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
"""The greatest primes below powers of two.

So few sizes, that a table's number of buckets stays the same while it grows; memory is bounded.
"""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Changes:
    """The keys that differ in one bucket.

    `new` rows are only in the source, `gone` rows only in the target, `changed` rows differ. `rows`
    has the bucket's number of rows in the source and in the target.
    """

    bucket: int
    new: list[RowKey]
    changed: list[RowKey]
    gone: list[RowKey]
    rows: tuple[int, int]

    @property
    def any(self) -> bool:
        """Whether a row differs."""
        return bool(self.new or self.changed or self.gone)


def digest_format_of(source: Dialect, target: Dialect, tables: tuple[Table, ...]) -> str:
    """Return the engines' own digest format if both sides share it, else the canonical one.

    Raise StructureError if the canonical format is needed and cannot represent a column.
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
    """Raise StructureError with all columns whose values cannot be copied between these engines."""
    if source == target:
        return
    opaque = [
        (table, f"column {column.name} of type {type(column.type).__name__}")
        for table in tables
        for column in table.columns
        if column.kind is Kind.OPAQUE
    ]
    if opaque:
        table, first = opaque[0]
        others = "; ".join(f"table {other.name}: {column}" for other, column in opaque[1:])
        raise StructureError(
            f"{first} cannot be copied exactly between {source} and {target}"
            + (f"; nor can {others}" if others else ""),
            operation="compare the structure",
            table=table.name,
            remedy="give these columns types that both engines have, in models of your own "
            "(`dbsync models from-database FILE` writes them), or leave the tables out by "
            "DBSYNC_SKIP_TABLES",
        )


def buckets_for(rows: int) -> int:
    """Return the number of buckets for a table of `rows` rows: about one per 128 rows."""
    return next((prime for prime in _PRIMES if prime * ROWS_A_BUCKET >= rows), _PRIMES[-1])


def serves(buckets: int, rows: int) -> bool:
    """Return whether a number of buckets, chosen by an earlier publish, still fits `rows` rows."""
    return buckets / 8 <= buckets_for(rows) <= buckets * 8


def both(left: Callable[[], A], right: Callable[[], B]) -> tuple[A, B]:
    """Return the results of two calls that run at the same time.

    If one raises an error, it is raised after both have ended.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="dbsync") as pool:
        later = pool.submit(right)
        first = left()
    return first, later.result()


def row_digests(
    source: Dialect, target: Dialect, table: Table, form: Form, buckets: np.ndarray
) -> tuple[Iterator[RowDigest], Iterator[RowDigest]]:
    """Return the rows of these buckets on both sides, ordered by bucket.

    Both are queried at the same time, before this returns.
    """
    return both(
        lambda: _begun(source.row_digests(table, form, buckets)),
        lambda: _begun(target.row_digests(table, form, buckets)),
    )


def _begun(rows: Iterator[RowDigest]) -> Iterator[RowDigest]:
    first = list(islice(rows, 1))
    return chain(first, rows)


def changes(
    table: Table, source: Iterable[RowDigest], target: Iterable[RowDigest]
) -> Iterator[Changes]:
    """Yield the differences between rows that are ordered by bucket, bucket by bucket.

    No more than two buckets are in memory at once.
    """
    difference = _difference_in_copies if table.keyless else _difference
    of_target = _by_bucket(table, target)
    waiting = next(of_target, None)
    for bucket, source_rows in _by_bucket(table, source):
        while waiting is not None and waiting[0] < bucket:
            yield difference(waiting[0], {}, waiting[1])
            waiting = next(of_target, None)
        if waiting is not None and waiting[0] == bucket:
            yield difference(bucket, source_rows, waiting[1])
            waiting = next(of_target, None)
        else:
            yield difference(bucket, source_rows, {})
    while waiting is not None:
        yield difference(waiting[0], {}, waiting[1])
        waiting = next(of_target, None)


def _by_bucket(
    table: Table, rows: Iterable[RowDigest]
) -> Iterator[tuple[int, dict[RowKey, object]]]:
    for bucket, group in groupby(rows, key=lambda row: row.bucket):
        yield bucket, {table.comparable_key(row.key): row.digest for row in group}


def _difference(bucket: int, source: dict[RowKey, object], target: dict[RowKey, object]) -> Changes:
    return Changes(
        bucket,
        new=[key for key in source if key not in target],
        changed=[key for key in source if key in target and target[key] != source[key]],
        gone=[key for key in target if key not in source],
        rows=(len(source), len(target)),
    )


def _difference_in_copies(
    bucket: int, source: dict[RowKey, object], target: dict[RowKey, object]
) -> Changes:
    """As `_difference`, for a keyless table: rows are equal by digest, and copies are counted.

    The keys are addresses of rows, each in its own database.
    """
    surplus = Counter(source.values())
    surplus.subtract(target.values())
    return Changes(
        bucket,
        new=_as_often(source, +surplus),
        changed=[],
        gone=_as_often(target, -surplus),
        rows=(len(source), len(target)),
    )


def _as_often(rows: dict[RowKey, object], times: Counter[object]) -> list[RowKey]:
    """The keys of the first rows with each digest, as many as `times` says. Empties `times`."""
    chosen = []
    for key, digest in rows.items():
        if times[digest] > 0:
            times[digest] -= 1
            chosen.append(key)
    return chosen
