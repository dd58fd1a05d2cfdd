"""Applying a reviewed plan in the target's transaction: write, prove, record, commit."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dbsync_pipeline.dialects.contract import Dialect, Partitioned, ProvesFirst
from dbsync_pipeline.dialects.digests import Digests
from dbsync_pipeline.errors import NotProved, Refused, Transient
from dbsync_pipeline.mirror import compare, outcome
from dbsync_pipeline.mirror.ledger import Ledger, Publish, TableResult
from dbsync_pipeline.mirror.look import Effort, Look
from dbsync_pipeline.mirror.rescue.save import prune, save
from dbsync_pipeline.mirror.sync import stamping
from dbsync_pipeline.mirror.sync.comparing import Comparison
from dbsync_pipeline.mirror.sync.numbering import Numbering
from dbsync_pipeline.mirror.sync.opening import Opened
from dbsync_pipeline.mirror.sync.task import Phases, Task
from dbsync_pipeline.text import count

_log = logging.getLogger(__name__)
_REMEDY = "run the sync again; if it happens again, report it"


@dataclass(frozen=True)
class Publishing:
    """The publishing transaction of one sync, after its plan was allowed."""

    task: Task
    opened: Opened
    comparisons: Sequence[Comparison]
    numbering: Numbering

    @property
    def changing(self) -> list[Comparison]:
        """The comparisons of tables that need a change."""
        return [comparison for comparison in self.comparisons if not comparison.plan.empty]

    def write(self) -> list[str]:
        """Keep before-images, apply all changes, move the counters.

        What can be carried and proved before a reader of the target has to wait is, if the engine
        can do so. Returns the statements that restore what was dropped to speed up a first load.
        """
        target, changing = self.opened.target, self.changing
        staged = [comparison for comparison in changing if not comparison.fills]
        filling = [comparison for comparison in changing if comparison.fills]
        for comparison in staged:
            save(target, self.numbering.number, comparison.table)
            if isinstance(target, ProvesFirst):
                self._prove_changed(comparison)
        for comparison in filling:
            with comparison.timed():
                target.prepare_fill(comparison.table, self.opened.source, comparison.form)
        if changing:
            target.suspend_constraints([comparison.table for comparison in changing])
        if staged:
            self._write_staged(staged)
        stripped = self._fill(filling)
        move_counters(self.task, self.opened)
        return stripped

    def prove(self, stripped: Sequence[str]) -> None:
        """Restore what was dropped and raise NotProved unless the target equals the snapshot.

        Every bucket of a filled table and every changed bucket of another one is digested again;
        of a table that was proved before it was written, only the rows that were. Foreign keys of
        all tables must hold. Raise Transient if the source's snapshot got rows meanwhile, also
        where the proof fails for it.
        """
        self._prove_filled([table for table in self.changing if table.fills], stripped)
        for comparison in self.changing:
            if not comparison.fills:
                self._prove_written(comparison)
        if self.changing:
            self.opened.target.prove_constraints(self.task.model.tables)
        self._require_one_state()

    def record(self, phases: Phases) -> Publish:
        """Write the publish into the target's ledger, and delete before-images that are too old."""
        ledger, numbering = self.opened.ledger, self.numbering
        for comparison in self.comparisons:
            self._record_digests(ledger, comparison)
        stamping.record(self.opened, self.comparisons, numbering)
        publish = Publish(
            numbering.number,
            self.task.run_id,
            self.task.source.name,
            self.task.target.name,
            numbering.snapshot_at,
            dt.datetime.now(dt.UTC),
            results(self.comparisons),
            phases.seconds,
            partial=len(self.comparisons) < len(self.task.model.tables),
            numbered=numbering.numbered,
            state=numbering.state,
            round=numbering.round,
        )
        ledger.record(publish, self.opened.source_ledger.identity)
        if numbering.confirmed_at is not None:
            passed_on = replace(publish, confirmed_at=numbering.confirmed_at)
            ledger.confirm(passed_on, publish.run_id, numbering.newness)
        ledger.forget_given()
        self.opened.structure.note(ledger)
        if numbering.source_numbers is not None:
            ledger.record_unknown(numbering.source_numbers)
        self._accept_term(ledger)
        prune(self.opened.target, self.task.settings)
        return publish

    def commit(self) -> None:
        """Commit. If the reply is lost, the ledger decides whether the commit was made.

        Raise OutcomeUnknown if the ledger cannot be asked.
        """

        def recorded(again: Dialect) -> bool:
            return Ledger(again).of_run(self.task.run_id) is not None

        outcome.commit(self.opened.target, self.task.target, recorded, operation="publish")

    def _write_staged(self, comparisons: Sequence[Comparison]) -> None:
        """Apply the staged changes of all tables, and see that the plan's rows were affected."""
        written = self.opened.target.write_staged([comparison.table for comparison in comparisons])
        for comparison in comparisons:
            plan, rows = comparison.plan, written[comparison.table.name]
            self._expect(comparison, "deleted", rows.deleted, plan.update + plan.delete)
            self._expect(comparison, "inserted", rows.inserted, plan.insert + plan.update)
            self.task.observe(comparison.table.name, "publish", rows.inserted, rows.inserted)

    def _fill(self, comparisons: Sequence[Comparison]) -> list[str]:
        """Load tables that are empty; return what was dropped from them and must be restored."""
        target, observe = self.opened.target, self.task.observe
        stripped = target.strip(self.task.tables) if comparisons and self._is_new_target else []
        for comparison in comparisons:
            rows, name = comparison.plan.insert, comparison.table.name
            observe(name, "publish", 0, rows)
            with comparison.timed():
                comparison.moved = target.fill(
                    comparison.table,
                    self.opened.source,
                    comparison.form,
                    self.task.settings.connections,
                )
                self._expect(comparison, "inserted", comparison.moved.rows, rows)
            if comparison.moved.why_fewer:
                source = self.opened.source.name
                _log.warning("%s: table %s was read over %s", source, name, _carried(comparison))
            observe(name, "publish", rows, rows)
        return stripped

    @property
    def _is_new_target(self) -> bool:
        """Whether nobody can be reading the target's rows, since it never had any."""
        return self.opened.target_ledger.last is None and all(
            comparison.plan.target_rows == 0 for comparison in self.comparisons
        )

    def _expect(self, comparison: Comparison, what: str, rows: int, expected: int) -> None:
        if rows != expected:
            reason = f"{count(rows, 'row')} {what}, but the plan has {expected}"
            raise self._not_proved(comparison, reason)

    def _prove_filled(self, filled: Sequence[Comparison], stripped: Sequence[str]) -> None:
        target = self.opened.target

        def of_source() -> list[Look]:
            view = self.opened.source_view
            return [view.look(filling.table, filling.form) for filling in filled]

        def of_target() -> list[Digests]:
            target.restore(stripped)
            return [target.digests(filling.table, filling.form) for filling in filled]

        digested = compare.both(of_source, of_target)
        for comparison, expected, present in zip(filled, *digested, strict=True):
            comparison.source, comparison.source_look = expected.digests, expected
            self._require_equal(comparison, present)

    def _prove_changed(self, comparison: Comparison) -> None:
        """Digest every changed bucket as it is now, or as it will be after it is written."""
        target, touched = self.opened.target, np.array(comparison.touched, np.int64)
        digest = target.digests_as_written if isinstance(target, ProvesFirst) else target.digests
        present = digest(comparison.table, comparison.form, touched)
        self._require_equal(comparison, comparison.source.replaced(touched, present))

    def _prove_written(self, comparison: Comparison) -> None:
        target = self.opened.target
        if not isinstance(target, ProvesFirst):
            self._prove_changed(comparison)
        elif not target.holds_staged(comparison.table, comparison.form):
            raise self._not_proved(comparison, "rows were not stored as they were sent")

    def _not_proved(self, comparison: Comparison, reason: str) -> NotProved:
        """The error of a table that cannot be proved; raise its cause instead if it is known."""
        self._require_one_state()
        return NotProved(
            reason,
            operation="publish",
            database=self.opened.target.name,
            table=comparison.table.name,
            remedy=_REMEDY,
        )

    def _require_one_state(self) -> None:
        """Raise Transient if rows came into the source's snapshot while it was read."""
        source = self.opened.source
        attached = (
            source.attached_since_snapshot([comparison.table for comparison in self.comparisons])
            if isinstance(source, Partitioned)
            else []
        )
        if attached:
            raise Transient(
                "a partition was attached while the table was read, so its rows may have been read "
                "in part",
                operation="publish",
                database=source.name,
                table=attached[0],
                remedy="run the sync again",
            )

    def _require_equal(self, comparison: Comparison, present: Digests) -> None:
        differing, rows = comparison.source.differing(present).size, comparison.plan.source_rows
        if differing:
            buckets = f"{differing} of {comparison.form.buckets} buckets"
            raise self._not_proved(
                comparison, f"after the changes {buckets} differ from the source"
            )
        self.task.observe(comparison.table.name, "prove", rows, rows)

    def _record_digests(self, ledger: Ledger, comparison: Comparison) -> None:
        """A version of the digests is kept only where they changed."""
        name, digests = comparison.table.name, comparison.source
        last = self.opened.published(name)
        if last is None or last.form != digests.form or last.differing(digests).size:
            ledger.keep_digests(self.numbering.number, name, digests)

    def _accept_term(self, ledger: Ledger) -> None:
        """The target accepts the source's term if it is higher, or the one it was given."""
        source = self.opened.source_ledger.term
        term = self.task.new_term or (source and replace(source, after=None))
        if term is not None and not ledger.take_term(term) and self.task.new_term:
            raise Refused(
                "the target accepted another term meanwhile",
                operation="failback",
                database=self.opened.target.name,
                remedy="see `dbsync failover --dry-run`, then run `dbsync failback` again",
            )


def move_counters(task: Task, opened: Opened) -> None:
    """Move the target's counters past every number that the source issued, plus the key gap.

    So rows that are written on both sides of an outage do not share numbers.
    """
    issued = {counter.name: counter for counter in opened.source.counters(task.tables)}
    counters = opened.target.counters(task.tables)
    lacking = issued.keys() - {counter.name for counter in counters}
    if lacking and opened.source.engine_name == opened.target.engine_name:
        source, target = opened.source.name, opened.target.name
        names = ", ".join(sorted(lacking))
        _log.warning("%s lacks counters that %s has: %s; create them there", target, source, names)
    for counter in counters:
        value = counter.target(issued.get(counter.name), task.settings.key_gap)
        if value is not None:
            opened.target.move_counter(counter, value)


def results(comparisons: Iterable[Comparison]) -> dict[str, TableResult]:
    """Return what a sync did to each table."""
    return {comparison.table.name: _result(comparison) for comparison in comparisons}


def _result(comparison: Comparison) -> TableResult:
    plan, look = comparison.plan, comparison.source_look
    effort = look.effort if look else Effort(0, 0)  # both sides are empty
    return TableResult(
        plan.source_rows,
        plan.insert,
        plan.update,
        plan.delete,
        comparison.moved.bytes,
        str(comparison.source),
        round(comparison.seconds, 3),
        str(comparison.target),
        comparison.fills,
        comparison.proof,
        effort.rows,
        effort.bytes,
        round(effort.seconds, 3),
        _carried(comparison),
    )


def _carried(comparison: Comparison) -> str:
    """Over how many connections a first load read its source, and why over fewer than allowed."""
    moved = comparison.moved
    if not comparison.fills or not (moved.connections > 1 or moved.why_fewer):
        return ""
    over = count(moved.connections, "connection")
    return f"{over}: {moved.why_fewer}" if moved.why_fewer else over
