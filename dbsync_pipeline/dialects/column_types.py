"""How an engine stores the column types that models are written with.

These modules import SQLAlchemy and no driver: an application's models import them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from dbsync_pipeline.dialects.table import Kind


class ColumnTypes:
    """The defaults, for an engine that stores a moment with its time zone and numbers any key."""

    kinds: ClassVar[Mapping[type[TypeEngine[Any]], Kind]] = {}
    """Types of this engine alone whose kind is not that of their base class."""
    json_by_value: ClassVar[tuple[type[TypeEngine[Any]], ...]] = ()
    """Types of this engine that keep JSON, or its arrays, by value and not as text."""

    def instant(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type of an `Instant` column, for the driver of this SQLAlchemy dialect."""
        return dialect.type_descriptor(sa.DateTime(timezone=True))

    def bind_instant(self, moment: dt.datetime, dialect: Dialect) -> Any:
        """Return a moment, which has a time zone, as the driver accepts it."""
        return moment

    def key(self) -> TypeEngine[Any] | None:
        """Return the type of a generated key, if it is not BIGINT."""
        return None

    def enum_value_statements(self, type_: sa.Enum, values: Sequence[str]) -> list[str]:
        """Return the SQL that adds these values to an enum; empty if the engine has no such type.

        Each statement does nothing if the enum has its value already.
        """
        return []

    def distinct(self, length: int) -> TypeEngine[Any] | None:
        """Return a text type that compares by code points, if the usual one does not."""
        return None
