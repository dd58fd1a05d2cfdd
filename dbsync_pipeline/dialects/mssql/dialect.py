"""SQL Server, Azure SQL and Babelfish as a database of the mirror.

Digests are computed by HASHBYTES in the server. Babelfish, which speaks T-SQL too, is recognised
where it differs: there PostgreSQL takes the locks and switches foreign keys off.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from dbsync_pipeline.dialects import values
from dbsync_pipeline.dialects.contract import translated
from dbsync_pipeline.dialects.mssql import tsql
from dbsync_pipeline.dialects.mssql.counters import MSSQLCounters
from dbsync_pipeline.dialects.mssql.target import MSSQLTarget
from dbsync_pipeline.dialects.table import Column, Kind

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation, Operations


class MSSQL(MSSQLTarget, MSSQLCounters):
    """One open connection to a database of SQL Server, in either role."""

    script_begins = ("SET XACT_ABORT ON;", "BEGIN TRANSACTION;")

    def quoted(self, name: str) -> str:
        """Return an identifier as a script writes it."""
        return tsql.quote(name)

    def literal(self, column: Column, value: Any) -> str:
        """Return a plain value as T-SQL writes it; an IDENTITY needs IDENTITY_INSERT too."""
        match column.kind:
            case Kind.INTEGER | Kind.BOOLEAN:
                return str(int(value))
            case Kind.FLOAT:
                return repr(float(value))
            case Kind.BYTES:
                return f"0x{bytes(value).hex()}"
            case Kind.INSTANT:
                value = values.timestamp(value).isoformat(sep=" ") + "+00:00"
            case Kind.DATETIME:
                value = values.timestamp(value).isoformat()
            case Kind.DATE:
                value = values.date(value).isoformat()
            case Kind.TIME:
                value = values.time_of_day(value).isoformat()
        return "N'" + str(value).replace("'", "''") + "'"

    @translated
    def alter(self, operations: Operations, operation: MigrateOperation) -> Any:
        """Carry out one of Alembic's operations, within the open transaction.

        A default and a check are objects of their own, which must go before their column.
        """
        from alembic.operations import ops

        self._texts_of.clear()
        if isinstance(operation, ops.DropColumnOp):
            operation.kw |= {"mssql_drop_default": True, "mssql_drop_check": True}
        if (
            isinstance(operation, ops.AlterColumnOp)
            and self._babelfish
            and operation.modify_nullable is None
        ):
            # SQL Server drops NOT NULL with a new type unless it is repeated; Babelfish keeps it,
            # and does not accept it in this statement
            operation.existing_nullable = None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "MS-SQL ALTER COLUMN")
            return super().alter(operations, operation)


DIALECT = MSSQL
