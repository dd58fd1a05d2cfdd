"""Column types, keys and constraint names for models that every engine stores exactly.

For your own models, for the sample ones in `dbsync_pipeline.models`, and for the ledger's tables.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import BigInteger, DateTime, ForeignKey, Unicode
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from dbsync_pipeline.dialects import COLUMN_TYPES
from dbsync_pipeline.dialects.column_types import ColumnTypes

_DEFAULT = ColumnTypes()


class Instant(TypeDecorator[dt.datetime]):
    """A moment, to the microsecond. Its offset is not part of its value.

    `timestamptz` on PostgreSQL, `DATETIMEOFFSET(6)` on SQL Server. On SQLite, text that sorts:
    `2026-01-31 23:59:59.000001+00:00`, always UTC and always six digits.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def __repr__(self) -> str:
        """Return the source of the type: a revision of the models contains it."""
        return "Instant()"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the engine's own type."""
        return COLUMN_TYPES.get(dialect.name, _DEFAULT).instant(dialect)

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> Any:
        """Return a moment as the driver accepts it. Raise ValueError if it has no time zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        return COLUMN_TYPES.get(dialect.name, _DEFAULT).bind_instant(value, dialect)

    def process_result_value(self, value: Any, dialect: Dialect) -> dt.datetime | None:
        """Return the moment with its time zone."""
        return dt.datetime.fromisoformat(value) if isinstance(value, str) else value


def _key() -> BigInteger:
    key = BigInteger()
    for engine, types in COLUMN_TYPES.items():
        if (type_ := types.key()) is not None:
            key = key.with_variant(type_, engine)
    return key


Key = _key()
"""The type of a generated key: BIGINT, or what the engine numbers."""


def distinct(length: int) -> Unicode:
    """Return a text type whose keys and unique values are compared by code points everywhere."""
    text = Unicode(length)
    for engine, types in COLUMN_TYPES.items():
        if (type_ := types.distinct(length)) is not None:
            text = text.with_variant(type_, engine)
    return text


NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraint and index names, the same on every engine: `MetaData(naming_convention=NAMING)`."""


def reference(column: str) -> ForeignKey:
    """Return a deferrable foreign key, which a publish can check at its end.

    It does not cascade: SQL Server allows one cascade path only.
    """
    return ForeignKey(column, deferrable=True, initially="IMMEDIATE")
