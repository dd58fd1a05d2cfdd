"""Revisions written from what differs between a database and the models, and applied to a database whole or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import sqlalchemy as sa

from dbsync_pipeline import unforeseen
from dbsync_pipeline.dialects.base import Dialect, Digests, Table
from dbsync_pipeline.errors import DbsyncError, SettingsError, StructureError
from dbsync_pipeline.mirror import revisions, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.revisions import Revision

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.migration import MigrationContext
    from alembic.operations.ops import MigrationScript

    from dbsync_pipeline.mirror.draft import ValuesOp, Wanted

_WRITE = "write a revision"


@dataclass(frozen=True)
class Written:
    """A revision that was written, and in words what the database has and the models do not, that the revision leaves as it is."""

    number: str
    path: Path
    left: tuple[str, ...]


def write(database: Database, model: Model, title: str, wanted: Wanted | None = None) -> Written:
    """Write the next revision: what makes this database equal to the models, or an empty one where nothing is `wanted`.

    Changes no database. Raises StructureError where the database lacks revisions, where it does not differ, or not in what can be
    written, and where values would be lost or missing that nobody has spoken of; SettingsError where the file cannot be written, or
    `wanted` has what does not differ.
    """
    if model.migrations is None:
        raise SettingsError("the models' module has no folder", operation=_WRITE, remedy="set DBSYNC_MIGRATIONS to one")
    with database.connect() as dialect:
        revisions.require_none_pending(dialect, model)
        left = [] if wanted is None else _unwritable(dialect, model)
        number = f"{len(revisions.line(model)) + 1:04}"
        try:
            path = _generate(dialect, model, wanted, number, title, left)
        except OSError as error:
            raise SettingsError(
                f"the revision cannot be written to {model.migrations}: {error.strerror or type(error).__name__}",
                operation=_WRITE,
                remedy="set DBSYNC_MIGRATIONS to a folder that can be made and written to",
            ) from None
    return Written(number, path, tuple(left))


def _generate(dialect: Dialect, model: Model, wanted: Wanted | None, number: str, title: str, left: list[str]) -> Path:
    from alembic.autogenerate import RevisionContext
    from alembic.config import Config

    from dbsync_pipeline.mirror.draft import Draft

    def mend(context: MigrationContext, _revision: Any, scripts: list[MigrationScript]) -> None:
        if wanted is not None:
            draft = Draft(dialect, model, wanted)
            draft.mend(context, scripts[0], _values(dialect, model))
            left.extend(draft.left)
            _require_something(dialect, scripts[0], left)

    assert model.migrations is not None
    asked = {
        "message": title,
        "sql": False,
        "head": "head",
        "splice": False,
        "branch_label": None,
        "version_path": model.migrations,
    }
    context = RevisionContext(Config(), revisions.directory(model.migrations), {**asked, "rev_id": number, "depends_on": None})
    rendering = {
        "target_metadata": model.metadata,
        "upgrade_token": "upgrades",
        "downgrade_token": "downgrades",
        "sqlalchemy_module_prefix": "sa.",
        "alembic_module_prefix": "op.",
        "user_module_prefix": None,
        "render_item": _import_type,
        "render_as_batch": False,
        "process_revision_directives": mend,
    }
    with schema.comparison(dialect, model, **rendering) as migration:
        (context.run_no_autogenerate if wanted is None else context.run_autogenerate)("head", migration)
        (script,) = context.generate_scripts()
    assert script is not None
    return Path(script.path)


def _import_type(kind: str, thing: Any, context: AutogenContext) -> Literal[False]:
    """A type of the application's own is written with its module, as Alembic writes it; the module has to be imported."""
    module = type(thing).__module__
    if kind == "type" and not module.startswith("sqlalchemy."):
        context.imports.add(f"import {module}")
    return False


def _values(dialect: Dialect, model: Model) -> list[ValuesOp]:
    """The values of enums that the database lacks."""
    from dbsync_pipeline.mirror.draft import ValuesOp

    here, found = schema.enums_here(dialect), {}
    for column in (column for table in model.tables for column in table.sa.columns):
        if isinstance(column.type, sa.Enum) and column.type.name in here:
            found[column.type.name] = column.type, [value for value in column.type.enums if value not in here[column.type.name]]
    return [ValuesOp(type_, lacking) for type_, lacking in found.values() if lacking]


def _unwritable(dialect: Dialect, model: Model) -> list[str]:
    """What differs and is for a person to write: the primary key, and values that an enum is to have no more."""
    there, enums, absent = schema.keys_here(dialect, model), schema.enums_here(dialect), schema.missing(dialect, model)
    found = []
    for table in (table for table in model.tables if table.name not in absent):
        found += [f"{table.name}: {words}" for words in schema.keys(there[table.sa.schema, table.sa.name], table.sa)]
        for type_ in (column.type for column in table.sa.columns if isinstance(column.type, sa.Enum)):
            if gone := [value for value in enums.get(str(type_.name), ()) if value not in type_.enums]:
                found.append(f"{table.name}: {type_.name} has {', '.join(gone)}, which the models do not have")
    return found


def _require_something(dialect: Dialect, script: MigrationScript, left: Collection[str]) -> None:
    assert script.upgrade_ops is not None
    if script.upgrade_ops.ops:
        return
    raise StructureError(
        f"what differs is for a person to write: {'; '.join(left)}"
        if left
        else "it is equal to the models, so there is nothing to write",
        operation=_WRITE,
        database=dialect.name,
        remedy="`dbsync migrate new TITLE --empty`, and write there what is to be done",
    )


def migrate_each(
    databases: Sequence[Database], model: Model, *, wait_seconds: float, run: bool = True
) -> dict[str, tuple[Revision, ...] | DbsyncError]:
    """As `migrate`, one after the other: what was applied to each, or why nothing was. Where the first fails, no other is altered."""
    found: dict[str, tuple[Revision, ...] | DbsyncError] = {}
    for database in databases:
        first = next(iter(found.values()), ())
        try:
            if isinstance(first, DbsyncError):
                raise StructureError(
                    f"it was not tried, since {databases[0].name} comes first and failed",
                    operation="migrate",
                    database=database.name,
                    remedy=f"mend what failed there; `dbsync migrate --database {database.name}` would go before it",
                )
            found[database.name] = migrate(database, model, wait_seconds=wait_seconds, run=run)
        except DbsyncError as error:
            found[database.name] = error
    return found


def migrate(database: Database, model: Model, *, wait_seconds: float, run: bool = True) -> tuple[Revision, ...]:
    """Apply the revisions that a database lacks, oldest first; returns those. A second call applies none.

    One transaction, under the lock of a publish: others may read until a table is altered, and none may write. It commits only when the
    tables are equal to the models afterwards. What it does to the rows of a standby counts as published where nobody else had written;
    to know that, every row is digested before and after. A database that has never noted a revision and is equal to the models notes
    that it has them all, one without any of the tables gets them as they are now. Without `run` none is applied, and all are noted.

    Raises Busy where the lock is not had within `wait_seconds`, StructureError where the tables would differ from the models, and
    DatabaseError with the number of the revision that the database refused.
    """
    with database.connect() as dialect:
        absent = schema.missing(dialect, model)
        none = revisions.noted(dialect) is not None and not revisions.pending(dialect, model)
        dialect.connection.rollback()
        if len(absent) == len(model.tables):
            schema.ensure(database, model)
        if none or len(absent) == len(model.tables):
            return ()
        dialect.prepare()
        Ledger(dialect).create(model.tables)
        dialect.begin([table for table in model.tables if table.name not in absent], wait_seconds=wait_seconds)
        lacking = _bring_up(dialect, model, absent, run)
        dialect.commit()
        return lacking


def _bring_up(dialect: Dialect, model: Model, absent: Collection[str], run: bool) -> tuple[Revision, ...]:
    known = revisions.noted(dialect) is not None or any(schema.differences_within(dialect, model).values())
    lacking = revisions.pending(dialect, model) if known else ()
    published = _published(dialect, model, absent) if run else {}
    for revision in lacking if run else ():
        _apply(dialect, model, revision)
    dialect.prove_altered()
    _require_equal(dialect, model, lacking)
    for table, (last, untouched) in published.items():
        _publish_again(dialect, model.table(table), last, untouched)
    revisions.note(dialect, model)
    return lacking


def _published(dialect: Dialect, model: Model, absent: Collection[str]) -> dict[str, tuple[Digests, np.ndarray]]:
    """The digests that each table was last published with, and the buckets (int64) that nobody has written to since.

    Without the tables of which that cannot be told once the models are others: a column goes, or gets another type.
    """
    ledger, found = Ledger(dialect), {}
    for table in (table for table in model.tables if table.name not in absent):
        last = ledger.digests(table.name)
        then = dialect.again(table, last.form) if last else None
        if last and then:
            written = last.differing(dialect.digests(then, last.form))
            found[table.name] = last, np.setdiff1d(np.arange(last.form.buckets), written)
    return found


def _publish_again(dialect: Dialect, table: Table, last: Digests, untouched: np.ndarray) -> None:
    """What a revision did to rows is nobody's write: in buckets that nobody had written to, the rows of now count as published."""
    form = replace(last.form, columns=table.signs)
    Ledger(dialect).replace_digests(
        table.name, Digests(form, last.rows, last.first, last.second).replaced(untouched, dialect.digests(table, form))
    )


def _apply(dialect: Dialect, model: Model, revision: Revision) -> None:
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(dialect.connection, opts={"target_metadata": model.metadata})
    try:
        with warnings.catch_warnings(), _operations(dialect, context):
            warnings.simplefilter("ignore", sa.exc.SAWarning)  # of what a table has that is carried over by other ways
            revision.upgrade()
    except DbsyncError as error:
        error.operation = f"migrate, revision {revision}"
        raise
    except Exception as error:  # the file is not ours: it may fail in any way
        if isinstance(error, dialect.driver_errors):
            raise dialect.translate(error, dialect.name, f"migrate, revision {revision}") from None
        raise StructureError(
            unforeseen.clean(f"{type(error).__name__}: {error}".splitlines()[0]),
            operation=f"migrate, revision {revision}",
            database=dialect.name,
            remedy=f"mend {revision.path}",
        ) from None


@contextmanager
def _operations(dialect: Dialect, context: MigrationContext) -> Iterator[None]:
    """Within, `alembic.op` works on this connection, each operation as its engine needs it done."""
    from alembic.operations import Operations

    with Operations.context(context) as operations:
        operations.invoke = lambda operation: dialect.alter(operations, operation)  # type: ignore[method-assign]
        yield


def _require_equal(dialect: Dialect, model: Model, applied: Collection[Revision]) -> None:
    after = f"after {', '.join(one.number for one in applied)} " if applied else ""
    for name, words in schema.differences_within(dialect, model).items():
        if words:
            raise StructureError(
                f"{after}it differs from the models: {'; '.join(words)}",
                operation="migrate",
                database=dialect.name,
                table=name,
                remedy=f"`dbsync migrate new` writes a revision of what differs; add `--database {dialect.name}` where the others are equal",
            )
