"""A publish while foreign keys stay on, for a role that cannot defer them, nor act as a replica.

The server checks such a key when a statement has ended. So all deletes, updates and inserts of all
tables are parts of one statement, whose end is a state that satisfies the keys: see decision 0027.
Within a table they run in this order, so that a unique value is free before another row takes it.
Rows to which a key may refer are updated in place where they stay, and so are rows that may violate
a key, because it is NOT VALID: the server does not check a key that an update leaves as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg2
import psycopg2.errors

from dbsync_pipeline.dialects.postgresql import catalog
from dbsync_pipeline.dialects.postgresql.catalog import quote, quote_table
from dbsync_pipeline.dialects.staging import Written
from dbsync_pipeline.dialects.table import Column, Kind, Table

if TYPE_CHECKING:
    from dbsync_pipeline.dialects.postgresql.target import PostgreSQLTarget

_ONE_FORM = (Kind.INTEGER, Kind.UUID, Kind.BOOLEAN, Kind.DATE, Kind.TIME, Kind.INSTANT)
"""Equal values of these kinds are the same bytes, so a row that stays keeps them; so are texts of a
deterministic collation."""


@dataclass(frozen=True)
class _Key:
    """A foreign key that stays on. `child` is the name of the table that has it, `mine` that table
    if it is written, too.
    """

    child: str
    mine: Table | None
    parent: Table
    columns: Sequence[str]
    referred: Sequence[str]
    follows_deletes: bool
    valid: bool


class OneStatement:
    """How the staged changes of some tables are written while these keys stay on."""

    def __init__(
        self, target: PostgreSQLTarget, keys: Sequence[_Key], texts: Collection[tuple[str, str]]
    ) -> None:
        self._target, self._keys, self._texts = target, keys, texts
        children = (key.mine for key in keys if key.mine and not key.valid)
        self._in_place = {key.parent.name for key in keys} | {
            child.name for child in children if not child.keyless
        }

    @classmethod
    def of(cls, target: PostgreSQLTarget, tables: Sequence[Table]) -> OneStatement | None:
        """None if that cannot do: a trigger or a rule would fire, a key refers to a partition or to
        a table without a key, or it follows updates of what may change in place.
        """
        if target._named(catalog.FIRING, tables):
            return None
        by_name = {quote_table(table.sa): table for table in tables}
        named = (list(by_name),)
        written = {oid: by_name[name] for name, oid in target._all(catalog.OIDS, named)}
        staying = target._all(catalog.STAYING_KEYS, named)
        texts = {
            (by_name[name].name, column)
            for name, column in target._all(catalog.DETERMINISTIC_TEXTS, named)
        }
        keys = []
        for child, oid, there, columns, referred, deletes, updates, mirrored, valid in staying:
            parent = written.get(there)
            if parent is None and not mirrored:
                continue  # its rows are not written
            if parent is None or parent.keyless or (updates and not _stay(parent, referred, texts)):
                return None
            keys.append(_Key(child, written.get(oid), parent, columns, referred, deletes, valid))
        return cls(target, keys, texts)

    def write(self, tables: Sequence[Table]) -> dict[str, Written] | None:
        """Apply the staged changes; None if a constraint refuses that, and nothing is written."""
        if any(self._follows(key) for key in self._keys if key.follows_deletes):
            return None
        parts = [part for n, table in enumerate(tables) for part in self._parts(table, n)]
        counts = ", ".join(f"(SELECT count(*) FROM {name})" for name, _ in parts)
        ctes = ", ".join(f"{name} AS ({statement} RETURNING 1)" for name, statement in parts)
        try:
            with self._target.attempt():
                rows = iter(self._target._first_row(f"WITH {ctes} SELECT {counts}"))
        except (psycopg2.IntegrityError, psycopg2.errors.GeneratedAlways):
            return None
        by_part = dict(zip((name for name, _ in parts), rows, strict=True))
        return {
            table.name: Written(
                by_part[f"d{n}"] + by_part.get(f"u{n}", 0),
                by_part.get(f"u{n}", 0) + by_part[f"i{n}"],
            )
            for n, table in enumerate(tables)
        }

    def _parts(self, table: Table, n: int) -> Iterator[tuple[str, str]]:
        """Yield name and statement of each part; a part begins when the one before it has ended."""
        if table.name not in self._in_place:
            yield f"d{n}", self._target._deleting(table)
            yield f"i{n}", f"{self._target._inserting(table)} WHERE {_after(f'd{n}')}"
            return
        yield f"d{n}", self._deleting(table)
        before = f"d{n}"
        if updating := self._updating(table):
            yield f"u{n}", f"{updating} AND {_after(before)}"
            before = f"u{n}"
        yield f"i{n}", f"{self._inserting(table)} AND {_after(before)}"

    def _follows(self, key: _Key) -> bool:
        """Whether the key would delete or change rows that this publish leaves as they are."""
        pairs = zip(key.columns, key.referred, strict=True)
        refers = " AND ".join(f"c.{column} = t.{quote(there)}" for column, there in pairs)
        written = "false"
        if key.mine is not None:
            gone = self._target._gone(key.mine)
            written = (
                f"EXISTS (SELECT FROM {gone} w WHERE {self._target._same(key.mine, 'c', 'w')})"
            )
        return bool(
            self._target._first_row(
                f"SELECT EXISTS (SELECT FROM {self._target._gone(key.parent)} g "
                f"JOIN {self._target._from(key.parent)} t ON {self._goes(key.parent)} "
                f"JOIN {key.child} c ON {refers} WHERE NOT {written})"
            )[0]
        )

    def _deleting(self, table: Table) -> str:
        live, gone = self._target._from(table), self._target._gone(table)
        return f"DELETE FROM {live} t USING {gone} g WHERE {self._goes(table)}"

    def _goes(self, table: Table) -> str:
        """The condition that `g` is the key of the live row `t`, which goes and is not replaced."""
        same, new = self._target._same, self._target._new(table)
        replaced = f"SELECT FROM {new} n WHERE {same(table, 'n', 'g')}"
        return f"{same(table, 't', 'g')} AND NOT EXISTS ({replaced})"

    def _updating(self, table: Table) -> str | None:
        """None if rows that stay cannot differ."""
        changing = [column for column in table.columns if not _is_kept(table, column, self._texts)]
        values = ", ".join(f"{quote(part.name)} = n.{quote(part.name)}" for part in changing)
        live, new = self._target._from(table), self._target._new(table)
        same = self._target._same(table, "t", "n")
        return f"UPDATE {live} t SET {values} FROM {new} n WHERE {same}" if changing else None

    def _inserting(self, table: Table) -> str:
        replaced = self._target._same(table, "g", "n")
        return (
            f"{self._target._inserting(table)} n "
            f"WHERE NOT EXISTS (SELECT FROM {self._target._gone(table)} g WHERE {replaced})"
        )


def _after(part: str) -> str:
    return f"(SELECT count(*) FROM {part}) >= 0"


def _is_kept(table: Table, column: Column, texts: Collection[tuple[str, str]]) -> bool:
    """Whether an update in place leaves the column as it is: a part of the key, by its bytes."""
    same_bytes = column.kind in _ONE_FORM or (table.name, column.name) in texts
    return same_bytes and column.name in (table.key_names or ())


def _stay(table: Table, referred: Sequence[str], texts: Collection[tuple[str, str]]) -> bool:
    by_name = {column.name: column for column in table.columns}
    return all(name in by_name and _is_kept(table, by_name[name], texts) for name in referred)
