"""PostgreSQL stores the models' column types as SQLAlchemy declares them."""

from __future__ import annotations

from sqlalchemy.dialects.postgresql import JSONB

from dbsync_pipeline.dialects.column_types import ColumnTypes
from dbsync_pipeline.dialects.table import Kind


class PostgreSQLColumnTypes(ColumnTypes):
    """JSONB is JSON that does not keep the text that the application wrote."""

    kinds = {JSONB: Kind.OPAQUE}
    json_by_value = (JSONB,)


COLUMN_TYPES = PostgreSQLColumnTypes()
