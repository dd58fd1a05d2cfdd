"""What one engine alone has, in models for several: its types, its defaults, its statements.

`dbsync models from-database` writes models with these; models written by hand may use them too. On
another engine a type is refused by name, a default is NULL, and a statement is not run: a mirrored
row brings all its values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import NullType, UserDefinedType

from dbsync_pipeline.dialects.foreign_keys import OUTSIDE as OUTSIDE

__all__ = ["OUTSIDE", "EngineType", "after_create", "before_create", "default_on"]


_NO_ENGINE = "default"
"""SQLAlchemy's name for the dialect in which it writes a type as text: `str(type_)`."""


class EngineType(UserDefinedType[Any]):
    """A type of one engine, as that engine writes it: `EngineType("postgresql", "tsvector")`.

    Its values are carried between databases of this engine, exactly.
    """

    cache_ok = True

    def __init__(self, engine: str, name: str) -> None:
        self.engine = engine
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        """Return the type as the engine writes it."""
        return self.name


@compiles(EngineType)
def _type(type_: EngineType, compiler: Any, **_: Any) -> str:
    if compiler.dialect.name not in (type_.engine, _NO_ENGINE):
        raise sa.exc.CompileError(f"{type_.name} is a type of {type_.engine}")
    return type_.name


class EngineDefault(ColumnElement[Any]):
    """A default of one engine; NULL on the others."""

    inherit_cache = False
    type = NullType()

    def __init__(self, engine: str, sql: str) -> None:
        self.engine = engine
        self.sql = sql


@compiles(EngineDefault)
def _default(default: EngineDefault, compiler: Any, **_: Any) -> str:
    if compiler.dialect.name != default.engine:
        return "NULL"
    return str(compiler.post_process_text(default.sql))


def default_on(engine: str, sql: str) -> EngineDefault:
    """Return a `server_default` that only this engine understands."""
    return EngineDefault(engine, sql)


def before_create(metadata: sa.MetaData, engine: str, statements: Iterable[str]) -> None:
    """Run statements on this engine before tables of the metadata are created, as often as that is.

    So each must do nothing if what it creates exists.
    """
    listed = tuple(statements)

    def run(
        _target: Any, connection: sa.Connection, tables: Collection[Any] = (), **_: Any
    ) -> None:
        if tables and connection.dialect.name == engine:
            for statement in listed:
                connection.exec_driver_sql(_escaped(statement, connection))

    sa.event.listen(metadata, "before_create", run)


def after_create(table: sa.Table, engine: str, statements: Iterable[str]) -> None:
    """Run statements on this engine once the table, and all that are created with it, exist."""
    listed, key = tuple(statements), table.key

    def run(
        _target: Any, connection: sa.Connection, tables: Collection[Any] = (), **_: Any
    ) -> None:
        if connection.dialect.name == engine and any(created.key == key for created in tables):
            for statement in listed:
                connection.exec_driver_sql(_escaped(statement, connection))

    sa.event.listen(table.metadata, "after_create", run)


def _escaped(statement: str, connection: sa.Connection) -> str:
    """Return the statement for a driver that would take a percent sign for a parameter."""
    doubles = connection.dialect.paramstyle in ("format", "pyformat")
    return statement.replace("%", "%%") if doubles else statement
