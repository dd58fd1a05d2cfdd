"""The role of a database that is read."""

from __future__ import annotations

import datetime as dt
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract.comparison import Comparison
from dbsync_pipeline.dialects.counters import Counter
from dbsync_pipeline.dialects.digests import PLAIN, Form
from dbsync_pipeline.dialects.table import Row, RowKeys, Size, Table


class Source(Comparison):
    """Reading: one snapshot, rows by key, counters."""

    enforces_keys: ClassVar[bool] = True
    """Whether the engine lets no connection write a row that violates a foreign key."""

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
    def octets(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        """Return about how many bytes a value takes."""

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
