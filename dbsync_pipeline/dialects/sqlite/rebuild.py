"""Rebuild a SQLite table in place, with its indexes, triggers and counter.

Alembic copies the rows into a table with the new columns and renames that one, as
https://sqlite.org/lang_altertable.html advises, from what SQLAlchemy reflects of the old table.
Reflection is incomplete. So indexes and triggers are restored by their own SQL and counters by
their numbers; if anything else changed, a row's value or a rule of the table, StructureError is
raised.
"""

from __future__ import annotations

import marshal
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from dbsync_pipeline.errors import StructureError

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation, Operations

REMEDY = (
    "write in the revision what SQLite must do: "
    "op.execute(...) if op.get_context().dialect.name == 'sqlite'"
)
"""For what SQLite, or this module, cannot do."""
_AUTOINCREMENT = "AUTOINCREMENT"
_KEYWORDS = (
    _AUTOINCREMENT,
    "CHECK",
    "COLLATE",
    "DEFERRABLE",
    "GENERATED",
    "ON CONFLICT",
    "STRICT",
    "WITHOUT ROWID",
)
"""What changes the values that a table accepts or keeps, and is found in its SQL only."""
_CONSTRAINT_KEYWORDS = {"check": "CHECK", "foreignkey": "DEFERRABLE"}
"""The keyword that disappears with a constraint of this kind."""
_AFFINITIES = (
    ("INT", "integer"),
    ("CHAR|CLOB|TEXT", "text"),
    ("BLOB|^$", "blob"),
    ("REAL|FLOA|DOUB", "real"),
)
"""The affinity is the first whose pattern the declared type contains, else numeric.

https://sqlite.org/datatype3.html, section 3.1.
"""


def alter(raw: sqlite3.Connection, operations: Operations, operation: MigrateOperation) -> Any:
    """Run one operation on a table, in the open transaction and with foreign keys off.

    If the table is rebuilt, all of its rows are read twice. Raise StructureError if anything else
    than the operation's own would change.
    """
    from alembic.operations import Operations

    table = getattr(operation, "source_table", None) or operation.table_name  # type: ignore[attr-defined]
    before, rows = _Shape.read(raw, operations, table), None
    impl = operations.migration_context.impl
    # a CAST could change a value
    impl.cast_for_batch_migrate = lambda *_: None  # type: ignore[method-assign]
    try:
        with (
            _other_objects_unchanged(raw),
            Operations.batch_alter_table(
                operations,
                table,
                table_args=tuple(
                    sa.CheckConstraint(_literally(check)) for check in before.unnamed_checks
                ),
                table_kwargs={"sqlite_autoincrement": bool(before.keywords[_AUTOINCREMENT])},
                reflect_kwargs={"listeners": [("column_reflect", _default_literally)]},
                naming_convention=operations.migration_context.opts[
                    "target_metadata"
                ].naming_convention,
            ) as batch,
        ):
            result = batch.invoke(operation)
            if impl.requires_recreate_in_batch(batch.impl):
                rows = _rows(raw, table, before.columns)
        if rows is not None:
            _restore_objects(raw, table, before)
            _require_same(table, operation, before, _Shape.read(raw, operations, table))
            if rows != _rows(raw, table, before.columns):
                raise _would(table, "change values: SQLite converts them to the column's type")
    except (sqlite3.Error, sa.exc.DBAPIError) as error:
        message = str(getattr(error, "orig", error)).replace(f"_alembic_tmp_{table}", table)
        raise StructureError(
            f"SQLite refuses to rebuild the table: {message}",
            operation="migrate",
            table=table,
            remedy=REMEDY,
        ) from None
    return result


def _literally(sql: str) -> str:
    """Escape SQL: SQLAlchemy would take a word after a colon for a parameter."""
    return sql.replace(":", r"\:")


def _default_literally(_inspector: object, _table: object, column: dict[str, Any]) -> None:
    if column.get("default") is not None:
        column["default"] = _literally(column["default"])


@contextmanager
def _other_objects_unchanged(raw: sqlite3.Connection) -> Iterator[None]:
    """Leave views, and triggers of other tables, unchanged while the table they name is missing."""
    (was,) = raw.execute("PRAGMA legacy_alter_table").fetchone()
    raw.execute("PRAGMA legacy_alter_table = ON")
    try:
        yield
    finally:
        raw.execute(f"PRAGMA legacy_alter_table = {was}")


@dataclass(frozen=True)
class _Shape:
    """The rules of a table.

    `columns` maps a name to (affinity, is the rowid, accepts NULL, default, place in the key,
    computed). `uniques` and `keys` are its constraints; `objects` maps the names of its triggers
    and indexes to (type, SQL); `number` is the last one that AUTOINCREMENT gave.
    """

    columns: Mapping[str, tuple[str, bool, bool, str, int, int]]
    uniques: Counter[tuple[Any, ...]]
    keys: Counter[tuple[Any, ...]]
    checks: Counter[str]
    unnamed_checks: tuple[str, ...]
    keywords: Counter[str]
    objects: Mapping[str, tuple[str, str]]
    number: int | None

    @classmethod
    def read(cls, raw: sqlite3.Connection, operations: Operations, table: str) -> _Shape:
        definition = raw.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
        ).fetchone()
        if definition is None:
            raise StructureError("there is no such table; the case of letters matters", table=table)
        (sql,) = definition
        keywords = Counter(
            {word: len(re.findall(rf"\b{word}\b", sql, re.IGNORECASE)) for word in _KEYWORDS}
        )
        indexes = raw.execute(
            'SELECT i.name, k.cid, k."desc", k.coll '
            "FROM pragma_index_list(?) i, pragma_index_xinfo(i.name) k "
            "WHERE i.origin <> 'c' AND k.key ORDER BY i.seq, k.seqno",
            (table,),
        ).fetchall()
        keys = raw.execute(
            'SELECT id, "table", "from", "to", on_update, on_delete '
            "FROM pragma_foreign_key_list(?)",
            (table,),
        ).fetchall()
        checks = sa.inspect(operations.get_bind()).get_check_constraints(table)
        objects = raw.execute(
            "SELECT name, type, sql FROM sqlite_master "
            "WHERE type <> 'table' AND tbl_name = ? AND sql IS NOT NULL",
            (table,),
        )
        number = (
            raw.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()[
                0
            ]
            if keywords[_AUTOINCREMENT]
            else None
        )
        return cls(
            {name: _column(*rest) for name, *rest in raw.execute(_COLUMNS, (table,))},
            Counter(_grouped(indexes)),
            Counter(_grouped(keys)),
            Counter(check["sqltext"] for check in checks),
            tuple(check["sqltext"] for check in checks if not check["name"]),
            keywords,
            {name: (kind, text) for name, kind, text in objects},
            number,
        )


_COLUMNS = 'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)'


def _column(
    type_: str, notnull: int, default: str | None, place: int, hidden: int
) -> tuple[str, bool, bool, str, int, int]:
    affinity = next(
        (name for pattern, name in _AFFINITIES if re.search(pattern, type_.upper())), "numeric"
    )
    return (
        affinity,
        place > 0 and type_.upper() == "INTEGER",
        not notnull and not place,
        (default or "").strip("()"),
        place,
        hidden,
    )


def _grouped(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Group rows by their first column, without it: the rows of each index or key."""
    groups: dict[Any, list[Any]] = {}
    for first, *rest in rows:
        groups.setdefault(first, []).append(tuple(rest))
    return [tuple(group) for group in groups.values()]


def _restore_objects(raw: sqlite3.Connection, table: str, before: _Shape) -> None:
    current = dict(
        raw.execute(
            "SELECT name, sql FROM sqlite_master WHERE type <> 'table' AND tbl_name = ?", (table,)
        ).fetchall()
    )
    for name, (kind, sql) in before.objects.items():
        if current.get(name) == sql:
            continue
        if name in current:
            raw.execute(f"DROP {kind.upper()} {_quote(name)}")
        raw.execute(sql)
    if before.number is not None:
        raw.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        raw.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, before.number))


def _rows(raw: sqlite3.Connection, table: str, columns: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of rows, and the sum of their digests modulo 2^128.

    The digests are of the values as SQLite stores them, with their storage classes.
    """
    count = total = 0
    for row in raw.execute(f"SELECT {', '.join(map(_quote, columns))} FROM {_quote(table)}"):
        count += 1
        total += int.from_bytes(sha256(marshal.dumps(row, 2)).digest()[:16], "big")
    return count, total % 2**128


def _require_same(table: str, operation: MigrateOperation, before: _Shape, after: _Shape) -> None:
    from alembic.operations import ops

    altered = operation.column_name if isinstance(operation, ops.AlterColumnOp) else None
    for name, column in before.columns.items():
        own = _own_of(operation) if name == altered else ()
        kept, kept_after = (
            [part for place, part in enumerate(rules) if place not in own]
            for rules in (column, after.columns[name])
        )
        if kept != kept_after:
            raise _would(table, f"change which values column {name} accepts, or its default")
    kind = operation.constraint_type if isinstance(operation, ops.DropConstraintOp) else None
    lost: dict[str, Counter[Any]] = {
        "unique": before.uniques - after.uniques,
        "foreignkey": before.keys - after.keys,
        "check": before.checks - after.checks,
        "": before.keywords - after.keywords,
    }
    for what, missing in lost.items():
        allowed = (
            Counter([_CONSTRAINT_KEYWORDS[kind]] if kind in _CONSTRAINT_KEYWORDS else [])
            if not what
            else Counter()
        )
        if missing - allowed and (what != kind or missing.total() > 1):
            raise _would(table, f"lose {'; '.join(map(str, missing - allowed))}")
    if before.objects != after.objects:
        raise _would(table, "change its indexes or triggers")


def _own_of(operation: Any) -> tuple[int, ...]:
    """The places in a column's tuple that the operation itself changes."""
    changes = (
        operation.modify_type is not None,
        False,
        operation.modify_nullable is not None,
        operation.modify_server_default is not False,
    )
    return tuple(place for place, changed in enumerate(changes) if changed)


def _would(table: str, what: str) -> StructureError:
    return StructureError(
        f"rebuilding the table would {what}", operation="migrate", table=table, remedy=REMEDY
    )


def _quote(name: str) -> str:
    return sqlite.dialect().identifier_preparer.quote_identifier(name)
