"""How SQLite stores the models' column types."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from dbsync_pipeline.dialects.column_types import ColumnTypes


class SQLiteColumnTypes(ColumnTypes):
    """A moment is text that sorts; SQLite numbers INTEGER PRIMARY KEY only."""

    def instant(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type of texts like `2026-01-31 23:59:59.000001+00:00`."""
        return dialect.type_descriptor(sa.Unicode(32))

    def bind_instant(self, moment: dt.datetime, dialect: Dialect) -> Any:
        """Return the text of a moment: always UTC, always six digits."""
        return moment.astimezone(dt.UTC).isoformat(sep=" ", timespec="microseconds")

    def key(self) -> TypeEngine[Any]:
        """Return INTEGER."""
        return sa.Integer()


COLUMN_TYPES = SQLiteColumnTypes()
