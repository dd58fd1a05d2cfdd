"""Put rows that a publish deleted back beside those that are there now, where nothing stands in
their way.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import RowKey, Table
from dbsync_pipeline.errors import Refused
from dbsync_pipeline.mirror import outcome
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.read import BeforeImages, before_images
from dbsync_pipeline.mirror.rescue.tables import DELETED


def merge(
    target: Database, model: Model, run_id: str
) -> tuple[dict[str, int], dict[str, list[RowKey]]]:
    """Insert the deleted rows whose keys are free, parents first, in one transaction.

    Return by table how many rows were put back, and the keys of the rest: rows that the publish
    replaced, whose key is taken, or that a constraint refuses. A second call finds the keys taken.
    A row without a key cannot be distinguished from a copy that is there, so it is not put
    back; its key in the rest is empty.
    Raise Refused if the rows have a column that the models no longer have.
    """
    put_back: dict[str, int] = {}
    rest: dict[str, list[RowKey]] = {}
    mark = uuid.uuid4().hex
    with (
        target.connect() as dialect,
        outcome.transaction(
            dialect,
            target,
            lambda again: Ledger(again).is_merged(mark),
            operation="merge rescued rows",
        ),
    ):
        for images in list(before_images(dialect, model, run_id)):
            live = model.table(images.table.name)
            _refuse_lost_columns(dialect, live, images.table, run_id)
            table = _TableMerge(dialect, live, images)
            inserted = set[RowKey]() if live.keyless else table.insert_free()
            put_back[live.name] = len(inserted)
            rest[live.name] = [key for _, key in table.kept if key not in inserted]
        Ledger(dialect).note_merge(mark)
    return put_back, {name: keys for name, keys in rest.items() if keys}


@dataclass(frozen=True)
class _TableMerge:
    """The merge of one table: its live rows and its before-images, in one transaction."""

    dialect: Dialect
    live: Table
    images: BeforeImages

    @cached_property
    def kept(self) -> list[tuple[str, RowKey]]:
        """The change and the key of every before-image."""
        query = self.images.query.with_only_columns(self.images.change, *self.images.key)
        comparable = self.live.comparable_key
        return [
            (change, comparable(tuple(key)))
            for change, *key in self.dialect.connection.execute(query)
        ]

    def insert_free(self) -> set[RowKey]:
        """Insert the deleted rows whose keys no live row has; return the keys of those that no
        constraint refuses.
        """
        taken_query = self.images.query.with_only_columns(*self.images.key).where(self._is_taken)
        comparable = self.live.comparable_key
        taken = {comparable(tuple(key)) for key in self.dialect.connection.execute(taken_query)}
        free = [key for change, key in self.kept if change == DELETED and key not in taken]
        if not free or self._insert(~self._is_taken):
            return set(free)
        return self._insert_one_by_one(free)

    @property
    def _is_taken(self) -> sa.ColumnElement[bool]:
        """The condition that a live row has the key of the before-image."""
        live = self.dialect.live(self.live)
        same_key = (
            live.c[column.name] == stored
            for column, stored in zip(self.live.key, self.images.key, strict=True)
        )
        return sa.exists(sa.select(sa.literal(1)).select_from(live).where(*same_key))

    def _insert_one_by_one(self, keys: Sequence[RowKey]) -> set[RowKey]:
        """Insert single rows, in rounds until a round inserts none: a row may refer to another one
        of its table.
        """
        inserted = set[RowKey]()
        while more := {key for key in keys if key not in inserted and self._insert_key(key)}:
            inserted |= more
        return inserted

    def _insert_key(self, key: RowKey) -> bool:
        conditions = (column == value for column, value in zip(self.images.key, key, strict=True))
        return self._insert(sa.and_(*conditions))

    def _insert(self, condition: sa.ColumnElement[Any]) -> bool:
        """Copy the deleted rows that meet the condition into the live table; return False, with
        nothing done, if a constraint refuses one.
        """
        stored = self.images.query.selected_columns
        names = [column.name for column in self.live.columns if column.name in stored]
        rows = self.images.query.with_only_columns(*(stored[name] for name in names)).where(
            self.images.change == DELETED, condition
        )
        try:
            with self.dialect.connection.begin_nested():
                keys = [self.live.sa_column(name).key for name in names]
                self.dialect.connection.execute(self.live.sa.insert().from_select(keys, rows))
        except sa.exc.IntegrityError:
            return False
        return True


def _refuse_lost_columns(dialect: Dialect, live: Table, stored: Table, run_id: str) -> None:
    modelled = {column.name for column in live.columns}
    lost = [column.name for column in stored.columns if column.name not in modelled]
    if lost:
        raise Refused(
            f"the rows have values in {', '.join(lost)}, which the models no longer have",
            operation="merge rescued rows",
            database=dialect.name,
            table=live.name,
            remedy=f"`dbsync rescue show {run_id}` and `dbsync rescue export {run_id} DIR` "
            "give the rows as they were",
        )
