"""Who the primary is: the terms that the databases keep, and what they say together.

A term is the pair (n, primary). Each database keeps the highest that it took, and takes only a higher one, so it gives its voice once
for each n. A primary takes its own term last, when a majority has it: two databases never hold one n. With no term anywhere the
primary is the one that the settings name. (A failback is the exception: the primary takes its term with the publish, and it counts
once the former one took it.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbsync_pipeline.errors import Refused, SettingsError
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.mirror.ledger import Ledger, Term
from dbsync_pipeline.settings import Settings


@dataclass(frozen=True)
class Standing:
    """What the databases say of the primary.

    `primary` has the term `term`; n is 0 where the settings alone name it. `taken` has the term of each database that answers, None
    where it took none; `silent` has the others, and why. `pending` is a higher term that does not hold: a promotion or a failback that
    did not end. `certain` says that a majority answers, so that no newer primary can be hidden among the silent.
    """

    primary: str
    term: Term
    taken: Mapping[str, Term | None]
    silent: Mapping[str, str]
    pending: Term | None
    certain: bool

    @property
    def highest(self) -> int:
        """The highest n that any database that answers knows; 0 for none."""
        return max((term.n for term in self.taken.values() if term), default=0)


def standing(
    among: Sequence[Database], settings: Settings, seconds: float | None = None
) -> Standing:
    """Ask all databases for their terms, at the same time, each for at most `seconds` (`DBSYNC_CONNECT_SECONDS`). Changes nothing.

    Raises nothing for databases that are silent. Where too few answer to tell, the primary is that of the highest term among those that
    do: the best that is known, and good enough for the source of a sync, which the term guard refuses where a database knows better.
    """
    answers = ask(among, read_term, settings.connect_seconds if seconds is None else seconds)
    return judge(answers.good, answers.reasons, settings.primary)


def judge(taken: Mapping[str, Term | None], silent: Mapping[str, str], configured: str) -> Standing:
    """As `standing`, of what was read."""
    needed = majority(len(taken) + len(silent))
    known = sorted({term for term in taken.values() if term}, reverse=True)
    holding = next((term for term in known if _holds(term, taken, silent, needed)), None)
    certain = len(taken) >= needed
    if not certain and known:
        holding = known[0]
    term = holding or Term(0, configured)
    pending = next((one for one in known if one.n > term.n), None)
    return Standing(term.primary, term, taken, silent, pending, certain)


def majority(configured: int) -> int:
    """How many of so many databases are more than half."""
    return configured // 2 + 1


def _holds(
    term: Term, taken: Mapping[str, Term | None], silent: Mapping[str, str], needed: int
) -> bool:
    """Whether a majority took it, as far as can be told.

    A primary takes its own term last, so it is believed by itself; but for a failback, which counts once the former primary took the
    term. Of a silent primary the others tell. A database that went on to a higher term counts for a lower one, since it forgot that.
    """
    voices = [
        name for name, other in taken.items() if other and (other == term or other.n > term.n)
    ]
    if term.primary not in silent:
        if term.primary not in voices:
            return False
        own = taken[term.primary]
        if own == term and not own.after:
            return True
        if own == term and own.after in taken:
            return own.after in voices
    return len(voices) >= needed


def read_term(database: Database) -> Term | None:
    """The term that a database took; None where it took none. Raises DbsyncError where it cannot be read."""
    with database.connect() as dialect:
        ledger = Ledger(dialect)
        return ledger.term() if ledger.exists() else None


def primary(settings: Settings) -> str:
    """The name of the primary: by the terms of the databases that answer, else by the settings. See `standing`."""
    known = databases(settings)
    return standing(known, settings).primary if len(known) > 1 else settings.primary


def give(term: Term, among: Sequence[Database], seconds: float) -> dict[str, str]:
    """Let these databases take a term, each in a transaction of its own and within its deadline; a second call is the same.

    Returns those that did not, by name, and why.
    """
    return ask(among, lambda database: _take(database, term), seconds).reasons


def _take(database: Database, term: Term) -> None:
    with database.connect() as dialect, dialect.doing("take a term"), dialect.connection.begin():
        ledger = Ledger(dialect)
        if not ledger.exists():
            raise SettingsError("it has no ledger", operation="take a term", database=database.name)
        if not ledger.take_term(term):
            raise Refused(
                f"it took {ledger.term()} before", operation="take a term", database=database.name
            )
