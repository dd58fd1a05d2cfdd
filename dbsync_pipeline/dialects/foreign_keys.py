"""Foreign keys: which a database can hold, the query for rows that violate one, and its error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import sqlalchemy as sa

from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import NotProved

OUTSIDE: Mapping[str, bool] = MappingProxyType({"dbsync_outside": True})
"""The `info` of a table that mirrored tables refer to and that is not mirrored itself."""


def is_outside(table: sa.Table) -> bool:
    """Whether mirrored tables refer to the table and it is not mirrored itself."""
    return bool(table.info.get("dbsync_outside"))


def held(connection: sa.Connection, table: sa.Table) -> list[sa.ForeignKeyConstraint]:
    """Return the table's foreign keys that must hold in this database, by name.

    A key to a table that is not mirrored needs that table to exist; it is read in the open
    transaction. A key that is NOT VALID on the primary has rows there that violate it.
    """
    keys = sorted(table.foreign_key_constraints, key=lambda key: (str(key.name), key.column_keys))
    return [key for key in keys if not (is_not_valid(key) or lacks_parent(connection, key))]


def is_not_valid(key: sa.ForeignKeyConstraint) -> bool:
    """Whether the models say that PostgreSQL checks the key for new rows only."""
    return bool(key.dialect_options["postgresql"]["not_valid"])


def lacks_parent(connection: sa.Connection, key: sa.ForeignKeyConstraint) -> bool:
    """Whether a key refers to a table that is not mirrored and that the database does not have."""
    parent = key.referred_table
    return is_outside(parent) and not sa.inspect(connection).has_table(
        parent.name, schema=parent.schema
    )


def key_violated(database: str, key: sa.ForeignKeyConstraint) -> NotProved:
    """Return the error for a foreign key of a mirrored table that would not hold."""
    parent = key.referred_table.key
    name = str(key.name or f"on {', '.join(key.column_keys)} to {parent}")
    error = violated_key(database, name, key.table.key)
    if is_outside(key.referred_table):
        error.remedy = (
            f"{parent} is not mirrored: give {parent} on {database} the rows that the source has "
            "there, or take the table into the models"
        )
    return error


def orphans(child: str, parent: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Return SQL that yields 1 if a row of `child` refers to no row of `parent`, else 0.

    All names are quoted already. `pairs` are (child's column, parent's column).
    """
    columns = list(pairs)
    given = " AND ".join(f"c.{child_column} IS NOT NULL" for child_column, _ in columns)
    same = " AND ".join(
        f"p.{parent_column} = c.{child_column}" for child_column, parent_column in columns
    )
    orphan = (
        f"SELECT 1 FROM {child} c WHERE {given} "
        f"AND NOT EXISTS (SELECT 1 FROM {parent} p WHERE {same})"
    )
    return f"SELECT CASE WHEN EXISTS ({orphan}) THEN 1 ELSE 0 END"


def keys_to(table: Table, tables: Iterable[Table]) -> Iterator[sa.ForeignKeyConstraint]:
    """Yield the foreign keys of these tables that refer to `table`."""
    for child in tables:
        for key in child.sa.foreign_key_constraints:
            if key.referred_table is table.sa:
                yield key


def violated_key(database: str, key: str, table: str, *, outside: bool = False) -> NotProved:
    """Return the error for a foreign key that would not hold after the publish.

    `outside` means that the models do not have `table`, which refers to rows that would go.
    """
    cause = f"the foreign key {key} would not hold"
    if not outside:
        return NotProved(
            cause,
            operation="publish",
            database=database,
            table=table,
            remedy="sync all tables, or fix the row in the source: `dbsync sync` without --table",
        )
    return NotProved(
        f"{cause}: the models do not have its table, which refers to rows that would go",
        operation="publish",
        database=database,
        table=table,
        remedy=f"delete the rows of {table} on {database} that refer to them, drop the key, "
        "or take the table into the models",
    )
