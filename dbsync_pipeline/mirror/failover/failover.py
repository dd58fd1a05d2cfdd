"""What to do when the primary does not answer, and how a standby becomes the primary, and the former one again.

The decision is a pure function of what was seen: `decide`. To bring the other standbys up to the newest is safe whatever the truth is, since
all are past states of one primary. To promote is not, so it takes evidence that the application has moved: the standby holds writes of
its own. Without it a person decides: `promote`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import RowKey
from dbsync_pipeline.errors import DbsyncError, Refused, SettingsError, Unavailable
from dbsync_pipeline.mirror import drift, guard, pausing
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.mirror.ledger import Ledger, Publish, TableResult, Term
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue import rescue
from dbsync_pipeline.mirror.sync.session import Observer, Session
from dbsync_pipeline.policy import Policy
from dbsync_pipeline.settings import Settings
from dbsync_pipeline.text import count

PATIENCE = 6
"""The job waits so many times longer for an answer than the sensor does, so that a slow primary is not taken for a dead one."""


# What was seen ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observation:
    """One database as a probe found it.

    `reason` says why it does not answer, or why its ledger could not be read. `number` and `snapshot_at` are of the state that it
    holds, 0 and None without one; `mixed` says that its last publish was of some tables only. `own_writes` are the tables that were written to since;
    None where that was not looked at, or could not be told.
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

    @property
    def electable(self) -> bool:
        """A whole past state of a primary that nobody holds back, of which it is known whether it was written to."""
        return (
            self.answers
            and self.number > 0
            and not self.held
            and not self.mixed
            and self.own_writes is not None
        )


def probe(among: Sequence[Database], seconds: float) -> tuple[Observation, ...]:
    """Each database as it is found within so many seconds, all at the same time. Reads ledgers only, and changes nothing."""
    answers = ask(among, _look, seconds)
    return tuple(_seen(name, answer) for name, answer in answers.items())


def _seen(name: str, answer: Observation | DbsyncError) -> Observation:
    if isinstance(answer, DbsyncError):
        return Observation(name, not isinstance(answer, Unavailable), answer.cause)
    return answer


def _look(database: Database) -> Observation:
    with database.connect() as dialect:
        ledger = Ledger(dialect)
        if not ledger.exists():
            return Observation(database.name, True)
        last = ledger.last()
        return Observation(
            database.name,
            True,
            term=ledger.term(),
            number=last.state if last else 0,
            snapshot_at=last.snapshot_at if last else None,
            held=ledger.fact(pausing.FACT),
            mixed=bool(last and last.partial),
        )


def reign(seen: Sequence[Observation], settings: Settings) -> term.Standing:
    """What the databases, as they were seen, say of the primary."""
    taken = {one.name: one.term for one in seen if one.reason is None}
    silent = {one.name: one.reason for one in seen if one.reason is not None}
    return term.judge(taken, silent, settings.primary)


def own_writes(database: Database, model: Model) -> tuple[str, ...] | None:
    """The tables of a standby that are not as last published; None where that cannot be told. Reads every row of them, in one snapshot."""
    try:
        with database.connect() as dialect:
            dialect.snapshot()
            ledger, written = Ledger(dialect), []
            for table in model.tables:
                match drift.since_publish(dialect, table, ledger.digests(table.name)):
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
    """All databases, waited for `patience` times as long as usual, and of the standbys whether they were written to, where that matters.

    `down` takes the primary for silent, as a rehearsal. Changes nothing.
    """
    seconds = settings.connect_seconds * patience
    among = {one.name: replace(one, connect_seconds=seconds) for one in databases(settings)}
    seen = probe(list(among.values()), seconds)
    primary = reign(seen, settings).primary
    if down:
        seen = tuple(
            replace(one, answers=False, reason="taken for silent") if one.name == primary else one
            for one in seen
        )
    if any(one.answers for one in seen if one.name == primary):
        return seen
    return tuple(
        replace(one, own_writes=own_writes(among[one.name], model)) if _candidate(one) else one
        for one in seen
    )


def _candidate(one: Observation) -> bool:
    return replace(one, own_writes=()).electable


# Since when -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outage:
    """The primary has not answered so many probes in a row, the first of them at `since` (UTC)."""

    primary: str
    failures: int
    since: dt.datetime

    def to_text(self) -> str:
        return json.dumps([self.primary, self.failures, self.since.isoformat()])

    @classmethod
    def from_text(cls, text: str) -> Outage:
        """The inverse of `to_text`."""
        primary, failures, since = json.loads(text)
        return cls(primary, failures, dt.datetime.fromisoformat(since))

    def __str__(self) -> str:
        return f"{self.primary} did not answer {count(self.failures, 'probe')} in a row, since {self.since:%Y-%m-%d %H:%M:%S} UTC"


def tally(
    before: Outage | None, seen: Sequence[Observation], settings: Settings, now: dt.datetime
) -> Outage | None:
    """The outage after one more probe; None when the primary answers, is no database, or nobody answers: then nothing was seen of it."""
    primary = reign(seen, settings).primary
    known = any(one.name == primary for one in seen)
    if (
        not known
        or not any(one.answers for one in seen)
        or any(one.answers for one in seen if one.name == primary)
    ):
        return None
    if before is None or before.primary != primary:
        return Outage(primary, 1, now)
    return replace(before, failures=before.failures + 1)


def due(outage: Outage, settings: Settings, now: dt.datetime) -> bool:
    """It has failed often enough and for long enough."""
    lasted = (now - outage.since).total_seconds()
    return (
        outage.failures >= settings.failover_after_failures
        and lasted >= settings.failover_grace_seconds
    )


# What to do -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """`primary` is the one of now. `targets` are to be synced from `newest`, after `promote` became the primary, where it is named."""

    primary: str
    newest: str | None
    targets: tuple[str, ...]
    promote: str | None
    why: str

    @property
    def nothing(self) -> bool:
        return self.promote is None and not self.targets


def decide(seen: Sequence[Observation], primary: str, alike_seconds: float) -> Decision:
    """What to do about what was seen of all configured databases, in their order, when `primary` is the one of now.

    Nothing while the primary answers, or when nobody does. Else the other standbys are brought up to the newest, of equals to the first. The
    one that was written to is promoted when it is the only one, a majority answers, and no other is newer by more than `alike_seconds`: the
    standbys of one round are synced one after another. One that was written to and is not promoted is neither source nor target: a
    person has to look at it.
    """
    if not any(one.name == primary for one in seen):
        return _nothing(
            primary, f"{primary} is the primary, and is none of the databases: mend DBSYNC_PRIMARY"
        )
    if any(one.answers for one in seen if one.name == primary):
        return _nothing(primary, f"{primary} answers")
    if not any(one.answers for one in seen):
        return _nothing(primary, "no database answers: it may be the monitor that is cut off")
    standbys = [one for one in seen if one.name != primary and one.electable]
    if not standbys:
        why = "; ".join(f"{one.name} {_unfit(one)}" for one in seen if one.name != primary)
        return _nothing(
            primary, f"{primary} does not answer, and no standby can take its place: {why}"
        )
    newest = max(standbys, key=lambda one: one.number)  # the first of those that are alike
    writers = [one for one in standbys if one.own_writes]
    if not writers:
        targets = tuple(one.name for one in standbys if one.number < newest.number)
        return Decision(primary, newest.name, targets, None, _unmoved(primary, newest))
    if obstacle := _obstacle(seen, newest, writers, alike_seconds):
        return _nothing(primary, f"{primary} does not answer; nobody is promoted, since {obstacle}")
    (writer,) = writers
    targets = tuple(one.name for one in standbys if one is not writer)
    why = f"{primary} does not answer, and the application writes to {writer.name} ({', '.join(writer.own_writes or ())})"
    return Decision(primary, writer.name, targets, writer.name, why)


def decided(seen: Sequence[Observation], settings: Settings) -> Decision:
    """As `decide`, with the primary that the databases name, and the settings' grace for what is alike."""
    return decide(seen, reign(seen, settings).primary, settings.failover_grace_seconds)


def _nothing(primary: str, why: str) -> Decision:
    return Decision(primary, None, (), None, why)


def _unmoved(primary: str, newest: Observation) -> str:
    return (
        f"{primary} does not answer; nobody is promoted, since no standby holds writes of its own: the application has not moved. "
        f"The newest is {newest.name}: `dbsync promote {newest.name}` once the application is to write there"
    )


def _obstacle(
    seen: Sequence[Observation],
    newest: Observation,
    writers: Sequence[Observation],
    alike_seconds: float,
) -> str | None:
    """What speaks against promoting the standby that was written to."""
    if len(writers) > 1:
        return f"{' and '.join(one.name for one in writers)} hold writes of their own"
    (writer,) = writers
    if writer.number < newest.number and _seconds_older(writer, newest) > alike_seconds:
        return f"{writer.name} holds writes of its own, but {newest.name} has the newer state: `dbsync promote` says which is to stay"
    answering, needed = sum(one.answers for one in seen), term.majority(len(seen))
    if answering < needed:
        return f"only {answering} of {len(seen)} databases answer, and a majority of {needed} is needed"
    return None


def _seconds_older(one: Observation, other: Observation) -> float:
    assert one.snapshot_at is not None and other.snapshot_at is not None
    return (other.snapshot_at - one.snapshot_at).total_seconds()


def _unfit(one: Observation) -> str:
    if not one.answers:
        return "does not answer"
    if one.reason:
        return f"cannot be read ({one.reason})"
    if one.held:
        return f"is held ({one.held})"
    if one.mixed:
        return "is mixed, since its last publish was of some tables only"
    return (
        "was never published to" if not one.number else "cannot be compared with its last publish"
    )


# Doing it ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promotion:
    """`primary` has `term`; `took` are all that took it. `missing` did not, and why; they learn it by their next sync.

    `held_at` is the moment of the former primary's state that the new one holds: what was written there afterwards is not in it.
    """

    primary: str
    former: str
    term: Term
    took: tuple[str, ...]
    missing: Mapping[str, str]
    held_at: dt.datetime | None


def at_stake(settings: Settings, name: str, overwrite: bool = False) -> str:
    """What a promotion of this database would mean, for the person who decides. Reads ledgers only. Refuses as `promote` does."""
    settings.database(name)
    among = {one.name: one for one in databases(settings)}
    seen = probe(list(among.values()), settings.connect_seconds)
    found = reign(seen, settings)
    one = next(one for one in seen if one.name == name)
    if _is_it(name, found):
        return f"{name} is the primary already; whoever did not hear of it does now"
    lost = "" if one.reason else _lost(settings, among, found, one, overwrite)
    mixed = "; its last publish was of some tables only" if one.mixed else ""
    return f"{name} becomes the primary in the place of {found.primary}. {_holds(one, found.primary)}{mixed}{lost}"


def _is_it(name: str, found: term.Standing) -> bool:
    return found.primary == name and found.pending is None


def _lost(
    settings: Settings,
    among: Mapping[str, Database],
    found: term.Standing,
    chosen: Observation,
    overwrite: bool,
) -> str:
    """What others hold and the chosen one lacks, in words; nothing where it lacks nothing. Refused unless that may be overwritten.

    The standbys of one round are synced one after another and are alike; a primary that lacks a state has lost it.
    """
    grace = dt.timedelta(seconds=settings.failover_grace_seconds)
    lacking = {
        name: last
        for name, last in unknown_states(among, chosen.name, settings.connect_seconds).items()
        if chosen.name == found.primary
        or chosen.snapshot_at is None
        or last.snapshot_at - chosen.snapshot_at > grace
    }
    if lacking and not overwrite:
        raise _older(
            chosen.name,
            lacking,
            "promote",
            f"; if what others have more is to go: {guard.promote_anyway(chosen.name)}",
        )
    return (
        f"; {_in_words(lacking)} is not in it, and goes into the rescue tables with the next sync"
        if lacking
        else ""
    )


def unknown_states(among: Mapping[str, Database], name: str, seconds: float) -> dict[str, Publish]:
    """The states that others which answer hold and this database does not know, by who holds them, the newest first.

    It was restored from a backup, or is behind them. Of a state that its source could not number nothing is known.
    """
    answers = ask([one for one in among.values() if one.name != name], _received, seconds)
    held = [last for last in answers.good.values() if last is not None and last.numbered]
    with among[name].connect() as dialect:
        ledger = Ledger(dialect)
        known = ledger.exists()
        unknown = [last for last in held if not (known and ledger.knows(last))]
    return {
        last.target: last
        for last in sorted(unknown, key=lambda last: (last.snapshot_at, last.state), reverse=True)
    }


def _received(database: Database) -> Publish | None:
    with database.connect() as dialect:
        ledger = Ledger(dialect)
        return ledger.last() if ledger.exists() else None


def _in_words(lacking: Mapping[str, Publish]) -> str:
    return ", ".join(
        f"state {last.state} of {last.snapshot_at:%Y-%m-%d %H:%M:%S} UTC on {name}"
        for name, last in lacking.items()
    )


def _older(
    name: str, lacking: Mapping[str, Publish], operation: str, otherwise: str = ""
) -> Refused:
    return Refused(
        f"it does not know {_in_words(lacking)}: it was restored from a backup, or is an older standby",
        operation=operation,
        database=name,
        remedy=guard.bring_up(name, next(iter(lacking))) + otherwise,
    )


def _holds(one: Observation, primary: str) -> str:
    if one.snapshot_at is None:
        return f"It was never published to, so nothing of {primary} is known to be in it"
    age = dt.datetime.now(dt.UTC) - one.snapshot_at
    minutes = round(age.total_seconds() / 60)
    return (
        f"It holds the state of {one.snapshot_at:%Y-%m-%d %H:%M:%S} UTC, {count(minutes, 'minute')} ago: "
        f"what was written to {primary} since is not in it"
    )


def promote(settings: Settings, name: str, *, overwrite: bool = False) -> Promotion:
    """Make a database the primary: the others take the next term, then it does, when that makes a majority. A second call is the same.

    Moves no rows, and says nothing to the application. Raises SettingsError for an unknown name, Unavailable where it does not answer,
    Refused where it is held, a majority cannot be had, or another database holds a newer state that it does not know (unless `overwrite`).
    """
    settings.database(name)
    among = {one.name: one for one in databases(settings)}
    seen = {one.name: one for one in probe(list(among.values()), settings.connect_seconds)}
    found = reign(list(seen.values()), settings)
    chosen = seen[name]
    if _is_it(name, found):
        return _again(settings, among, found, chosen)
    _may_reign(chosen)
    needed = term.majority(len(among))
    if len(found.taken) < needed:
        raise _no_majority(name, len(found.taken), needed, found.silent)
    _lost(settings, among, found, chosen, overwrite)
    new = Term(found.highest + 1, name)
    others = [among[one] for one in found.taken if one != name]
    missing = {**found.silent, **term.give(new, others, settings.connect_seconds)}
    took = [one.name for one in others if one.name not in missing]
    if len(took) + 1 < needed:
        raise _no_majority(name, len(took) + 1, needed, missing)
    _crown(among[name], new, max(one.number for one in seen.values()))
    return Promotion(name, found.primary, new, (*took, name), missing, chosen.snapshot_at)


def _crown(database: Database, new: Term, above: int) -> None:
    """The new primary takes its term, and a number above all that were published: from now on it is nobody's older source."""
    with database.connect() as dialect, dialect.doing("promote"), dialect.connection.begin():
        ledger = Ledger(dialect)
        if not ledger.take_term(new):
            raise Refused(
                f"it took {ledger.term()} meanwhile",
                operation="promote",
                database=database.name,
                remedy="see `dbsync failover --dry-run`",
            )
        ledger.inherited_number(above)


def _again(
    settings: Settings, among: Mapping[str, Database], found: term.Standing, chosen: Observation
) -> Promotion:
    """The primary already; those that did not hear of it do now."""
    ignorant = [
        among[one] for one, theirs in found.taken.items() if found.term.n and theirs != found.term
    ]
    missing = {**found.silent, **term.give(found.term, ignorant, settings.connect_seconds)}
    took = tuple(one for one in found.taken if one not in missing) if found.term.n else ()
    return Promotion(chosen.name, chosen.name, found.term, took, missing, chosen.snapshot_at)


def _may_reign(chosen: Observation) -> None:
    if chosen.reason:
        raise Unavailable(
            chosen.reason,
            operation="promote",
            database=chosen.name,
            remedy="name a database that answers",
        )
    if chosen.held:
        raise Refused(
            f"it is held: {chosen.held}",
            operation="promote",
            database=chosen.name,
            remedy=f"`dbsync release {chosen.name}` first",
        )


def _no_majority(name: str, have: int, needed: int, missing: Mapping[str, str]) -> Refused:
    absent = "; ".join(f"{one}: {why}" for one, why in missing.items())
    return Refused(
        f"only {have} of the {needed} databases that make a majority take part ({absent})",
        operation="promote",
        database=name,
        remedy="bring another database up, or take one that is gone for ever out of the settings, everywhere",
    )


@dataclass(frozen=True)
class Report:
    """What a failover saw, decided and did. `failed` are targets that were not synced, and why."""

    seen: tuple[Observation, ...]
    decision: Decision
    promotion: Promotion | None = None
    published: tuple[Publish, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def matters(self) -> bool:
        """The primary did not answer, so that a person has to know."""
        return not any(one.answers for one in self.seen if one.name == self.decision.primary)

    @property
    def note(self) -> str:
        """One text for a person: what is the matter, what was done, and what they have to do."""
        decision, lines = self.decision, [self.decision.why]
        if not self.matters:
            return decision.why
        if self.promotion:
            lines.append(
                f"{self.promotion.primary} is the primary now ({self.promotion.term}); point the application to it"
            )
        lines += [
            f"{one.target} was brought up to {one.source} ({count(one.changed, 'row')} changed)"
            for one in self.published
        ]
        lines += [f"{name} was not brought up: {why}" for name, why in self.failed.items()]
        if not decision.nothing and not (self.promotion or self.published or self.failed):
            lines.append(
                f"nothing was done, since DBSYNC_FAILOVER is alert: `dbsync failover` does it ({words(decision)})"
            )
        return "\n".join([*lines, "What to do: docs/failover.md"])


def words(decision: Decision) -> str:
    """What a decision would have done, in words."""
    parts = [f"promote {decision.promote}"] if decision.promote else []
    parts += [f"sync {target} from {decision.newest}" for target in decision.targets]
    return ", ".join(parts) or "nothing"


def failover(
    settings: Settings,
    model: Model,
    run_id: str,
    *,
    act: bool = True,
    patience: float = PATIENCE,
    watch: Callable[[Session], None] | None = None,
) -> Report:
    """Probe with `patience`, decide, and carry the decision out; without `act` only what was decided is reported.

    Each sync is a publish of that run in its target. One that fails does not hold the others back. Raises Refused where a promotion that
    was decided cannot be had; then nothing is synced either, since the newest holds writes that are nobody's yet.
    """
    seen = observe(settings, model, patience=patience)
    decision = decided(seen, settings)
    if not act or decision.nothing:
        return Report(seen, decision)
    # the decision has weighed already what others hold
    promotion = promote(settings, decision.promote, overwrite=True) if decision.promote else None
    by_name = {one.name: one for one in databases(settings)}
    published, failed = list[Publish](), dict[str, str]()
    for target in decision.targets:
        assert decision.newest is not None
        session = Session(
            by_name[decision.newest], by_name[target], model, run_id=run_id, settings=settings
        )
        try:
            published.append(_whole(session, model, watch))
        except DbsyncError as error:
            failed[target] = str(error)
    return Report(seen, decision, promotion, tuple(published), failed)


def _whole(session: Session, model: Model, watch: Callable[[Session], None] | None) -> Publish:
    """A sync from its first step to its last."""
    with session:
        if watch is not None:
            watch(session)
        session.ensure_schema()
        for table in model.names:
            session.copy(table)
        return session.publish()


# Back -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failback:
    """The configured primary is the primary again. `rescued` has, by table, the keys of its rows that were `deleted` and `replaced`: those
    that it had alone, and those that were otherwise there. `missing` did not take the term, and why."""

    primary: str
    former: str
    term: Term
    publication: Publish
    rescued: Mapping[str, Mapping[str, Sequence[RowKey]]]
    missing: Mapping[str, str]

    @property
    def note(self) -> str:
        """One text for a person: what was done, and what they have to do."""
        lines = [
            f"{self.primary} is the primary again ({self.term}), equal to {self.former}; point the application to it"
        ]
        for table, changes in self.rescued.items():
            for change, keys in changes.items():
                if keys:
                    lines.append(
                        f"table {table}: {count(len(keys), 'row')} {change}, with keys {_keys(keys)}"
                    )
        if self.rescued:
            lines.append(f"they are kept: `dbsync rescue show {self.publication.run_id}`")
        return "\n".join(
            lines + [f"{name} did not take the term: {why}" for name, why in self.missing.items()]
        )


def failback(
    settings: Settings,
    model: Model,
    run_id: str,
    *,
    policy: Policy | None = None,
    observe: Observer | None = None,
    watch: Callable[[Session], None] | None = None,
) -> Failback:
    """Sync the configured primary from the primary of now, and make it the primary, while nobody can write to the one of now.

    Writers there wait until it is done. The configured primary takes the next term with the publish, the former one in the transaction that
    keeps its writers out, the others right after. What the configured primary had alone stands in its rescue tables. After a call that was
    cut off before the former one took the term nothing has changed hands: a second call does it all again. Raises SettingsError where it
    is the primary already, Refused where a majority does not answer, the primary of now lacks what another standby holds, or a guard
    stands, Busy, or what a database says.
    """
    among = {one.name: one for one in databases(settings)}
    found = term.standing(list(among.values()), settings)
    _may_return(settings, found)
    former, target = among[found.primary], among[settings.primary]
    others = {name: one for name, one in among.items() if one is not target}
    if lacking := unknown_states(others, former.name, settings.connect_seconds):
        raise _older(former.name, lacking, "failback")
    new = Term(found.highest + 1, target.name, after=former.name)
    allowed = (policy or settings.policy).model_copy(update={"overwrite": True})
    with former.connect(f"dbsync run {run_id}") as fence:
        # before the source's snapshot, so that what a writer committed is in it, and whoever comes later waits
        fence.begin(model.tables, wait_seconds=settings.lock_seconds)
        session = Session(
            former,
            target,
            model,
            run_id=run_id,
            settings=settings,
            policy=allowed,
            observe=observe,
            fence=fence,
            new_term=new,
        )
        publication = _whole(session, model, watch)
        _become_standby(fence, target, publication, replace(new, after=None))
        fence.commit()
    new = _settled(target, new)
    rest = [one for name, one in others.items() if name in found.taken and one is not former]
    missing = {**found.silent, **term.give(new, rest, settings.connect_seconds)}
    if len(among) - len(missing) < term.majority(len(among)):
        raise _no_majority(
            target.name, len(among) - len(missing), term.majority(len(among)), missing
        )
    return Failback(
        target.name,
        former.name,
        new,
        publication,
        rescue.rescued_keys(target, model, run_id),
        missing,
    )


def _may_return(settings: Settings, found: term.Standing) -> None:
    name = settings.primary
    if name in found.silent:
        raise Unavailable(
            found.silent[name], operation="failback", database=name, remedy=f"bring {name} up first"
        )
    needed = term.majority(len(found.taken) + len(found.silent))
    if len(found.taken) < needed:
        raise _no_majority(name, len(found.taken), needed, found.silent)
    if found.primary == name:
        raise SettingsError(
            f"{name} is the primary already",
            operation="failback",
            database=name,
            remedy="nothing is to be done"
            if found.pending is None
            else f"`dbsync promote {name}` ends the promotion that was cut off",
        )


def _become_standby(fence: Dialect, primary: Database, publication: Publish, new: Term) -> None:
    """The former primary equals the new one: its ledger says so, as if it had received that publish, or what was written there since its
    own last one would count as foreign for ever."""
    ledger = Ledger(fence)
    with primary.connect() as dialect:
        digests, identity = Ledger(dialect), Ledger(dialect).identity()
        for name in publication.tables:
            ledger.keep_digests(publication.number, name, digests.digests(name))
    ledger.record(
        replace(
            publication,
            run_id=f"kept-{publication.run_id}",
            source=publication.target,
            target=publication.source,
            tables={
                name: TableResult(one.rows, 0, 0, 0, 0, one.digest, 0.0, one.digest)
                for name, one in publication.tables.items()
            },
            seconds={},
        ),
        identity,
    )
    ledger.take_term(new)


_NAMED = 20
"""So many keys are named in a text; the rest is in the JSON and in the rescue tables."""


def _keys(keys: Sequence[RowKey]) -> str:
    return ", ".join("/".join(map(str, key)) for key in keys[:_NAMED]) + (
        ", …" if len(keys) > _NAMED else ""
    )


def back_note(seen: Sequence[Observation], settings: Settings) -> str | None:
    """What a person has to know when the configured primary answers and another database is the primary; None where that is not so."""
    found = reign(seen, settings)
    if found.primary == settings.primary or not any(
        one.answers for one in seen if one.name == settings.primary
    ):
        return None
    return (
        f"{settings.primary} answers again, but {found.primary} is the primary ({found.term}): syncs from {settings.primary} are refused. "
        f"See that no application writes to {settings.primary}; `dbsync failback` gives it its place back (docs/failover.md)"
    )


def _settled(primary: Database, new: Term) -> Term:
    """The former primary has the term, so it counts by itself; where that cannot be noted, the former one's ledger still says so."""
    with (
        contextlib.suppress(DbsyncError),
        primary.connect() as dialect,
        dialect.doing("settle the term"),
        dialect.connection.begin(),
    ):
        Ledger(dialect).settle_term()
    return replace(new, after=None)
