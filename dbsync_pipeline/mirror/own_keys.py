"""The foreign keys of a database that its own rows violate.

PostgreSQL and SQL Server let none in. SQLite does, for every connection that does not ask for
foreign keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.foreign_keys import held
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DatabaseError
from dbsync_pipeline.mirror.guard import FIRST_KEYS


def violated(
    dialect: Dialect, tables: Iterable[Table], most: int = 1
) -> Iterator[tuple[Table, sa.ForeignKeyConstraint, Sequence[Sequence[Any]]]]:
    """Yield the foreign keys that do not hold in the open transaction.

    Each with its table and the first rows that violate it, at most `most`: the values of their keys
    in the models' types. Reads the columns of every foreign key.
    """
    for table in tables:
        with dialect.doing("check the foreign keys", table.name):
            orphans = {
                key: dialect.connection.execute(_orphans(table, key).limit(most)).all()
                for key in held(dialect.connection, table.sa)
            }
        yield from ((table, key, rows) for key, rows in orphans.items() if rows)


def require_held(source: Dialect, tables: Iterable[Table]) -> None:
    """Raise DatabaseError, with the first rows, if a foreign key does not hold in the source's own
    rows: no standby could be given them.
    """
    for table, key, rows in violated(source, tables, FIRST_KEYS + 1):
        keys = ", ".join("/".join(map(str, row)) for row in rows[:FIRST_KEYS])
        more = ", …" if len(rows) > FIRST_KEYS else ""
        named = "" if table.keyless else f": the rows with keys {keys}{more}"
        raise DatabaseError(
            f"the foreign key ({', '.join(key.column_keys)}) to {key.referred_table.key} does not "
            f"hold in {source.name} itself{named}",
            operation="publish",
            database=source.name,
            table=table.name,
            remedy=f"correct or delete these rows on {source.name}",
        )


def _orphans(table: Table, key: sa.ForeignKeyConstraint) -> sa.Select[Any]:
    """The keys of rows whose parent does not exist. A row with a NULL in it needs no parent."""
    child, parent = key.table, key.referred_table.alias("parent")
    pairs = [(element.parent, parent.c[element.column.key]) for element in key.elements]
    same = (parent_column == column for column, parent_column in pairs)
    exists = sa.exists().where(*same).correlate(child)
    shown: list[Any] = [table.sa_column(name) for name in table.key_names or ()]
    return (
        sa.select(*(shown or [sa.literal(1)]))
        .select_from(child)
        .where(*(column.is_not(None) for column, _ in pairs), ~exists)
    )
