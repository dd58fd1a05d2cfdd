"""The role of a database that is read."""

from __future__ import annotations

import datetime as dt
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dbsync_pipeline.dialects.contract.connection import Connection
from dbsync_pipeline.dialects.counters import Counter
from dbsync_pipeline.dialects.digests import PLAIN, Digests, Form, RowDigest
from dbsync_pipeline.dialects.table import Row, RowKeys, Size, Table

if TYPE_CHECKING:
    from dbsync_pipeline.dialects.stamps import Stamps


class Source(Connection):
    """Reading: one snapshot, digests computed where the data lives, rows by key."""

    enforces_keys: ClassVar[bool] = True
    """Whether the engine lets no connection write a row that violates a foreign key."""
    own_format_is_sha256: ClassVar[bool] = False
    """Whether the engine's own digests are SHA-256 and not a faster, weaker hash."""

    @abstractmethod
    def snapshot(self, tables: Sequence[Table] = ()) -> dt.datetime:
        """Begin a read-only transaction that sees one state; return the database's time of it.

        An engine whose snapshots do not hold against TRUNCATE or DDL keeps those off the `tables`.
        """

    def require_supported(self, tables: Sequence[Table], *, writing: bool) -> None:
        """Raise StructureError, naming table and column, if the engine has a feature on one of
        these that keeps its rows from being compared, or from being replaced if `writing`.
        """
        assert not self.connection.closed

    @abstractmethod
    def hidden(self, tables: Sequence[Table]) -> list[str]:
        """Return the names of the tables of which this role may not see all rows."""

    @abstractmethod
    def count(self, table: Table) -> int:
        """Return the exact number of rows."""

    def rows(self, table: Table) -> int:
        """Return the number of rows for people to read; some engines know it without counting."""
        return self.count(table)

    def sizes(self, tables: Sequence[Table]) -> Mapping[str, Size]:
        """Return the size of each table on the database's disk; nothing if the engine cannot tell
        at once.
        """
        return {}

    @abstractmethod
    def digest_format(self) -> str:
        """Return the engine's own format: databases that return the same are comparable in it."""

    def comparable_table(self, table: Table, form: Form) -> Table | None:
        """Return the table as digests of this form saw it.

        Return None if the models, or the engine, would compute other digests now.
        """
        if form.native and form.digest_format != self.digest_format():
            return None
        return form.table_as_digested(table)

    @abstractmethod
    def digests(self, table: Table, form: Form, only: np.ndarray | None = None) -> Digests:
        """Return the digests of all buckets, or of the buckets `only`."""

    @abstractmethod
    def row_digests(self, table: Table, form: Form, only: np.ndarray) -> Iterator[RowDigest]:
        """Stream the rows of the buckets `only`, ordered by bucket.

        The rows of a keyless table come with their addresses in place of keys.
        """

    def stamps(self) -> Stamps | None:
        """What proves that rows are as they were earlier; None if the engine has no such proof."""
        return None

    @abstractmethod
    def read(
        self, table: Table, keys: RowKeys | None = None, form: Form = PLAIN
    ) -> Iterator[list[Row]]:
        """Stream plain values of all rows, or of those with these keys, in batches of BATCH_BYTES.

        The keys are in the values of `form`.
        """

    @abstractmethod
    def counters(self, tables: Sequence[Table]) -> list[Counter]:
        """Return the counters that fill columns of these tables, and sequences beside them."""
