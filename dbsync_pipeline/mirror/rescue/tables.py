"""The tables that hold before-images: one for each structure of a mirrored table, beside the
ledger.

A rescue table has the columns of the mirrored table with their exact types, the number of the
publish (`dbsync_publish`) and what that publish did to the row (`dbsync_change`): `deleted` and
`replaced` rows as they were before, and the keys of `inserted` ones. A row without a key is kept
whole in either case, and never `replaced`.
"""

from __future__ import annotations

import hashlib
import re

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.mirror.model import RESERVED

DELETED, REPLACED, INSERTED = "deleted", "replaced", "inserted"


def prepared(dialect: Dialect, table: Table) -> sa.TableClause:
    """Return the rescue table for rows of this structure; create it if it does not exist."""
    name = _name(table, "" if dialect.ledger_schema else "dbsync_")
    with dialect.doing("rescue rows"):
        if not sa.inspect(dialect.connection).has_table(name, schema=dialect.ledger_schema):
            dialect.create_like(name, table)
    return clause(dialect, name, table)


def clause(dialect: Dialect, name: str, table: Table) -> sa.TableClause:
    """Return the rescue table of that name, for use in a statement."""
    columns = (sa.column(column.name, column.type) for column in table.columns)
    return sa.table(
        name,
        sa.column("dbsync_publish", sa.BigInteger),
        sa.column("dbsync_change", sa.Unicode),
        *columns,
        schema=dialect.ledger_schema,
    )


def as_stored(dialect: Dialect, name: str, table: Table) -> Table:
    """Return the mirrored table with the columns of the rescue table of that name.

    It lacks columns that the models got since, and has those that they lost. The types are the
    models' where they have the column.
    """
    with dialect.doing("read rescued rows"):
        reflected = sa.inspect(dialect.connection).get_columns(name, schema=dialect.ledger_schema)
    stored = {
        column["name"]: column["type"] for column in reflected if column["name"] not in RESERVED
    }
    if stored.keys() == {column.name for column in table.columns}:
        return table
    modelled = {column.name: column.type for column in table.columns if column.name in stored}
    keys = set[str]() if table.keyless else {column.name for column in table.key}
    columns = (
        sa.Column(name, type_, primary_key=name in keys, autoincrement=False)
        for name, type_ in {**stored, **modelled}.items()
    )
    return Table(sa.Table(table.sa.name, sa.MetaData(), *columns, schema=table.sa.schema))


def same_key(table: Table, first: sa.FromClause, other: sa.FromClause) -> sa.ColumnElement[bool]:
    """The condition that rows of both have the same key."""
    return sa.and_(*(first.c[column.name] == other.c[column.name] for column in table.key))


def _name(table: Table, prefix: str) -> str:
    """A readable name that depends on the columns and their types, so that another structure gets
    another table.
    """
    structure = repr([table.name, *((column.name, str(column.type)) for column in table.columns)])
    readable = re.sub(r"[^a-z0-9]+", "_", table.name.lower()).strip("_")[:30]
    return f"{prefix}rescued_{readable}_{hashlib.sha256(structure.encode()).hexdigest()[:8]}"
