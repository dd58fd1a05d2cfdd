"""Results of `promote`, `failover` and `failback`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbsync_pipeline.output.base import Json, Result

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.failover.decide import Decision
    from dbsync_pipeline.mirror.failover.observe import Observation
    from dbsync_pipeline.mirror.failover.promote import Promotion
    from dbsync_pipeline.runs.launch import JobRun


@dataclass(frozen=True)
class Promoted(Result):
    """The outcome of a promotion."""

    promotion: Promotion

    def json(self) -> Promotion:
        """Return the promotion."""
        return self.promotion


@dataclass(frozen=True)
class Rehearsed(Result):
    """What a failover would do. Nothing was changed.

    It is a failure if a failover was requested, there is nothing to do, and yet the primary does
    not answer.
    """

    seen: Sequence[Observation]
    decision: Decision
    requested: bool

    def json(self) -> Json:
        """Return `{run_id, seen, decision}`, where `run_id` is null."""
        return {"run_id": None, "seen": self.seen, "decision": self.decision}

    @property
    def ok(self) -> bool:
        """Whether this was a rehearsal, or the primary answers."""
        primary = self.decision.primary
        return not self.requested or any(seen.answers for seen in self.seen if seen.name == primary)


@dataclass(frozen=True)
class Ended(Result):
    """How a run of the failover or failback job ended."""

    run: JobRun

    def json(self) -> JobRun:
        """Return the run."""
        return self.run

    @property
    def ok(self) -> bool:
        """Whether the run succeeded."""
        return self.run.succeeded
