"""How SQL Server stores the models' column types."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy.dialects.mssql import DATETIMEOFFSET, NVARCHAR
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine, UserDefinedType

from dbsync_pipeline.dialects.column_types import ColumnTypes
from dbsync_pipeline.dialects.table import Kind


class _InstantForODBC(UserDefinedType[Any]):
    """DATETIMEOFFSET(6) for pyodbc, which sends a moment as text.

    The parameter's type is declared, since not every server converts text to a moment.
    """

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "DATETIMEOFFSET(6)"

    def get_dbapi_type(self, dbapi: Any) -> Any:
        """Return ODBC's SQL_SS_TIMESTAMPOFFSET, as long as one with seven digits."""
        return (-155, 34, 7)


class MSSQLColumnTypes(ColumnTypes):
    """A moment is DATETIMEOFFSET(6); texts that must be distinct have a binary collation."""

    kinds = {DATETIMEOFFSET: Kind.INSTANT}

    def instant(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return DATETIMEOFFSET(6), to the microsecond."""
        if dialect.driver == "pyodbc":
            return _InstantForODBC()
        return dialect.type_descriptor(DATETIMEOFFSET(6))  # type: ignore[no-untyped-call]

    def bind_instant(self, moment: dt.datetime, dialect: Dialect) -> Any:
        """Return text for pyodbc, which drops the offset of a datetime."""
        if dialect.driver == "pyodbc":
            return moment.isoformat(sep=" ", timespec="microseconds")
        return moment

    def distinct(self, length: int) -> TypeEngine[Any]:
        """Return NVARCHAR that compares by code points, as other engines do."""
        return NVARCHAR(length, collation="Latin1_General_100_BIN2")


COLUMN_TYPES = MSSQLColumnTypes()
