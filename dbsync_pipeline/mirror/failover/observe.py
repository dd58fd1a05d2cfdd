"""What each database looked like when it was probed: whether it answers, its term, its state, and
whether it has local writes.

Probes read ledgers only. Whether a standby has local writes costs a read of all its rows, so that
is only looked at where a decision needs it: when the primary does not answer.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dbsync_pipeline.errors import DbsyncError, Unavailable
from dbsync_pipeline.mirror import drift, pausing
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.distinct import duplicates
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.mirror.ledger import Ledger, Term
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.settings import Settings

PATIENCE = 6
"""How many times longer than a sensor's probe the job waits, so that a slow primary does not count
as dead.
"""


@dataclass(frozen=True)
class Observation:
    """One database as a probe saw it. The names of the fields are those of the JSON.

    `reason` says why the database does not answer, or why its ledger could not be read. `number`
    says how new the state is that it holds, as `Ledger.held` does, and `snapshot_at` (UTC) is the
    newest time at which the primary had it; 0 and None without one. `held` is why
    it is paused. `mixed` is true if its last publish was partial. `own_writes` are the tables with
    local writes; None if nobody looked, or if it cannot be determined. `round` is the round of its
    state: standbys of one round were synced one after another.
    """

    name: str
    answers: bool
    reason: str | None = None
    term: Term | None = None
    number: int = 0
    snapshot_at: dt.datetime | None = None
    held: str | None = None
    mixed: bool = False
    own_writes: tuple[str, ...] | None = None
    round: str | None = None

    @property
    def may_have_local_writes(self) -> bool:
        """Whether it holds a consistent state of a primary and is not paused, so that it is worth
        looking for local writes.
        """
        return self.answers and self.number > 0 and not self.held and not self.mixed

    @property
    def electable(self) -> bool:
        """Whether a failover may use it: it holds a consistent state, is not paused, and its local
        writes are known.
        """
        return self.may_have_local_writes and self.own_writes is not None


def probe(among: Sequence[Database], seconds: float) -> tuple[Observation, ...]:
    """Read the ledger of every database at the same time, each within `seconds`. Changes nothing.

    The second of two names of one database cannot be used, and has no vote.
    """
    replies = ask(among, _read, seconds)
    identities = {name: identity for name, (_, identity) in replies.good.items()}
    same = duplicates(among, identities, seconds)
    return tuple(
        Observation(name, True, term.same_database(name, same[name]))
        if name in same
        else _observation(name, reply)
        for name, reply in replies.items()
    )


def probe_known(
    among: Sequence[Database], settings: Settings, seconds: float, primary: str
) -> tuple[Observation, ...]:
    """Probe only the last known `primary` and the configured one; all databases if that one does
    not answer or was replaced.

    Standbys that sleep while nobody uses them (serverless) are not woken. A replacement that
    neither of the two has recorded is not seen, so a caller must probe all databases from time to
    time, and whenever it does not know the primary.
    """
    few = [database for database in among if database.name in (primary, settings.primary)]
    seen = probe(few, seconds)
    terms = [database.term for database in seen if database.term is not None]
    replaced = bool(terms) and max(terms).primary != primary
    if answers(seen, primary) and not replaced:
        return seen
    return probe(among, seconds)


def answers(seen: Sequence[Observation], name: str) -> bool:
    """Whether the database of that name is among those seen and answers."""
    return any(database.answers for database in seen if database.name == name)


def _observation(name: str, reply: tuple[Observation, str] | DbsyncError) -> Observation:
    if isinstance(reply, DbsyncError):
        return Observation(name, not isinstance(reply, Unavailable), reply.cause)
    return reply[0]


def _read(database: Database) -> tuple[Observation, str]:
    """What the ledger has, and its identity."""
    with database.connect() as dialect:
        ledger = Ledger(dialect)
        last, newness = ledger.held()
        observation = Observation(
            database.name,
            True,
            term=ledger.term(),
            number=newness,
            snapshot_at=last.as_of if last else None,
            held=pausing.reason(ledger),
            mixed=bool(last and last.partial),
            round=last.round if last else None,
        )
        return observation, ledger.identity()


def standing(seen: Sequence[Observation], settings: Settings) -> term.Standing:
    """Who the primary is, judged by the terms of the databases as they were seen."""
    taken = {database.name: database.term for database in seen if database.reason is None}
    silent = {database.name: database.reason for database in seen if database.reason is not None}
    return term.judge(taken, silent, settings.primary)


def local_writes(database: Database, model: Model) -> tuple[str, ...] | None:
    """Return the tables of a standby that differ from its last publish; None if that cannot be
    determined.

    Reads the row headers, or every row if the engine has none, in one snapshot.
    """
    try:
        with database.connect() as dialect:
            dialect.snapshot(model.tables)
            ledger, written = Ledger(dialect), []
            for table in model.tables:
                published, stamp = ledger.digests(table.name), ledger.stamp(table.name, "target")
                match drift.since_publish(dialect, table, published, stamp=stamp):
                    case drift.Unknowable():
                        return None
                    case drift.Changed():
                        written.append(table.name)
            return tuple(written)
    except DbsyncError:
        return None


def observe(
    settings: Settings, model: Model, *, patience: float = PATIENCE, down: bool = False
) -> tuple[Observation, ...]:
    """Probe every database, `patience` times longer than usual; if the primary does not answer,
    look for local writes on the standbys.

    `down` treats the primary as if it did not answer, for a rehearsal. Changes nothing.
    """
    seconds = settings.connect_seconds * patience
    among = {
        database.name: replace(database, connect_seconds=seconds)
        for database in databases(settings)
    }
    seen = probe(list(among.values()), seconds)
    primary = standing(seen, settings).primary
    if down:
        seen = tuple(
            _taken_down(observation) if observation.name == primary else observation
            for observation in seen
        )
    if answers(seen, primary):
        return seen
    return tuple(
        replace(observation, own_writes=local_writes(among[observation.name], model))
        if observation.may_have_local_writes
        else observation
        for observation in seen
    )


def _taken_down(primary: Observation) -> Observation:
    return replace(primary, answers=False, reason="treated as down for this rehearsal")
