"""The engines: one folder each, and one line in this registry.

A folder has `dialect.py` with the engine's `DIALECT`, `column_types.py` with its `COLUMN_TYPES`,
and `urls.py` with its `URLS`. A dialect is imported when a database needs it, so that an engine's
driver and its cost are paid only where it is used. `docs/adding-an-engine.md` is the guide to a new
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dbsync_pipeline.dialects import table
from dbsync_pipeline.dialects.sqlite.urls import file_url as file_url
from dbsync_pipeline.dialects.urls import Place, Urls

if TYPE_CHECKING:
    from dbsync_pipeline.dialects.column_types import ColumnTypes
    from dbsync_pipeline.dialects.contract import Dialect


@dataclass(frozen=True)
class Engine:
    """How people call an engine, and other first words that its URLs may have."""

    label: str
    words: tuple[str, ...] = ()


ENGINES: Mapping[str, Engine] = {
    "postgresql": Engine("PostgreSQL", ("postgres",)),
    "mssql": Engine("SQL Server"),
    "sqlite": Engine("SQLite"),
}
"""By the name of the engine's folder, which is the first word of its URLs."""


def dialect_class(engine: str) -> type[Dialect]:
    """Return the dialect of an engine; this imports it, and its driver."""
    dialect: type[Dialect] = import_module(f"{__name__}.{engine}.dialect").DIALECT
    return dialect


def normalized_url(url: str) -> str:
    """Return the URL with the engine's own name as its first word."""
    word, separator, rest = url.partition("://")
    engine = next((name for name, known in ENGINES.items() if word in known.words), word)
    return engine + separator + rest


def place(url: str) -> Place:
    """Return where the database of a URL is; empty if that is not known. Two URLs for one database
    have the same place.
    """
    try:
        parts = urlsplit(normalized_url(url))
        engine, _ = parts.scheme.partition("+")[0], parts.port  # which raises if it is no number
    except ValueError:
        return ()
    urls = _urls(engine) if engine in ENGINES else Urls()
    where = urls.place(parts)
    return (engine, *where) if where else ()


def _urls(engine: str) -> Urls:
    urls: Urls = import_module(f"{__name__}.{engine}.urls").URLS
    return urls


def _column_types(engine: str) -> ColumnTypes:
    types: ColumnTypes = import_module(f"{__name__}.{engine}.column_types").COLUMN_TYPES
    return types


COLUMN_TYPES: Mapping[str, ColumnTypes] = {engine: _column_types(engine) for engine in ENGINES}
"""How each engine stores the types of `dbsync_pipeline.columns`."""

for _types in COLUMN_TYPES.values():
    table.SPECIAL_KINDS.update(_types.kinds)
    table.JSON_BY_VALUE.extend(_types.json_by_value)
