"""The term that a database accepted."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from dbsync_pipeline.mirror.ledger.facts import Facts
from dbsync_pipeline.mirror.ledger.records import Term

TERM = "term"
"""The fact that has the term."""


class Terms(Facts):
    """The highest term that the database accepted; it never goes back to a lower one."""

    def term(self) -> Term | None:
        """Return the highest term that this database accepted, None if it accepted none."""
        value = self.fact(TERM)
        return None if value is None else Term.from_text(value)

    def take_term(self, term: Term) -> bool:
        """Accept a term, in the open transaction; return whether the database has it afterwards.

        It does not accept a lower term, another primary for the same n, or a term that somebody
        else replaces at the same moment.
        """
        present = self.term()
        if present is not None and present.n >= term.n:
            return present == term
        with self._dialect.doing("write the ledger"):
            return self._removed(present) and self._inserted(term)

    def settle_term(self) -> None:
        """In the open transaction, make the term valid by itself; a second call does nothing.

        The former primary has accepted it, so the failback that it belongs to has ended.
        """
        present = self.term()
        if present is not None and present.after:
            self.note(TERM, replace(present, after=None).to_text())

    def _removed(self, present: Term | None) -> bool:
        """Delete exactly this term; False if somebody else replaced it.

        Deleted and not updated: a standby's role may not update this table.
        """
        if present is None:
            return True
        facts = self._t.facts
        same = (facts.c.name == TERM, facts.c.value == present.to_text())
        return self._connection.execute(facts.delete().where(*same)).rowcount == 1

    def _inserted(self, term: Term) -> bool:
        facts = self._t.facts
        try:
            with self._dialect.attempt():
                self._connection.execute(facts.insert().values(name=TERM, value=term.to_text()))
        except sa.exc.IntegrityError:
            return False
        return True
