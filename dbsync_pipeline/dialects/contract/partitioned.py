"""The role of a database whose tables may be divided; only some engines take it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbsync_pipeline.dialects.partitions import Partition, Partitioning
    from dbsync_pipeline.dialects.table import Table


class Partitioned(ABC):
    """Tables are divided into partitions, and a sync creates those that the target lacks."""

    @abstractmethod
    def partitions(self, tables: Sequence[Table]) -> dict[str, Partitioning]:
        """Return by name how tables are divided, of those that are.

        Read in the open transaction.
        """

    @abstractmethod
    def holders(self, table: Table, missing: Partition) -> list[str]:
        """Return which partitions of the table have rows that belong in one that it lacks.

        Read in the open transaction. Empty if the missing partition has no condition.
        """

    @abstractmethod
    def create_partitions(self, missing: Sequence[Partition]) -> None:
        """In the open transaction, create partitions that `partitions` of another database named.

        Each comes after the one that it divides.
        """

    @abstractmethod
    def attached_since_snapshot(self, tables: Sequence[Table]) -> list[str]:
        """Return the names of the tables that got a partition since the open snapshot began.

        The engine shows the rows of such a partition in the snapshot, from then on.
        """
