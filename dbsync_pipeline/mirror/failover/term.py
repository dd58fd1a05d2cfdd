"""Who the primary is: the term that each database has recorded, and what all of them say together.

A term is the pair (n, primary). As in Raft, each database keeps the highest term that it recorded
and accepts only a higher one, so it votes at most once for each n. A primary records its own term
last, when a majority has it: two databases never hold one n. If no database has a term, the primary
is the one that the settings name. (A failback is the exception: the primary records its term with
the publish, and the term counts once the former primary has recorded it too.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dbsync_pipeline.errors import Refused, SettingsError
from dbsync_pipeline.mirror import outcome
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.distinct import duplicates
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.mirror.ledger import Ledger, Term
from dbsync_pipeline.settings import Settings


@dataclass(frozen=True)
class Standing:
    """The current primary, as far as the databases know it.

    `primary` has the term `term`; its n is 0 if only the settings name it. `taken` has the recorded
    term of each database that answers, None for none; `silent` has the reason of each that does
    not. `pending` is a higher term that does not count: a promotion or a failback that did not
    finish. `certain` is true if a majority answers: then no silent one can know a
    newer primary. `duplicates` has names that lead to the same database as an earlier one; they
    have no vote, and are among the silent.
    """

    primary: str
    term: Term
    taken: Mapping[str, Term | None]
    silent: Mapping[str, str]
    pending: Term | None
    certain: bool
    duplicates: Mapping[str, str] = field(default_factory=dict)

    @property
    def highest(self) -> int:
        """The highest n that any database that answers has recorded; 0 for none."""
        return max((term.n for term in self.taken.values() if term), default=0)

    def is_primary(self, name: str) -> bool:
        """Whether that database is the primary, and no promotion or failback is unfinished."""
        return self.primary == name and self.pending is None


def standing(
    among: Sequence[Database], settings: Settings, seconds: float | None = None
) -> Standing:
    """Read the terms of all databases at the same time, each within `seconds`
    (`DBSYNC_CONNECT_SECONDS`). Changes nothing.

    Raises nothing for databases that are silent. If less than a majority answers, the primary is
    that of the highest term among those: the best that is known, and good enough for the source of
    a sync, which the term guard refuses if a database knows a newer one.
    """
    limit = settings.connect_seconds if seconds is None else seconds
    replies = ask(among, _read, limit)
    identities = {name: identity for name, (_, identity) in replies.good.items()}
    same = duplicates(among, identities, limit)
    taken = {name: term for name, (term, _) in replies.good.items() if name not in same}
    silent = replies.reasons | {name: same_database(name, other) for name, other in same.items()}
    return replace(judge(taken, silent, settings.primary), duplicates=same)


def same_database(name: str, other: str) -> str:
    """The reason why the second of two names of one database has no vote."""
    return f"it is the same database as {other}: correct DBSYNC_{name.upper()}_URL"


def judge(taken: Mapping[str, Term | None], silent: Mapping[str, str], configured: str) -> Standing:
    """Return the standing that follows from the terms that were read; `configured` is the primary
    of the settings.
    """
    needed = majority(len(taken) + len(silent))
    known = sorted({term for term in taken.values() if term}, reverse=True)
    holding = next((term for term in known if _counts(term, taken, silent, needed)), None)
    certain = len(taken) >= needed
    if not certain and known:
        holding = known[0]
    term = holding or Term(0, configured)
    pending = next((other for other in known if other.n > term.n), None)
    return Standing(term.primary, term, taken, silent, pending, certain)


def majority(configured: int) -> int:
    """Return how many of that number of databases are more than half."""
    return configured // 2 + 1


def no_majority(
    operation: str, name: str, have: int, needed: int, missing: Mapping[str, str]
) -> Refused:
    """The refusal of an operation on that database because too few databases take part; `missing`
    has the others and why.
    """
    absent = "; ".join(f"{other}: {why}" for other, why in missing.items())
    return Refused(
        f"only {have} of the {needed} databases that make a majority take part ({absent})",
        operation=operation,
        database=name,
        remedy="start another database; or, if one is lost for good, remove it from the settings "
        "on every machine",
    )


def _counts(
    term: Term, taken: Mapping[str, Term | None], silent: Mapping[str, str], needed: int
) -> bool:
    """Whether a majority recorded the term, as far as can be determined.

    A primary records its own term last, so its record alone is sufficient, except during a
    failback, when the former primary's record is needed too. If the primary is silent, the votes of
    the others decide. A database with a higher term counts as a vote for a lower one, since the
    higher one replaced its record.
    """
    votes = {name for name, other in taken.items() if other and (other == term or other.n > term.n)}
    if term.primary not in silent:
        if term.primary not in votes:
            return False
        own = taken[term.primary]
        if own == term and not own.after:
            return True
        if own == term and own.after in taken:
            return own.after in votes
    return len(votes) >= needed


def read_term(database: Database) -> Term | None:
    """Return the term that a database has recorded, None for none. Raise DbsyncError if it cannot
    be read.
    """
    with database.connect() as dialect:
        return Ledger(dialect).term()


def _read(database: Database) -> tuple[Term | None, str]:
    """The recorded term, and the identity of the ledger."""
    with database.connect() as dialect:
        ledger = Ledger(dialect)
        return ledger.term(), ledger.identity()


def primary(settings: Settings) -> str:
    """Return the name of the primary, by the terms of the databases that answer, or by the
    settings. See `standing`.
    """
    known = databases(settings)
    return standing(known, settings).primary if len(known) > 1 else settings.primary


def give(term: Term, among: Sequence[Database], seconds: float) -> dict[str, str]:
    """Let these databases record a term, each in a transaction of its own and within its deadline.

    Return those that did not, by name, with the reason. A second call does the same.
    """
    return ask(among, lambda database: _record(database, term), seconds).reasons


def _record(database: Database, term: Term) -> None:
    with (
        database.connect() as dialect,
        outcome.transaction(
            dialect, database, lambda again: Ledger(again).term() == term, operation="record a term"
        ),
    ):
        ledger = Ledger(dialect)
        if not ledger.exists():
            raise SettingsError(
                "it has no ledger", operation="record a term", database=database.name
            )
        if not ledger.take_term(term):
            raise Refused(
                f"it has already recorded {ledger.term()}",
                operation="record a term",
                database=database.name,
            )
