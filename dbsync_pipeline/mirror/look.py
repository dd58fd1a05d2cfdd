"""The digests of a table as it is now, at the lowest price that is still exact.

Three proofs, the cheapest first. *snapshot*: no transaction ended since the digests held, so they
still hold. *row headers*: rows written since are found without reading them, and only their buckets
are digested. *digests*: every row is hashed, because something rules out the other two, or because
the last time is longer ago than the settings allow. Row headers do not show silent corruption.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import Digests, Form
from dbsync_pipeline.dialects.stamps import Moment, Stamp, Stamps
from dbsync_pipeline.dialects.table import Size, Table

SNAPSHOT, HEADERS, DIGESTS = "snapshot", "row headers", "digests"
PROOFS = (SNAPSHOT, HEADERS, DIGESTS)
"""By their price, the cheapest first."""
_CLOCKS_DIFFER = dt.timedelta(hours=1)
"""A time that is further in the future was written by a wrong clock."""


@dataclass(frozen=True)
class Known:
    """Digests of a table, and a stamp of a moment at which they held."""

    digests: Digests
    stamp: Stamp


@dataclass(frozen=True)
class Effort:
    """What a look cost its database.

    `rows` were read, by their headers or whole, and count for each pass over them. `bytes` is the
    size on disk of what the passes scanned, None if the engine does not tell. `seconds` is the time
    that it took.
    """

    rows: int
    bytes: int | None
    seconds: float = 0.0

    @classmethod
    def of(cls, passes: int, digests: Digests, hashed: int, size: Size | None) -> Effort:
        """The effort of passes over a table, in one of which rows of `hashed` buckets are whole."""
        if not passes:
            return cls(0, 0)
        if size is None:
            return cls(passes * digests.total, None)
        large = size.large * hashed // digests.form.buckets
        return cls(passes * digests.total, passes * size.rows + large)


@dataclass(frozen=True)
class Look:
    """The digests of a table now, how they were proved, and what that cost.

    `stamp` is for the next look; None if the engine or the table has none. `digested` counts the
    buckets whose rows were hashed. `why` says why all rows were hashed; else it is empty.
    """

    digests: Digests
    stamp: Stamp | None
    proof: str
    digested: int
    why: str = ""
    effort: Effort = Effort(0, 0)


@dataclass(frozen=True)
class Vantage:
    """What looks at the tables of one open transaction need to know of it, read once.

    `moment` is the state that the transaction sees; `fingerprints` are by table. All rows are
    hashed if that was last done `full_every` before `now` (UTC).
    """

    dialect: Dialect
    tables: Sequence[Table]
    stamps: Stamps | None
    moment: Moment | None
    fingerprints: Mapping[str, str]
    now: dt.datetime
    full_every: dt.timedelta

    @classmethod
    def of(
        cls, dialect: Dialect, tables: Sequence[Table], full_every: dt.timedelta = dt.timedelta.max
    ) -> Vantage:
        """Read the vantage of the open transaction. All rows are hashed at least every
        `full_every`; without it, only if something else requires it.
        """
        stamps = dialect.stamps()
        moment = stamps.moment() if stamps else None
        fingerprints = stamps.fingerprints(tables) if stamps and moment else {}
        now = dt.datetime.now(dt.UTC)
        return cls(dialect, tables, stamps, moment, fingerprints, now, full_every)

    def look(self, table: Table, form: Form, known: Known | None = None) -> Look:
        """The digests of `table` in `form`; `known` are digests that held earlier.

        Reads nothing, the row headers, or all rows.
        """
        started = time.monotonic()
        look = self._look(table, form, known)
        # the headers, the headers by bucket, the rows of the buckets: each reads the table once
        passes = {SNAPSHOT: 0, HEADERS: 3 if look.digested else 1, DIGESTS: 1}[look.proof]
        size = self._sizes.get(table.name) if passes else None
        effort = Effort.of(passes, look.digests, look.digested, size)
        return replace(look, effort=replace(effort, seconds=time.monotonic() - started))

    @cached_property
    def _sizes(self) -> Mapping[str, Size]:
        return self.dialect.sizes(self.tables)

    def _look(self, table: Table, form: Form, known: Known | None) -> Look:
        fingerprint = self.fingerprints.get(table.name)
        if self.stamps is None or self.moment is None or fingerprint is None:
            digests = self.dialect.digests(table, form)
            return Look(digests, None, DIGESTS, form.buckets, self._why_never)
        stamp = Stamp(self.moment, fingerprint, self.now)
        why = self._why_not(self.stamps, form, stamp, known)
        if known is None or why:
            return Look(self.dialect.digests(table, form), stamp, DIGESTS, form.buckets, why)
        stamp = replace(stamp, digested_at=known.stamp.digested_at)
        if known.stamp.moment.snapshot == self.moment.snapshot:
            return Look(known.digests, stamp, SNAPSHOT, 0)
        dirty = _written_to(self.stamps, table, known)
        if not dirty.size:
            return Look(known.digests, stamp, HEADERS, 0)
        digests = known.digests.replaced(dirty, self.dialect.digests(table, form, dirty))
        return Look(digests, stamp, HEADERS, int(dirty.size))

    @property
    def _why_never(self) -> str:
        if self.stamps is None:
            return "the engine does not show when a row was written"
        if self.moment is None:
            return "the server is a replica, or does not identify itself"
        return "the table is unlogged, not a heap, or stores names of catalog objects"

    def _why_not(self, stamps: Stamps, form: Form, now: Stamp, known: Known | None) -> str:
        """Why digests that held earlier cannot be used; empty if they can."""
        if known is None:
            return "nothing is known of an earlier state"
        if known.digests.form != form:
            return "the rows are digested in another way than before"
        if not stamps.reaches(known.stamp, now.moment):
            return "the earlier state is of another database, or too many transactions ago"
        if known.stamp.fingerprint != now.fingerprint:
            return "the structure has changed"
        if not -_CLOCKS_DIFFER < self.now - known.stamp.digested_at < self.full_every:
            return "a full pass is due"
        return ""


def _written_to(stamps: Stamps, table: Table, known: Known) -> np.ndarray:
    """The buckets that may have other rows than `known` (int64); certainly none else has.

    A bucket is unchanged if it has as many rows as then, all of them written before the horizon.
    """
    horizon, then = known.stamp.moment.horizon, known.digests
    rows, before = stamps.rows_before(table, horizon)
    if rows == before == then.total:
        return np.array([], np.int64)
    by_bucket, before_by_bucket = stamps.buckets_before(table, then.form, horizon)
    return np.flatnonzero((by_bucket != then.rows) | (before_by_bucket != then.rows))
