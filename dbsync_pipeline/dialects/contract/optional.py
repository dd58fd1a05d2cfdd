"""The roles that only some engines take. `isinstance` shows whether a dialect has one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from dbsync_pipeline.dialects.digests import Digests, Form
    from dbsync_pipeline.dialects.table import Table


class Addressed(ABC):
    """Rows have addresses that hold within a transaction, so a keyless table can be published to.

    On other engines such tables are refused.
    """

    @abstractmethod
    def address(self, table: Table) -> Mapping[str, str]:
        """Return what a row's address consists of: by the names of the columns of staging, the
        names by which the engine knows the parts.
        """

    @abstractmethod
    def stage_equal(self, table: Table, stored_in: str, publish: int) -> None:
        """Stage the addresses of live rows that equal the rows which that publish inserted.

        Of a keyless table, whose inserted rows are kept whole in the table of before-images
        `stored_in`. Equal rows are staged as often as they were inserted, at most.
        """


class SharesSnapshots(ABC):
    """Several sessions can read the same state, for as long as one of them keeps it open."""

    @abstractmethod
    def export_snapshot(self) -> str:
        """Return the name of the open snapshot, which others can import until it ends."""

    @abstractmethod
    def import_snapshot(self, name: str, tables: Sequence[Table]) -> None:
        """Begin a transaction like that of `snapshot`, in the snapshot that has this name.

        Does not wait for locks. Raise DatabaseError or Transient if it cannot be imported.
        """

    @abstractmethod
    def is_waited_for(self) -> bool:
        """Return whether another session waits for a lock of this one."""


class ProvesFirst(ABC):
    """Staged changes are proved before they are written, since writes make readers wait."""

    @abstractmethod
    def digests_as_written(self, table: Table, form: Form, only: np.ndarray) -> Digests:
        """Return the digests of these buckets as they will be after `write_staged`."""

    @abstractmethod
    def holds_staged(self, table: Table, form: Form) -> bool:
        """Return whether the live table holds every staged row exactly, after `write_staged`."""
