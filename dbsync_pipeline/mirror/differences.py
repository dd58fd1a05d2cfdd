"""How a database's tables differ from the models.

The comparison is Alembic's, plus primary keys and the values of enums. Indexes and tables that the
models do not have are ignored; columns are not, since a standby without them would be no copy.
"""

from __future__ import annotations

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.mirror import known_structure, structure
from dbsync_pipeline.mirror.model import Model

MISSING = "missing"
"""The only difference of a table that does not exist."""
NO_TABLE = "a view, or a table of another server, has its name here"
"""The only difference of a table in whose place there is something else."""
NAMED = "its name is"
"""How the only difference of a table begins whose name has other capital letters here."""


def find(dialect: Dialect, model: Model) -> dict[str, list[str]]:
    """Return by table what differs; an empty list for a table that is equal. Leaves no transaction
    open.
    """
    differing = find_within(dialect, model)
    dialect.rollback()
    return differing


_equal = set[str]()
"""The marks under which this process saw databases that were equal to the models."""


def find_within(dialect: Dialect, model: Model) -> dict[str, list[str]]:
    """Do what `find` does, in the open transaction.

    A structure with the mark of one that was equal, in this process, is not compared again.
    """
    with dialect.doing("read the structure"):
        mark = known_structure.mark(model, dialect)
        if mark in _equal:
            return {name: [] for name in model.names}
        differing = _compared(dialect, model)
        # if it was altered during the comparison, the mark is not of what was compared
        if not any(differing.values()) and mark and mark == known_structure.mark(model, dialect):
            _equal.add(mark)
        return differing


def _compared(dialect: Dialect, model: Model) -> dict[str, list[str]]:
    differing: dict[str, list[str]] = {name: [] for name in model.names}
    absent = missing(dialect, model)
    for name in absent:
        differing[name].append(MISSING)
    replaced = structure.replaced(dialect, model)
    for name in replaced:
        differing[name].append(NO_TABLE)
    absent += replaced
    for name, text in _written_otherwise(dialect, model).items():
        differing[name].append(text)
        absent.append(name)
    for name, text in structure.column_differences(dialect, model):
        if name in differing and name not in absent:
            differing[name].append(text)
    present, enums = structure.keys_here(dialect, model), structure.enums_here(dialect)
    for table in model.tables:
        if table.name not in absent:
            key = present[table.sa.schema, table.sa.name]
            differing[table.name] += structure.keys(key, table.sa)
            differing[table.name] += structure.other_keys(dialect, table)
            differing[table.name] += structure.enums(enums, table.sa)
    return differing


def _table_names(inspector: sa.Inspector, schema: str | None) -> list[str]:
    """Return the tables of a schema; none if the schema does not exist."""
    if schema is not None and not inspector.has_schema(schema):
        return []
    return list(inspector.get_table_names(schema))


def _written_otherwise(dialect: Dialect, model: Model) -> dict[str, str]:
    """Return by name the difference of tables that an engine finds whatever the case of letters.

    Catalogs, counters and triggers have the name as it was written.
    """
    inspector = sa.inspect(dialect.connection)
    written: dict[str, str] = {}
    for schema in {table.sa.schema for table in model.tables}:
        here = _table_names(inspector, schema)
        folded = {name.casefold(): name for name in here}
        for table in model.tables:
            name = table.sa.name
            if table.sa.schema == schema and name not in here and name.casefold() in folded:
                written[table.name] = f"{NAMED} {folded[name.casefold()]} here"
    return written


def missing(dialect: Dialect, model: Model) -> list[str]:
    """Return the names of the models' tables that do not exist, in the open transaction.

    The tables are listed once for each schema; only those that the list lacks are asked for one by
    one, since a name may be written otherwise, or be a view's.
    """
    with dialect.doing("read the structure"):
        inspector = sa.inspect(dialect.connection)
        schemas = {table.sa.schema for table in model.tables}
        listed = {(schema, name) for schema in schemas for name in _table_names(inspector, schema)}
        absent = [
            table.name
            for table in model.tables
            if (table.sa.schema, table.sa.name) not in listed
            and not inspector.has_table(table.sa.name, schema=table.sa.schema)
        ]
        if absent:
            dialect.require_visible(model.tables)
        return absent
