"""The role of a database that holds rows beside its live tables, in private."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract.source import Source
from dbsync_pipeline.dialects.digests import Form
from dbsync_pipeline.dialects.staging import Moved
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
