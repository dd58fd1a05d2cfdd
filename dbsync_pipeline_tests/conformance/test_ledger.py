"""What the ledger is asked at each sync costs the same after a year of publishes as on the first day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger, Publish, Rescued
from dbsync_pipeline.mirror.rescue.undo import require_undoable
from dbsync_pipeline_tests.worlds import MODEL, prepare, small_world, sync

Pair = tuple[Database, Database]
PUBLISHES = 400


class CountingLedger(Ledger):
    """A ledger that counts the rows that it reads."""

    read = 0

    def _rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        rows = super()._rows(query)
        self.read += len(rows)
        return rows


def record_more(database: Database, last: Publish, *, undoes: dict[int, int] | None = None) -> None:
    """Record as many publishes again as an every-minute schedule makes in a few hours."""
    with database.connect() as dialect, dialect.connection.begin():
        ledger = Ledger(dialect)
        for number in range(last.number + 1, last.number + 1 + PUBLISHES):
            entry = replace(
                last,
                number=number,
                state=number,
                run_id=f"run-{number}",
                undoes=(undoes or {}).get(number),
            )
            ledger.record(entry, ledger.identity())


def test_the_last_publish_and_number_are_read_without_the_history(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    record_more(target, sync(source, target))
    with target.connect() as dialect:
        ledger = CountingLedger(dialect)
        last, number = ledger.last(), ledger.number()
    assert last is not None
    assert (last.run_id, number) == (f"run-{last.number}", last.number)
    assert last.number > PUBLISHES
    assert ledger.read < 10


def test_the_last_publish_is_found_below_more_undone_ones_than_are_read_at_once(
    twins: Pair,
) -> None:
    """Half of the publishes undo the other half, newest first, so the first one is the last."""
    source, target = twins
    prepare(source, small_world())
    first = sync(source, target)
    middle, end = first.number + PUBLISHES // 2, first.number + PUBLISHES
    undone = {number: middle - (number - middle - 1) for number in range(middle + 1, end + 1)}
    record_more(target, first, undoes=undone)
    with target.connect() as dialect:
        assert Ledger(dialect).last() == first


def test_before_images_are_outdated_by_age_and_by_size(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    first = sync(source, target)
    record_more(target, first)
    with target.connect() as dialect, dialect.connection.begin():
        ledger = CountingLedger(dialect)
        numbers = [first.number + n for n in (1, 2, 3)]
        for number in numbers:
            ledger.note_rescue(Rescued(number, "users", "rescued", 0, 1, 0, 100))
            ledger.note_rescue(Rescued(number, "chats", "rescued", 0, 1, 0, 100))
        past, future = (first.published_at + dt.timedelta(days=days) for days in (-1, 1))
        ledger.read = 0
        assert ledger.superfluous(past, 600) == []
        assert ledger.read < 10
        assert ledger.superfluous(past, 599) == numbers[:1]
        assert ledger.superfluous(past, 0) == numbers
        assert ledger.superfluous(future, 600) == numbers


def test_whether_the_newest_publish_can_be_undone_is_found_without_the_history(
    twins: Pair,
) -> None:
    source, target = twins
    prepare(source, small_world())
    first = sync(source, target)
    record_more(target, first)
    newest = sync(source, target)
    require_undoable(target, MODEL, newest.run_id)
    with target.connect() as dialect:
        assert [entry.run_id for entry in Ledger(dialect).since(newest)] == [newest.run_id]
