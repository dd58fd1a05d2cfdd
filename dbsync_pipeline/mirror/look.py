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
from dbsync_pipeline.dialects.digests import Digests, Form, RowDigest
from dbsync_pipeline.dialects.stamps import Moment, Stamp, Stamps
from dbsync_pipeline.dialects.table import Size, Table

SNAPSHOT, HEADERS, DIGESTS = "snapshot", "row headers", "digests"
PROOFS = (SNAPSHOT, HEADERS, DIGESTS)
"""By their price, the cheapest first."""
_YOUNG_ROWS = 200_000
"""The most rows of which the digests and keys are in memory, some 300 bytes each."""
_YOUNG_SHARE = 5
"""Rows written since are looked up one by one on the other side if they are at most this part of
all: beyond, it is quicker to hash whole buckets."""
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
    def of(cls, passes: int, rows: int, share: float, size: Size | None) -> Effort:
        """The effort of passes over that many rows, in one of which a share of them is whole."""
        if not passes:
            return cls(0, 0)
        if size is None:
            return cls(passes * rows, None)
        return cls(passes * rows, passes * size.rows + int(size.large * share))

    def plus(self, other: Effort) -> Effort:
        """The effort of both."""
        whole = None if self.bytes is None or other.bytes is None else self.bytes + other.bytes
        return Effort(self.rows + other.rows, whole, self.seconds + other.seconds)


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
class Written:
    """What the row headers of a table say was written since a stamp.

    By bucket (int64): `rows` now, `kept` of them are as they were, and there were `then`. `young`
    are the rows written since, ordered by bucket; None if they were not read, since they are too
    many to be in memory, or have no key that another database knows.
    """

    rows: np.ndarray
    kept: np.ndarray
    then: np.ndarray
    young: Sequence[RowDigest] | None

    @cached_property
    def buckets(self) -> np.ndarray:
        """The buckets that may have other rows than then (int64); certainly none else has."""
        return np.flatnonzero((self.rows != self.then) | (self.kept != self.then))

    @cached_property
    def lost(self) -> np.ndarray:
        """By bucket (int64), how many of the earlier rows were replaced or deleted."""
        lost: np.ndarray = self.then - self.kept
        return lost


@dataclass(frozen=True)
class Survey:
    """A look that has not read any row yet where the row headers show what was written.

    The look is complete if `written` is None. Else its digests are those of the earlier moment, and
    wrong for the buckets that were written to.
    """

    look: Look
    written: Written | None = None

    @property
    def rows(self) -> int:
        """The number of rows in the whole table now."""
        return int(self.written.rows.sum()) if self.written else self.look.digests.total

    @property
    def again(self) -> Survey:
        """The same for somebody else, whom it costs nothing."""
        return replace(self, look=replace(self.look, effort=Effort(0, 0)))


class Looks:
    """What was found at one state, by table and form, for all who look at that state."""

    def __init__(self) -> None:
        self._surveys: dict[tuple[str, Form], Survey] = {}
        self._complete: dict[tuple[str, Form], Survey] = {}
        self._young = 0

    def keep(self, table: Table, survey: Survey) -> None:
        """Remember what was found; of all tables at most as many rows as one look may read."""
        key = table.name, survey.look.digests.form
        if survey.written is None:
            self._complete[key] = survey
            return
        young = len(survey.written.young or ())
        if self._young + young <= _YOUNG_ROWS:
            self._young += young
            self._surveys[key] = survey

    def find(self, table: Table, form: Form, known: Known | None) -> Survey | None:
        """What was found, if it serves somebody who knows `known`.

        What was written since a moment serves all who know equal digests of that moment.
        """
        survey = self._surveys.get((table.name, form))
        if survey and known and known.digests.equals(survey.look.digests):
            return survey.again
        complete = self.complete(table, form)
        return complete and complete.again

    def complete(self, table: Table, form: Form) -> Survey | None:
        """The complete look in that form; None if there is none."""
        return self._complete.get((table.name, form))

    def rows(self, table: Table) -> int | None:
        """The number of rows of that table, if somebody found it."""
        surveys = (self._surveys | self._complete).items()
        return next((survey.rows for (name, _), survey in surveys if name == table.name), None)


@dataclass(frozen=True)
class Vantage:
    """What looks at the tables of one open transaction need to know of it, read once.

    `moment` is the state that the transaction sees; `fingerprints` are by table. All rows are
    hashed if that was last done `full_every` before `now` (UTC). `looks` are those at the same
    state so far, if others look at it too.
    """

    dialect: Dialect
    tables: Sequence[Table]
    stamps: Stamps | None
    moment: Moment | None
    fingerprints: Mapping[str, str]
    now: dt.datetime
    full_every: dt.timedelta
    looks: Looks | None = None

    @classmethod
    def of(
        cls,
        dialect: Dialect,
        tables: Sequence[Table],
        full_every: dt.timedelta = dt.timedelta.max,
        looks: Looks | None = None,
    ) -> Vantage:
        """Read the vantage of the open transaction. All rows are hashed at least every
        `full_every`; without it, only if something else requires it.
        """
        stamps = dialect.stamps()
        moment = stamps.moment() if stamps else None
        fingerprints = stamps.fingerprints(tables) if stamps and moment else {}
        now = dt.datetime.now(dt.UTC)
        return cls(dialect, tables, stamps, moment, fingerprints, now, full_every, looks)

    def look(self, table: Table, form: Form, known: Known | None = None) -> Look:
        """The digests of `table` in `form`; `known` are digests that held earlier.

        Reads nothing, the row headers, or all rows.
        """
        return self.complete(table, self.survey(table, form, known))

    def count(self, table: Table) -> int:
        """The number of rows of `table`."""
        rows = self.looks.rows(table) if self.looks else None
        return self.dialect.count(table) if rows is None else rows

    def survey(self, table: Table, form: Form, known: Known | None = None) -> Survey:
        """The first part of a look: all of it, unless row headers show that rows were written.

        Reads these rows, too, if they are few.
        """
        earlier = self.looks.find(table, form, known) if self.looks else None
        if earlier is not None:
            return earlier
        survey = self._survey(table, form, known)
        if self.looks is not None:
            self.looks.keep(table, survey)
        return survey

    def _survey(self, table: Table, form: Form, known: Known | None) -> Survey:
        started = time.monotonic()
        fingerprint = self.fingerprints.get(table.name)
        if self.stamps is None or self.moment is None or fingerprint is None:
            return self._digested(table, form, None, self._why_never, started)
        stamp = Stamp(self.moment, fingerprint, self.now)
        why = self._why_not(self.stamps, form, stamp, known)
        if known is None or why:
            return self._digested(table, form, stamp, why, started)
        stamp = replace(stamp, digested_at=known.stamp.digested_at)
        if known.stamp.moment.snapshot == self.moment.snapshot:
            return Survey(Look(known.digests, stamp, SNAPSHOT, 0))
        written = _written_since(self.stamps, table, known)
        effort = self._surveyed(table, known.digests.total, written, started)
        return Survey(Look(known.digests, stamp, HEADERS, 0, effort=effort), written)

    def complete(self, table: Table, survey: Survey) -> Look:
        """The rest of that look: digests of the buckets that were written to."""
        look, written = survey.look, survey.written
        if written is None:
            return look
        started, form = time.monotonic(), look.digests.form
        if self.looks and (complete := self.looks.complete(table, form)):
            return complete.again.look
        present = self.dialect.digests(table, form, written.buckets)
        digests, hashed = look.digests.replaced(written.buckets, present), written.buckets.size
        effort = self.effort(table, 1, digests.total, hashed / form.buckets, started)
        whole = replace(
            look, digests=digests, digested=int(hashed), effort=look.effort.plus(effort)
        )
        self.keep(table, whole)
        return whole

    def keep(self, table: Table, look: Look) -> None:
        """Let others who look at the same state have this complete look, if there are any."""
        if self.looks is not None:
            self.looks.keep(table, Survey(look))

    def effort(self, table: Table, passes: int, rows: int, share: float, started: float) -> Effort:
        """The effort since `started` (`time.monotonic`), as in `Effort.of`."""
        effort = Effort.of(passes, rows, share, self._sizes.get(table.name))
        return replace(effort, seconds=time.monotonic() - started)

    def _surveyed(self, table: Table, rows: int, written: Written | None, started: float) -> Effort:
        """The effort of the headers, and of the headers by bucket with the rows written since."""
        if written is None:
            return self.effort(table, 1, rows, 0, started)
        return self.effort(table, 2, rows, len(written.young or ()) / max(rows, 1), started)

    @cached_property
    def _sizes(self) -> Mapping[str, Size]:
        return self.dialect.sizes(self.tables)

    def _digested(
        self, table: Table, form: Form, stamp: Stamp | None, why: str, started: float
    ) -> Survey:
        digests = self.dialect.digests(table, form)
        effort = self.effort(table, 1, digests.total, 1, started)
        return Survey(Look(digests, stamp, DIGESTS, form.buckets, why, effort))

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
        age = self.now - known.stamp.digested_at
        if age <= -_CLOCKS_DIFFER or max(age, dt.timedelta()) >= self.full_every:
            return "a full pass is due"
        return ""


def _written_since(stamps: Stamps, table: Table, known: Known) -> Written | None:
    """What was written to the table since; None if nothing was.

    A bucket is unchanged if it has as many rows as then, all of them written before the horizon.
    """
    horizon, then = known.stamp.moment.horizon, known.digests
    rows, before = stamps.rows_before(table, horizon)
    if rows == before == then.total:
        return None
    young = rows - before
    few = young <= _YOUNG_ROWS and young * _YOUNG_SHARE <= rows
    if few and then.form.native and not table.keyless:
        by_bucket, before_by_bucket, read = stamps.rows_since(table, then.form, horizon)
        return Written(by_bucket, before_by_bucket, then.rows, read)
    return Written(*stamps.buckets_before(table, then.form, horizon), then.rows, None)
