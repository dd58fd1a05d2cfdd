"""What SQLite has beside SQLAlchemy's view of its tables: declared types, and special indexes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import pairwise
from typing import Any, cast

import sqlalchemy as sa

from dbsync_pipeline.dialects import reflection
from dbsync_pipeline.dialects.generated import Generated
from dbsync_pipeline.dialects.reflection import Place, Reflection
from dbsync_pipeline.dialects.sqlite import sql

_TYPES = "SELECT name, type FROM pragma_table_xinfo(:table)"

_INDEXES = """
SELECT l.name, m.sql FROM pragma_index_list(:table) l JOIN sqlite_master m ON m.name = l.name
WHERE l.origin = 'c' AND (l.partial OR EXISTS (
  SELECT 1 FROM pragma_index_xinfo(l.name) x
  WHERE x.key AND (x.cid = -2 OR x."desc" OR x.coll <> 'BINARY')))
ORDER BY 1"""
"""(index, CREATE) of indexes that are more than a list of columns."""

_TRIGGERS_AND_VIEWS = """
SELECT type, name, tbl_name FROM sqlite_master WHERE type IN ('view', 'trigger') ORDER BY 1, 2"""


_VIRTUAL = """
SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%' ORDER BY 1
"""

_SHADOWS = (
    *("data", "idx", "content", "docsize", "config"),  # FTS5
    *("segments", "segdir", "stat"),  # FTS3 and FTS4, which have some of these too
    *("node", "parent", "rowid"),  # R*Tree
)
"""The names of the tables behind a virtual one, after its own and an underscore."""

_CREATE = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :table"


def expressions(create: str) -> dict[str, str]:
    """Return by column the expressions of computed columns in a CREATE TABLE.

    SQLite has them nowhere else, and `GENERATED ALWAYS` may be left out.
    """
    computed: dict[str, str] = {}
    for definition in _definitions(create):
        computed |= _expression(definition)
    return computed


def generated(create: str) -> dict[str, Generated]:
    """Return by column how the computed columns in a CREATE TABLE are computed.

    Expressions are written in one way. A definition makes the column virtual, since SQLite adds no
    stored one to a table; its values are the same.
    """
    return {
        column: Generated(sql.in_one_way(expression), _virtual(definition))
        for definition in _definitions(create)
        for column, expression in _expression(definition).items()
    }


def _virtual(definition: list[str]) -> str:
    """Return a column's definition after its name, computed when it is read."""
    name = next(place for place, token in enumerate(definition) if token.strip())
    depth, written = 0, list[str]()
    for token in definition[name + 1 :]:
        depth += sql.DEPTH.get(token, 0)
        written.append("VIRTUAL" if depth == 0 and token.upper() == "STORED" else token)
    return "".join(written).strip()


def deferrable(create: str) -> dict[str, str]:
    """Return by column `DEFERRED` or `IMMEDIATE`, as its deferrable foreign key is initially.

    Of the keys that a column declares; SQLAlchemy reads those that the table declares.
    """
    keys: dict[str, str] = {}
    for definition in _definitions(create):
        tokens = [token.upper() for token in definition if token.strip()]
        place = tokens.index("DEFERRABLE") if "DEFERRABLE" in tokens else 0
        if "REFERENCES" in tokens[:place] and tokens[place - 1] != "NOT":
            column = sql.bare(next(token for token in definition if token.strip()))
            deferred = tokens[place + 1 : place + 3] == ["INITIALLY", "DEFERRED"]
            keys[column] = "DEFERRED" if deferred else "IMMEDIATE"
    return keys


def key_names(create: str) -> dict[tuple[str, ...], str]:
    """Return by its columns the name of each foreign key in a CREATE TABLE that has one.

    SQLAlchemy takes what stands before the key for a part of its name, such as another constraint.
    """
    named: dict[tuple[str, ...], str] = {}
    for definition in _definitions(create):
        tokens = [token for token in definition if token.strip()]
        upper = [token.upper() for token in tokens]
        before = upper[: upper.index("REFERENCES")] if "REFERENCES" in upper else []
        if "CONSTRAINT" not in before:
            continue
        place = len(before) - 1 - before[::-1].index("CONSTRAINT")
        columns = tokens[:1]
        if "FOREIGN" in before:
            columns = [token for token in tokens[before.index("(") + 1 :] if token != ","]
            columns = columns[: columns.index(")")]
        elif place != len(before) - 2:  # the name is of another constraint of the column
            continue
        named[tuple(map(sql.bare, columns))] = sql.bare(tokens[place + 1])
    return named


def collations(create: str) -> dict[str, str]:
    """Return by column the collation that a CREATE TABLE gives it."""
    named: dict[str, str] = {}
    for definition in _definitions(create):
        tokens, depth = [token for token in definition if token.strip()], 0
        for word, name in pairwise(tokens):
            depth += sql.DEPTH.get(word, 0)
            if depth == 0 and word.upper() == "COLLATE":
                named[sql.bare(tokens[0])] = sql.bare(name)
    return named


def constraint_names(create: str) -> set[str]:
    """Return the names of all constraints in a CREATE TABLE."""
    tokens = [token for token in sql.tokens(create) if token.strip()]
    return {sql.bare(name) for word, name in pairwise(tokens) if word.upper() == "CONSTRAINT"}


def _definitions(create: str) -> Iterator[list[str]]:
    """Yield the tokens of each column and each rule in a CREATE TABLE."""
    tokens = sql.tokens(create)
    depth, definition = 0, list[str]()
    for token in tokens[tokens.index("(") + 1 :] if "(" in tokens else ():
        depth += sql.DEPTH.get(token, 0)
        if depth < 0 or (token == "," and depth == 0):
            yield definition
            definition = []
            if depth < 0:
                return
        else:
            definition.append(token)


def _is_numbered(table: sa.Table) -> bool:
    """Whether SQLite numbers the rows in the key, an INTEGER, as an alias of the rowid."""
    return len(table.primary_key) == 1 and table.dialect_options["sqlite"].get("with_rowid", True)


def _defer(table: sa.Table, initially: Mapping[str, str]) -> None:
    for key in table.foreign_key_constraints:
        if len(key.columns) == 1 and (first := initially.get(key.column_keys[0])):
            key.deferrable, key.initially = True, first


def _expression(definition: list[str]) -> dict[str, str]:
    """Return the column and its expression, if the tokens of a definition have one."""
    written = [(place, token) for place, token in enumerate(definition) if token.strip()]
    depth = 0
    for (_, word), (place, token) in pairwise(written):
        depth += sql.DEPTH.get(word, 0)
        if depth == 0 and word.upper() == "AS" and token == "(":
            return {sql.bare(written[0][1]): _inside(definition[place + 1 :])}
    return {}


def _inside(tokens: list[str]) -> str:
    """Return the text up to the bracket that closes the one before it."""
    depth = 1
    for place, token in enumerate(tokens):
        depth += sql.DEPTH.get(token, 0)
        if depth == 0:
            return "".join(tokens[:place]).strip()
    return ""


def places(connection: sa.Connection, own: Sequence[Place]) -> list[Place]:
    """Return those of the tables that have rows of their own.

    A virtual table has none, and the tables behind it are its module's. SQLite lists them as such
    since 3.37; before, they are those of FTS and of R*Tree by name.
    """
    # without a result before 3.37, which SQLAlchemy would take for an error
    listed = cast(Any, connection.connection).execute("PRAGMA table_list").fetchall()
    virtual = set(connection.scalars(sa.text(_VIRTUAL)))
    behind = {name for _, name, kind, *_ in listed if kind == "shadow"}
    left_out = virtual | (behind if listed else named_behind(virtual))
    return [(schema, name) for schema, name in own if name not in left_out]


def named_behind(virtual: Iterable[str]) -> set[str]:
    """Return the names that tables behind these virtual tables may have."""
    return {f"{name}_{part}" for name in virtual for part in _SHADOWS}


def _name_constraints(table: sa.Table, create: str) -> None:
    """Give each constraint the name that it has, and no other."""
    keys, named = key_names(create), constraint_names(create)
    for constraint in table.constraints:
        if isinstance(constraint, sa.ForeignKeyConstraint):
            constraint.name = keys.get(tuple(column.name for column in constraint.columns))
        elif constraint.name not in named:
            constraint.name = None


def reflect(connection: sa.Connection, tables: Sequence[Place]) -> Reflection:
    """Return the structure of these tables with everything that this module names."""
    result = reflection.reflect(connection, tables)
    for table in result.metadata.tables.values():
        named = {"table": table.name}
        _complete(table, str(connection.scalar(sa.text(_CREATE), named)))
        for column, type_ in connection.execute(sa.text(_TYPES), named):
            result.types[table.key, column] = type_
            if type_.upper() == "INTEGER" and table.c[column].primary_key:
                table.c[column].autoincrement = _is_numbered(table)
        for name, create in connection.execute(sa.text(_INDEXES), named):
            table.indexes -= {index for index in table.indexes if index.name == name}
            result.then(table.key, [create])
    result.notes += _notes(connection, result.metadata.tables)
    return result


def _complete(table: sa.Table, create: str) -> None:
    """Add what only the CREATE TABLE says."""
    table.dialect_options["sqlite"]["autoincrement"] = sql.has_autoincrement(create)
    for column, expression in expressions(create).items():
        computed = table.c[column].computed
        if computed is not None:
            computed.sqltext = sa.text(expression.replace(":", "\\:"))
    for column, collation in collations(create).items():
        type_ = copy(table.c[column].type)
        if isinstance(type_, sa.String):
            type_.collation = collation
            table.c[column].type = type_
    _name_constraints(table, create)
    _defer(table, deferrable(create))


def _notes(connection: sa.Connection, tables: Container[str]) -> Iterator[str]:
    for kind, name, table_name in connection.execute(sa.text(_TRIGGERS_AND_VIEWS)):
        if kind == "view":
            yield f"the view {name}: it has no rows of its own to copy"
        elif table_name in tables:
            yield f"the trigger {name} of {table_name}: triggers are not copied"
    for name in connection.scalars(sa.text(_VIRTUAL)):
        yield f"the virtual table {name}: its rows are its module's"
