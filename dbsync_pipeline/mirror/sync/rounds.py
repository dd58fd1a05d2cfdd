"""One state of a source for all standbys of a round, and its digests computed once.

The standbys of one request are synced one after another. Each sync has a snapshot of its own, in
which the source would be read again, and the application may have written meanwhile. A `Round`
keeps the first sync's snapshot open in a session of its own. The next syncs import it, so that all
standbys receive the same state, and what a look found at that state is not looked for again.

Nothing depends on it: a sync that cannot import the snapshot has one of its own, from which the
round goes on. So has one whose standby received a later state meanwhile, since no standby goes
back.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from dbsync_pipeline.dialects.contract import Dialect, SharesSnapshots
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DatabaseError, Transient
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger, Term
from dbsync_pipeline.mirror.look import Looks

_log = logging.getLogger(__name__)


class Round:
    """The open state of a source, for one sync after another. Close it after the last."""

    def __init__(self) -> None:
        self._holder: Dialect | None = None
        self._name = ""
        self._snapshot_at: dt.datetime | None = None
        self._highest = 0
        self._term: Term | None = None
        self.looks = Looks()
        """What looks at this state found."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the state up."""
        if self._holder is not None:
            self._holder.close()
        self._holder, self.looks = None, Looks()

    def make_way(self) -> None:
        """Give the state up if somebody waits to alter or empty a table; call it between syncs.

        A sync keeps its snapshot to its end, but not one sync after another.
        """
        if not isinstance(self._holder, SharesSnapshots):
            return
        try:
            why = "another session waits for a lock" if self._holder.is_waited_for() else ""
        except (DatabaseError, Transient) as error:
            why = error.cause
        if why:
            _log.warning("%s: the next standbys get a later state: %s", self._holder.name, why)
            self.close()

    def begin(
        self, database: Database, source: Dialect, target: Dialect, tables: Sequence[Table]
    ) -> dt.datetime:
        """Begin the snapshot of a sync, as `Dialect.snapshot` does: this round's, if it has one.

        `source` is an open session of `database`. The target is locked.
        """
        if self._holder is None or self._snapshot_at is None:
            return self._begin_another(database, source, tables)
        why = self._is_overtaken(source, Ledger(target), self._snapshot_at)
        if not why:
            try:
                assert isinstance(source, SharesSnapshots)
                source.import_snapshot(self._name, tables)
                return self._snapshot_at
            except (DatabaseError, Transient) as error:
                why = error.cause
        _log.warning(
            "%s: %s gets a later state than the standbys before it in this round: %s",
            source.name,
            target.name,
            why,
        )
        return self._begin_another(database, source, tables)

    def _is_overtaken(self, source: Dialect, target: Ledger, snapshot_at: dt.datetime) -> str:
        """Why this round's state must not be used for the target; empty if it may.

        A source that was replaced as primary meanwhile does not know so in that state.
        """
        term = Ledger(source).term()
        source.rollback()
        if term != self._term:
            return f"{source.name} has recorded another term"
        last, _ = target.held()
        if last and (last.as_of > snapshot_at or target.number() > self._highest):
            return "it has received or confirmed a later state"
        return ""

    def _begin_another(
        self, database: Database, source: Dialect, tables: Sequence[Table]
    ) -> dt.datetime:
        self.close()
        self._snapshot_at = source.snapshot(tables)
        if isinstance(source, SharesSnapshots):
            try:
                self._hold(database, source.export_snapshot(), tables)
            except (DatabaseError, Transient) as error:
                _log.warning(
                    "%s: the standbys of this round may get different states: %s",
                    source.name,
                    error.cause,
                )
                self.close()
        return self._snapshot_at

    def _hold(self, database: Database, name: str, tables: Sequence[Table]) -> None:
        """Keep the snapshot of that name open."""
        self._holder = holder = database.at_once.open("dbsync: round")
        assert isinstance(holder, SharesSnapshots)
        holder.import_snapshot(name, tables)
        self._name, ledger = holder.export_snapshot(), Ledger(holder)
        self._highest, self._term = ledger.number(), ledger.term()
