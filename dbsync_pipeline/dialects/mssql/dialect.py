"""SQL Server, Azure SQL and Babelfish as a database of the mirror.

Digests are computed by HASHBYTES in the server. Babelfish, which speaks T-SQL too, is recognised
where it differs: there PostgreSQL takes the locks and switches foreign keys off.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

from dbsync_pipeline.dialects import values
from dbsync_pipeline.dialects.contract import translated
from dbsync_pipeline.dialects.mssql import tsql
from dbsync_pipeline.dialects.mssql.counters import MSSQLCounters
from dbsync_pipeline.dialects.mssql.target import MSSQLTarget
from dbsync_pipeline.dialects.mssql.values import to_mssql
from dbsync_pipeline.dialects.table import Column, Kind, Table

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation, Operations


class MSSQL(MSSQLTarget, MSSQLCounters):
    """One open connection to a database of SQL Server, in either role."""

    script_begins = ("SET XACT_ABORT ON;", "BEGIN TRANSACTION;")

    def quoted(self, name: str) -> str:
        """Return an identifier as a script writes it."""
        return tsql.quote(name)

    def insertion(self, table: Table, into: str, values: str) -> str:
        """Return an INSERT, between statements that allow it to give the table's IDENTITY."""
        insert = super().insertion(table, into, values)
        if not self._has_identity(table):
            return insert
        allow = f"SET IDENTITY_INSERT {tsql.quote_table(table.sa)}"
        return f"{allow} ON; {insert}; {allow} OFF"

    def literal(self, column: Column, value: Any) -> str:
        """Return a plain value as T-SQL writes it. Raise Cannot if the column cannot hold it."""
        to_mssql(column, tsql.type_name(column), None)(value)
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
        return _text(str(value))

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


def _text(value: str) -> str:
    """Return a text as T-SQL writes it; in one literal, a backslash before a line end would be
    lost with it.
    """
    parts = [tsql.national(part) for part in re.split(r"(?<=\\)(?=[\r\n])", value)]
    if len(parts) > 1:  # a sum of short texts would be cut at 4,000 characters
        parts[0] = f"convert(nvarchar(max), {parts[0]})"
    return " + ".join(parts)


DIALECT = MSSQL
