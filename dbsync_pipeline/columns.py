"""What models are written with so that every engine holds them exactly: column types, keys and the names of constraints.

For a user's own models, for the sample ones in `dbsync_pipeline.models`, and for the ledger's tables.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import BigInteger, DateTime, ForeignKey, Integer, Unicode
from sqlalchemy.dialects.mssql import DATETIMEOFFSET, NVARCHAR
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType


class _ForODBC(UserDefinedType[Any]):
    """DATETIMEOFFSET(6) for pyodbc, which takes it as a text: told what it is, since not every server makes an instant of a text."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "DATETIMEOFFSET(6)"

    def get_dbapi_type(self, dbapi: Any) -> Any:
        """ODBC's SQL_SS_TIMESTAMPOFFSET, as long as one is with seven digits."""
        return (-155, 34, 7)


class Instant(TypeDecorator[dt.datetime]):
    """A moment, to the microsecond; its offset is not part of its value.

    `timestamptz` on PostgreSQL, `DATETIMEOFFSET(6)` on SQL Server. On SQLite, text that sorts: `2026-01-31 23:59:59.000001+00:00`, always UTC and always six digits.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def __repr__(self) -> str:
        """As it is made: a revision of the models is written with it."""
        return "Instant()"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Unicode(32))
        if dialect.name == "mssql" and dialect.driver == "pyodbc":
            return _ForODBC()
        if dialect.name == "mssql":
            return dialect.type_descriptor(DATETIMEOFFSET(6))  # type: ignore[no-untyped-call]
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        if dialect.driver == "pyodbc":  # it drops the offset of a datetime
            return value.isoformat(sep=" ", timespec="microseconds")
        if dialect.name != "sqlite":
            return value
        return value.astimezone(dt.UTC).isoformat(sep=" ", timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> dt.datetime | None:
        return dt.datetime.fromisoformat(value) if isinstance(value, str) else value


Key = BigInteger().with_variant(Integer, "sqlite")
"""A generated key: SQLite generates for INTEGER PRIMARY KEY only."""


def distinct(length: int) -> Unicode:
    """A text that keys and unique constraints tell apart to the letter: by its code points on SQL Server, as everywhere else."""
    return Unicode(length).with_variant(
        NVARCHAR(length, collation="Latin1_General_100_BIN2"), "mssql"
    )


NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
"""Names for constraints and indexes, the same on every engine: for `MetaData(naming_convention=NAMING)`."""


def reference(column: str) -> ForeignKey:
    """A foreign key that a mirror can hold off until its commit. It does not cascade: SQL Server allows one cascade path only."""
    return ForeignKey(column, deferrable=True, initially="IMMEDIATE")
