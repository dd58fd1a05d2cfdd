"""One sync of one target: one source snapshot, one target transaction, and the steps in between.

    ensure_schema   create and check the tables; lock the target; open the source's snapshot
    copy(table)     compare, and stage what differs; live tables are not changed
    publish         review the plan, write it, prove the target equal to the source, record, commit

Whatever fails before the commit leaves the target as it was: `close` rolls back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import NotProved, SettingsError, StructureError
from dbsync_pipeline.mirror import guard
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.guard import Finding, Plan
from dbsync_pipeline.mirror.ledger import Publish, Term
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.outside import orphans
from dbsync_pipeline.mirror.own_keys import require_held
from dbsync_pipeline.mirror.report.file import Report
from dbsync_pipeline.mirror.sync import numbering
from dbsync_pipeline.mirror.sync.comparing import Comparison, all_new, compare_table
from dbsync_pipeline.mirror.sync.confirming import Confirming
from dbsync_pipeline.mirror.sync.opening import Opened, Opening
from dbsync_pipeline.mirror.sync.publishing import Publishing, move_counters
from dbsync_pipeline.mirror.sync.reviewing import plan_of, require_allowed
from dbsync_pipeline.mirror.sync.rounds import Round
from dbsync_pipeline.mirror.sync.stamping import Settling
from dbsync_pipeline.mirror.sync.task import Observer, Phases, TableDiff, Task, ignore_progress
from dbsync_pipeline.policy import Policy
from dbsync_pipeline.settings import Settings

__all__ = ["Observer", "Session", "TableDiff"]


class Session:
    """A sync of `tables` (all, if none is named) from `source` to `target`.

    A context manager, used once and by one thread at a time; only `cancel` is for another thread.
    `fence` and `new_term` are for a failback: see `Task`. `round_id` is that of the request, which
    this sync is a part of; without it the run is a round of its own. Raises SettingsError if source
    and target have the same name.
    """

    def __init__(
        self,
        source: Database,
        target: Database,
        model: Model,
        tables: Sequence[str] = (),
        *,
        run_id: str,
        settings: Settings,
        policy: Policy | None = None,
        observe: Observer | None = None,
        fence: Dialect | None = None,
        new_term: Term | None = None,
        round_id: str | None = None,
        shared: Round | None = None,
    ) -> None:
        if source.name == target.name:
            raise SettingsError(
                "source and target are the same database",
                operation="sync",
                database=source.name,
                remedy="name another target, or another source",
            )
        self._task = Task(
            source,
            target,
            model,
            model.select(tables),
            run_id,
            settings,
            policy or settings.policy,
            observe or ignore_progress,
            fence,
            new_term,
            round_id or run_id,
            shared,
        )
        self._opening = Opening(self._task)
        self._comparisons: dict[str, Comparison] = {}
        self._phases = Phases()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def opened(self) -> Opened:
        """What the first step opened. Raises DbsyncError before it, and after `close`."""
        return self._opening.opened

    def close(self) -> None:
        """Roll back what was not committed and close both connections; a second call is safe."""
        self._opening.close()

    def cancel(self) -> None:
        """Stop the statements that run now; for another thread.

        The step that waits for them fails, and `close` rolls back.
        """
        self._opening.cancel()

    def ensure_schema(self) -> list[str]:
        """Create the target's missing tables, check the structure of both sides, lock the target,
        and open the source's snapshot.

        Returns the names of the created tables. Raises StructureError, Unavailable, or Busy naming
        the process that has the lock.
        """
        with self._phases.timed("schema"):
            return self._opening.open_for_writing()

    def copy(self, name: str) -> TableDiff:
        """Compare one table and stage the rows that differ.

        Staging belongs to the target's transaction; its live tables are not changed. A second call
        compares and stages again. Raises Unrepresentable if the target cannot store a value.
        """
        table, opened = self._task.model.table(name), self.opened
        with self._phases.timed("compare"):
            comparison = compare_table(self._task, opened, table, staging=True)
        self._comparisons[name] = comparison
        return comparison.diff

    def publish(self) -> Publish:
        """Review the plan, apply it in the target's transaction, prove the target equal to the
        source's snapshot, record the publish, and commit.

        If there was nothing to change, the last publish is confirmed and returned, with this run's
        id and its looks; where that cannot be, it is published again. Raises Refused with the
        findings of the guards, NotProved, or an error of a database; the target is then as it was.
        """
        task, opened = self._task, self.opened
        require_allowed(task, plan_of(task, opened, self._comparisons))
        comparisons = list(self._comparisons.values())
        confirming = Confirming.of(task, opened, comparisons)
        if confirming is not None:
            return self._confirm(confirming)
        publishing = self._write(comparisons)
        publish = publishing.record(self._phases)
        settling = Settling.of(task, opened, comparisons)
        publishing.commit()
        if settling:
            settling.run()
        return publish

    def _write(self, comparisons: Sequence[Comparison]) -> Publishing:
        """Write and prove the changes. What fails may be what the source's own rows violate."""
        try:
            with self._phases.timed("publish"):
                number = numbering.claim(self._task, self.opened, comparisons)
                publishing = Publishing(self._task, self.opened, comparisons, number)
                stripped = publishing.write()
            with self._phases.timed("prove"):
                publishing.prove(stripped)
        except (NotProved, StructureError):
            if not self.opened.source.enforces_keys:
                require_held(self.opened.source, self._task.tables)
            raise
        return publishing

    def _confirm(self, confirming: Confirming) -> Publish:
        with self._phases.timed("publish"):
            move_counters(self._task, self.opened)
        publish = confirming.record(self._phases)
        confirming.commit()
        return publish

    def plan(self, report: Report | None = None) -> tuple[Plan, tuple[Finding, ...]]:
        """Return what a sync would do now, and the objections of the guards.

        Reads one snapshot of each side, locks nothing, and changes nothing. The rows that differ
        are written to the report.
        """
        missing = self._opening.open_for_reading()
        task, opened = self._task, self.opened
        if report is not None:
            report.begin(opened.source, opened.target)
        for table in task.tables:
            if table.name not in missing:
                comparison = compare_table(task, opened, table, staging=False, report=report)
            else:
                comparison = all_new(opened, table)
                if report is not None:
                    report.new_table(table)
            self._comparisons[table.name] = comparison
        plan = plan_of(task, opened, self._comparisons)
        changed = [table for table in task.tables if not plan.tables[table.name].empty]
        plan = replace(plan, orphans=tuple(orphans(opened.source, opened.target, changed)))
        findings = guard.review(plan, task.policy)
        if report is not None:
            report.end(plan, findings)
        return plan, findings
