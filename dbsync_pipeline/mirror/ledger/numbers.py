"""The states that a database knows, by number, and the next number of a primary."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass, replace

import sqlalchemy as sa

from dbsync_pipeline.errors import DatabaseError
from dbsync_pipeline.mirror.ledger.confirmations import Confirmed
from dbsync_pipeline.mirror.ledger.facts import GIVEN
from dbsync_pipeline.mirror.ledger.records import Numbers, Publish

_NUMBER = "number"
_UNKNOWN = "strange numbers"
"""The fact with the ranges of unknown numbers; former versions wrote this name, so it stays."""

_CLAIM = "claim "
"""Followed by a target's name: the fact that names the last look at this database for it."""

_RENEWED = "renewed "
"""Followed by a target's name: the fact with the publish that this look confirmed there, and which
of its confirmations it was. It outlives the claim."""


@dataclass(frozen=True)
class Claim:
    """A reserved number, and the number of the transaction that recorded it; None if the engine
    does not number its transactions.
    """

    number: int
    transaction: int | None


@dataclass(frozen=True)
class Renewal:
    """A renewed claim, as `Numbered.has_claim` takes it, and its transaction as in `Claim`."""

    claim: str
    transaction: int | None


class Numbered(Confirmed):
    """The numbers of publishes and states."""

    def number(self) -> int:
        """Return the highest number that this database knows, received or sent; 0 without any.

        The number of a publish is above all numbers and states before it, so the newest publish
        has the highest of both.
        """
        newest, sent = self.newest(), self._sent()
        if newest is None:
            return sent
        return max(sent, newest.number, newest.state, self.held()[1])

    def _sent(self) -> int:
        return int(self.fact(_NUMBER) or 0)

    def numbers(self) -> Numbers:
        """Return the states that this database has or had: sent as a source, or received."""
        return Numbers.read(max(self._sent(), self.held()[1]), self.fact(_UNKNOWN))

    def record_unknown(self, numbers: Numbers) -> None:
        """Record that a standby does not know what the source of its state does not know."""
        self.note(_UNKNOWN, numbers.written)

    def knows(self, received: Publish, numbers: Numbers | None = None) -> bool:
        """Return whether this database has or had the state that a standby received.

        `numbers` is what `numbers` returned, where that was read already.

        A database that was restored from a backup issues the same numbers again. So the number
        alone is no proof: the time of the state must be the one that this database recorded under
        that number, as a source or as a standby.
        """
        if received.state not in (numbers or self.numbers()):
            return False
        sent_at, moment = self.fact(_given(received.state)), received.snapshot_at
        if sent_at is not None:
            return dt.datetime.fromisoformat(sent_at) == moment
        publishes = self._t.publishes
        same_state = self._many(
            sa.func.coalesce(publishes.c.state, publishes.c.number) == received.state,
            publishes.c.undoes.is_(None),
            publishes.c.numbered == sa.true(),
        )
        return not same_state or any(publish.snapshot_at == moment for publish in same_state)

    def is_older_than(self, confirmed: Publish, newness: int) -> bool:
        """Return whether a standby's publish was confirmed by a newer state than this database has.

        `newness` is what `held` returned with it there. Only the primary that confirmed it has sent
        a number that high. Of two standbys that were confirmed after the same number, the time of
        the primary decides, and so it does for a primary that lacks the record of having confirmed
        it: that was restored from a backup, and may have taken the standby's state since.
        """
        if confirmed.confirmed_at is None or not confirmed.numbered:
            return False
        if self._sent() >= newness and not self._lacks_renewal(confirmed):
            return False
        own, own_newness = self.held()
        return own is None or (own_newness, own.as_of) < (newness, confirmed.as_of)

    def _lacks_renewal(self, confirmed: Publish) -> bool:
        """Whether this database has lost its record of having confirmed that publish."""
        if not confirmed.renewed or confirmed.source != self._dialect.name:
            return False
        recorded = (self.fact(f"{_RENEWED}{confirmed.target}") or "0 0").split()
        return tuple(map(int, recorded)) < (confirmed.number, confirmed.renewed)

    def has_claim(self, claim: str) -> bool:
        """Return whether this database itself made the claim: it reserved the number, as
        `claim_text` names it, or renewed the claim of a target.

        A copy of its files has the record only if it was taken later; a database that took
        another's state since then has lost that of a number.
        """
        claimed, _, value = claim.partition(" ")
        name = _given(int(claimed)) if claimed.isdigit() else f"{_CLAIM}{claimed}"
        return bool(value) and self.fact(name) == value

    def renew_claim(self, confirmed: Publish) -> Renewal:
        """Record, in the open transaction, that this database was looked at for the target of that
        publish, and confirms it.

        Replaces the record of the last time; reserves no number.
        """
        target, value = confirmed.target, uuid.uuid4().hex
        with self._dialect.doing("write the ledger"):
            self._put(f"{_CLAIM}{target}", value)
            self._put(f"{_RENEWED}{target}", f"{confirmed.number} {confirmed.confirmations}")
            stamps = self._dialect.stamps()
            return Renewal(f"{target} {value}", stamps.transaction() if stamps else None)

    def forget_given(self) -> None:
        """Forget the states that this database sent, and its claims: it takes another's state, in
        a publish.
        """
        facts = self._t.facts
        sent = sa.or_(*(facts.c.name.startswith(prefix) for prefix in (GIVEN, _CLAIM)))
        with self._dialect.doing("write the ledger"):
            self._connection.execute(facts.delete().where(sent))

    def claim_number(self, above: int, moment: dt.datetime) -> Claim:
        """Reserve this primary's next number, greater than `above`, in the open transaction.

        Two concurrent calls get two numbers. `moment` is the time of the state that is published
        under the number. Numbers up to `above` that this database did not issue are recorded as
        unknown.
        """
        with self._dialect.doing("write the ledger"):
            highest, number = self._next_number(above)
            if above > highest:
                known = self.numbers()
                unknown = (*known.unknown, (highest + 1, above))
                self._put(_UNKNOWN, replace(known, unknown=unknown).written or "")
            self._put(_given(number), moment.isoformat())
            stamps = self._dialect.stamps()
            return Claim(number, stamps.transaction() if stamps else None)

    def inherited_number(self, above: int, moment: dt.datetime) -> int | None:
        """Reserve the next number, in the open transaction, for a new primary, whose state at that
        `moment` it names: the former primary may issue the same number.

        A new primary inherits the numbers that others issued, so none is recorded as unknown.
        Returns None, and the transaction continues, if this role may not write the number.
        """
        try:
            with self._dialect.doing("write the ledger"), self._dialect.attempt():
                number = self._next_number(above)[1]
                self._put(_given(number), moment.isoformat())
                return number
        except DatabaseError:
            return None

    def _next_number(self, above: int) -> tuple[int, int]:
        """Record and return the next number, after the highest number known before it."""
        facts = self._t.facts
        # the update locks the row before it is read, so nobody else reads it meanwhile
        self._connection.execute(
            facts.update().where(facts.c.name == _NUMBER).values(value=facts.c.value)
        )
        highest = self.number()
        number = max(highest, above) + 1
        self._put(_NUMBER, str(number))
        return highest, number


def claim_text(number: int, moment: dt.datetime) -> str:
    """Name the reservation of a number for the state of that moment."""
    return f"{number} {moment.isoformat()}"


def _given(state: int) -> str:
    return f"{GIVEN}{state}"
