"""The decision of a failover: a pure function of what was seen.

Bringing the other standbys up to the newest one is always safe: all of them are past states of one
primary. Promoting is not, so it takes evidence that the application has moved: local writes on
exactly one standby. Without evidence a person decides, by `dbsync promote`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.failover.observe import Observation, answers, standing
from dbsync_pipeline.settings import Settings


@dataclass(frozen=True)
class Decision:
    """What to do: promote `promote` if it is named, then sync each of `targets` from `newest`.
    `primary` is the one before that.
    """

    primary: str
    newest: str | None
    targets: tuple[str, ...]
    promote: str | None
    why: str

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return self.promote is None and not self.targets

    @property
    def steps(self) -> str:
        """The steps as one text, `promote linux, sync azure from linux`."""
        parts = [f"promote {self.promote}"] if self.promote else []
        parts += [f"sync {target} from {self.newest}" for target in self.targets]
        return ", ".join(parts) or "nothing"


def decide(seen: Sequence[Observation], primary: str) -> Decision:
    """Decide what to do about an outage of `primary`, given what was seen of all databases in their
    configured order.

    Nothing is done while the primary answers, or if no database does. Otherwise the standbys are
    brought up to the newest, the first one of several. The standby with local writes is promoted if
    it is the only one, a majority answers, and no other standby is newer, except those of the same
    round: the standbys of one round are synced one after another, however long that takes. A
    standby that has local writes and is not promoted is neither source nor target: a person has to
    look at it.
    """
    if reason := _reason_to_wait(seen, primary):
        return _nothing(primary, reason)
    standbys = [database for database in seen if database.name != primary and database.electable]
    if not standbys:
        obstacles = "; ".join(
            f"{database.name} {_unfit(database)}" for database in seen if database.name != primary
        )
        return _nothing(
            primary, f"{primary} does not answer, and no standby can replace it: {obstacles}"
        )
    newest = max(standbys, key=_newness)  # the first of several
    writers = [database for database in standbys if database.own_writes]
    if not writers:
        targets = tuple(database.name for database in standbys if _is_older(database, newest))
        return Decision(primary, newest.name, targets, None, _no_evidence(primary, newest))
    if obstacle := _obstacle(seen, newest, writers):
        return _nothing(primary, f"{primary} does not answer; no standby is promoted: {obstacle}")
    (writer,) = writers
    targets = tuple(database.name for database in standbys if database is not writer)
    tables = ", ".join(writer.own_writes or ())
    why = f"{primary} does not answer, and the application writes to {writer.name} ({tables})"
    return Decision(primary, writer.name, targets, writer.name, why)


def decide_for(seen: Sequence[Observation], settings: Settings) -> Decision:
    """Decide about the primary that the databases name."""
    return decide(seen, standing(seen, settings).primary)


def _reason_to_wait(seen: Sequence[Observation], primary: str) -> str | None:
    if not any(database.name == primary for database in seen):
        return f"the primary is {primary}, which is not configured: correct DBSYNC_PRIMARY"
    if answers(seen, primary):
        return f"{primary} answers"
    if not any(database.answers for database in seen):
        return "no database answers: the monitor may be cut off from the network"
    return None


def _nothing(primary: str, why: str) -> Decision:
    return Decision(primary, None, (), None, why)


def _no_evidence(primary: str, newest: Observation) -> str:
    return (
        f"{primary} does not answer; no standby is promoted, since none has local writes: "
        f"the application has not moved. The newest is {newest.name}: "
        f"`dbsync promote {newest.name}` when the application is to write there"
    )


def _obstacle(
    seen: Sequence[Observation],
    newest: Observation,
    writers: Sequence[Observation],
) -> str | None:
    """Return what speaks against promoting the standby with local writes; None if nothing does."""
    if len(writers) > 1:
        return f"{' and '.join(database.name for database in writers)} have local writes"
    (writer,) = writers
    if _is_older(writer, newest) and not _same_round(writer, newest):
        return (
            f"{writer.name} has local writes, but {newest.name} has the newer state: "
            f"choose one with `dbsync promote`"
        )
    answering, needed = sum(database.answers for database in seen), term.majority(len(seen))
    if answering < needed:
        return f"only {answering} of {len(seen)} databases answer, a majority is {needed}"
    return None


def _newness(standby: Observation) -> tuple[int, dt.datetime]:
    """By what standbys are ordered. Their numbers are equal if the primary confirmed the states of
    both after it had sent the same number; its time decides then."""
    return standby.number, standby.snapshot_at or dt.datetime.min.replace(tzinfo=dt.UTC)


def _is_older(standby: Observation, newest: Observation) -> bool:
    return _newness(standby) < _newness(newest)


def _same_round(standby: Observation, other: Observation) -> bool:
    return standby.round is not None and standby.round == other.round


def _unfit(standby: Observation) -> str:
    if not standby.answers:
        return "does not answer"
    if standby.reason:
        return f"cannot be read ({standby.reason})"
    if standby.held:
        return f"is paused ({standby.held})"
    if standby.mixed:
        return "is not consistent, since its last publish was partial"
    if not standby.number:
        return "was never published to"
    return "cannot be compared with its last publish"
