"""Write reflected tables as the source of a Python module that a person can keep and edit.

One structure always gives the same text, so two texts tell whether the structure changed.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.foreign_keys import is_outside
from dbsync_pipeline.dialects.reflection import Reflection
from dbsync_pipeline.mirror.reflect.portable import default_source, sql_source, type_source

_IMPORTS = {
    "sqlalchemy.dialects": ("mssql", "postgresql", "sqlite"),
    "dbsync_pipeline.columns": ("Instant", "Key", "distinct"),
    "dbsync_pipeline.engine_columns": (
        *("OUTSIDE", "EngineType", "after_create", "before_create", "default_on"),
    ),
}
"""What a module may need, by the module that has it."""
_INDENT = "    "


def module(reflection: Reflection, dialect: sa.Dialect, title: str) -> str:
    """Return the source of the module; `title` is the first line of its docstring."""
    lines: list[str] = []
    if reflection.before:
        lines += ["", *_call("before_create", ["metadata", repr(dialect.name)], reflection.before)]
    for table in sorted(reflection.metadata.tables.values(), key=lambda table: table.key):
        lines += ["", *_table(table, dialect, reflection)]
    for key, statements in sorted(reflection.after.items()):
        owner = f"metadata.tables[{key!r}]"
        lines += ["", *_call("after_create", [owner, repr(dialect.name)], statements)]
    head = [
        f'"""{title}',
        "",
        *_not_carried(reflection.notes),
        '"""',
        "",
        "import sqlalchemy as sa",
    ]
    imports = [*head, *_imports("\n".join(lines)), "", "metadata = sa.MetaData()"]
    return "\n".join([*imports, *lines]) + "\n"


def _imports(body: str) -> Iterator[str]:
    """Yield the imports of what the body uses: a name before a bracket or a dot."""
    for package, names in _IMPORTS.items():
        used = [name for name in names if re.search(rf"(?<![\w'\"]){name}[(.),]", body)]
        if package == "dbsync_pipeline.columns":
            yield ""
        if used:
            yield f"from {package} import {', '.join(used)}"


def _not_carried(notes: Iterable[str]) -> Iterator[str]:
    listed = list(notes)
    if not listed:
        yield "Everything that these tables hold is mirrored."
        return
    yield "Not mirrored:"
    yield ""
    for note in listed:
        plain = note.replace("\\", "\\\\").replace('"""', "'''")
        yield from textwrap.wrap(f"- {plain}", 96, subsequent_indent="  ")


def _call(function: str, arguments: list[str], statements: Iterable[str]) -> Iterator[str]:
    yield f"{function}("
    yield from (f"{_INDENT}{argument}," for argument in arguments)
    yield f"{_INDENT}["
    for statement in statements:
        lines = statement.splitlines(keepends=True) or [""]
        yield from (f"{_INDENT * 2}{line!r}" for line in lines[:-1])
        yield f"{_INDENT * 2}{lines[-1]!r},"
    yield f"{_INDENT}],"
    yield ")"


def _table(table: sa.Table, dialect: sa.Dialect, reflection: Reflection) -> Iterator[str]:
    yield "sa.Table("
    yield f"{_INDENT}{table.name!r},"
    yield f"{_INDENT}metadata,"
    for part in (*_columns(table, dialect, reflection), *_constraints(table), *_indexes(table)):
        yield f"{_INDENT}{part},"
    yield from (f"{_INDENT}{option}," for option in _options(table))
    yield ")"


def _columns(table: sa.Table, dialect: sa.Dialect, reflection: Reflection) -> Iterator[str]:
    distinct = _distinct(table)
    key = table.primary_key.columns.keys()
    for column in table.columns:
        numbered = column.identity is not None or (
            [column.name] == key
            and isinstance(column.type, sa.Integer)
            and column.server_default is None
            and not column.foreign_keys
        )
        type_ = type_source(
            column,
            dialect,
            reflection.types.get((table.key, column.name)),
            is_key=numbered and [column.name] == key,
            unique=column.name in distinct,
        )
        arguments = [repr(column.name), type_, *_column_options(column, dialect)]
        yield f"sa.Column({', '.join(arguments)})"


def _distinct(table: sa.Table) -> set[str]:
    """Return the columns whose values a key or a reference compares."""
    keys: list[Any] = [table.primary_key, *table.foreign_key_constraints]
    keys += [each for each in table.constraints if isinstance(each, sa.UniqueConstraint)]
    keys += [index for index in table.indexes if index.unique]
    return {column.name for key in keys for column in key.columns}


def _column_options(column: sa.Column[Any], dialect: sa.Dialect) -> Iterator[str]:
    if column.computed is not None:
        persisted = column.computed.persisted
        yield f"sa.Computed({sql_source(column.computed.sqltext)}, persisted={persisted!r})"
    if column.identity is not None:
        yield _identity(column.identity)
    if not column.nullable and not column.primary_key:
        yield "nullable=False"
    if column.server_default is not None and column.computed is None and column.identity is None:
        if (default := default_source(column, dialect.name)) is not None:
            yield f"server_default={default}"
    elif column.primary_key and column.identity is None and _is_not_numbered(column):
        yield "autoincrement=False"
    if column.comment:
        yield f"comment={column.comment!r}"


def _is_not_numbered(column: sa.Column[Any]) -> bool:
    """Whether SQLAlchemy would number a key that the database does not number."""
    return column.autoincrement is not True and isinstance(column.type, sa.Integer)


def _identity(identity: sa.Identity) -> str:
    usual = {"start": 1, "increment": 1, "minvalue": 1, "cache": 1, "cycle": False}
    names = ("start", "increment", "minvalue", "maxvalue", "cycle", "cache")
    given = {name: getattr(identity, name) for name in names}
    options = [
        f"{name}={value!r}"
        for name, value in given.items()
        if value is not None and usual.get(name) != value
    ]
    return f"sa.Identity({', '.join([*(['always=True'] if identity.always else []), *options])})"


def _constraints(table: sa.Table) -> Iterator[str]:
    key = table.primary_key
    if key.columns:
        yield f"sa.PrimaryKeyConstraint({_arguments(key)})"
    others = (
        (type(constraint).__name__, str(constraint.name), source)
        for constraint in table.constraints
        if (source := _constraint(constraint))
    )
    yield from (source for *_, source in sorted(others))  # a table has them in no order


def _constraint(constraint: sa.Constraint) -> str | None:
    match constraint:
        case sa.ForeignKeyConstraint():
            return _foreign_key(constraint)
        case sa.UniqueConstraint():
            return f"sa.UniqueConstraint({_arguments(constraint)})"
        case sa.CheckConstraint():
            return _check(constraint)
    return None


def _arguments(constraint: Any) -> str:
    columns = [repr(column.name) for column in constraint.columns]
    return ", ".join([*columns, *_named(constraint)])


def _named(constraint: Any) -> Iterator[str]:
    if constraint.name is not None:
        yield f"name={str(constraint.name)!r}"
    if constraint.deferrable is not None:
        yield f"deferrable={constraint.deferrable!r}"
    if constraint.initially is not None:
        yield f"initially={constraint.initially!r}"
    for option, value in constraint.dialect_kwargs.items():
        if value and not isinstance(value, (list, dict)):
            yield f"{option}={value!r}"


def _foreign_key(constraint: sa.ForeignKeyConstraint) -> str:
    parents = [_target(element) for element in constraint.elements]
    actions = [
        f"{name}={value!r}"
        for name in ("onupdate", "ondelete", "match", "use_alter")
        if (value := getattr(constraint, name))
    ]
    parts = [repr(constraint.column_keys), repr(parents), *_named(constraint), *actions]
    return f"sa.ForeignKeyConstraint({', '.join(parts)})"


def _target(element: sa.ForeignKey) -> str | tuple[str | None, ...]:
    """The column that a key refers to; in parts if a name has a dot, which separates names."""
    schema, table, column = element.target_tokens
    if "." in table + str(column):
        return (schema, table, column)
    return element.target_fullname


def _check(constraint: sa.CheckConstraint) -> str:
    engine = constraint.info.get("engine")
    source = ", ".join([sql_source(constraint.sqltext), *_named(constraint)])
    return f"sa.CheckConstraint({source}).ddl_if(dialect={engine!r})"


def _indexes(table: sa.Table) -> Iterator[str]:
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        columns = [repr(getattr(column, "name", str(column))) for column in index.expressions]
        unique = ["unique=True"] if index.unique else []
        yield f"sa.Index({', '.join([repr(index.name), *columns, *unique])})"


def _options(table: sa.Table) -> Iterator[str]:
    if table.schema:
        yield f"schema={table.schema!r}"
    if table.comment:
        yield f"comment={table.comment!r}"
    if is_outside(table):
        yield "info=dict(OUTSIDE)"
    if key := table.dialect_options["postgresql"].get("partition_by"):
        yield f"postgresql_partition_by={key!r}"
    if table.dialect_options["sqlite"].get("autoincrement"):
        yield "sqlite_autoincrement=True"
    for option in ("strict", "with_rowid"):
        value = table.dialect_options["sqlite"].get(option)
        if value is not None and value != (option == "with_rowid"):
            yield f"sqlite_{option}={value!r}"
