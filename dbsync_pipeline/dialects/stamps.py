"""Values that prove, without reading the rows, which parts of a table are as they were earlier.

A `Moment` names one visible state of a database, and a `Stamp` the moment at which digests of a
table held. An engine that can compare rows with a moment implements `Stamps`; the rows of every
other engine are digested.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dbsync_pipeline.dialects.digests import Form, RowDigest
from dbsync_pipeline.dialects.table import RowKeys, Table


@dataclass(frozen=True)
class Moment:
    """One state of a database, as its server names it.

    `identity` names the server and the database. Every transaction below `horizon` (64 bits) had
    ended. `snapshot` is equal at two moments only if no transaction ended between them.
    """

    identity: str
    horizon: int
    snapshot: str

    def after(self, transaction: int | None) -> Moment | None:
        """The moment after that transaction alone has ended; None if others were running."""
        first, last, running = self.snapshot.split(":")
        if running or first != last or transaction != int(first):
            return None
        following = f"{transaction + 1}:{transaction + 1}:"
        return replace(self, horizon=transaction + 1, snapshot=following)


@dataclass(frozen=True)
class Stamp:
    """A moment at which digests of one table held.

    `fingerprint` covers what changes values without touching rows. `digested_at` is when all rows
    were last digested (UTC). `claim` names what the database recorded of itself right after the
    moment: a database without that record did not issue the transaction numbers of the moment.
    """

    moment: Moment
    fingerprint: str
    digested_at: dt.datetime
    claim: str = ""


class Stamps(Protocol):
    """What an engine offers to compare moments. All methods read within the open transaction."""

    def moment(self) -> Moment | None:
        """The state that the open transaction sees; None if the server cannot name it."""

    def fingerprints(self, tables: Sequence[Table]) -> Mapping[str, str]:
        """By table, what changes values without touching rows; no entry for a table whose rows do
        not show when they were written.
        """

    def reaches(self, stamp: Stamp, now: Moment) -> bool:
        """Whether a row can still be compared with the stamp's horizon."""

    def rows_before(self, table: Table, horizon: int) -> tuple[int, int]:
        """Rows of the table: all, and those written before the horizon."""

    def buckets_before(
        self, table: Table, form: Form, horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same by bucket (int64), in one pass over the row headers."""

    def rows_since(
        self, table: Table, form: Form, horizon: int
    ) -> tuple[np.ndarray, np.ndarray, list[RowDigest]]:
        """The same, and the rows that were not written before the horizon, ordered by bucket; their
        keys are in the values of the native form, which is required. In one pass.
        """

    def rows_with_keys(self, table: Table, form: Form, keys: RowKeys) -> list[RowDigest]:
        """The rows that have one of these keys (in the form's values), ordered by bucket."""

    def written_by(self, table: Table, transaction: int, horizon: int) -> tuple[int, int, int]:
        """Rows of the table: all, those that this transaction wrote, and those that another one
        wrote which had not ended at the horizon.
        """

    def transaction(self) -> int:
        """The open transaction's own number (64 bits)."""
