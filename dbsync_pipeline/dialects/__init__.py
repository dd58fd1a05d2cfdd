"""The engines: one folder each, and one line in this registry.

A folder has `dialect.py` with the engine's `DIALECT`, and `column_types.py` with its
`COLUMN_TYPES`. A dialect is imported when a database needs it, so that an engine's driver and its
cost are paid only where it is used. `docs/adding-an-engine.md` is the guide to a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from dbsync_pipeline.dialects import table

if TYPE_CHECKING:
    from dbsync_pipeline.dialects.column_types import ColumnTypes
    from dbsync_pipeline.dialects.contract import Dialect

ENGINES: Mapping[str, tuple[str, ...]] = {
    "postgresql": ("postgres",),
    "mssql": (),
    "sqlite": (),
}
"""The name of each engine's folder, which is the first word of its URLs, and other such words."""


def dialect_class(engine: str) -> type[Dialect]:
    """Return the dialect of an engine; this imports it, and its driver."""
    dialect: type[Dialect] = import_module(f"{__name__}.{engine}.dialect").DIALECT
    return dialect


def normalized_url(url: str) -> str:
    """Return the URL with the engine's own name as its first word."""
    word, separator, rest = url.partition("://")
    engine = next((name for name, others in ENGINES.items() if word in others), word)
    return engine + separator + rest


def _column_types(engine: str) -> ColumnTypes:
    types: ColumnTypes = import_module(f"{__name__}.{engine}.column_types").COLUMN_TYPES
    return types


COLUMN_TYPES: Mapping[str, ColumnTypes] = {engine: _column_types(engine) for engine in ENGINES}
"""How each engine stores the types of `dbsync_pipeline.columns`."""

for _types in COLUMN_TYPES.values():
    table.SPECIAL_KINDS.update(_types.kinds)
    table.JSON_BY_VALUE.extend(_types.json_by_value)
