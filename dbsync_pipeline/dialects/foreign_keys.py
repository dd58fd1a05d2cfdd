"""Foreign keys: the query for rows that violate one, and the error that reports it."""

from __future__ import annotations

from collections.abc import Iterable

from dbsync_pipeline.errors import NotProved


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
