"""Revisions written from what differs between a database and the models, and applied to a database whole or not at all."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
import sqlalchemy as sa
from sqlalchemy.sql.functions import FunctionElement

from dbsync_pipeline import redact
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import Digests
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DbsyncError, SettingsError, StructureError
from dbsync_pipeline.mirror import drift, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.migrate.revisions import Revision
from dbsync_pipeline.mirror.model import Model

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.migration import MigrationContext
    from alembic.operations.ops import MigrationScript

    from dbsync_pipeline.mirror.migrate.autogenerate import ValuesOp, Wanted

_WRITE = "write a revision"

How = Literal["as-applied", "from-start"]
"""Revisions are noted and not run, or all are run although the tables are equal to the models."""


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
    if model.revisions is None:
        raise SettingsError(
            "the models' module has no folder",
            operation=_WRITE,
            remedy="set DBSYNC_REVISIONS to one",
        )
    if not re.search(r"\w", title):
        raise SettingsError(
            "its title has no word", operation=_WRITE, remedy="say in a few words what it does"
        )
    with database.connect() as dialect:
        revisions.require_none_pending(dialect, model)
        left = [] if wanted is None else _unwritable(dialect, model)
        number = revisions.next_number(model)
        try:
            path = _generate(dialect, model, wanted, number, title, left)
        except OSError as error:
            raise SettingsError(
                f"the revision cannot be written to {model.revisions}: {error.strerror or type(error).__name__}",
                operation=_WRITE,
                remedy="set DBSYNC_REVISIONS to a folder that can be made and written to",
            ) from None
    return Written(number, path, tuple(left))


def _generate(
    dialect: Dialect, model: Model, wanted: Wanted | None, number: str, title: str, left: list[str]
) -> Path:
    from alembic.autogenerate import RevisionContext
    from alembic.config import Config

    from dbsync_pipeline.mirror.migrate.autogenerate import Draft

    def mend(context: MigrationContext, _revision: Any, scripts: list[MigrationScript]) -> None:
        if wanted is not None:
            draft = Draft(dialect, model, wanted)
            draft.mend(context, scripts[0], _values(dialect, model))
            left.extend(draft.left)
            _require_something(dialect, scripts[0], left)

    assert model.revisions is not None
    asked = {
        "message": title,
        "sql": False,
        "head": "head",
        "splice": False,
        "branch_label": None,
        "version_path": model.revisions,
    }
    context = RevisionContext(
        Config(),
        revisions.directory(model.revisions),
        {**asked, "rev_id": number, "depends_on": None},
    )
    rendering = {
        "target_metadata": model.metadata,
        "upgrade_token": "upgrades",
        "downgrade_token": "downgrades",
        "sqlalchemy_module_prefix": "sa.",
        "alembic_module_prefix": "op.",
        "user_module_prefix": None,
        "render_item": _render,
        "render_as_batch": False,
        "process_revision_directives": mend,
    }
    with schema.comparison(dialect, model, **rendering) as migration:
        (context.run_no_autogenerate if wanted is None else context.run_autogenerate)(
            "head", migration
        )
        (script,) = context.generate_scripts()
    assert script is not None
    return Path(script.path)


def _render(kind: str, thing: Any, context: AutogenContext) -> str | Literal[False]:
    """What Alembic would write for the engine that it looks at: a default, as the models have it, for each engine to make its own of.

    A type of the application's own is written as Alembic writes it; its module has to be imported.
    """
    module = type(thing).__module__
    if kind == "type" and not module.startswith("sqlalchemy."):
        context.imports.add(f"import {module}")
    if kind == "server_default" and isinstance(thing, sa.DefaultClause):
        match thing.arg:
            case str(text):
                return repr(text)
            case sa.True_() | sa.False_():
                return f"sa.{str(thing.arg).lower()}()"
            case FunctionElement(clauses=clauses, name=name) if not len(clauses):
                return f"sa.func.{name}()"
    return False


def _values(dialect: Dialect, model: Model) -> list[ValuesOp]:
    """The values of enums that the database lacks."""
    from dbsync_pipeline.mirror.migrate.autogenerate import ValuesOp

    here, found = schema.enums_here(dialect), {}
    for column in (column for table in model.tables for column in table.sa.columns):
        if isinstance(column.type, sa.Enum) and column.type.name in here:
            found[column.type.name] = (
                column.type,
                [value for value in column.type.enums if value not in here[column.type.name]],
            )
    return [ValuesOp(type_, lacking) for type_, lacking in found.values() if lacking]


def _unwritable(dialect: Dialect, model: Model) -> list[str]:
    """What differs and is for a person to write: the primary key, and values that an enum is to have no more."""
    there, enums, absent = (
        schema.keys_here(dialect, model),
        schema.enums_here(dialect),
        schema.missing(dialect, model),
    )
    found = []
    for table in (table for table in model.tables if table.name not in absent):
        found += [
            f"{table.name}: {words}"
            for words in schema.keys(there[table.sa.schema, table.sa.name], table.sa)
        ]
        for type_ in (
            column.type for column in table.sa.columns if isinstance(column.type, sa.Enum)
        ):
            if gone := [
                value for value in enums.get(str(type_.name), ()) if value not in type_.enums
            ]:
                found.append(
                    f"{table.name}: {type_.name} has {', '.join(gone)}, which the models do not have"
                )
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
    databases: Sequence[Database], model: Model, *, wait_seconds: float, how: How | None = None
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
            found[database.name] = migrate(database, model, wait_seconds=wait_seconds, how=how)
        except DbsyncError as error:
            found[database.name] = error
    return found


def migrate(
    database: Database, model: Model, *, wait_seconds: float, how: How | None = None
) -> tuple[Revision, ...]:
    """Apply the revisions that a database lacks, oldest first; returns those. A second call applies none.

    One transaction, under the lock of a publish: others may read until a table is altered, and none may write. It commits only when the
    tables are equal to the models afterwards. What it does to the rows of a standby counts as published where nobody else had written;
    to know that, every row is digested before and after. A database without any of the tables gets them as they are now. Of one that is
    equal to the models and has never noted a revision, `how` says whether they are run or noted; "as-applied" notes them on any.

    Raises Busy where the lock is not had within `wait_seconds`, StructureError where the tables would differ from the models, and
    DatabaseError with the number of the revision that the database refused.
    """
    with database.connect() as dialect:
        absent, noted = schema.missing(dialect, model), revisions.noted(dialect)
        lacking = revisions.pending(dialect, model)
        dialect.connection.rollback()
        if noted is None and len(absent) == len(model.tables):
            schema.ensure(database, model)
            return ()
        if noted is not None and not lacking:
            schema.require(dialect, model)
            return ()
        dialect.prepare()
        Ledger(dialect).create(model.tables)
        dialect.begin(
            [table for table in model.tables if table.name not in absent], wait_seconds=wait_seconds
        )
        lacking = _bring_up(dialect, model, absent, how)
        dialect.commit()
        return lacking


def _bring_up(
    dialect: Dialect, model: Model, absent: Collection[str], how: How | None
) -> tuple[Revision, ...]:
    lacking = revisions.pending(dialect, model)
    if how is None and lacking and revisions.noted(dialect) is None:
        _require_told(dialect, model, lacking)
    run = lacking if how != "as-applied" else ()
    published = _published(dialect, model, absent) if run else {}
    with dialect.altering():
        for revision in run:
            _apply(dialect, model, revision)
    _require_equal(dialect, model, run)
    for table, (last, untouched) in published.items():
        _publish_again(dialect, model.table(table), last, untouched)
    revisions.note(dialect, model)
    return lacking


def _require_told(dialect: Dialect, model: Model, lacking: Sequence[Revision]) -> None:
    """Raises StructureError where the tables are equal to the models before any revision is noted: nobody can tell what its rows have had."""
    if any(schema.differences_within(dialect, model).values()):
        return
    raise StructureError(
        f"it is equal to the models, and has never noted whether it had {', '.join(map(str, lacking))}",
        operation="migrate",
        database=dialect.name,
        remedy=f"`dbsync migrate --database {dialect.name} --as-applied` where its rows have had them too, else `--from-start` to run them",
    )


def _published(
    dialect: Dialect, model: Model, absent: Collection[str]
) -> dict[str, tuple[Digests, np.ndarray]]:
    """The digests that each table was last published with, and the buckets (int64) that nobody has written to since.

    Without the tables of which that cannot be told once the models are others: a column goes, or gets another type.
    """
    ledger, found = Ledger(dialect), {}
    for table in (table for table in model.tables if table.name not in absent):
        match drift.since_publish(dialect, table, ledger.digests(table.name)):
            case drift.Unchanged(now=last):
                found[table.name] = last, np.arange(last.form.buckets)
            case drift.Changed(published=last, buckets=written):
                found[table.name] = last, np.setdiff1d(np.arange(last.form.buckets), written)
    return found


def _publish_again(dialect: Dialect, table: Table, last: Digests, untouched: np.ndarray) -> None:
    """What a revision did to rows is nobody's write: in buckets that nobody had written to, the rows of now count as published."""
    form = replace(last.form, columns=table.signatures)
    Ledger(dialect).replace_digests(
        table.name,
        Digests(form, last.rows, last.first, last.second).replaced(
            untouched, dialect.digests(table, form)
        ),
    )


def _apply(dialect: Dialect, model: Model, revision: Revision) -> None:
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(
        dialect.connection, opts={"target_metadata": model.metadata}
    )
    try:
        with warnings.catch_warnings(), _operations(dialect, context):
            warnings.simplefilter(
                "ignore", sa.exc.SAWarning
            )  # of what a table has that is carried over by other ways
            revision.upgrade()
    except DbsyncError as error:
        error.operation, error.database = f"migrate, revision {revision}", dialect.name
        error.remedy = error.remedy or f"mend {revision.path}"
        raise
    except (Exception, SystemExit) as error:  # the file is not ours: it may fail in any way
        if isinstance(error, dialect.driver_errors):
            told = dialect.translate(error, dialect.name, f"migrate, revision {revision}")
            if isinstance(told, DbsyncError) and told.remedy is None:
                told.remedy = f"mend {revision.path}"
            raise told from None
        raise StructureError(
            redact.clean(f"{type(error).__name__}: {error}".splitlines()[0]),
            operation=f"migrate, revision {revision}",
            database=dialect.name,
            remedy=f"mend {revision.path}",
        ) from None


@contextmanager
def _operations(dialect: Dialect, context: MigrationContext) -> Iterator[None]:
    """Within, `alembic.op` works on this connection, each operation as its engine needs it done."""
    from alembic import op
    from alembic.operations import Operations

    with Operations.context(context) as operations, _transaction_kept(dialect.connection):
        operations.invoke = lambda operation: dialect.alter(operations, operation)  # type: ignore[method-assign]
        op.batch_alter_table = _no_batch
        yield


def _no_batch(*_: Any, **__: Any) -> NoReturn:
    raise ValueError(
        "op.batch_alter_table is not needed here: write op.alter_column and the like, and SQLite's tables are made anew"
    )


@contextmanager
def _transaction_kept(connection: sa.Connection) -> Iterator[None]:
    """Within, the transaction cannot be ended: half of a revision would stay."""

    def refuse(*_: Any) -> NoReturn:
        raise ValueError(
            "a revision is a part of one transaction, which it cannot commit or roll back"
        )

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if _ends_transaction(statement):
            refuse()

    listeners: dict[str, Callable[..., Any]] = {
        "commit": refuse,
        "rollback": refuse,
        "before_cursor_execute": look,
    }
    for event, listener in listeners.items():
        sa.event.listen(connection, event, listener)
    try:
        yield
    finally:
        for event, listener in listeners.items():
            sa.event.remove(connection, event, listener)


def _ends_transaction(statement: str) -> bool:
    """Whether one of the statements ends a transaction, apart from comments and texts; a trigger's body ends with END too."""
    bare = _NO_STATEMENT.sub(" ", statement)
    ends = _ENDS if re.search(r"\bBEGIN\b", bare, re.IGNORECASE) else _ENDS_AS_END
    return any(ends.match(one) for one in bare.split(";"))


_NO_STATEMENT = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$", re.DOTALL)
_ENDS = re.compile(
    r"\s*(COMMIT|ROLLBACK(?!\s+TO\b|\s+\w+\s+TO\b)|ABORT|PREPARE\s+TRANSACTION)\b", re.IGNORECASE
)
_ENDS_AS_END = re.compile(rf"{_ENDS.pattern}|\s*END\b", re.IGNORECASE)


def _require_equal(dialect: Dialect, model: Model, applied: Sequence[Revision]) -> None:
    after = f"after {', '.join(one.number for one in applied)} " if applied else ""
    for name, words in schema.differences_within(dialect, model).items():
        if words:
            raise StructureError(
                f"{after}it differs from the models: {'; '.join(words)}",
                operation="migrate",
                database=dialect.name,
                table=name,
                remedy=f"mend {applied[-1].path}; where no database has it yet, delete it and write it anew: `dbsync migrate new TITLE`"
                if applied
                else "`dbsync tables check` lists all differences",
            )
