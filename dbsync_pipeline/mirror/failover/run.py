"""Carry a failover out: probe, decide, promote, and sync the other standbys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror.database import databases
from dbsync_pipeline.mirror.failover.decide import Decision, decide_for
from dbsync_pipeline.mirror.failover.observe import PATIENCE, Observation, answers, observe
from dbsync_pipeline.mirror.failover.promote import Promotion, promote
from dbsync_pipeline.mirror.ledger import Publish
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.settings import Settings
from dbsync_pipeline.text import count


@dataclass(frozen=True)
class Report:
    """What a failover saw, decided and did. `failed` are targets that were not synced, with the
    reason.
    """

    seen: tuple[Observation, ...]
    decision: Decision
    promotion: Promotion | None = None
    published: tuple[Publish, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def matters(self) -> bool:
        """Whether a person has to know: the primary did not answer."""
        return not answers(self.seen, self.decision.primary)

    @property
    def note(self) -> str:
        """The report as text: what is wrong, what was done, and what a person has to do."""
        if not self.matters:
            return self.decision.why
        lines = [self.decision.why]
        if self.promotion:
            lines.append(
                f"{self.promotion.primary} is now the primary ({self.promotion.term}); "
                "point the application to it"
            )
        lines += [
            f"{publish.target} was synced from {publish.source} "
            f"({count(publish.changed, 'row')} changed)"
            for publish in self.published
        ]
        lines += [f"{name} was not synced: {why}" for name, why in self.failed.items()]
        if not (self.decision.nothing or self.promotion or self.published or self.failed):
            lines.append(
                "nothing was done, since DBSYNC_FAILOVER is alert: "
                f"`dbsync failover` does it ({self.decision.steps})"
            )
        return "\n".join([*lines, "What to do: docs/failover.md"])


def failover(
    settings: Settings,
    model: Model,
    run_id: str,
    *,
    act: bool = True,
    patience: float = PATIENCE,
    watch: Callable[[Session], None] | None = None,
) -> Report:
    """Probe with `patience`, decide, and do what was decided; without `act` only report the
    decision.

    Each sync is a publish of that run in its target, and the failure of one does not stop the
    others. `watch` gets every session before it begins, so that a caller can cancel it. Raises
    Refused if a promotion that was decided has no majority; nothing is synced then, since the
    newest standby has local writes that belong to no term yet.
    """
    seen = observe(settings, model, patience=patience)
    decision = decide_for(seen, settings)
    if not act or decision.nothing:
        return Report(seen, decision)
    # `decide` has already compared this standby with the others
    promotion = promote(settings, decision.promote, overwrite=True) if decision.promote else None
    published, failed = _sync_targets(settings, model, run_id, decision, watch)
    return Report(seen, decision, promotion, tuple(published), failed)


def _sync_targets(
    settings: Settings,
    model: Model,
    run_id: str,
    decision: Decision,
    watch: Callable[[Session], None] | None,
) -> tuple[list[Publish], dict[str, str]]:
    among = {database.name: database for database in databases(settings)}
    published, failed = list[Publish](), dict[str, str]()
    for target in decision.targets:
        assert decision.newest is not None
        source = among[decision.newest]
        session = Session(source, among[target], model, run_id=run_id, settings=settings)
        try:
            published.append(sync_all_tables(session, model, watch))
        except DbsyncError as error:
            failed[target] = str(error)
    return published, failed


def sync_all_tables(
    session: Session, model: Model, watch: Callable[[Session], None] | None
) -> Publish:
    """Run a sync from its first step to its publish, and close the session."""
    with session:
        if watch is not None:
            watch(session)
        session.ensure_schema()
        for table in model.names:
            session.copy(table)
        return session.publish()
