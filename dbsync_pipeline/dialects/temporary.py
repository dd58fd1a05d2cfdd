"""Staging in temporary tables, on engines whose rows have addresses."""

from __future__ import annotations

from typing import ClassVar

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract.optional import Addressed
from dbsync_pipeline.dialects.contract.staging import Staging
from dbsync_pipeline.dialects.staging import staging_table
from dbsync_pipeline.dialects.table import Table


class TemporaryStaging(Staging, Addressed):
    """Each table has two: one of new rows, and one of the keys or addresses of rows that go."""

    temporary_schema: ClassVar[str]
    """The schema of the engine's temporary tables."""

    def __init__(self, name: str, connection: sa.Connection) -> None:
        super().__init__(name, connection)
        self._staging: dict[str, int] = {}

    def _new(self, table: Table) -> str:
        return f"{self.temporary_schema}.dbsync_new_{self._staging[table.name]}"

    def _gone(self, table: Table) -> str:
        return f"{self.temporary_schema}.dbsync_gone_{self._staging[table.name]}"

    def staged(self, table: Table) -> tuple[sa.TableClause, sa.TableClause]:
        """Return the staging tables of rows and of keys, for SQLAlchemy statements."""
        schema, number = self.temporary_schema, self._staging[table.name]
        gone = f"dbsync_gone_{number}"
        keys = (
            sa.table(gone, *map(sa.column, self.address(table)), schema=schema)
            if table.keyless
            else staging_table(schema, gone, table.key)
        )
        return staging_table(schema, f"dbsync_new_{number}", table.columns), keys

    def same_row(
        self, table: Table, staged: sa.FromClause, live: sa.FromClause
    ) -> sa.ColumnElement[bool]:
        """Return the condition that the staging table of keys has the live row `t`."""
        if not table.keyless:
            return super().same_row(table, staged, live)
        parts: dict[str, sa.ColumnElement[object]] = {
            column: sa.literal_column(f"t.{part}") for column, part in self.address(table).items()
        }
        return sa.and_(*(staged.c[column] == part for column, part in parts.items()))
