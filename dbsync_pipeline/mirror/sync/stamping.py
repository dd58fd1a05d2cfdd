"""The stamps that a sync leaves in the target's ledger, so that the next one reads fewer rows.

In the publishing transaction, both sides are stamped with the moment at which they were looked at.
The target has been locked since: a later writer has a transaction that had not ended then, so the
stamp shows it. It shows the rows of this publish as well, and the next look would digest them
again. So a second look, after the commit, stamps them if it finds these rows and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.stamps import Stamp, Stamps
from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.ledger.numbers import Renewal
from dbsync_pipeline.mirror.ledger.stamps import Side
from dbsync_pipeline.mirror.look import Look, Vantage
from dbsync_pipeline.mirror.sync.comparing import Comparison
from dbsync_pipeline.mirror.sync.numbering import Numbering
from dbsync_pipeline.mirror.sync.opening import Opened
from dbsync_pipeline.mirror.sync.task import Task

_LOCK_SECONDS = 1.0
"""How long the second look waits for a lock: it only saves time."""


def record(opened: Opened, comparisons: Iterable[Comparison], numbering: Numbering) -> None:
    """Stamp both sides of each table, in the publishing transaction.

    The source's transaction that recorded the publish's number is the only one that this sync adds
    to the source, and this transaction the only one that it adds to the target. A source that
    recorded no number, such as a standby that passes on what it received, is not stamped: restored
    from files, or as a copy of another's files, it would issue transaction numbers again.
    """
    stamps = opened.target.stamps()
    publishing = stamps.transaction() if stamps else None
    kept: dict[tuple[str, Side], Stamp | None] = {}
    for comparison in comparisons:
        claimed = _after(comparison.source_look, numbering.transaction)
        kept[comparison.table.name, "source"] = (
            replace(claimed, claim=numbering.claim) if claimed and numbering.claim else None
        )
        unchanged_by = publishing if comparison.plan.empty else None
        kept[comparison.table.name, "target"] = _after(comparison.target_look, unchanged_by)
    opened.ledger.keep_stamps(kept)


def renew(opened: Opened, comparisons: Iterable[Comparison], claim: Renewal | None) -> None:
    """Stamp both sides again, in a transaction that changes none of the target's tables.

    Without a claim of this sync the source keeps the stamps that it has: only a claim after the
    moment of a stamp excludes that the source was restored from files since.
    """
    stamps = opened.target.stamps()
    transaction = stamps.transaction() if stamps else None
    kept: dict[tuple[str, Side], Stamp | None] = {}
    for comparison in comparisons:
        name = comparison.table.name
        kept[name, "target"] = _after(comparison.target_look, transaction)
        if claim is not None:
            claimed = _after(comparison.source_look, claim.transaction)
            kept[name, "source"] = claimed and replace(claimed, claim=claim.claim)
    opened.ledger.keep_stamps(kept)


def _after(look: Look | None, transaction: int | None) -> Stamp | None:
    """The stamp of a look, moved past that transaction, which changed nothing in the table."""
    stamp = look.stamp if look else None
    following = stamp and stamp.moment.after(transaction)
    return replace(stamp, moment=following) if stamp and following else stamp


@dataclass(frozen=True)
class Settling:
    """The second look at the tables that a sync changed. Created before its commit."""

    task: Task
    horizon: int
    fingerprints: Mapping[str, str]
    transaction: int
    changed: Sequence[Comparison]

    @classmethod
    def of(cls, task: Task, opened: Opened, comparisons: Iterable[Comparison]) -> Settling | None:
        """None if there is nothing to look at, or if the engine has no stamps."""
        moment, stamps = opened.target_view.moment, opened.target.stamps()
        changed = [comparison for comparison in comparisons if not comparison.plan.empty]
        if moment is None or stamps is None or not changed:
            return None
        fingerprints = opened.target_view.fingerprints
        return cls(task, moment.horizon, fingerprints, stamps.transaction(), changed)

    def run(self) -> None:
        """Stamp the changed tables, in a transaction of its own.

        A table that was written to or altered meanwhile keeps the stamp that it has. If the
        database does not respond, or somebody locks it, all do: the publish is committed, and the
        next sync only digests more rows.
        """
        with (
            suppress(DbsyncError),
            self.task.target.at_once.connect(self.task.label) as target,
            target.doing("stamp the tables"),
        ):
            target.limit_lock_wait(_LOCK_SECONDS)
            self._settle(target)

    def _settle(self, target: Dialect) -> None:
        with target.connection.begin():
            view = Vantage.of(target, [comparison.table for comparison in self.changed])
            for comparison in self.changed:
                if view.stamps and self._is_as_published(view, view.stamps, comparison):
                    self._stamp(view, view.stamps, comparison)

    def _is_as_published(self, view: Vantage, stamps: Stamps, comparison: Comparison) -> bool:
        """Whether the table has the rows of this publish, those that it left, and no others."""
        if view.moment is None or self.transaction >= view.moment.horizon:
            return False
        plan = comparison.plan
        written = stamps.written_by(comparison.table, self.transaction, self.horizon)
        return written == (plan.source_rows, plan.insert + plan.update, 0)

    def _stamp(self, view: Vantage, stamps: Stamps, comparison: Comparison) -> None:
        name, moment = comparison.table.name, view.moment
        fingerprint = view.fingerprints.get(name)
        if moment is None or fingerprint is None or fingerprint != self.fingerprints.get(name):
            return
        digested = comparison.target_look.stamp if comparison.target_look else None
        stamp = Stamp(moment, fingerprint, digested.digested_at if digested else view.now)
        looked = Look(comparison.source, stamp, "", 0)
        following = _after(looked, stamps.transaction())
        Ledger(view.dialect).keep_stamps({(name, "target"): following})
