"""The structure of tables, read from the views that Babelfish fills.

SQLAlchemy reads views that Babelfish lacks or leaves empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import sqlalchemy as sa

HIDDEN = "SELECT convert(int, relrowsecurity) AS hidden FROM pg_catalog.pg_class WHERE oid = {0}"

_Reflected = dict[tuple[str | None, str], Any]


def adapt(dialect: Any) -> None:
    """Make a SQLAlchemy dialect read the structure in this way, and insert rows one by one.

    Babelfish takes NULLs in a list of rows for texts.
    """
    dialect.use_insertmanyvalues = dialect.use_insertmanyvalues_wo_returning = False
    dialect.get_multi_pk_constraint = _primary_keys
    dialect.get_multi_foreign_keys = _foreign_keys
    dialect.get_multi_columns = partial(_columns, type(dialect).get_multi_columns, dialect)
    dialect.get_multi_indexes = partial(_indexes, type(dialect).get_multi_indexes, dialect)


def _columns(
    inherited: Callable[..., Any], dialect: Any, connection: sa.Connection, **given: Any
) -> Any:
    """Leave collations out: Babelfish reports them by names of its own."""
    result = list(inherited(dialect, connection, **given))
    for _, columns in result:
        for column in columns:
            if getattr(column["type"], "collation", None):
                column["type"].collation = None
    return result


def _indexes(
    inherited: Callable[..., Any], dialect: Any, connection: sa.Connection, **given: Any
) -> Any:
    """Return indexes by the names in the models: Babelfish appends the table's name and a hash."""
    result = list(inherited(dialect, connection, **given))
    for (_, table), indexes in result:
        for index in indexes:
            index["name"] = re.sub(rf"{re.escape(table.lower())}[0-9a-f]{{32}}$", "", index["name"])
    return result


def _primary_keys(
    connection: sa.Connection,
    *,
    schema: str | None = None,
    filter_names: Collection[str] | None = None,
    **_: Any,
) -> Any:
    result: _Reflected = {
        (schema, name): {"name": None, "constrained_columns": []} for name in filter_names or ()
    }
    for table, key, column in _rows(connection, _PRIMARY, schema, filter_names):
        key_entry = result.setdefault((schema, table), {"name": None, "constrained_columns": []})
        key_entry["name"] = key
        key_entry["constrained_columns"].append(column)
    return result.items()


def _foreign_keys(
    connection: sa.Connection,
    *,
    schema: str | None = None,
    filter_names: Collection[str] | None = None,
    **_: Any,
) -> Any:
    result: _Reflected = {(schema, name): [] for name in filter_names or ()}
    keys: dict[tuple[str, str], dict[str, Any]] = {}
    for table, key, column, there, referred, referred_column, deleted, updated in _rows(
        connection, _FOREIGN, schema, filter_names
    ):
        description = keys.get((table, key))
        if description is None:
            description = keys[(table, key)] = {
                "name": key,
                "constrained_columns": [],
                "referred_schema": schema if schema else None if there == "dbo" else there,
                "referred_table": referred,
                "referred_columns": [],
                "options": _actions(ondelete=deleted, onupdate=updated),
            }
            result.setdefault((schema, table), []).append(description)
        description["constrained_columns"].append(column)
        description["referred_columns"].append(referred_column)
    return result.items()


def _actions(**result: str) -> dict[str, str]:
    """Return the actions of a foreign key as SQLAlchemy names them, without NO ACTION."""
    return {
        event: action.replace("_", " ") for event, action in result.items() if action != "NO_ACTION"
    }


def _rows(
    connection: sa.Connection, query: str, schema: str | None, filter_names: Collection[str] | None
) -> list[Any]:
    rows = connection.execute(sa.text(query), {"schema": schema or "dbo"}).all()
    return [row for row in rows if filter_names is None or row[0] in filter_names]


_PRIMARY = """
SELECT object_name(i.object_id), i.name, c.name FROM sys.indexes i
INNER JOIN sys.index_columns k ON k.object_id = i.object_id AND k.index_id = i.index_id
INNER JOIN sys.columns c ON c.object_id = i.object_id AND c.column_id = k.column_id
WHERE i.is_primary_key = 1 AND object_schema_name(i.object_id) = :schema
ORDER BY i.object_id, k.key_ordinal"""

_FOREIGN = """
SELECT object_name(f.parent_object_id), f.name, c.name,
       object_schema_name(f.referenced_object_id), object_name(f.referenced_object_id), r.name,
       f.delete_referential_action_desc, f.update_referential_action_desc
FROM sys.foreign_keys f
INNER JOIN sys.foreign_key_columns k ON k.constraint_object_id = f.object_id
INNER JOIN sys.columns c
  ON c.object_id = f.parent_object_id AND c.column_id = k.parent_column_id
INNER JOIN sys.columns r
  ON r.object_id = f.referenced_object_id AND r.column_id = k.referenced_column_id
WHERE object_schema_name(f.parent_object_id) = :schema
ORDER BY f.object_id, k.constraint_column_id"""
