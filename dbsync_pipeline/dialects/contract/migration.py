"""The role of a database whose structure is altered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dbsync_pipeline.dialects.contract.connection import Connection

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation, Operations


class Migration(Connection):
    """Structure altered by Alembic's operations, without losing a row."""

    def alter(self, operations: Operations, operation: MigrateOperation) -> Any:
        """In the open transaction, run one of Alembic's operations without losing a row."""
        from alembic.operations import Operations

        return Operations.invoke(operations, operation)

    @contextmanager
    def altering(self) -> Iterator[None]:
        """Surround all alterations of the open transaction.

        At its end foreign keys hold, or StructureError is raised. Most engines have proved them by
        then.
        """
        yield
