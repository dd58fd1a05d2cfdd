"""Moving rows into staging: batches, what was moved, and staging tables in SQL expressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dbsync_pipeline.dialects.table import Column

BATCH_BYTES = 4 * 1024 * 1024
"""Rows move in batches of about this many bytes, so memory does not depend on a table's size."""


@dataclass
class Moved:
    """The rows and bytes that a load has carried so far.

    `connections` is how many read the source, `why_fewer` why not as many as the settings allow.
    """

    rows: int = 0
    bytes: int = 0
    connections: int = 1
    why_fewer: str = ""


@dataclass(frozen=True)
class Written:
    """The rows of a table that its staged changes deleted and inserted; a replaced one is both."""

    deleted: int
    inserted: int


def staging_table(schema: str | None, name: str, columns: Sequence[Column]) -> sa.TableClause:
    """Return a staging table for use in SQLAlchemy statements."""
    return sa.table(
        name, *(sa.column(column.name, column.type) for column in columns), schema=schema
    )
