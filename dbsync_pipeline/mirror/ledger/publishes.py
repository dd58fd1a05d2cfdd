"""The publishes that a database received."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.mirror.ledger.facts import Facts
from dbsync_pipeline.mirror.ledger.records import Publish, TableResult

_RUNS_PER_QUERY = 1000
"""SQL Server accepts at most 2,100 parameters per statement."""
_PAGE = 50
"""Publishes that are read together in search of the last one."""


class Publishes(Facts):
    """The recorded publishes."""

    def record(self, publish: Publish, source_identity: str) -> None:
        """Record a publish, in the open transaction."""
        results = {name: asdict(result) for name, result in publish.tables.items()}
        values = {
            "number": publish.number,
            "run_id": publish.run_id,
            "source": publish.source,
            "source_identity": source_identity,
            "snapshot_at": publish.snapshot_at,
            "published_at": publish.published_at,
            "partial": publish.partial,
            "undoes": publish.undoes,
            "numbered": publish.numbered,
            "state": publish.state,
            "round": publish.round,
            "tables": json.dumps(results),
            "seconds": json.dumps(dict(publish.seconds)),
        }
        stored = {column.name: values[column.name] for column in self._columns(self._t.publishes)}
        with self._dialect.doing("write the ledger"):
            self._connection.execute(self._t.publishes.insert().values(stored))

    def newest(self) -> Publish | None:
        """Return the publish with the highest number, an undo included."""
        return self._once("newest", lambda: next(iter(self.publishes(1)), None))

    def last(self) -> Publish | None:
        """Return the publish whose state the database has: the newest that was not undone.

        Reads as many publishes as were undone since, not all of them.
        """
        newest = self.newest()
        if newest is None or newest.undoes is None:
            return newest
        publishes, undone = self._t.publishes, {newest.undoes}
        for entry in self._below(newest.number):
            if entry.number in undone:
                continue
            if entry.undoes is None:
                return self._publish_with(publishes.c.number == entry.number)
            undone.add(entry.undoes)
        return None

    def _below(self, number: int) -> Iterator[sa.Row[Any]]:
        """The `number` and `undoes` of the publishes below that number, newest first."""
        publishes = self._t.publishes
        query = sa.select(publishes.c.number, publishes.c.undoes).limit(_PAGE)
        newest_first = query.order_by(publishes.c.number.desc())
        while page := self._rows(newest_first.where(publishes.c.number < number)):
            yield from page
            number = page[-1].number

    def of_run(self, run_id: str) -> Publish | None:
        """Return the publish of that run, None if it was not committed."""
        return self._publish_with(self._t.publishes.c.run_id == run_id)

    def publishes(self, limit: int | None = None, *, source: str | None = None) -> list[Publish]:
        """Return the newest `limit` publishes (all without one), newest first.

        `source` restricts them to publishes from that database.
        """
        publishes = self._t.publishes
        conditions = [] if source is None else [publishes.c.source == source]
        return self._many(*conditions, limit=limit)

    def since(self, publish: Publish) -> list[Publish]:
        """Return that publish and all later ones, newest first."""
        return self._many(self._t.publishes.c.number >= publish.number)

    def beginning(self, run_id: str) -> list[Publish]:
        """Return the publishes of the runs whose id begins with `run_id`, newest first."""
        return self._many(self._t.publishes.c.run_id.startswith(run_id, autoescape=True))

    def of_runs(self, run_ids: Collection[str]) -> list[Publish]:
        """Return the committed publishes among these runs, newest first."""
        ids = list(run_ids)
        publishes = [
            publish
            for start in range(0, len(ids), _RUNS_PER_QUERY)
            for publish in self._many(
                self._t.publishes.c.run_id.in_(ids[start : start + _RUNS_PER_QUERY])
            )
        ]
        return sorted(publishes, key=lambda publish: publish.number, reverse=True)

    def rescuing(self) -> list[Publish]:
        """Return the publishes that have before-images, newest first."""
        kept = sa.select(self._t.rescues.c.publish)
        return self._many(self._t.publishes.c.number.in_(kept))

    def _publish_with(self, condition: sa.ColumnElement[bool]) -> Publish | None:
        return next(iter(self._many(condition)), None)

    def _many(self, *conditions: sa.ColumnElement[bool], limit: int | None = None) -> list[Publish]:
        publishes = self._t.publishes
        columns = self._columns(publishes)
        query = sa.select(*columns).where(*conditions).order_by(publishes.c.number.desc())
        return [self._publish(row) for row in self._rows(query.limit(limit))]

    def _publish(self, row: sa.Row[Any]) -> Publish:
        results = {
            name: TableResult.read(result) for name, result in json.loads(row.tables).items()
        }
        return Publish(
            row.number,
            row.run_id,
            row.source,
            self._dialect.name,
            row.snapshot_at.astimezone(dt.UTC),
            row.published_at.astimezone(dt.UTC),
            results,
            json.loads(row.seconds),
            row.partial,
            row.undoes,
            row.numbered,
            _optional(row, "state") or row.number,
            _optional(row, "round"),
        )


def _optional(row: sa.Row[Any], column: str) -> Any:
    """The value of a column that ledgers of former versions lack; None without it."""
    return row._mapping.get(column)
