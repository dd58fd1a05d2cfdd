"""The final plan of a sync, and its review by the guards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from dbsync_pipeline.errors import DbsyncError, Refused
from dbsync_pipeline.mirror import guard, refusal
from dbsync_pipeline.mirror.guard import Finding, Plan
from dbsync_pipeline.mirror.sync import numbering
from dbsync_pipeline.mirror.sync.comparing import Comparison
from dbsync_pipeline.mirror.sync.opening import Opened
from dbsync_pipeline.mirror.sync.task import Task


def plan_of(task: Task, opened: Opened, comparisons: Mapping[str, Comparison]) -> Plan:
    """Return the plan of a sync whose tables were all compared; raise DbsyncError otherwise."""
    not_compared = [table.name for table in task.tables if table.name not in comparisons]
    if not_compared:
        raise DbsyncError(
            f"these tables were not compared: {', '.join(not_compared)}",
            operation="publish",
            remedy="run the whole sync again",
        )
    return Plan(
        task.source.name,
        task.target.name,
        opened.same_database,
        opened.target_ledger.last is not None,
        {name: comparison.plan for name, comparison in comparisons.items()},
        opened.unknown_state,
        opened.source_ledger.term,
        opened.target_ledger.term,
        _returning(task, opened),
        opened.hidden,
        tuple(name for name in task.model.names if name not in comparisons),
        task.new_term is not None,
        _passes_on(task, opened, list(comparisons.values())),
    )


def _passes_on(task: Task, opened: Opened, comparisons: Sequence[Comparison]) -> bool:
    """Whether the source is the primary as far as it knows, or has only what it received."""
    term = opened.source_ledger.term
    if term is None or term.primary == task.source.name:
        return True
    return numbering.source_is_unchanged(opened, comparisons)


def _returning(task: Task, opened: Opened) -> bool:
    """Whether the target is the configured primary, and the source's term names another one."""
    term = opened.source_ledger.term
    return term is not None and task.target.name == task.settings.primary != term.primary


def require_allowed(task: Task, plan: Plan) -> None:
    """Raise Refused with every finding if a guard objects to the plan."""
    findings: Sequence[Finding] = guard.review(plan, task.policy)
    if findings:
        raise Refused(
            refusal.summary(findings),
            findings=[asdict(finding) for finding in findings],
            operation="sync",
            database=task.target.name,
            table=findings[0].table if len(findings) == 1 else None,
            remedy=findings[0].remedy,
        )
