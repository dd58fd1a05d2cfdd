"""The rows that differ, one by one, while a plan compares two tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dbsync_pipeline.dialects import values
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import Form
from dbsync_pipeline.dialects.table import Column, Kind, Row, RowKey, RowKeys, Table
from dbsync_pipeline.mirror.compare import Changes

ONLY_SOURCE, ONLY_TARGET, DIFFERENT = "only in source", "only in target", "different"
SECRET = "(secret)"
"""In place of every value of a column with `info={"secret": True}`."""
_PAIRS = 50
"""Rows of both sides that are in memory at once, if no column holds bytes; otherwise one of each.
"""


@dataclass(frozen=True)
class Difference:
    """One row that differs: its table, what differs, its key as text, and plain values.

    `key` is empty for a row that no key names. `source` and `target` are None if that side does not
    have the row, and both are if no values were asked for.
    """

    table: Table
    change: str
    key: str
    source: Row | None = None
    target: Row | None = None


@dataclass(frozen=True)
class Gathering:
    """How the differing rows of two open databases are read: with their values, or keys alone."""

    source: Dialect
    target: Dialect
    values: bool

    def of(self, table: Table, form: Form, changes: Changes) -> Iterator[Difference]:
        """Yield the rows of one bucket. The connections may be in the middle of a comparison."""
        if not self.values:
            for change, keys in (
                (ONLY_SOURCE, changes.new),
                (DIFFERENT, changes.changed),
                (ONLY_TARGET, changes.gone),
            ):
                for key in keys:
                    yield Difference(table, change, _given(table, key, form))
            return
        for row in _rows(self.source, table, changes.new, form):
            yield Difference(table, ONLY_SOURCE, key_text(table, row), source=row)
        yield from self._pairs(table, changes.changed, form)
        for row in _rows(self.target, table, changes.gone, form):
            yield Difference(table, ONLY_TARGET, key_text(table, row), target=row)

    def all_of_source(self, table: Table) -> Iterator[Difference]:
        """Yield every row of the source: the target has none."""
        for batch in self.source.read(table):
            for row in batch:
                shown = row if self.values else None
                yield Difference(table, ONLY_SOURCE, key_text(table, row), source=shown)

    def _pairs(self, table: Table, keys: RowKeys, form: Form) -> Iterator[Difference]:
        many = 1 if any(column.kind is Kind.BYTES for column in table.columns) else _PAIRS
        for start in range(0, len(keys), many):
            chunk = keys[start : start + many]
            there = {_key(table, row): row for row in _rows(self.target, table, chunk, form)}
            for row in _rows(self.source, table, chunk, form):
                other = there.get(_key(table, row))
                yield Difference(table, DIFFERENT, key_text(table, row), row, other)


def _rows(side: Dialect, table: Table, keys: RowKeys, form: Form) -> Iterator[Row]:
    if keys:
        for batch in side.read(table, keys, form):
            yield from batch


def _key(table: Table, row: Row) -> RowKey:
    names = [column.name for column in table.columns]
    return table.comparable_key(tuple(row[names.index(part.name)] for part in table.key))


def is_secret(table: Table, column: Column) -> bool:
    """Whether the models say that no report may have the column's values."""
    return bool(table.sa_column(column.name).info.get("secret"))


def key_text(table: Table, row: Row) -> str:
    """Return the key of a row of plain values as text; empty for a keyless table."""
    if table.keyless:
        return ""
    key = zip(table.key, _key(table, row), strict=True)
    return _joined(
        [SECRET if is_secret(table, part) else text_of(part, value) or "" for part, value in key]
    )


def _given(table: Table, key: RowKey, form: Form) -> str:
    """The text of a key in the form's values, or of an address."""
    if table.keyless:
        return _joined([str(part) for part in key])
    parts = zip(table.key, key, strict=True)
    return _joined(
        [
            SECRET
            if is_secret(table, part)
            else str(value)
            if form.native
            else text_of(part, value) or ""
            for part, value in parts
        ]
    )


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else json.dumps(parts, ensure_ascii=False)


def text_of(column: Column, value: Any) -> str | None:
    """Return a plain value as text for people."""
    return None if value is None else values.shown(column, value)
