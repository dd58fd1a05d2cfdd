"""The number of a publish, and the number of the state that it brings."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import Busy, DatabaseError, OutcomeUnknown, Unavailable
from dbsync_pipeline.mirror import drift, outcome
from dbsync_pipeline.mirror.ledger import Ledger, Numbers, Publish
from dbsync_pipeline.mirror.ledger.numbers import Claim, Renewal, claim_text
from dbsync_pipeline.mirror.sync.comparing import Comparison
from dbsync_pipeline.mirror.sync.opening import Opened
from dbsync_pipeline.mirror.sync.task import Task


@dataclass(frozen=True)
class Numbering:
    """Under which number a sync publishes.

    `state` is the number of the rows' state, `snapshot_at` its time (UTC). `numbered` is true if
    the source recorded the number. `source_numbers` are the states that the source knows, None if
    it has no ledger. `round` is the round in which the state was copied from the primary.
    `confirmed_at` is when a standby that passes on what it received last had that confirmed, and
    `newness` how new it is by that.
    `transaction` is the source's own number of the transaction that recorded the number, `claim`
    names the record; None and empty unless the source recorded it for this sync.
    """

    number: int
    state: int
    numbered: bool
    snapshot_at: dt.datetime
    source_numbers: Numbers | None
    round: str | None = None
    confirmed_at: dt.datetime | None = None
    newness: int = 0
    transaction: int | None = None
    claim: str = ""


def claim(task: Task, opened: Opened, comparisons: Iterable[Comparison]) -> Numbering:
    """Reserve the publish's number on the source before the target uses it.

    A source that is restored from a backup later will not know the number, which a guard sees. A
    standby that passes on what it received records nothing: its state has a number already. Where
    the source cannot be written, the number continues from the target's, and that guard is off.
    """
    passed_on = received_by_source(opened, comparisons)
    numbering = _numbered(task, opened, passing_on=passed_on is not None)
    if passed_on is None:
        return numbering
    return replace(
        numbering,
        state=passed_on.state,
        numbered=passed_on.numbered,
        snapshot_at=passed_on.snapshot_at,
        confirmed_at=passed_on.confirmed_at,
        newness=opened.source_ledger.newness,
        round=passed_on.round,
    )


def renewed(task: Task, confirmed: Publish) -> Renewal | None:
    """Renew the source's claim for this target, in a transaction of its own: it confirms that
    publish once more.

    None if the source cannot be written, or if nobody can tell whether it was: its stamps are then
    as they were, or the next sync hashes its rows.
    """
    renewals = list[Renewal]()

    def recorded(again: Dialect) -> bool:
        return Ledger(again).has_claim(renewals[0].claim)

    with (
        suppress(DatabaseError, Busy, Unavailable, OutcomeUnknown),
        task.source.at_once.connect(task.label) as source,
    ):
        source.limit_lock_wait(task.settings.lock_seconds)
        with outcome.transaction(source, task.source, recorded, operation="renew a claim"):
            renewals.append(Ledger(source).renew_claim(confirmed))
        return renewals[0]
    return None


def received_by_source(opened: Opened, comparisons: Iterable[Comparison]) -> Publish | None:
    """The publish that the source received and passes on; None if the state is its own."""
    received = opened.source_ledger.last
    return received if received and _is_as_received(opened, received, comparisons) else None


def _numbered(task: Task, opened: Opened, *, passing_on: bool) -> Numbering:
    next_number = opened.target_ledger.highest + 1
    known = opened.source_ledger.numbers
    unnumbered = Numbering(
        next_number, next_number, False, opened.snapshot_at, known, task.round_id
    )
    if task.fence is not None:
        return _by_fence(task.fence, unnumbered)
    if known is None or passing_on:
        return unnumbered
    with suppress(DatabaseError, Busy):
        return _by_source(task, unnumbered)
    return unnumbered


def _by_fence(fence: Dialect, unnumbered: Numbering) -> Numbering:
    """Numbered in the transaction that keeps writers out of the source."""
    ledger, highest = Ledger(fence), unnumbered.number - 1
    number = ledger.inherited_number(highest, unnumbered.snapshot_at)
    following = number or max(highest, ledger.number()) + 1
    return replace(unnumbered, number=following, state=following, numbered=number is not None)


def _by_source(task: Task, unnumbered: Numbering) -> Numbering:
    # without waiting for a server that starts, since the target's writers wait meanwhile
    with task.source.at_once.connect(task.label) as source:
        source.limit_lock_wait(task.settings.lock_seconds)
        claim, numbers = _reserve(task, source, unnumbered)
        return replace(
            unnumbered,
            number=claim.number,
            state=claim.number,
            numbered=True,
            source_numbers=numbers,
            transaction=claim.transaction,
            claim=claim_text(claim.number, unnumbered.snapshot_at),
        )


def _reserve(task: Task, source: Dialect, unnumbered: Numbering) -> tuple[Claim, Numbers]:
    """The number, which the source has recorded in a transaction of its own, and what it knows.

    Raise Unavailable, and not OutcomeUnknown, if nobody can tell whether it has: nothing was
    published then, and a reserved number that no publish has is a gap.
    """
    ledger, moment, reserved = Ledger(source), unnumbered.snapshot_at, list[Claim]()

    def recorded(again: Dialect) -> bool:
        return Ledger(again).has_claim(claim_text(reserved[0].number, moment))

    try:
        with outcome.transaction(source, task.source, recorded, operation="reserve a number"):
            reserved.append(ledger.claim_number(unnumbered.number - 1, moment))
            numbers = ledger.numbers()
    except OutcomeUnknown:
        raise Unavailable(
            "the connection was lost, and the database has not answered for "
            f"{task.source.silence_seconds:g} seconds since: nothing was published",
            operation="reserve a number",
            database=source.name,
            remedy=f"run the sync again when {source.name} answers",
        ) from None
    return reserved[0], numbers


def _is_as_received(opened: Opened, received: Publish, comparisons: Iterable[Comparison]) -> bool:
    """Whether the source is a standby that has exactly what it received.

    What it sends then is the state that it received, not a new one.
    """
    return not received.partial and source_is_unchanged(opened, comparisons)


def source_is_unchanged(opened: Opened, comparisons: Iterable[Comparison]) -> bool:
    """Whether every table of the source has what a publish brought it, and nothing else."""
    ledger = Ledger(opened.source)
    return all(_is_unchanged(opened.source, ledger, comparison) for comparison in comparisons)


def _is_unchanged(source: Dialect, ledger: Ledger, comparison: Comparison) -> bool:
    published = ledger.digests(comparison.table.name)
    computed = None if comparison.fills else comparison.source
    return isinstance(
        drift.since_publish(source, comparison.table, published, computed), drift.Unchanged
    )
