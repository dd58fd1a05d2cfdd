"""PostgreSQL stores the models' column types as SQLAlchemy declares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

from dbsync_pipeline.dialects.column_types import ColumnTypes
from dbsync_pipeline.dialects.table import Column, Kind, undecorated


class PostgreSQLColumnTypes(ColumnTypes):
    """JSONB is JSON that does not keep the text that the application wrote; nor does an array that
    is JSON on other engines.
    """

    kinds = {JSONB: Kind.OPAQUE}
    json_by_value = (JSONB, sa.ARRAY)

    def enum_value_statements(self, type_: sa.Enum, values: Sequence[str]) -> list[str]:
        """Return an ALTER TYPE for each value."""
        quote = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]
        name = ".".join(quote(part) for part in (type_.schema, type_.name) if part)
        literals = ["'" + value.replace("'", "''") + "'" for value in values]
        return [f"ALTER TYPE {name} ADD VALUE IF NOT EXISTS {literal}" for literal in literals]


def array_of(column: Column) -> sa.ARRAY[Any] | None:
    """Return the type of a column that is an array here and JSON on other engines; None for any
    other.
    """
    type_ = undecorated(column.type._variant_mapping.get("postgresql", column.type))
    return type_ if column.kind is Kind.TEXT and isinstance(type_, sa.ARRAY) else None


COLUMN_TYPES = PostgreSQLColumnTypes()
