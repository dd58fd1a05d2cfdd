"""The role of a database whose rows are compared, by digests computed where the data lives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dbsync_pipeline.dialects.contract.connection import Connection
from dbsync_pipeline.dialects.digests import Digests, Form, RowDigest
from dbsync_pipeline.dialects.table import Table

if TYPE_CHECKING:
    from dbsync_pipeline.dialects.stamps import Stamps


class Comparison(Connection):
    """Digests of rows by bucket, and what proves that rows are as they were."""

    own_format_is_sha256: ClassVar[bool] = False
    """Whether the engine's own digests are SHA-256 and not a faster, weaker hash."""

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
