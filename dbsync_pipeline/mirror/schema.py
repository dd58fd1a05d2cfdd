"""The models' tables in a database: create what is missing, refuse what differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DatabaseError, DbsyncError, StructureError, Unavailable
from dbsync_pipeline.mirror import differences, outcome, structure
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.model import Model


def ensure(database: Database, model: Model) -> list[str]:
    """Create what is missing, the ledger included; return the names of the created tables.

    A second call creates nothing. Raise StructureError, naming the first differences, if an
    existing table is not equal to the models. Create nothing and raise StructureError if only some
    tables exist and revisions are pending.
    """
    with database.connect(create=True) as dialect:
        return ensure_on(dialect, database, model)


def ensure_on(dialect: Dialect, database: Database, model: Model) -> list[str]:
    """Do what `ensure` does, on an open connection outside of transactions. Leaves none open.

    The connection is closed if it was lost in a COMMIT that was carried out: see `outcome.usable`.
    """
    absent = create_missing(dialect, database, model)
    with outcome.usable(dialect, database) as usable:
        require(usable, model)
        create_ledger(usable, database, model, equal=True)
    return absent


def create_missing(dialect: Dialect, database: Database, model: Model) -> list[str]:
    """Create the missing tables as `ensure` does, and return their names; compare nothing.

    The connection may be closed afterwards, as by `ensure_on`.
    """
    dialect.prepare()
    absent = differences.missing(dialect, model)
    if absent and len(absent) < len(model.tables):
        revisions.require_none_pending(dialect, model)
    dialect.rollback()
    if absent:
        model.require_known("create tables", dialect.name)
    _require_creatable(dialect, [model.table(name) for name in absent])
    if absent:
        _create(dialect, database, model, absent)
    return absent


def _create(dialect: Dialect, database: Database, model: Model, absent: Sequence[str]) -> None:
    tables = [model.table(name) for name in absent]
    with (
        _rules_kept(model),
        _refusal_named(tables),
        outcome.transaction(
            dialect,
            database,
            lambda again: not differences.missing(again, model),
            operation="create tables",
        ),
    ):
        _leave_out(structure.keys_without_parent(dialect, model))
        model.metadata.create_all(
            dialect.connection, tables=[table.sa for table in tables], checkfirst=True
        )


@contextmanager
def _refusal_named(tables: Sequence[Table]) -> Iterator[None]:
    """Let the refusal of a statement name the table that it was for, and a remedy."""
    names = {table.sa: table.name for table in tables}
    begun: list[str] = []

    def note(table: sa.Table, *_: object, **__: object) -> None:
        begun.append(names[table])

    for table in names:
        sa.event.listen(table, "before_create", note)
    try:
        yield
    except DatabaseError as error:
        if begun and error.table is None:
            error.table = begun[-1]
        error.remedy = error.remedy or (
            f"create on {error.database} what the statement lacks, then try again; or correct the "
            "models, which `dbsync models from-database FILE` writes; or leave the table out "
            "(DBSYNC_SKIP_TABLES)"
        )
        raise
    finally:
        for table in names:
            sa.event.remove(table, "before_create", note)


def create_ledger(
    dialect: Dialect, database: Database, model: Model, *, equal: bool = False
) -> None:
    """Create the missing ledger, or upgrade an old one, in a transaction of its own.

    A database that is `equal` to the models when it is first seen needs none of their revisions,
    and records so. A second call does nothing. Raise StructureError if a later version of the
    program wrote the ledger.
    """

    if has_ledger(dialect, model, equal=equal):
        return
    with outcome.transaction(
        dialect,
        database,
        lambda again: has_ledger(again, model, equal=equal),
        operation="create the ledger",
    ):
        Ledger(dialect).create(model.tables)
        if equal and _lacks_note(dialect, model):
            revisions.note(dialect, model)


def has_ledger(dialect: Dialect, model: Model, *, equal: bool = False) -> bool:
    """Return whether `create_ledger` would do nothing. Leaves no transaction open, also where it
    fails.
    """
    try:
        return Ledger(dialect).is_current() and not (equal and _lacks_note(dialect, model))
    finally:
        dialect.rollback()


def _lacks_note(dialect: Dialect, model: Model) -> bool:
    return (
        model.revisions is not None
        and revisions.noted(dialect) is None
        and not revisions.standing_back(dialect, model)
    )


def _require_creatable(dialect: Dialect, tables: Sequence[Table]) -> None:
    """Raise StructureError if the engine lacks what a table to be created needs: a type, a schema,
    an action of a foreign key.
    """
    compiler = dialect.connection.dialect
    for table in tables:
        for column in table.sa.columns:
            try:
                column.type.compile(compiler)
            except sa.exc.CompileError:
                raise _uncreatable(
                    dialect,
                    table,
                    f"has no type like {type(column.type).__name__} of column {column.name}",
                    "give the column a type that every engine has, or one of this engine by "
                    "`with_variant`",
                ) from None
        if table.sa.schema is not None and dialect.ledger_schema is None:  # it has none at all
            raise _uncreatable(
                dialect,
                table,
                f"has no schemas such as {table.sa.schema}",
                "leave the table out (DBSYNC_SKIP_TABLES, DBSYNC_SCHEMAS), or give the models no "
                "schema and let the search_path of the other databases lead to it",
            )
        try:
            sa.schema.CreateTable(table.sa).compile(dialect=compiler)
        except sa.exc.CompileError as error:
            cause = str(error).partition(" (matching against")[0]
            raise _uncreatable(
                dialect, table, f"cannot create it: {cause}", "correct the table in the models"
            ) from None


def _uncreatable(dialect: Dialect, table: Table, lacks: str, remedy: str) -> StructureError:
    return StructureError(
        f"{dialect.engine_name} {lacks}",
        operation="create tables",
        database=dialect.name,
        table=table.name,
        remedy=remedy,
    )


def check(database: Database, model: Model) -> dict[str, list[str]]:
    """Return by table what differs from the models; an empty list for a table that is equal.

    Raise SettingsError if something does, and it is unknown which models are meant.
    """
    with database.connect() as dialect:
        differing = differences.find(dialect, model)
    if any(differing.values()):
        model.require_known("check tables", database.name)
    return differing


def recreate(database: Database, model: Model) -> list[str]:
    """Drop the models' tables and the ledger and create them again; return the tables' names.

    All rows are lost. Dropping the tables with the ledger and creating both are transactions of
    their own; a call that was interrupted is completed by a second one. Raise StructureError,
    with nothing changed, if a view has the name of a table; DatabaseError if something that is not
    in the models depends on a table.
    """
    model.require_known("recreate tables", database.name)
    with database.connect(create=True) as dialect:
        _require_no_views(dialect, model)
        with (
            _rules_kept(model),
            outcome.transaction(
                dialect,
                database,
                lambda again: len(differences.missing(again, model)) == len(model.tables),
                operation="drop tables",
            ),
        ):
            model.metadata.drop_all(dialect.connection, tables=[t.sa for t in model.tables])
            Ledger(dialect).drop_tables()
    ensure(database, model)
    return list(model.names)


def has_rows(database: Database, model: Model) -> bool:
    """Return whether a table of the models has a row; False if the database has no such table, or
    does not exist yet. Raise DbsyncError if it cannot be read.
    """
    try:
        dialect = database.open()
    except Unavailable:  # `recreate` says why, or creates it
        return False
    with closing(dialect):
        absent = differences.missing(dialect, model)
        for table in model.tables:
            if table.name not in absent:
                with dialect.doing("read", table.name):
                    row = sa.select(sa.literal(1)).select_from(table.sa).limit(1)
                    if dialect.connection.execute(row).first() is not None:
                        return True
    return False


def _require_no_views(dialect: Dialect, model: Model) -> None:
    with dialect.doing("read the structure"):
        inspector = sa.inspect(dialect.connection)
        views = {
            schema: set(inspector.get_view_names(schema))
            for schema in {table.sa.schema for table in model.tables}
        }
    dialect.rollback()
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


def _leave_out(keys: Iterable[sa.ForeignKeyConstraint]) -> None:
    """Create tables without these keys; `_rules_kept` undoes it."""
    for key in keys:
        key._create_rule = lambda _: False


def rows(dialect: Dialect, model: Model) -> dict[str, int]:
    """Return the number of rows of each table in one snapshot; raise StructureError if a table
    differs.
    """
    require(dialect, model)
    dialect.snapshot()
    return {table.name: dialect.count(table) for table in model.tables}


def require(dialect: Dialect, model: Model) -> None:
    """Raise StructureError unless every table exists and is equal in structure.

    Leaves no transaction open.
    """
    refuse(dialect, model, differences.find(dialect, model))


def refuse(dialect: Dialect, model: Model, differing: Mapping[str, list[str]]) -> None:
    """Raise StructureError if `differing`, what `differences.find` returned, has a difference, or
    SettingsError if it has and it is unknown which models are meant.
    """
    for name, texts in differing.items():
        if texts:
            model.require_known("structure", dialect.name)
            raise StructureError(
                "the table is missing" if texts == [differences.MISSING] else "; ".join(texts),
                operation="structure",
                database=dialect.name,
                table=name,
                remedy=_remedy(dialect, model, texts),
            )


def _remedy(dialect: Dialect, model: Model, texts: list[str]) -> str:
    if texts == [differences.NO_TABLE]:
        return (
            "rename or drop what has its name; then "
            f"`dbsync tables create --database {dialect.name}` creates the table"
        )
    if texts[0].startswith(differences.NAMED):
        return "write the name in the models as the database has it, or rename the table there"
    try:
        pending = revisions.pending(dialect, model)
        left_alone = revisions.standing_back(dialect, model)
    except DbsyncError:  # a role that may not read the ledger sees the structure all the same
        pending, left_alone = (), ""
    dialect.rollback()
    if pending:
        return f"`dbsync migrate --database {dialect.name}`"
    if left_alone and texts != [differences.MISSING]:
        return (
            "run the application's own migrations there, or correct the models "
            "(`dbsync tables check` lists all differences)"
        )
    if texts == [differences.MISSING]:
        return f"`dbsync tables create --database {dialect.name}`"
    if model.read_from not in (None, dialect.name):
        return (
            f"`dbsync migrate new TITLE --database {dialect.name}` writes what {model.read_from} "
            "has and it lacks, and `dbsync migrate` applies it; or, losing its rows, which the "
            f"next sync brings again: `dbsync tables recreate --database {dialect.name}`"
        )
    return (
        "make the table equal to the models (`dbsync tables check` lists all differences; `dbsync "
        "migrate new` writes the change for every database), or, losing its rows: "
        f"`dbsync tables recreate --database {dialect.name}`"
    )
