"""Make a standby the primary: a majority of the databases records the next term, and the new
primary records it last.

A promotion moves no rows. It is refused if another database holds a state that the new primary does
not know, since the next sync would overwrite that newer state with the older one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from dbsync_pipeline.errors import Refused, Unavailable
from dbsync_pipeline.mirror import outcome, remedies
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.failover.observe import Observation, probe, standing
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.mirror.ledger import Ledger, Publish, Term
from dbsync_pipeline.settings import Settings
from dbsync_pipeline.text import count


@dataclass(frozen=True)
class Promotion:
    """`primary` has `term`; `took` are all databases that recorded it. `missing` did not, and why;
    they record it with their next sync.

    `held_at` (UTC) is the moment of the former primary's state that the new one holds: later writes
    there are not in it.
    """

    primary: str
    former: str
    term: Term
    took: tuple[str, ...]
    missing: Mapping[str, str]
    held_at: dt.datetime | None


def consequences(settings: Settings, name: str, overwrite: bool = False) -> str:
    """Return what a promotion of this database would mean, for the person who confirms it. Reads
    ledgers only.

    Raises what `promote` would raise, so that nobody confirms what is refused afterwards.
    """
    settings.database(name)
    among = {database.name: database for database in databases(settings)}
    seen = probe(list(among.values()), settings.connect_seconds)
    current = standing(seen, settings)
    chosen = next(observation for observation in seen if observation.name == name)
    if current.is_primary(name):
        return f"{name} is already the primary; databases that have not recorded this do so now"
    _require_fit(chosen)
    lacking = _lacking(settings, among, current, chosen, overwrite)
    parts = [f"{name} replaces {current.primary} as the primary. {_age(chosen, current.primary)}"]
    if chosen.mixed:
        parts.append("its last publish was partial, so its tables are of different states")
    if lacking:
        parts.append(
            f"{_states(lacking)} is not in it; the next sync moves those rows to the rescue tables"
        )
    return "; ".join(parts)


def promote(settings: Settings, name: str, *, overwrite: bool = False) -> Promotion:
    """Make a database the primary: the others record the next term, then it does, if that makes a
    majority. A second call does the same.

    Moves no rows and does not repoint the application. Raises SettingsError for an unknown name,
    Unavailable if the database does not answer, Refused if it is paused, if there is no majority,
    or if another database holds a newer state that it does not know (unless `overwrite`).
    """
    settings.database(name)
    among = {database.name: database for database in databases(settings)}
    seen = {
        observation.name: observation
        for observation in probe(list(among.values()), settings.connect_seconds)
    }
    current = standing(list(seen.values()), settings)
    chosen = seen[name]
    if current.is_primary(name):
        return _repeat(settings, among, current, chosen)
    _require_fit(chosen)
    needed = term.majority(len(among))
    if len(current.taken) < needed:
        raise term.no_majority("promote", name, len(current.taken), needed, current.silent)
    _lacking(settings, among, current, chosen, overwrite)
    new = Term(current.highest + 1, name)
    others = [among[other] for other in current.taken if other != name]
    missing = {**current.silent, **term.give(new, others, settings.connect_seconds)}
    took = [other.name for other in others if other.name not in missing]
    if len(took) + 1 < needed:
        raise term.no_majority("promote", name, len(took) + 1, needed, missing)
    _become_primary(among[name], new, max(observation.number for observation in seen.values()))
    return Promotion(name, current.primary, new, (*took, name), missing, chosen.snapshot_at)


def unknown_states(among: Mapping[str, Database], name: str, seconds: float) -> dict[str, Publish]:
    """Return the states that other databases hold and this one does not know, by who holds them,
    the newest first.

    This database was restored from a backup, or is behind them. A state with the same rows is
    known, whatever its number; a state that its source could not number is compared by its time.
    """
    others = [database for database in among.values() if database.name != name]
    replies = ask(others, _last_publish, seconds)
    received = [(last, newness) for last, newness in replies.good.values() if last is not None]
    with among[name].connect() as dialect:
        ledger = Ledger(dialect)
        unknown = [last for last, newness in received if _is_unknown(last, newness, ledger)]
    unknown.sort(key=lambda last: (last.as_of, last.state), reverse=True)
    return {last.target: last for last in unknown}


def _is_unknown(received: Publish, newness: int, ledger: Ledger) -> bool:
    own = ledger.last()
    if own is not None and _same_rows(own, received):
        return False
    if received.numbered:
        return not ledger.knows(received) or ledger.is_older_than(received, newness)
    return own is not None and own.as_of < received.as_of


def _same_rows(first: Publish, other: Publish) -> bool:
    """Whether both publishes left the same rows, by the digests of all tables."""
    if first.partial or other.partial or first.tables.keys() != other.tables.keys():
        return False
    return all(table.digest == other.tables[name].digest for name, table in first.tables.items())


def older(name: str, lacking: Mapping[str, Publish], operation: str, also: str = "") -> Refused:
    """The refusal of an operation on a database that does not know the states in `lacking`; `also`
    goes behind the remedy.
    """
    return Refused(
        f"it does not know {_states(lacking)}: it was restored from a backup, or is an older "
        "standby",
        operation=operation,
        database=name,
        remedy=remedies.bring_up(name, next(iter(lacking))) + also,
    )


def _lacking(
    settings: Settings,
    among: Mapping[str, Database],
    current: term.Standing,
    chosen: Observation,
    overwrite: bool,
) -> dict[str, Publish]:
    """Return the states of others that the chosen database does not know. Raise Refused for one of
    another round, unless `overwrite`.

    The standbys of one round are synced one after another, so one of them may be newer than the
    chosen one. Any other unknown state means that the chosen database was restored from a backup,
    or missed a round.
    """
    unknown = unknown_states(among, chosen.name, settings.connect_seconds)
    is_primary = chosen.name == current.primary
    lacking = {
        name: last
        for name, last in unknown.items()
        if is_primary or chosen.round is None or chosen.round != last.round
    }
    if lacking and not overwrite:
        anyway = f"; to lose what the others have more: {remedies.promote_anyway(chosen.name)}"
        raise older(chosen.name, lacking, "promote", anyway)
    return unknown


def _last_publish(database: Database) -> tuple[Publish | None, int]:
    with database.connect() as dialect:
        return Ledger(dialect).held()


def _states(lacking: Mapping[str, Publish]) -> str:
    return ", ".join(
        f"state {last.state} of {last.snapshot_at:%Y-%m-%d %H:%M:%S} UTC on {name}"
        for name, last in lacking.items()
    )


def _age(standby: Observation, primary: str) -> str:
    if standby.snapshot_at is None:
        return f"It was never published to, so it may hold nothing of {primary}"
    age = dt.datetime.now(dt.UTC) - standby.snapshot_at
    minutes = round(age.total_seconds() / 60)
    return (
        f"It holds the state of {standby.snapshot_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"{count(minutes, 'minute')} ago: later writes to {primary} are not in it"
    )


def _require_fit(chosen: Observation) -> None:
    if chosen.reason:
        raise Unavailable(
            chosen.reason,
            operation="promote",
            database=chosen.name,
            remedy="promote a database that answers",
        )
    if chosen.held:
        raise Refused(
            f"it is paused: {chosen.held}",
            operation="promote",
            database=chosen.name,
            remedy=f"`dbsync resume {chosen.name}` first",
        )


def _become_primary(database: Database, new: Term, above: int) -> None:
    """Record the new primary's own term, and reserve a number above all published ones: no standby
    then knows a state that it does not.
    """
    with (
        database.connect() as dialect,
        outcome.transaction(
            dialect, database, lambda again: Ledger(again).term() == new, operation="promote"
        ),
    ):
        ledger = Ledger(dialect)
        if not ledger.take_term(new):
            raise Refused(
                f"it recorded {ledger.term()} meanwhile",
                operation="promote",
                database=database.name,
                remedy="see `dbsync failover --dry-run`",
            )
        ledger.inherited_number(above, dt.datetime.now(dt.UTC))


def _repeat(
    settings: Settings, among: Mapping[str, Database], current: term.Standing, chosen: Observation
) -> Promotion:
    """The database is already the primary: let those record the term that have not."""
    behind = [
        among[name]
        for name, recorded in current.taken.items()
        if current.term.n and recorded != current.term
    ]
    missing = {**current.silent, **term.give(current.term, behind, settings.connect_seconds)}
    took = tuple(name for name in current.taken if name not in missing) if current.term.n else ()
    return Promotion(chosen.name, chosen.name, current.term, took, missing, chosen.snapshot_at)
