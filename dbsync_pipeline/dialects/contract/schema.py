"""The role of a database whose structure is read, compared and created."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import sqlalchemy as sa

from dbsync_pipeline.dialects import reflection
from dbsync_pipeline.dialects.contract.connection import Connection
from dbsync_pipeline.dialects.generated import Generated
from dbsync_pipeline.dialects.reflection import Place, Reflection
from dbsync_pipeline.dialects.table import Table


class Schema(Connection):
    """Structure: read, compared and created."""

    ledger_schema: ClassVar[str | None]
    """The schema of the project's own tables; None if they have a prefix instead."""
    shows_deferral: ClassVar[bool] = True
    """Whether SQLAlchemy reads of every foreign key whether it is deferrable; if not, it is not
    compared."""
    system_schemas: ClassVar[frozenset[str]] = frozenset({"information_schema"})
    """Schemas with tables of the engine itself."""

    def prepare(self) -> None:
        """Do what the engine needs once per database. Call it outside of transactions."""
        assert not self.connection.in_transaction()

    def places(self, schemas: Sequence[str]) -> list[Place]:
        """Return the tables in these schemas or, if none is named, in all but the system's.

        Partitions, the project's own tables and those of extensions are left out. Read in the open
        transaction.
        """
        own = self.ledger_schema
        return [
            (schema, name)
            for schema, name in reflection.places(self.connection, schemas, self.system_schemas)
            if (schema != own if own else not name.startswith("dbsync_"))
        ]

    def reflect(self, tables: Sequence[Place]) -> Reflection:
        """Return the structure of these tables, read in the open transaction."""
        return reflection.reflect(self.connection, tables)

    def generated(self, tables: Sequence[Table]) -> dict[tuple[str, str], Generated]:
        """Return by table and column how columns are computed, each expression written in one way;
        empty on an engine that cannot say so. Read in the open transaction.
        """
        return {}

    def invalid_indexes(self, table: Table) -> frozenset[str]:
        """Return the names of indexes that the engine does not use, such as unfinished ones.

        A unique one does not distinguish rows. Read in the open transaction.
        """
        return frozenset()

    def require_visible(self, tables: Sequence[Table]) -> None:
        """Raise DatabaseError if this role may not see whether the tables exist."""
        assert not self.connection.closed

    def structure_mark(self, tables: Sequence[sa.Table]) -> str | None:
        """Return a hash of all that a comparison of these tables with the models reads, the same
        in every database with the same structure; None if the engine has none.
        """
        return None

    @abstractmethod
    def create_like(self, name: str, table: Table) -> None:
        """Create a table of before-images beside the ledger's tables, for the open transaction.

        Its columns are `dbsync_publish`, `dbsync_change`, and those of `table`. An engine on which
        an uncommitted table makes others wait commits it at once.
        """
