"""How a table in a database differs from the models: columns, keys, foreign keys, and enums.

Alembic compares columns, unique constraints and foreign keys. Primary keys and the values of enums
are compared here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine.reflection import ObjectKind, ObjectScope

from dbsync_pipeline.dialects.contract import Addressed, Dialect
from dbsync_pipeline.dialects.foreign_keys import lacks_parent
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.mirror.model import Model

if TYPE_CHECKING:
    from alembic.migration import MigrationContext


# About types in other tables. Not for a time: of two threads that compare at once, the first to end
# would switch the filter of both off.
warnings.filterwarnings("ignore", category=sa.exc.SAWarning, module=r"dbsync_pipeline\.mirror\.")


def column_differences(dialect: Dialect, model: Model) -> list[tuple[str, str]]:
    """Return (table, what differs) for every difference that matters to a mirror."""
    from alembic.autogenerate import compare_metadata

    with comparison(dialect, model) as context:
        operations = [
            operation
            for difference in compare_metadata(context, model.metadata)
            for operation in (difference if isinstance(difference, list) else [difference])
        ]
        if not dialect.shows_deferral:
            operations = but_for_deferral(operations)
        left_out = {_place(key) for key in keys_without_parent(dialect, model)}
        operations = [
            operation
            for operation in operations
            if operation[0] != "add_fk" or _place(operation[1]) not in left_out
        ]
        operations = [operation for operation in operations if not _of_key(operation, model)]
        return [text for operation in operations if (text := _text(operation)) is not None]


@contextmanager
def comparison(dialect: Dialect, model: Model, **options: Any) -> Iterator[MigrationContext]:
    """Yield Alembic's context for comparing the database with the models, and no other table."""
    from alembic.migration import MigrationContext

    names = {(table.sa.schema, table.sa.name) for table in model.tables}

    def mirrored(thing: Any, _name: Any, kind: str, _reflected: bool, _other: Any) -> bool:
        table = thing if kind == "table" else thing.table
        return (table.schema, table.name) in names and not _repeats_key(thing)

    options |= {
        "include_object": mirrored,
        "include_schemas": any(table.sa.schema for table in model.tables),
        "compare_type": True,
    }
    yield MigrationContext.configure(dialect.connection, opts=options)


def _repeats_key(thing: Any) -> bool:
    """Whether it is a unique constraint on the primary key, which PostgreSQL takes for that key."""
    return isinstance(thing, sa.UniqueConstraint) and {*thing.columns.keys()} == {
        *thing.table.primary_key.columns.keys()
    }


def but_for_deferral(differences: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the differences without foreign keys that differ only in being deferrable."""
    added, removed = (
        {_meaning(operation[1]) for operation in differences if operation[0] == kind}
        for kind in ("add_fk", "remove_fk")
    )
    return [
        operation
        for operation in differences
        if operation[0] not in ("add_fk", "remove_fk")
        or _meaning(operation[1]) not in added & removed
    ]


def keys_without_parent(dialect: Dialect, model: Model) -> list[sa.ForeignKeyConstraint]:
    """Return the foreign keys to tables that are not mirrored and that this database lacks.

    They are neither created nor compared here. Read in the open transaction.
    """
    with dialect.doing("read the structure"):
        return [
            key
            for table in model.tables
            for key in table.sa.foreign_key_constraints
            if lacks_parent(dialect.connection, key)
        ]


def _of_key(difference: tuple[Any, ...], model: Model) -> bool:
    """Whether a difference is that SQLite calls a column of the primary key nullable."""
    if difference[0] != "modify_nullable":
        return False
    table = model.metadata.tables[_key(difference[1], difference[2])]
    return difference[3] in {column.name for column in table.primary_key.columns}


def _place(key: sa.ForeignKeyConstraint) -> tuple[str, tuple[str, ...]]:
    return key.parent.key, tuple(key.column_keys)


def _meaning(key: sa.ForeignKeyConstraint) -> tuple[Any, ...]:
    actions = [(action or "NO ACTION").upper() for action in (key.ondelete, key.onupdate)]
    return (
        key.parent.key,
        tuple(key.column_keys),
        tuple(element.target_tokens for element in key.elements),
        *actions,
    )


def _text(difference: tuple[Any, ...]) -> tuple[str, str] | None:
    """(table, what differs) of one of Alembic's operations; None if it does not affect a mirror."""
    match difference:
        case ("add_column", _, _, column):
            return column.table.key, f"column {column.name} is missing"
        case ("remove_column", _, _, column):
            return column.table.key, f"column {column.name} is not in the models"
        case ("modify_nullable", schema, table, column, _, here, models):
            return (
                _key(schema, table),
                f"column {column} is {_null(here)} here, {_null(models)} in the models",
            )
        case ("modify_type", schema, table, column, _, here, models):
            return _key(schema, table), f"column {column} is {here} here, {models} in the models"
        case ("add_constraint", constraint):
            return (
                constraint.table.key,
                f"the unique constraint on {', '.join(c.name for c in constraint.columns)} is "
                "missing",
            )
        case ("add_fk", key):
            return key.parent.key, f"the foreign key on {', '.join(key.column_keys)} is missing"
        case ("remove_fk", key):
            return (
                key.parent.key,
                f"the foreign key on {', '.join(key.column_keys)} is not in the models",
            )
        case _:
            return None


def _key(schema: str | None, table: str) -> str:
    return f"{schema}.{table}" if schema else table


def _null(nullable: bool) -> str:
    return "nullable" if nullable else "not nullable"


def replaced(dialect: Dialect, model: Model) -> list[str]:
    """Return the names of the models' tables that are something else in the database."""
    inspector = sa.inspect(dialect.connection)
    schemas = {table.sa.schema for table in model.tables}
    others = {
        (schema, name)
        for schema in schemas
        for name in [
            *inspector.get_view_names(schema),
            *getattr(inspector, "get_foreign_table_names", lambda _: [])(schema),
        ]
    }
    return [table.name for table in model.tables if (table.sa.schema, table.sa.name) in others]


def keys_here(dialect: Dialect, model: Model) -> dict[tuple[str | None, str], list[str]]:
    """Return the columns of each primary key by (schema, table), read for all tables at once."""
    inspector, columns = sa.inspect(dialect.connection), {}
    for schema in {table.sa.schema for table in model.tables}:
        names = [table.sa.name for table in model.tables if table.sa.schema == schema]
        keys = inspector.get_multi_pk_constraint(
            schema, filter_names=names, kind=ObjectKind.ANY, scope=ObjectScope.ANY
        )
        columns.update(
            {place: list(key["constrained_columns"]) if key else [] for place, key in keys.items()}
        )
    return columns


def keys(here: list[str], table: sa.Table) -> list[str]:
    """Return how a primary key with the columns `here` differs from the models; empty if equal."""
    models = [column.name for column in table.primary_key.columns]
    if here == models:
        return []
    return [f"the primary key is ({', '.join(here)}) here, ({', '.join(models)}) in the models"]


def other_keys(dialect: Dialect, table: Table) -> list[str]:
    """Return why rows of a table without a primary key cannot be distinguished here; empty if they
    can.
    """
    if table.sa.primary_key.columns or table.key_names is None:
        if table.keyless and not isinstance(dialect, Addressed):
            return [
                f"it has no key, and {dialect.engine_name} does not tell equal rows apart: give it "
                "a primary key, or a unique key of columns that are NOT NULL"
            ]
        return []
    inspector, names = sa.inspect(dialect.connection), list(table.key_names)
    invalid = dialect.invalid_indexes(table)
    unique = [
        *inspector.get_unique_constraints(table.sa.name, schema=table.sa.schema),
        *(
            index
            for index in inspector.get_indexes(table.sa.name, schema=table.sa.schema)
            if index["unique"] and not _of_some_rows(index) and index["name"] not in invalid
        ),
    ]
    if any(key["column_names"] == names for key in unique):
        return []
    return [f"the unique key on {', '.join(names)}, which distinguishes its rows, is missing"]


def _of_some_rows(index: Mapping[str, Any]) -> bool:
    return any(name.endswith("_where") for name in index.get("dialect_options", {}))


Enums = Mapping[tuple[str | None, str], list[str]]


def enums_here(dialect: Dialect) -> Enums:
    """Return the values of each enum type by (schema, name); empty if the engine has none.

    The types that a name without a schema finds have the schema None too.
    """
    get_enums = getattr(sa.inspect(dialect.connection), "get_enums", None)
    enums: dict[tuple[str | None, str], list[str]] = {}
    for enum in get_enums(schema="*") if get_enums else []:
        enums[enum["schema"], enum["name"]] = enum["labels"]
        if enum["visible"]:
            enums[None, enum["name"]] = enum["labels"]
    return enums


def enum_values(here: Enums, type_: sa.Enum) -> list[str] | None:
    """Return the values that the database has for an enum of the models; None if it has none.

    A type without a schema that no name alone finds is the only one of its name in any schema.
    """
    exact = here.get((type_.schema, str(type_.name)))
    if exact is not None or type_.schema is not None:
        return exact
    named = [values for (_, name), values in here.items() if name == type_.name]
    return named[0] if len(named) == 1 else None


def enums(here: Enums, table: sa.Table) -> list[str]:
    """Return how the enums of a table differ from the models; empty if they are equal."""
    return [
        f"the values of {column.type.name} are {', '.join(values)} here, "
        f"{', '.join(column.type.enums)} in the models"
        for column in table.columns
        if isinstance(column.type, sa.Enum)
        and (values := enum_values(here, column.type)) is not None
        and set(values) != set(column.type.enums)
    ]
