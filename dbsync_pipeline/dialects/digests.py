"""Digests of rows: how they are computed, what a table's digests are, and how two are compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dbsync_pipeline.dialects.table import RowKey, Table

CANONICAL = "canonical"
"""The digest format that every engine can compute; see `canonical.py`."""


@dataclass(frozen=True)
class Form:
    """How rows are turned into digests: the same on both sides of a comparison.

    `digest_format` is `canonical`, or the name of an engine's own format (then both sides are of
    that engine). `buckets` is the number of groups into which a table's rows fall, by key.
    `columns` are the signatures of the digested columns (`Table.signatures`), for digests that are
    stored and may outlive a change of the models.
    """

    digest_format: str
    buckets: int
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def native(self) -> bool:
        """Whether the format is an engine's own."""
        return self.digest_format != CANONICAL

    def table_as_digested(self, table: Table) -> Table | None:
        """Return the table as digests of this form saw it: without columns that were added since.

        Return None if a digested column was removed or has another type.
        """
        if not self.columns or self.columns == table.signatures:
            return table
        current, digested = dict(table.signatures), dict(self.columns)
        whole_key = table.keyless or all(column.name in digested for column in table.key)
        same = whole_key and all(current.get(name) == sign for name, sign in digested.items())
        return Table(table.sa, tuple(digested)) if same else None


PLAIN = Form(CANONICAL, 1)
"""The form whose values are plain ones."""


@dataclass(frozen=True)
class Digests:
    """The digests of a table, bucket by bucket.

    `rows` (int64) counts rows; `first` and `second` (uint64) are sums of the halves of the rows'
    digests, modulo 2^64.
    """

    form: Form
    rows: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def gather(cls, form: Form, buckets: Iterable[tuple[int, int, Any, Any]]) -> Digests:
        """Return digests from (bucket, rows, sum, sum); sums may have any size and sign."""
        rows = np.zeros(form.buckets, np.int64)
        sums = np.zeros((2, form.buckets), np.uint64)
        for bucket, count, first, second in buckets:
            rows[bucket] = count
            sums[0, bucket] = int(first) & 0xFFFF_FFFF_FFFF_FFFF
            sums[1, bucket] = int(second) & 0xFFFF_FFFF_FFFF_FFFF
        return cls(form, rows, sums[0], sums[1])

    def differing(self, other: Digests) -> np.ndarray:
        """Return the buckets that differ, in ascending order (int64)."""
        return np.flatnonzero(
            (self.rows != other.rows) | (self.first != other.first) | (self.second != other.second)
        )

    def equals(self, other: Digests) -> bool:
        """Return whether these are of the same form, and no bucket differs."""
        return self.form == other.form and not self.differing(other).size

    def replaced(self, buckets: np.ndarray, other: Digests) -> Digests:
        """Return these digests with the given buckets taken from `other`."""
        rows, first, second = self.rows.copy(), self.first.copy(), self.second.copy()
        rows[buckets], first[buckets], second[buckets] = (
            other.rows[buckets],
            other.first[buckets],
            other.second[buckets],
        )
        return Digests(self.form, rows, first, second)

    @property
    def total(self) -> int:
        """The number of rows in the whole table."""
        return int(self.rows.sum())

    def __str__(self) -> str:
        return f"{self.total}:{int(self.first.sum()):016x}{int(self.second.sum()):016x}"

    def to_bytes(self) -> bytes:
        """Return 24 bytes a bucket, little-endian: all rows, all first sums, all second sums."""
        return b"".join(
            part.astype(f"<{part.dtype.str[1:]}").tobytes()
            for part in (self.rows, self.first, self.second)
        )

    @classmethod
    def from_bytes(cls, form: Form, data: bytes) -> Digests:
        """Return the digests that `to_bytes` wrote."""
        size = form.buckets * 8
        return cls(
            form,
            np.frombuffer(data[:size], "<i8"),
            np.frombuffer(data[size : 2 * size], "<u8"),
            np.frombuffer(data[2 * size : 3 * size], "<u8"),
        )


@dataclass(frozen=True)
class RowDigest:
    """One row of a bucket that differs: its key, in the form's values, and its digest's halves.

    The key of a row of a keyless table is its address, as the database has it in this transaction.
    """

    bucket: int
    key: RowKey
    digest: tuple[int, int]
