"""PostgreSQL stores the models' column types as SQLAlchemy declares them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

from dbsync_pipeline.dialects.column_types import ColumnTypes
from dbsync_pipeline.dialects.table import Kind


class PostgreSQLColumnTypes(ColumnTypes):
    """JSONB is JSON that does not keep the text that the application wrote."""

    kinds = {JSONB: Kind.OPAQUE}
    json_by_value = (JSONB,)

    def enum_value_statements(self, type_: sa.Enum, values: Sequence[str]) -> list[str]:
        """Return an ALTER TYPE for each value."""
        quote = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]
        name = ".".join(quote(part) for part in (type_.schema, type_.name) if part)
        literals = ["'" + value.replace("'", "''") + "'" for value in values]
        return [f"ALTER TYPE {name} ADD VALUE IF NOT EXISTS {literal}" for literal in literals]


COLUMN_TYPES = PostgreSQLColumnTypes()
