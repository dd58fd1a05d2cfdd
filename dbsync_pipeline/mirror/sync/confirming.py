"""A sync that finds nothing to do confirms the last publish instead of adding another.

Then no ledger grows with the number of syncs, and a source on which no transaction has ended since
the last sync is only read. What a publish does for other databases stays as it is: its number, its
state, and the time of that state. Only the time at which the source still had these rows moves on,
and the round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.mirror import outcome
from dbsync_pipeline.mirror.ledger import Ledger, Publish
from dbsync_pipeline.mirror.ledger.numbers import Renewal
from dbsync_pipeline.mirror.look import SNAPSHOT
from dbsync_pipeline.mirror.rescue.save import prune
from dbsync_pipeline.mirror.sync import numbering, stamping
from dbsync_pipeline.mirror.sync.comparing import Comparison
from dbsync_pipeline.mirror.sync.opening import Opened
from dbsync_pipeline.mirror.sync.publishing import results
from dbsync_pipeline.mirror.sync.task import Phases, Task


@dataclass(frozen=True)
class Confirming:
    """The confirmation of `last`, after the plan was allowed."""

    task: Task
    opened: Opened
    comparisons: Sequence[Comparison]
    last: Publish

    @classmethod
    def of(cls, task: Task, opened: Opened, comparisons: Sequence[Comparison]) -> Confirming | None:
        """None unless the last publish was of all tables, has this source's number and state, and
        nothing would change but its time.
        """
        last, target = opened.target_ledger.last, opened.target_ledger
        if (
            last is None
            or last.partial
            or last.source != task.source.name
            or max(last.number, target.newness) != target.highest
            or not _is_known(opened, last)
            or opened.source_ledger.term not in (None, target.term)
            or task.fence is not None
            or task.new_term is not None
            or {comparison.table.name for comparison in comparisons} != set(last.tables)
            or set(last.tables) != set(task.model.names)
            or not all(_is_as_published(opened, comparison) for comparison in comparisons)
            or numbering.received_by_source(opened, comparisons) is not None
        ):
            return None
        return cls(task, opened, comparisons, last)

    def record(self, phases: Phases) -> Publish:
        """Write the confirmation into the target's ledger, and delete before-images that are too
        old. Returns the publish as this run found it.
        """
        confirmed = replace(
            self.last,
            run_id=self.task.run_id,
            tables=results(self.comparisons),
            seconds=phases.seconds,
            confirmed_at=self.opened.snapshot_at,
            confirmations=self.last.confirmations + 1,
            round=self.task.round_id,
        )
        renewal = self._renewal(confirmed)
        stamping.renew(self.opened, self.comparisons, renewal)
        if renewal is not None:
            confirmed = replace(confirmed, renewed=confirmed.confirmations)
        self._confirm(confirmed)
        self.opened.structure.note(self.opened.ledger)
        prune(self.opened.target, self.task.settings)
        return confirmed

    def _confirm(self, confirmed: Publish) -> None:
        """These rows are as new as the newest state that the source has sent to anybody."""
        ledger, numbers = self.opened.ledger, self.opened.source_ledger.numbers
        up_to = numbers.highest if numbers else 0
        if numbers and up_to > self.opened.target_ledger.newness:
            ledger.record_unknown(numbers)
        ledger.confirm(confirmed, self.task.run_id, up_to)

    def _renewal(self, confirmed: Publish) -> Renewal | None:
        """A new claim of the source, if its stamps are of another moment than now."""
        looks = [look for comparison in self.comparisons if (look := comparison.source_look)]
        moved = any(look.stamp is not None and look.proof != SNAPSHOT for look in looks)
        return numbering.renewed(self.task, confirmed) if moved and self.last.numbered else None

    def commit(self) -> None:
        """Commit. If the reply is lost, the ledger decides whether the commit was made.

        Raise OutcomeUnknown if the ledger cannot be asked.
        """

        def recorded(again: Dialect) -> bool:
            return Ledger(again).is_confirmed_by(self.task.run_id)

        outcome.commit(self.opened.target, self.task.target, recorded, operation="publish")


def _is_known(opened: Opened, last: Publish) -> bool:
    """Whether the source has the state of `last`, or no ledger in which it could have it."""
    if last.numbered:
        return opened.source_ledger.knows_target
    return opened.source_ledger.numbers is None


def _is_as_published(opened: Opened, comparison: Comparison) -> bool:
    """Whether the table is as last published on both sides."""
    published = opened.published(comparison.table.name)
    return (
        comparison.plan.empty
        and published is not None
        and published.form == comparison.source.form
        and not published.differing(comparison.source).size
    )
