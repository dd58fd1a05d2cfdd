"""The structure of a database as SQLAlchemy tables, with what SQLAlchemy does not say beside it.

What is the same on all engines is here; each engine adds what it alone has.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

Place = tuple[str | None, str]
"""A table's schema, None for the default one, and its name."""


@dataclass
class Reflection:
    """The tables that were read.

    `before` are statements that create what the tables need, and do nothing if it exists; `after`
    has by table the statements that complete it. `types` has by table and column the type as the
    engine writes it, where SQLAlchemy knows no such type. `notes` is what is not carried, and why.
    """

    metadata: sa.MetaData = field(default_factory=sa.MetaData)
    before: list[str] = field(default_factory=list)
    after: dict[str, list[str]] = field(default_factory=dict)
    types: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def then(self, table: str, statements: Iterable[str]) -> None:
        """Add statements that complete a table."""
        self.after.setdefault(table, []).extend(statements)


def key(place: Place) -> str:
    """Return the name of a table as the models know it."""
    schema, name = place
    return f"{schema}.{name}" if schema else name


def places(
    connection: sa.Connection, schemas: Sequence[str], system: Collection[str]
) -> list[Place]:
    """Return the tables in these schemas or, if none is named, in all but those of the system."""
    inspector = sa.inspect(connection)
    default = inspector.default_schema_name
    existing = inspector.get_schema_names()
    named = [name for name in existing if (name in schemas if schemas else name not in system)]
    return [
        (None if schema == default else schema, table)
        for schema in sorted(named)
        for table in sorted(inspector.get_table_names(schema))
    ]


def reflect(connection: sa.Connection, tables: Iterable[Place]) -> Reflection:
    """Return the structure of these tables, as SQLAlchemy reads it, in the open transaction."""
    reflection, by_schema = Reflection(), dict[str | None, list[str]]()
    for schema, name in tables:
        by_schema.setdefault(schema, []).append(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # about types that it does not know
        # the default schema last: SQLAlchemy would take its tables for those of the others
        for schema, names in sorted(by_schema.items(), key=lambda item: item[0] is None):
            reflection.metadata.reflect(connection, schema=schema, only=names, resolve_fks=False)
    return reflection
