"""Apply the models' revisions to a database, all of them in one transaction or none."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
import sqlalchemy as sa

from dbsync_pipeline import redact
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import Digests
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DatabaseError, DbsyncError, StructureError
from dbsync_pipeline.mirror import differences, drift, outcome, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.fanout import PerDatabase
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.migrate.revisions import Revision
from dbsync_pipeline.mirror.model import Model

if TYPE_CHECKING:
    from alembic.migration import MigrationContext

How = Literal["as-applied", "from-start"]
"""Record the revisions without running them, or run all of them although the tables already equal
the models.
"""

Migrated = PerDatabase[tuple[Revision, ...]]
"""What was applied to each database, or why nothing was."""


def migrate_each(
    databases: Sequence[Database], model: Model, *, wait_seconds: float, how: How | None = None
) -> Migrated:
    """Migrate the databases one after the other. If the first one fails, no other is altered."""
    results: dict[str, tuple[Revision, ...] | DbsyncError] = {}
    for database in databases:
        try:
            if isinstance(next(iter(results.values()), None), DbsyncError):
                raise _skipped(database, databases[0])
            results[database.name] = migrate(database, model, wait_seconds=wait_seconds, how=how)
        except DbsyncError as error:
            results[database.name] = error
    return PerDatabase.collect(results)


def _skipped(database: Database, first: Database) -> StructureError:
    return StructureError(
        f"it was not migrated, because {first.name} comes first and failed",
        operation="migrate",
        database=database.name,
        remedy=f"fix what failed on {first.name}; "
        f"`dbsync migrate --database {database.name}` migrates this one before it",
    )


def migrate(
    database: Database, model: Model, *, wait_seconds: float, how: How | None = None
) -> tuple[Revision, ...]:
    """Apply the revisions that a database lacks, oldest first, and return them. A second call
    applies none.

    All of it is one transaction under the lock of a publish: others can read until a table is
    altered, and nobody can write. It commits only if the tables then equal the models. What a
    revision does to the rows of a standby counts as published in buckets without local writes; to
    know those, every row is digested before and after. A database without any of the tables gets
    them in their present form; the one that the models were read from only records them. If a
    database equals the models and has never recorded a revision, `how` decides whether they are run
    or only recorded; "as-applied" records them on any database.

    Raises Busy if the lock is not free within `wait_seconds`, StructureError if the tables would
    differ from the models, and DatabaseError with the number of the revision that the database
    refused.
    """
    with database.connect() as dialect:
        if revisions.standing_back(dialect, model):
            return ()
        absent, noted = differences.missing(dialect, model), revisions.noted(dialect)
        pending = revisions.pending(dialect, model)
        dialect.rollback()
        if noted is None and len(absent) == len(model.tables):
            schema.ensure(database, model)
            return ()
        if noted is not None and not pending:
            schema.require(dialect, model)
            return ()
        dialect.prepare()
        schema.create_ledger(dialect, database, model)
    with database.connect() as dialect:
        present = [table for table in model.tables if table.name not in absent]
        dialect.begin(present, wait_seconds=wait_seconds)
        pending = _bring_up(dialect, model, absent, how)
        newest = revisions.newest(model)
        outcome.commit(
            dialect,
            database,
            lambda again: revisions.noted(again) == newest,
            operation="migrate",
        )
        return pending


def _bring_up(
    dialect: Dialect, model: Model, absent: Collection[str], how: How | None
) -> tuple[Revision, ...]:
    pending = revisions.pending(dialect, model)
    if dialect.name == model.read_from:
        how = "as-applied"
    if how is None and pending and revisions.noted(dialect) is None:
        _require_clear_start(dialect, model, pending)
    to_run = pending if how != "as-applied" else ()
    published = _published(dialect, model, absent) if to_run else {}
    with dialect.altering():
        if to_run and model.read_from is not None:
            _create_needed(dialect, model)
        for revision in to_run:
            _run(dialect, model, revision)
    _require_equal(dialect, model, to_run)
    for name, before in published.items():
        _publish_again(dialect, model.table(name), before)
    revisions.note(dialect, model)
    return pending


def _create_needed(dialect: Dialect, model: Model) -> None:
    """Create the types, sequences and the like that reflected columns need, where they are missing:
    the revisions name them.
    """
    with dialect.doing("create what columns need"):
        tables = [table.sa for table in model.tables]
        model.metadata.dispatch.before_create(
            model.metadata, dialect.connection, tables=tables, checkfirst=True
        )


def _require_clear_start(dialect: Dialect, model: Model, pending: Sequence[Revision]) -> None:
    """Refuse tables that equal the models before any revision is recorded: whether their rows had
    the revisions cannot be determined.
    """
    if any(differences.find_within(dialect, model).values()):
        return
    raise StructureError(
        f"it equals the models, but has no record of whether it had {', '.join(map(str, pending))}",
        operation="migrate",
        database=dialect.name,
        remedy=f"`dbsync migrate --database {dialect.name} --as-applied` if its rows have had "
        "them, else `--from-start` to run them",
    )


@dataclass(frozen=True)
class _Published:
    """The digests with which a table was last published, and the buckets (int64) that have no local
    writes since.
    """

    digests: Digests
    unchanged: np.ndarray


def _published(dialect: Dialect, model: Model, absent: Collection[str]) -> dict[str, _Published]:
    """Return by name the tables that were published, as they were before the revisions.

    A table is left out if its local writes cannot be determined: a column was removed, or has
    another type now.
    """
    ledger, published = Ledger(dialect), {}
    for table in (table for table in model.tables if table.name not in absent):
        match _drift(dialect, table, ledger.digests(table.name)):
            case drift.Unchanged(now=last):
                published[table.name] = _Published(last, np.arange(last.form.buckets))
            case drift.Changed(published=last, buckets=written):
                unchanged = np.setdiff1d(np.arange(last.form.buckets), written)
                published[table.name] = _Published(last, unchanged)
    return published


def _drift(dialect: Dialect, table: Table, published: Digests | None) -> drift.Drift:
    try:
        return drift.since_publish(dialect, table, published)
    except DatabaseError as error:
        name = dialect.name
        error.remedy = error.remedy or (
            "if a column that was published is missing there, add it again (`dbsync tables check "
            f"--database {name}` lists what differs); or, losing its rows: `dbsync tables recreate "
            f"--database {name} --yes-destroy {name}`"
        )
        raise


def _publish_again(dialect: Dialect, table: Table, before: _Published) -> None:
    """Count the present rows as published in buckets that had no local writes: what a revision did
    to them is no local write.
    """
    last = before.digests
    form = replace(last.form, columns=table.signatures)
    same = Digests(form, last.rows, last.first, last.second)
    now = same.replaced(before.unchanged, dialect.digests(table, form))
    Ledger(dialect).replace_digests(table.name, now)


def _run(dialect: Dialect, model: Model, revision: Revision) -> None:
    from alembic.migration import MigrationContext

    options = {"target_metadata": model.metadata}
    context = MigrationContext.configure(dialect.connection, opts=options)
    operation, fix = f"migrate, revision {revision}", f"correct {revision.path}"
    try:
        with warnings.catch_warnings(), _operations(dialect, context):
            # about parts of a table that SQLAlchemy does not reflect and the dialect carries over
            warnings.simplefilter("ignore", sa.exc.SAWarning)
            revision.upgrade()
    except DbsyncError as error:
        error.operation, error.database = operation, dialect.name
        error.remedy = error.remedy or fix
        raise
    except (Exception, SystemExit) as error:  # a person wrote the file: it may fail in any way
        if isinstance(error, dialect.driver_errors):
            translated = dialect.translate(error, dialect.name, operation)
            if isinstance(translated, DbsyncError) and translated.remedy is None:
                translated.remedy = fix
            raise translated from None
        raise StructureError(
            redact.clean(f"{type(error).__name__}: {error}".splitlines()[0]),
            operation=operation,
            database=dialect.name,
            remedy=fix,
        ) from None


@contextmanager
def _operations(dialect: Dialect, context: MigrationContext) -> Iterator[None]:
    """Let `alembic.op` work on this connection, each operation in the way that its engine needs."""
    from alembic import op
    from alembic.operations import Operations

    with Operations.context(context) as operations, _transaction_kept(dialect.connection):
        invoke = functools.partial(dialect.alter, operations)
        operations.invoke = invoke  # type: ignore[method-assign]
        op.batch_alter_table = _no_batch
        yield


def _no_batch(*_: Any, **__: Any) -> NoReturn:
    raise ValueError(
        "op.batch_alter_table is not needed here: write op.alter_column and the like; "
        "tables of SQLite are rebuilt"
    )


@contextmanager
def _transaction_kept(connection: sa.Connection) -> Iterator[None]:
    """Refuse to end the transaction: half of a revision would stay."""

    def refuse(*_: Any) -> NoReturn:
        raise ValueError(
            "a revision runs inside one transaction, which it cannot commit or roll back"
        )

    def inspect(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if _ends_transaction(statement):
            refuse()

    listeners: dict[str, Callable[..., Any]] = {
        "commit": refuse,
        "rollback": refuse,
        "before_cursor_execute": inspect,
    }
    for event, listener in listeners.items():
        sa.event.listen(connection, event, listener)
    try:
        yield
    finally:
        for event, listener in listeners.items():
            sa.event.remove(connection, event, listener)


def _ends_transaction(statement: str) -> bool:
    """Whether one of the statements ends a transaction. Comments and literals do not count; a
    trigger's body ends with END too.
    """
    bare = _COMMENTS_AND_LITERALS.sub(" ", statement)
    ends = _ENDS if re.search(r"\bBEGIN\b", bare, re.IGNORECASE) else _ENDS_OR_END
    return any(ends.match(part) for part in bare.split(";"))


_COMMENTS_AND_LITERALS = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$", re.DOTALL
)
_ENDS = re.compile(
    r"\s*(COMMIT|ROLLBACK(?!\s+TO\b|\s+\w+\s+TO\b)|ABORT|PREPARE\s+TRANSACTION)\b", re.IGNORECASE
)
_ENDS_OR_END = re.compile(rf"{_ENDS.pattern}|\s*END\b", re.IGNORECASE)


def _require_equal(dialect: Dialect, model: Model, applied: Sequence[Revision]) -> None:
    after = f"after {', '.join(revision.number for revision in applied)} " if applied else ""
    remedy = "`dbsync tables check` lists all differences"
    if applied:
        remedy = (
            f"correct {applied[-1].path}; or, if no database has it yet, delete it and write "
            "a new one: `dbsync migrate new TITLE`"
        )
    for name, texts in differences.find_within(dialect, model).items():
        if texts:
            raise StructureError(
                f"{after}it differs from the models: {'; '.join(texts)}",
                operation="migrate",
                database=dialect.name,
                table=name,
                remedy=remedy,
            )
