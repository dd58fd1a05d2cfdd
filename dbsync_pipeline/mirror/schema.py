"""The tables of the models in a database: made where they are missing, compared where they are there.

The comparison is Alembic's, with the keys and the values of enums besides. Indexes and tables that the models do not have are none of
the mirror's business; columns are, since a standby without them would be no copy.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine.reflection import ObjectKind, ObjectScope

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import DbsyncError, StructureError
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.model import Model

if TYPE_CHECKING:
    from alembic.migration import MigrationContext


def ensure(database: Database, model: Model) -> list[str]:
    """Create what is missing, the ledger included; returns the names of the tables that were created. A second call creates nothing.

    Raises StructureError, naming the first differences, where a table that is there is not equal to the models, and, creating nothing,
    where some tables are there and revisions are not applied to them.
    """
    with database.connect(create=True) as dialect:
        dialect.prepare()
        absent = missing(dialect, model)
        if absent and len(absent) < len(model.tables):
            revisions.require_none_pending(dialect, model)
        dialect.connection.rollback()
        _require_types(dialect, model)
        with dialect.doing("create tables"), _rules_kept(model), dialect.connection.begin():
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
    """A database that is equal to the models when it is first seen needs none of the revisions that led to them."""
    if model.revisions is not None:
        with dialect.doing("write the ledger"), dialect.connection.begin():
            if revisions.noted(dialect) is None:
                revisions.note(dialect, model)


def _require_types(dialect: Dialect, model: Model) -> None:
    for table in model.tables:
        for column in table.sa.columns:
            try:
                column.type.compile(dialect.connection.dialect)
            except sa.exc.CompileError:
                raise StructureError(
                    f"{dialect.engine_name} has no type like {type(column.type).__name__} of column {column.name}",
                    operation="create tables",
                    database=dialect.name,
                    table=table.name,
                    remedy="give the column a type that every engine holds, or one of its own by `with_variant`",
                ) from None


def check(database: Database, model: Model) -> dict[str, list[str]]:
    """Per table what differs from the models, in words; an empty list is a table equal in structure."""
    with database.connect() as dialect:
        return differences(dialect, model)


def recreate(database: Database, model: Model) -> list[str]:
    """Drop the models' tables and the ledger, and create them anew, losing their rows; returns the names of the tables."""
    with database.connect(create=True) as dialect:
        with dialect.doing("drop tables"), _rules_kept(model), dialect.connection.begin():
            model.metadata.drop_all(dialect.connection)
        Ledger(dialect).drop()
    ensure(database, model)
    return list(model.names)


@contextmanager
def _rules_kept(model: Model) -> Iterator[None]:
    """SQLAlchemy, once it has added or dropped a foreign key by ALTER, leaves it out of every later CREATE TABLE, on other engines too."""
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
    """Rows of each table in one snapshot, after the structure was found equal; raises StructureError where it is not."""
    with database.connect() as dialect:
        require(dialect, model)
        dialect.snapshot()
        return {table.name: dialect.count(table) for table in model.tables}


def require(dialect: Dialect, model: Model) -> None:
    """Every table is there and equal in structure, or StructureError is raised. Leaves no transaction open."""
    found = {name: words for name, words in differences(dialect, model).items() if words}
    for name, words in found.items():
        raise StructureError(
            "the table is missing" if words == [MISSING] else "; ".join(words),
            operation="structure",
            database=dialect.name,
            table=name,
            remedy=_remedy(dialect, model, words),
        )


def _remedy(dialect: Dialect, model: Model, words: list[str]) -> str:
    try:
        lacking = revisions.pending(dialect, model)
    except DbsyncError:  # who may not read the ledger is told of the structure all the same
        lacking = ()
    dialect.connection.rollback()
    if lacking:
        return f"`dbsync migrate --database {dialect.name}`"
    if words == [MISSING]:
        return f"`dbsync tables create --database {dialect.name}`"
    return (
        "make the table equal to the models (`dbsync tables check` lists all differences; `dbsync migrate new` writes what to do on every "
        f"database), or, losing its rows: `dbsync tables recreate --database {dialect.name}`"
    )


MISSING = "missing"


def differences(dialect: Dialect, model: Model) -> dict[str, list[str]]:
    """As `check`, on an open connection. Leaves no transaction open."""
    found = differences_within(dialect, model)
    dialect.connection.rollback()
    return found


def differences_within(dialect: Dialect, model: Model) -> dict[str, list[str]]:
    """As `differences`, within the open transaction."""
    with dialect.doing("read the structure"):
        found: dict[str, list[str]] = {name: [] for name in model.names}
        absent = missing(dialect, model)
        for name in absent:
            found[name].append(MISSING)
        for name, words in _compare(dialect, model):
            if name in found and name not in absent:
                found[name].append(words)
        there, enums = keys_here(dialect, model), enums_here(dialect)
        for table in model.tables:
            if table.name not in absent:
                found[table.name] += keys(there[table.sa.schema, table.sa.name], table.sa) + _enums(
                    enums, table.sa
                )
        return found


def missing(dialect: Dialect, model: Model) -> list[str]:
    """The names of the models' tables that are not there, within the open transaction."""
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
        found = compare_metadata(context, model.metadata)
        single = [
            one
            for difference in found
            for one in (difference if isinstance(difference, list) else [difference])
        ]
        if not dialect.defers_keys:
            single = but_for_deferral(single)
        return [words for one in single if (words := _words(one)) is not None]


@contextmanager
def comparison(dialect: Dialect, model: Model, **options: Any) -> Iterator[MigrationContext]:
    """What Alembic compares the database and the models in: of the models' tables only, and without words about all others."""
    from alembic.migration import MigrationContext

    ours = {(table.sa.schema, table.sa.name) for table in model.tables}

    def mirrored(thing: Any, _name: Any, kind: str, _reflected: bool, _other: Any) -> bool:
        table = thing if kind == "table" else thing.table
        return (table.schema, table.name) in ours

    options |= {
        "include_object": mirrored,
        "include_schemas": any(table.sa.schema for table in model.tables),
        "compare_type": True,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # of types in tables that are not ours
        yield MigrationContext.configure(dialect.connection, opts=options)


def but_for_deferral(differences: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Without the foreign keys that are there and in the models and differ in nothing but whether they can be deferred."""
    sides = [
        {_meaning(one[1]) for one in differences if one[0] == side}
        for side in ("add_fk", "remove_fk")
    ]
    alike = sides[0] & sides[1]
    return [
        one
        for one in differences
        if one[0] not in ("add_fk", "remove_fk") or _meaning(one[1]) not in alike
    ]


def _meaning(key: sa.ForeignKeyConstraint) -> tuple[Any, ...]:
    actions = [(action or "NO ACTION").upper() for action in (key.ondelete, key.onupdate)]
    return (
        key.parent.key,
        tuple(key.column_keys),
        tuple(element.target_fullname for element in key.elements),
        *actions,
    )


def _words(difference: tuple[Any, ...]) -> tuple[str, str] | None:
    """(table, what differs) of one of Alembic's operations; None for those that are no difference to a mirror."""
    match difference:
        case ("add_column", _, _, column):
            return column.table.key, f"column {column.name} is missing"
        case ("remove_column", _, _, column):
            return column.table.key, f"column {column.name} is not in the models"
        case ("modify_nullable", schema, table, column, _, here, wanted):
            return _key(
                schema, table
            ), f"column {column} is {_null(here)} here, {_null(wanted)} in the models"
        case ("modify_type", schema, table, column, _, here, wanted):
            return _key(schema, table), f"column {column} is {here} here, {wanted} in the models"
        case ("add_constraint", constraint):
            return (
                constraint.table.key,
                f"the unique constraint on {', '.join(c.name for c in constraint.columns)} is missing",
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
    """The columns of the primary key by schema and table, asked for all tables at once."""
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
    wanted = [column.name for column in table.primary_key.columns]
    return (
        []
        if here == wanted
        else [f"the primary key is ({', '.join(here)}) here, ({', '.join(wanted)}) in the models"]
    )


def enums_here(dialect: Dialect) -> dict[str, list[str]]:
    """Values by name, where the database has types of its own for enums."""
    get_enums = getattr(sa.inspect(dialect.connection), "get_enums", None)
    return {enum["name"]: enum["labels"] for enum in get_enums(schema="*")} if get_enums else {}


def _enums(here: dict[str, list[str]], table: sa.Table) -> list[str]:
    return [
        f"the values of {column.type.name} are {', '.join(here[column.type.name])} here, {', '.join(column.type.enums)} in the models"
        for column in table.columns
        if isinstance(column.type, sa.Enum)
        and column.type.name in here
        and set(here[column.type.name]) != set(column.type.enums)
    ]
