"""The role of a database that is locked and published to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dbsync_pipeline.dialects.contract.staging import Staging
from dbsync_pipeline.dialects.counters import Counter
from dbsync_pipeline.dialects.digests import Form
from dbsync_pipeline.dialects.staging import Moved, Written
from dbsync_pipeline.dialects.table import Table

if TYPE_CHECKING:
    from dbsync_pipeline.dialects.contract import Dialect


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
