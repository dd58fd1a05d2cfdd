"""A SQLite table that is made anew under its name, with all that hangs on it.

Alembic copies the rows into a table with the new columns and renames that, as https://sqlite.org/lang_altertable.html advises, from what
SQLAlchemy can read of the old one. It does not read all. So indexes and triggers come back by their own SQL, counters by their numbers,
and whatever else is not as it was, a row's value or a rule of the table, raises StructureError.
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

_REMEDY = "say in the revision what SQLite is to do, by op.execute where op.get_context().dialect.name is sqlite"
_COUNTS = "AUTOINCREMENT"
_WORDS = (
    _COUNTS,
    "CHECK",
    "COLLATE",
    "DEFERRABLE",
    "GENERATED",
    "ON CONFLICT",
    "STRICT",
    "WITHOUT ROWID",
)
"""What changes what a table takes or keeps, and stands in its SQL alone."""
_OWN_WORDS = {"check": "CHECK", "foreignkey": "DEFERRABLE"}
"""The word that goes with a constraint of this kind."""
_AFFINITIES = (
    ("INT", "integer"),
    ("CHAR|CLOB|TEXT", "text"),
    ("BLOB|^$", "blob"),
    ("REAL|FLOA|DOUB", "real"),
)
"""https://sqlite.org/datatype3.html, 3.1: the first that the declared type contains, else numeric."""


def alter(raw: sqlite3.Connection, operations: Operations, operation: MigrateOperation) -> Any:
    """Carry out one operation on a table, within the open transaction and with foreign keys off.

    Where the table is made anew, all of its rows are read twice. Raises StructureError where anything but the operation's own would
    change.
    """
    from alembic.operations import Operations

    table = getattr(operation, "source_table", None) or operation.table_name  # type: ignore[attr-defined]
    before, rows = _Shape.read(raw, operations, table), None
    impl = operations.migration_context.impl
    impl.cast_for_batch_migrate = lambda *_: None  # type: ignore[method-assign]  # what a CAST makes of a value is another one
    try:
        with (
            _others_left(raw),
            Operations.batch_alter_table(
                operations,
                table,
                table_args=tuple(
                    sa.CheckConstraint(_literally(check)) for check in before.unnamed_checks
                ),
                table_kwargs={"sqlite_autoincrement": True} if before.words[_COUNTS] else {},
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
            _bring_back(raw, table, before)
            _require_same(table, operation, before, _Shape.read(raw, operations, table))
            if rows != _rows(raw, table, before.columns):
                raise _would(
                    table, "change values, which SQLite stores by the type of their column"
                )
    except (sqlite3.Error, sa.exc.DBAPIError) as error:
        words = str(getattr(error, "orig", error)).replace(f"_alembic_tmp_{table}", table)
        raise StructureError(
            f"SQLite refuses to make the table anew: {words}",
            operation="migrate",
            table=table,
            remedy=_REMEDY,
        ) from None
    return result


def _literally(sql: str) -> str:
    """SQL as it is: SQLAlchemy takes a word after a colon for a parameter."""
    return sql.replace(":", r"\:")


def _default_literally(_inspector: object, _table: object, column: dict[str, Any]) -> None:
    if column.get("default") is not None:
        column["default"] = _literally(column["default"])


@contextmanager
def _others_left(raw: sqlite3.Connection) -> Iterator[None]:
    """Views, and triggers of other tables, that name the table are left as they are while it is gone."""
    (was,) = raw.execute("PRAGMA legacy_alter_table").fetchone()
    raw.execute("PRAGMA legacy_alter_table = ON")
    try:
        yield
    finally:
        raw.execute(f"PRAGMA legacy_alter_table = {was}")


@dataclass(frozen=True)
class _Shape:
    """The rules of a table. `columns` are (affinity, is the rowid, takes NULL, default, place in the key, computed) by name.

    `uniques` and `keys` are of its constraints, `objects` the SQL of its triggers and indexes by name, `number` the last that it gave.
    """

    columns: Mapping[str, tuple[str, bool, bool, str, int, int]]
    uniques: Counter[tuple[Any, ...]]
    keys: Counter[tuple[Any, ...]]
    checks: Counter[str]
    unnamed_checks: tuple[str, ...]
    words: Counter[str]
    objects: Mapping[str, tuple[str, str]]
    number: int | None

    @classmethod
    def read(cls, raw: sqlite3.Connection, operations: Operations, table: str) -> _Shape:
        found = raw.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
        ).fetchone()
        if found is None:
            raise StructureError("there is no such table, by these capitals", table=table)
        (sql,) = found
        words = Counter(
            {word: len(re.findall(rf"\b{word}\b", sql, re.IGNORECASE)) for word in _WORDS}
        )
        indexes = raw.execute(
            'SELECT i.name, k.cid, k."desc", k.coll FROM pragma_index_list(?) i, pragma_index_xinfo(i.name) k '
            "WHERE i.origin <> 'c' AND k.key ORDER BY i.seq, k.seqno",
            (table,),
        ).fetchall()
        keys = raw.execute(
            'SELECT id, "table", "from", "to", on_update, on_delete FROM pragma_foreign_key_list(?)',
            (table,),
        ).fetchall()
        checks = sa.inspect(operations.get_bind()).get_check_constraints(table)
        objects = raw.execute(
            "SELECT name, type, sql FROM sqlite_master WHERE type <> 'table' AND tbl_name = ? AND sql IS NOT NULL",
            (table,),
        )
        number = (
            raw.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()[
                0
            ]
            if words[_COUNTS]
            else None
        )
        return cls(
            {name: _column(*rest) for name, *rest in raw.execute(_COLUMNS, (table,))},
            Counter(_grouped(indexes)),
            Counter(_grouped(keys)),
            Counter(check["sqltext"] for check in checks),
            tuple(check["sqltext"] for check in checks if not check["name"]),
            words,
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
    """The rows of each index or key, by their first column and without it."""
    found: dict[Any, list[Any]] = {}
    for one, *rest in rows:
        found.setdefault(one, []).append(tuple(rest))
    return [tuple(group) for group in found.values()]


def _bring_back(raw: sqlite3.Connection, table: str, before: _Shape) -> None:
    here = dict(
        raw.execute(
            "SELECT name, sql FROM sqlite_master WHERE type <> 'table' AND tbl_name = ?", (table,)
        ).fetchall()
    )
    for name, (kind, sql) in before.objects.items():
        if here.get(name) == sql:
            continue
        if name in here:
            raw.execute(f"DROP {kind.upper()} {_quote(name)}")
        raw.execute(sql)
    if before.number is not None:
        raw.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        raw.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, before.number))


def _rows(raw: sqlite3.Connection, table: str, columns: Mapping[str, Any]) -> tuple[int, int]:
    """How many rows there are, and the sum of their digests modulo 2^128: values as SQLite stores them, with their storage classes."""
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
        if [one for place, one in enumerate(column) if place not in own] != [
            one for place, one in enumerate(after.columns[name]) if place not in own
        ]:
            raise _would(table, f"change what column {name} takes or is given")
    kind = operation.constraint_type if isinstance(operation, ops.DropConstraintOp) else None
    lost: dict[str, Counter[Any]] = {
        "unique": before.uniques - after.uniques,
        "foreignkey": before.keys - after.keys,
        "check": before.checks - after.checks,
        "": before.words - after.words,
    }
    for what, missing in lost.items():
        allowed = (
            Counter([_OWN_WORDS[kind]] if kind in _OWN_WORDS else []) if not what else Counter()
        )
        if missing - allowed and (what != kind or missing.total() > 1):
            raise _would(table, f"lose {'; '.join(str(one) for one in missing - allowed)}")
    if before.objects != after.objects:
        raise _would(table, "change its indexes or triggers")


def _own_of(operation: Any) -> tuple[int, ...]:
    """The places in a column's tuple that an operation is there to change: of the affinity, of NULL, of the default."""
    changes = (
        operation.modify_type is not None,
        False,
        operation.modify_nullable is not None,
        operation.modify_server_default is not False,
    )
    return tuple(place for place, changed in enumerate(changes) if changed)


def _would(table: str, what: str) -> StructureError:
    return StructureError(
        f"making the table anew would {what}", operation="migrate", table=table, remedy=_REMEDY
    )


def _quote(name: str) -> str:
    return sqlite.dialect().identifier_preparer.quote_identifier(name)
