"""The roles of a database that is written: staging, and publishing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract.source import Source
from dbsync_pipeline.dialects.counters import Counter
from dbsync_pipeline.dialects.digests import Form
from dbsync_pipeline.dialects.staging import Moved, Written
from dbsync_pipeline.dialects.table import RowKeys, Table

if TYPE_CHECKING:
    from dbsync_pipeline.dialects.contract import Dialect


class Staging(Source):
    """Rows and keys beside the live tables, in private, and the statements that apply them."""

    keys_per_load: ClassVar[int] = 5_000
    """How many keys of rows that differ are gathered before their rows are staged together."""

    @abstractmethod
    def create_staging(self, table: Table) -> None:
        """Create empty, private staging for rows and keys; it goes with the connection."""

    @abstractmethod
    def stage_rows(self, table: Table, source: Dialect, keys: RowKeys, form: Form) -> Moved:
        """Carry the rows with these keys from the source's snapshot into staging."""

    @abstractmethod
    def stage_keys(self, table: Table, keys: RowKeys, form: Form) -> None:
        """Stage the keys of live rows that are deleted or replaced."""

    @abstractmethod
    def staged(self, table: Table) -> tuple[sa.TableClause, sa.TableClause]:
        """Return the staging tables of rows and of keys, for SQLAlchemy statements."""

    def live(self, table: Table) -> sa.FromClause:
        """Return the live table as `t`, for SQLAlchemy statements.

        It has no rows of tables that inherit from it.
        """
        return table.clause.alias("t")

    def same_row(
        self, table: Table, staged: sa.FromClause, live: sa.FromClause
    ) -> sa.ColumnElement[bool]:
        """Return the condition that `staged`, the staging table of keys, has the live row.

        `live` is what the method of that name returns.
        """
        return sa.and_(*(staged.c[column.name] == live.c[column.name] for column in table.key))

    def stage_everything(self, table: Table) -> None:
        """Stage the keys of all live rows, to be deleted."""
        live, (_, gone) = self.live(table), self.staged(table)
        keys = [column.name for column in table.key]
        everything = sa.select(*(live.c[key] for key in keys))
        self.connection.execute(gone.insert().from_select(keys, everything))

    @abstractmethod
    def delete_staged(self, table: Table) -> int:
        """Delete the live rows whose keys are staged; return their number."""

    @abstractmethod
    def insert_staged(self, table: Table) -> int:
        """Insert the staged rows into the live table; return their number."""


class Target(Staging):
    """Writing: lock, publish in one transaction, prove."""

    @abstractmethod
    def begin(self, tables: Sequence[Table], *, wait_seconds: float) -> None:
        """Begin the writing transaction: lock the target, then the tables against writers.

        Raise Busy, naming the holder, if a lock is not free within `wait_seconds`.
        """

    @abstractmethod
    def suspend_constraints(self, tables: Sequence[Table]) -> None:
        """In the open transaction, do not enforce foreign keys until `prove_constraints`."""

    def write_staged(self, tables: Sequence[Table]) -> dict[str, Written]:
        """Apply the staged changes of these tables, between `suspend_constraints` and
        `prove_constraints`; return the counts.

        First what is gone or replaced is deleted, in all tables; then what is new or new again is
        inserted. A key that moved to another row is free by then.
        """
        deleted = {table.name: self.delete_staged(table) for table in tables}
        return {
            table.name: Written(deleted[table.name], self.insert_staged(table)) for table in tables
        }

    @abstractmethod
    def prove_constraints(self, tables: Sequence[Table]) -> None:
        """Raise NotProved if a foreign key of these tables, or to them, does not hold."""

    def prepare_fill(self, table: Table, source: Dialect, form: Form) -> None:
        """Carry the rows for a `fill` of this table as far as possible without making readers wait.

        Most engines do all of it in `fill`.
        """

    @abstractmethod
    def fill(self, table: Table, source: Dialect, form: Form, connections: int = 1) -> Moved:
        """Carry all rows of this table, which is empty here, directly into the live table.

        `connections` are how many may read the source, on engines where several can share its
        snapshot.
        """

    def strip(self, tables: Sequence[Table]) -> list[str]:
        """Drop what slows a first load and can be rebuilt; return what `restore` needs.

        Readers wait until the commit.
        """
        return []

    def restore(self, stripped: Sequence[str]) -> None:
        """Rebuild what `strip` dropped. Raise NotProved if a foreign key would not hold."""
        assert not stripped, "an engine that strips restores"

    @abstractmethod
    def move_counter(self, counter: Counter, value: int) -> None:
        """Make a movable counter's next number lie beyond `value`; never move it back."""
