"""Computed columns: they are not copied, so both sides must compute them alike.

Between two databases of an engine that writes an expression always in the same way, the expressions
are compared whenever the structure is. Elsewhere, and between servers of different versions, which
write the same expression differently, only `verify` compares the values.
"""

from __future__ import annotations

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.generated import Generated
from dbsync_pipeline.errors import StructureError
from dbsync_pipeline.mirror.model import Model


def require_equal(source: Dialect, target: Dialect, model: Model) -> None:
    """Raise StructureError, with the statements that correct it, if the target computes a column by
    another expression than the source. Leaves no transaction open.
    """
    tables = [
        table
        for table in model.tables
        if any(column.computed is not None for column in table.sa.columns)
    ]
    if not tables or not _write_alike(source, target):
        return
    there, here = source.generated(tables), target.generated(tables)
    for side in (source, target):
        side.rollback()
    for (table, column), generated in there.items():
        other = here.get((table, column))
        if other is not None and other.expression != generated.expression:
            raise StructureError(
                f"column {column} is computed as {other.expression} here, and as "
                f"{generated.expression} in {source.name}",
                operation="structure",
                database=target.name,
                table=table,
                remedy=_correction(target, model.table(table).sa, column, generated),
            )


def _correction(target: Dialect, table: sa.Table, column: str, generated: Generated) -> str:
    quoted = ".".join(target.quoted(part) for part in (table.schema, table.name) if part)
    name = target.quoted(column)
    return (
        f"in {target.name}: ALTER TABLE {quoted} DROP COLUMN {name}; "
        f"ALTER TABLE {quoted} ADD COLUMN {name} {generated.definition}"
    )


def _write_alike(source: Dialect, target: Dialect) -> bool:
    versions = [side.connection.dialect.server_version_info or () for side in (source, target)]
    return source.engine_name == target.engine_name and versions[0][:1] == versions[1][:1]
