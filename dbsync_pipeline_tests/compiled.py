"""What makes the engines of the tests cheap: a statement is compiled once in a process, not once for each engine.

SQLAlchemy keeps what it compiled, and the types that it adapted, with an engine. The program opens an engine for each connection, and
each test has databases of its own, so nothing would ever be found there again. Engines whose dialects compile alike share both.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.util import LRUCache

_STATEMENTS = 10_000

_types: dict[Hashable, Any] = {}


class _Compiled(LRUCache[Any, Any]):
    """What SQLAlchemy looks up by a dialect and a statement, found by a dialect that is like it too."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((_likeness(key[0]), *key[1:]), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__((_likeness(key[0]), *key[1:]), value)


_compiled = _Compiled(_STATEMENTS)


def _likeness(dialect: Any) -> Hashable:
    """What a statement's text depends on beside the statement, as far as the program and Dagster set it."""
    return (
        type(dialect),
        dialect.ddl_compiler,
        dialect.server_version_info,
        dialect.default_schema_name,
        dialect.paramstyle,
    )


def share() -> None:
    """Share it between all engines of this process from now on."""
    sa.event.listen(sa.Engine, "engine_connect", _share)


def _share(connection: sa.Connection) -> None:
    engine, dialect = connection.engine, connection.dialect
    if engine._compiled_cache is not _compiled:
        engine._compiled_cache = _compiled
        likeness = _likeness(dialect)
        dialect._type_memos = _types.setdefault(likeness, weakref.WeakKeyDictionary())
