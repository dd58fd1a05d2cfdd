"""Whether a target equals a source, by a stronger hash than a sync needs and without any ledger.

Both databases compute the SHA-256 of every row, over the canonical format between engines, and the
hashes are compared row by row. Nothing is locked and nothing is written; each side is read in one
snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import CANONICAL, Form
from dbsync_pipeline.dialects.table import Kind, RowKey, Table
from dbsync_pipeline.dialects.values import shown_key
from dbsync_pipeline.errors import NotProved
from dbsync_pipeline.mirror import compare, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.guard import FIRST_KEYS
from dbsync_pipeline.mirror.model import Model


@dataclass(frozen=True)
class TableVerdict:
    """One table: the rows of each side, the number of rows that differ, and their first keys.

    A row differs if it is missing on one side or has other values.
    """

    table: str
    source_rows: int
    target_rows: int
    differing: int
    keys: tuple[RowKey, ...]

    @property
    def equal(self) -> bool:
        """Whether no row differs."""
        return self.differing == 0 and self.source_rows == self.target_rows


def verify(
    source: Database, target: Database, model: Model, tables: tuple[str, ...] = ()
) -> list[TableVerdict]:
    """Compare these tables, or all of them.

    The snapshots are not of the same moment: rows that are written meanwhile differ. Raise
    StructureError if a table is not equal in structure, Unavailable if a database does not answer.
    """
    with source.connect("dbsync verify") as left, target.connect("dbsync verify") as right:
        for dialect in (left, right):
            schema.require(dialect, model)
        chosen = tuple(_with_computed(table, left, right) for table in model.select(tables))
        digest_format = _strong(left, right, chosen)
        for dialect in (left, right):
            dialect.snapshot(chosen)
        return [_verdict(left, right, table, digest_format) for table in chosen]


def _with_computed(table: Table, source: Dialect, target: Dialect) -> Table:
    """The table with the columns that the databases compute: they are not copied, so nothing else
    compares them. Without those that the two engines have no common form for.
    """
    whole = replace(table, computed=True)
    if source.engine_name == target.engine_name or all(
        column.kind is not Kind.OPAQUE for column in whole.columns
    ):
        return whole
    return table


def _strong(source: Dialect, target: Dialect, tables: tuple[Table, ...]) -> str:
    """The digest format that uses SHA-256.

    SQLite's own does, and it represents values that no other engine has.
    """
    shared = compare.digest_format_of(source, target, tables)
    opaque = any(column.kind is Kind.OPAQUE for table in tables for column in table.columns)
    same_engine = source.engine_name == target.engine_name
    return shared if same_engine and (source.own_format_is_sha256 or opaque) else CANONICAL


def _verdict(source: Dialect, target: Dialect, table: Table, digest_format: str) -> TableVerdict:
    counted = compare.both(lambda: source.count(table), lambda: target.count(table))
    form = Form(digest_format, compare.buckets_for(max(counted)))
    differing, compared, first_keys = 0, (0, 0), list[RowKey]()
    rows = compare.row_digests(source, target, table, form, np.arange(form.buckets))
    for changes in compare.changes(table, *rows):
        keys = changes.new + changes.changed + changes.gone
        differing += len(keys)
        compared = (compared[0] + changes.rows[0], compared[1] + changes.rows[1])
        first_keys += [
            shown_key(table, key, native=form.native)
            for key in keys[: FIRST_KEYS - len(first_keys)]
        ]
    if compared != counted:
        raise NotProved(
            f"of {counted[0]} and {counted[1]} rows, {compared[0]} and {compared[1]} were compared",
            operation="verify",
            table=table.name,
            remedy="this is a defect of dbsync: report it",
        )
    return TableVerdict(table.name, *counted, differing, tuple(first_keys))
