"""Foreign keys to tables that are not mirrored: whether the target has what the source's rows need.

The publish checks such keys, and would end there. A plan looks before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.foreign_keys import held, is_outside
from dbsync_pipeline.dialects.table import Table

_AT_ONCE = 500
"""How many values are looked up by one statement."""


@dataclass(frozen=True)
class Orphans:
    """How many different values of a foreign key the target's `parent`, which is not mirrored, does
    not have.
    """

    table: str
    columns: tuple[str, ...]
    parent: str
    values: int


def orphans(source: Dialect, target: Dialect, tables: Iterable[Table]) -> Iterator[Orphans]:
    """Yield the foreign keys of these tables that a publish would find violated, read in the open
    snapshots. Reads the key's columns of all rows.
    """
    for table in tables:
        if not any(is_outside(key.referred_table) for key in table.sa.foreign_key_constraints):
            continue
        with target.doing("check foreign keys", table.name):
            keys = [
                key for key in held(target.connection, table.sa) if is_outside(key.referred_table)
            ]
        for key in keys:
            with source.doing("check foreign keys", table.name):
                lacking = _lacking(source.connection, target.connection, key)
            if lacking:
                columns = tuple(column.name for column in key.columns)
                yield Orphans(table.name, columns, key.referred_table.key, lacking)


def _lacking(source: sa.Connection, target: sa.Connection, key: sa.ForeignKeyConstraint) -> int:
    children = list(key.columns)
    parents = [element.column for element in key.elements]
    given = sa.and_(*(column.is_not(None) for column in children))
    values = source.execute(
        sa.select(*children).where(given).distinct(), execution_options={"yield_per": _AT_ONCE}
    )
    lacking = 0
    for batch in values.partitions():
        there = [
            sa.and_(*(parent == value for parent, value in zip(parents, row, strict=True)))
            for row in batch
        ]
        here = {tuple(row) for row in target.execute(sa.select(*parents).where(sa.or_(*there)))}
        lacking += len({tuple(row) for row in batch} - here)
    return lacking
