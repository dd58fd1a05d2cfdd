"""Whether a target equals a source, by a stronger hash than a sync needs and without trust in any ledger.

Every row's SHA-256 is computed in both databases, over the canonical form between engines, and compared row by row. Nothing is locked and
nothing is written; each side shows one snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import CANONICAL, Form
from dbsync_pipeline.dialects.table import Kind, RowKey, Table
from dbsync_pipeline.errors import NotProved
from dbsync_pipeline.mirror import compare, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.guard import FIRST_KEYS
from dbsync_pipeline.mirror.model import Model


@dataclass(frozen=True)
class TableVerdict:
    """One table: rows on each side, rows that differ (missing, additional or changed), and the first keys of these."""

    table: str
    source_rows: int
    target_rows: int
    differing: int
    keys: tuple[RowKey, ...]

    @property
    def equal(self) -> bool:
        return self.differing == 0 and self.source_rows == self.target_rows


def verify(
    source: Database, target: Database, model: Model, tables: tuple[str, ...] = ()
) -> list[TableVerdict]:
    """Compare these tables, or all. The two snapshots are not of one moment: rows written meanwhile show as differing.

    Raises StructureError where a table is not equal in structure, Unavailable where a database does not answer.
    """
    with source.connect("dbsync verify") as ours, target.connect("dbsync verify") as theirs:
        for dialect in (ours, theirs):
            schema.require(dialect, model)
        chosen = model.select(tables)
        strong = _strong(ours, theirs, chosen)
        for dialect in (ours, theirs):
            dialect.snapshot()
        return [_verdict(ours, theirs, table, strong) for table in chosen]


def _strong(ours: Dialect, theirs: Dialect, tables: tuple[Table, ...]) -> str:
    """The family of digests to trust: SQLite's own is a SHA-256 already, and takes values that no other engine holds."""
    digest_format = compare.digest_format_of(ours, theirs, tables)
    opaque = any(column.kind is Kind.OPAQUE for table in tables for column in table.columns)
    return (
        digest_format
        if ours.engine_name == theirs.engine_name and (ours.own_format_is_sha256 or opaque)
        else CANONICAL
    )


def _verdict(ours: Dialect, theirs: Dialect, table: Table, digest_format: str) -> TableVerdict:
    rows, other = compare.both(lambda: ours.count(table), lambda: theirs.count(table))
    form = Form(digest_format, compare.buckets_for(max(rows, other)))
    differing, seen, keys = 0, [0, 0], list[RowKey]()
    for found in compare.changes(ours, theirs, table, form, np.arange(form.buckets)):
        here = found.new + found.changed + found.gone
        differing += len(here)
        seen = [before + more for before, more in zip(seen, found.rows, strict=True)]
        keys += here[: FIRST_KEYS - len(keys)]
    if seen != [rows, other]:
        raise NotProved(
            f"of {rows} and {other} rows, {seen[0]} and {seen[1]} were compared",
            operation="verify",
            table=table.name,
            remedy="this is a defect of dbsync: report it",
        )
    return TableVerdict(table.name, rows, other, differing, tuple(keys))
