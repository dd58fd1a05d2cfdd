"""The syncs that found nothing to do: they confirm the last publish instead of adding another.

There is one confirmation, of the newest publish, and each replaces the former. So a schedule of a
minute fills no ledger, and the age of a standby is still that of the newest state of the source
that was equal to it.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from dbsync_pipeline.mirror.ledger.publishes import Publishes
from dbsync_pipeline.mirror.ledger.records import Publish

_FACT = "confirmed"
_OF_THE_LOOK = ("proof", "rows_read", "bytes_read", "read_seconds")
"""What a confirmation replaces in the results of each table."""


@dataclass(frozen=True)
class Confirmation:
    """Of publish `number`, by the sync `run_id` of that `round`: the source's state of `at` (UTC)
    was equal. `count` counts those of this publish. `tables` says how each was compared. `up_to` is
    the highest number that the source knew then, `renewed` as in `Publish`.
    """

    number: int
    run_id: str
    at: str
    count: int
    round: str | None
    tables: dict[str, dict[str, Any]]
    up_to: int = 0
    renewed: int = 0


class Confirmed(Publishes):
    """Publishes, the last of them with its confirmation."""

    def last(self) -> Publish | None:
        """As in `Publishes`, with what its latest confirmation found."""
        return self.held()[0]

    def held(self) -> tuple[Publish | None, int]:
        """Return what `last` returns, and how new it is: the highest number among the states that
        it is at least as new as; 0 without one.

        A source that turned back to rows that it had before confirms a publish whose number is
        lower than the last one that it sent. So numbers alone do not tell which standby is newer.
        """
        last, confirmation = super().last(), self._confirmation()
        if last is None:
            return None, 0
        if confirmation is None or confirmation.number != last.number:
            return last, last.state
        return _confirmed(last, confirmation), max(last.state, confirmation.up_to)

    def confirm(self, publish: Publish, run_id: str, up_to: int) -> None:
        """Record in the open transaction that the sync `run_id` confirmed the last publish.

        `publish` is that publish with its new time of confirmation, round, and proofs. `up_to` is
        the highest number that the source knew in the snapshot that was equal.
        """
        tables = {
            name: {field: asdict(result)[field] for field in _OF_THE_LOOK}
            for name, result in publish.tables.items()
        }
        at, count = publish.as_of.isoformat(), publish.confirmations
        confirmation = Confirmation(
            publish.number, run_id, at, count, publish.round, tables, up_to, publish.renewed
        )
        self.note(_FACT, json.dumps(asdict(confirmation)))

    def confirmed(self) -> Publish | None:
        """Return the publish that was confirmed last, as the sync that did so found it: it has that
        sync's run id, and changed nothing. None if no sync has.
        """
        confirmation = self._confirmation()
        if confirmation is None:
            return None
        publish = self._publish_with(self._t.publishes.c.number == confirmation.number)
        if publish is None:
            return None
        latest = _confirmed(publish, confirmation)
        tables = {
            name: replace(result, inserted=0, updated=0, deleted=0, bytes=0)
            for name, result in latest.tables.items()
        }
        return replace(latest, run_id=confirmation.run_id, tables=tables, seconds={})

    def is_confirmed_by(self, run_id: str) -> bool:
        """Return whether the sync of that id made the latest confirmation."""
        confirmation = self._confirmation()
        return confirmation is not None and confirmation.run_id == run_id

    def _confirmation(self) -> Confirmation | None:
        stored = self.fact(_FACT)
        return None if stored is None else Confirmation(**json.loads(stored))


def _confirmed(publish: Publish, confirmation: Confirmation) -> Publish:
    tables = {
        name: replace(result, **confirmation.tables.get(name, {}))
        for name, result in publish.tables.items()
    }
    return replace(
        publish,
        tables=tables,
        confirmed_at=dt.datetime.fromisoformat(confirmation.at),
        confirmations=confirmation.count,
        round=confirmation.round,
        renewed=confirmation.renewed,
    )
