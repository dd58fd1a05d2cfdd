"""What differs between a source and a standby that is as last published, from the rows written
since.

Row headers show which rows of the source were written since the publish (`look.Written`). Every
other row is as it was, and the standby has it. So only the written rows are digested, and looked up
by key on the standby. If all rows that a bucket lost have a new version among them, the bucket is
done; from any other bucket rows were deleted, and all its rows are compared.

    source bucket 0   128 rows, 1 written   lost 1   found on the standby 1   an update
    source bucket 1   127 rows, 0 written   lost 1   found on the standby 0   compare its rows
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import Digests, RowDigest
from dbsync_pipeline.dialects.stamps import Stamps
from dbsync_pipeline.dialects.table import RowKey, Table
from dbsync_pipeline.mirror import compare
from dbsync_pipeline.mirror.compare import Changes
from dbsync_pipeline.mirror.look import Written

_KEYS_AT_A_TIME = 20_000

Rows = dict[RowKey, tuple[int, int]]
"""Digests of rows by key."""


@dataclass
class WrittenChanges:
    """The changes of one table, each bucket once.

    `published` are the digests that both sides had. `compared` are the buckets of which all rows
    are compared, known after the last change.
    """

    source: Dialect
    target: Dialect
    target_stamps: Stamps
    table: Table
    published: Digests
    written: Written
    compared: list[int] = field(default_factory=list)
    _sums: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Changes]:
        """Yield the changes of the buckets that were written to, in no order."""
        young = groupby(self.written.young or (), key=lambda row: row.bucket)
        rows_of = {bucket: self._by_key(rows) for bucket, rows in young}
        self.compared += (int(b) for b in self.written.buckets if int(b) not in rows_of)
        for batch in _batches(rows_of):
            present = self._present(batch)
            for bucket, rows in batch.items():
                known_there = {key: present[key] for key in rows if key in present}
                if len(known_there) == self.written.lost[bucket]:
                    yield self._replaced(bucket, rows, known_there)
                else:
                    self.compared.append(bucket)
        yield from self._compared()

    @property
    def digests(self) -> Digests:
        """The source's digests now. Complete after the last change."""
        buckets = np.array(list(self._sums), np.int64)
        sums = ((bucket, *sums) for bucket, sums in self._sums.items())
        return self.published.replaced(buckets, Digests.gather(self.published.form, sums))

    def _by_key(self, rows: Iterable[RowDigest]) -> Rows:
        return {self.table.comparable_key(row.key): row.digest for row in rows}

    def _present(self, batch: dict[int, Rows]) -> Rows:
        """The rows that the standby has under these keys, by the keys as they are written there."""
        keys = [key for rows in batch.values() for key in rows]
        return self._by_key(
            self.target_stamps.rows_with_keys(self.table, self.published.form, keys)
        )

    def _replaced(self, bucket: int, rows: Rows, known_there: Rows) -> Changes:
        """The changes of a bucket from which no row was deleted, and its digest."""
        before, now = int(self.written.then[bucket]), int(self.written.rows[bucket])
        earlier = int(self.published.first[bucket]), int(self.published.second[bucket])
        first, second = (
            earlier[half]
            + sum(digest[half] for digest in rows.values())
            - sum(digest[half] for digest in known_there.values())
            for half in (0, 1)
        )
        self._sums[bucket] = now, first, second
        return Changes(
            bucket,
            new=[key for key in rows if key not in known_there],
            changed=[key for key, digest in known_there.items() if digest != rows[key]],
            gone=[],
            rows=(now, before),
        )

    def _compared(self) -> Iterator[Changes]:
        """The changes of the buckets from which rows were deleted, by all their rows."""
        if not self.compared:
            return
        buckets = np.array(sorted(self.compared), np.int64)
        self._sums |= {int(bucket): (0, 0, 0) for bucket in buckets}
        source, target = compare.row_digests(
            self.source, self.target, self.table, self.published.form, buckets
        )
        yield from compare.changes(self.table, self._summed(source), target)

    def _summed(self, rows: Iterable[RowDigest]) -> Iterator[RowDigest]:
        for row in rows:
            count, first, second = self._sums[row.bucket]
            self._sums[row.bucket] = count + 1, first + row.digest[0], second + row.digest[1]
            yield row


def _batches(rows_of: dict[int, Rows]) -> Iterator[dict[int, Rows]]:
    """The buckets in groups with some 20,000 rows each."""
    batch, size = dict[int, Rows](), 0
    for bucket, rows in rows_of.items():
        batch[bucket] = rows
        size += len(rows)
        if size >= _KEYS_AT_A_TIME:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch
