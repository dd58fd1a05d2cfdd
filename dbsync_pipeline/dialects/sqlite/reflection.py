"""What SQLite has beside SQLAlchemy's view of its tables: declared types, and special indexes."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from dbsync_pipeline.dialects import reflection
from dbsync_pipeline.dialects.reflection import Place, Reflection

_TYPES = "SELECT name, type FROM pragma_table_xinfo(:table)"

_INDEXES = """
SELECT l.name, m.sql FROM pragma_index_list(:table) l JOIN sqlite_master m ON m.name = l.name
WHERE l.origin = 'c' AND (l.partial OR EXISTS (
  SELECT 1 FROM pragma_index_xinfo(l.name) x
  WHERE x.key AND (x.cid = -2 OR x."desc" OR x.coll <> 'BINARY')))
ORDER BY 1"""
"""(index, CREATE) of indexes that are more than a list of columns."""

_NOTES = """
SELECT type, name, tbl_name FROM sqlite_master WHERE type IN ('view', 'trigger') ORDER BY 1, 2"""


def reflect(connection: sa.Connection, tables: Sequence[Place]) -> Reflection:
    """Return the structure of these tables with everything that this module names."""
    result = reflection.reflect(connection, tables)
    for table in result.metadata.tables.values():
        named = {"table": table.name}
        for column, type_ in connection.execute(sa.text(_TYPES), named):
            result.types[table.key, column] = type_
        for name, create in connection.execute(sa.text(_INDEXES), named):
            table.indexes -= {index for index in table.indexes if index.name == name}
            result.then(table.key, [create])
    for kind, name, table_name in connection.execute(sa.text(_NOTES)):
        if kind == "view":
            result.notes.append(f"the view {name}: it has no rows of its own to copy")
        elif table_name in result.metadata.tables:
            result.notes.append(f"the trigger {name} of {table_name}: triggers are not copied")
    return result
