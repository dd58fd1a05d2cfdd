"""The models' tables in a database: create what is missing, compare what exists.

The comparison is Alembic's, plus primary keys and the values of enums. Indexes and tables that the
models do not have are ignored; columns are not, since a standby without them would be no copy.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine.reflection import ObjectKind, ObjectScope

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DbsyncError, StructureError
from dbsync_pipeline.mirror import outcome
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.model import Model

if TYPE_CHECKING:
    from alembic.migration import MigrationContext


def ensure(database: Database, model: Model) -> list[str]:
    """Create what is missing, the ledger included; return the names of the created tables.

    A second call creates nothing. Raise StructureError, naming the first differences, if an
    existing table is not equal to the models. Create nothing and raise StructureError if only some
    tables exist and revisions are pending.
    """
    with database.connect(create=True) as dialect:
        dialect.prepare()
        absent = missing(dialect, model)
        if absent and len(absent) < len(model.tables):
            revisions.require_none_pending(dialect, model)
        dialect.connection.rollback()
        _require_types(dialect, [model.table(name) for name in absent])
        with (
            _rules_kept(model),
            outcome.transaction(
                dialect,
                database,
                lambda again: not missing(again, model),
                operation="create tables",
            ),
        ):
            model.metadata.create_all(
                dialect.connection,
                tables=[model.table(name).sa for name in absent],
                checkfirst=True,
            )
        Ledger(dialect).create(model.tables)
        require(dialect, model)
        _note_first(dialect, model)
    return absent


def _note_first(dialect: Dialect, model: Model) -> None:
    """A database that equals the models when it is first seen needs none of their revisions."""
    if model.revisions is not None:
        with dialect.doing("write the ledger"), dialect.connection.begin():
            if revisions.noted(dialect) is None:
                revisions.note(dialect, model)


def _require_types(dialect: Dialect, tables: Sequence[Table]) -> None:
    """Raise StructureError if the engine has no type for a column of a table to be created."""
    for table in tables:
        for column in table.sa.columns:
            try:
                column.type.compile(dialect.connection.dialect)
            except sa.exc.CompileError:
                raise StructureError(
                    f"{dialect.engine_name} has no type like {type(column.type).__name__} of "
                    f"column {column.name}",
                    operation="create tables",
                    database=dialect.name,
                    table=table.name,
                    remedy="give the column a type that every engine has, or one of this engine "
                    "by `with_variant`",
                ) from None


def check(database: Database, model: Model) -> dict[str, list[str]]:
    """Return by table what differs from the models; an empty list for a table that is equal."""
    with database.connect() as dialect:
        return differences(dialect, model)


def recreate(database: Database, model: Model) -> list[str]:
    """Drop the models' tables and the ledger and create them again; return the tables' names.

    All rows are lost. Dropping the tables, dropping the ledger and creating both are transactions
    of their own; a call that was interrupted is completed by a second one. Raise StructureError,
    with nothing changed, if a view has the name of a table; DatabaseError if something that is not
    in the models depends on a table.
    """
    with database.connect(create=True) as dialect:
        _require_no_views(dialect, model)
        with (
            _rules_kept(model),
            outcome.transaction(
                dialect,
                database,
                lambda again: len(missing(again, model)) == len(model.tables),
                operation="drop tables",
            ),
        ):
            model.metadata.drop_all(dialect.connection)
        Ledger(dialect).drop()
    ensure(database, model)
    return list(model.names)


def _require_no_views(dialect: Dialect, model: Model) -> None:
    with dialect.doing("read the structure"):
        inspector = sa.inspect(dialect.connection)
        views = {
            schema: set(inspector.get_view_names(schema))
            for schema in {table.sa.schema for table in model.tables}
        }
    dialect.connection.rollback()
    for table in model.tables:
        if table.sa.name in views[table.sa.schema]:
            raise StructureError(
                "a view has the name of this table, and views are not dropped",
                operation="recreate tables",
                database=dialect.name,
                table=table.name,
                remedy=f"keep its definition, `DROP VIEW {table.name}`, and run the command again",
            )


@contextmanager
def _rules_kept(model: Model) -> Iterator[None]:
    """Restore the foreign keys' creation rules afterwards.

    SQLAlchemy omits a foreign key that it once added or dropped by ALTER from every later CREATE
    TABLE, on other engines too.
    """
    constraints = [
        constraint for table in model.metadata.tables.values() for constraint in table.constraints
    ]
    rules = [constraint._create_rule for constraint in constraints]
    try:
        yield
    finally:
        for constraint, rule in zip(constraints, rules, strict=True):
            constraint._create_rule = rule


def primary_rows(database: Database, model: Model) -> dict[str, int]:
    """Return the rows of each table in one snapshot; raise StructureError if a table differs."""
    with database.connect() as dialect:
        require(dialect, model)
        dialect.snapshot()
        return {table.name: dialect.count(table) for table in model.tables}


def require(dialect: Dialect, model: Model) -> None:
    """Raise StructureError unless every table exists and is equal in structure.

    Leaves no transaction open.
    """
    refuse(dialect, model, differences(dialect, model))


def refuse(dialect: Dialect, model: Model, found: Mapping[str, list[str]]) -> None:
    """Raise StructureError if `found`, what `differences` returned, has a difference."""
    for name, texts in found.items():
        if texts:
            raise StructureError(
                "the table is missing" if texts == [MISSING] else "; ".join(texts),
                operation="structure",
                database=dialect.name,
                table=name,
                remedy=_remedy(dialect, model, texts),
            )


def _remedy(dialect: Dialect, model: Model, texts: list[str]) -> str:
    try:
        pending = revisions.pending(dialect, model)
    except DbsyncError:  # a role that may not read the ledger sees the structure all the same
        pending = ()
    dialect.connection.rollback()
    if pending:
        return f"`dbsync migrate --database {dialect.name}`"
    if texts == [MISSING]:
        return f"`dbsync tables create --database {dialect.name}`"
    return (
        "make the table equal to the models (`dbsync tables check` lists all differences; `dbsync "
        "migrate new` writes the change for every database), or, losing its rows: "
        f"`dbsync tables recreate --database {dialect.name}`"
    )


MISSING = "missing"
"""The only difference of a table that does not exist."""


def differences(dialect: Dialect, model: Model) -> dict[str, list[str]]:
    """Do what `check` does, on an open connection. Leaves no transaction open."""
    found = differences_within(dialect, model)
    dialect.connection.rollback()
    return found


def differences_within(dialect: Dialect, model: Model) -> dict[str, list[str]]:
    """Do what `differences` does, in the open transaction."""
    with dialect.doing("read the structure"):
        found: dict[str, list[str]] = {name: [] for name in model.names}
        absent = missing(dialect, model)
        for name in absent:
            found[name].append(MISSING)
        for name, text in _compare(dialect, model):
            if name in found and name not in absent:
                found[name].append(text)
        present, enums = keys_here(dialect, model), enums_here(dialect)
        for table in model.tables:
            if table.name not in absent:
                found[table.name] += keys(present[table.sa.schema, table.sa.name], table.sa)
                found[table.name] += _enums(enums, table.sa)
        return found


def missing(dialect: Dialect, model: Model) -> list[str]:
    """Return the names of the models' tables that do not exist, in the open transaction."""
    with dialect.doing("read the structure"):
        inspector = sa.inspect(dialect.connection)
        absent = [
            table.name
            for table in model.tables
            if not inspector.has_table(table.sa.name, schema=table.sa.schema)
        ]
        if absent:
            dialect.require_visible(model.tables)
        return absent


def _compare(dialect: Dialect, model: Model) -> list[tuple[str, str]]:
    from alembic.autogenerate import compare_metadata

    with comparison(dialect, model) as context:
        operations = [
            operation
            for difference in compare_metadata(context, model.metadata)
            for operation in (difference if isinstance(difference, list) else [difference])
        ]
        if not dialect.defers_keys:
            operations = but_for_deferral(operations)
        return [text for operation in operations if (text := _text(operation)) is not None]


@contextmanager
def comparison(dialect: Dialect, model: Model, **options: Any) -> Iterator[MigrationContext]:
    """Yield Alembic's context for comparing the database with the models, and no other table."""
    from alembic.migration import MigrationContext

    names = {(table.sa.schema, table.sa.name) for table in model.tables}

    def mirrored(thing: Any, _name: Any, kind: str, _reflected: bool, _other: Any) -> bool:
        table = thing if kind == "table" else thing.table
        return (table.schema, table.name) in names

    options |= {
        "include_object": mirrored,
        "include_schemas": any(table.sa.schema for table in model.tables),
        "compare_type": True,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # about types in other tables
        yield MigrationContext.configure(dialect.connection, opts=options)


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


def _meaning(key: sa.ForeignKeyConstraint) -> tuple[Any, ...]:
    actions = [(action or "NO ACTION").upper() for action in (key.ondelete, key.onupdate)]
    return (
        key.parent.key,
        tuple(key.column_keys),
        tuple(element.target_fullname for element in key.elements),
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


def keys_here(dialect: Dialect, model: Model) -> dict[tuple[str | None, str], list[str]]:
    """Return the columns of each primary key by (schema, table), read for all tables at once."""
    inspector, found = sa.inspect(dialect.connection), {}
    for schema in {table.sa.schema for table in model.tables}:
        names = [table.sa.name for table in model.tables if table.sa.schema == schema]
        keys = inspector.get_multi_pk_constraint(
            schema, filter_names=names, kind=ObjectKind.ANY, scope=ObjectScope.ANY
        )
        found.update(
            {place: list(key["constrained_columns"]) if key else [] for place, key in keys.items()}
        )
    return found


def keys(here: list[str], table: sa.Table) -> list[str]:
    """Return how a primary key with the columns `here` differs from the models; empty if equal."""
    models = [column.name for column in table.primary_key.columns]
    if here == models:
        return []
    return [f"the primary key is ({', '.join(here)}) here, ({', '.join(models)}) in the models"]


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


def _enums(here: Enums, table: sa.Table) -> list[str]:
    return [
        f"the values of {column.type.name} are {', '.join(values)} here, "
        f"{', '.join(column.type.enums)} in the models"
        for column in table.columns
        if isinstance(column.type, sa.Enum)
        and (values := enum_values(here, column.type)) is not None
        and set(values) != set(column.type.enums)
    ]
