"""Write the next revision: what makes a database equal to the models, as a file that a person can
read and change.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from sqlalchemy.sql.functions import FunctionElement

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import SettingsError, StructureError
from dbsync_pipeline.mirror import differences, structure
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.model import REVISIONS_OFF, Model

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.migration import MigrationContext
    from alembic.operations.ops import MigrationScript

    from dbsync_pipeline.mirror.migrate.autogenerate import AddEnumValuesOp, ColumnChanges

_OPERATION = "write a revision"


@dataclass(frozen=True)
class Written:
    """A revision that was written. `left` lists what only the database has and the revision leaves
    as it is.
    """

    number: str
    path: Path
    left: tuple[str, ...]


def write(
    database: Database, model: Model, title: str, changes: ColumnChanges | None = None
) -> Written:
    """Write the revision that makes this database equal to the models, or an empty one without
    `changes`. Changes no database.

    Raises StructureError if the database lacks revisions, if it does not differ, if the difference
    cannot be written, or if values would be lost or missing and `changes` does not say so;
    SettingsError if the file cannot be written, or `changes` names what does not differ.
    """
    if model.revisions == REVISIONS_OFF:
        raise SettingsError(
            "DBSYNC_REVISIONS is off",
            operation=_OPERATION,
            remedy="write the change as a migration of the application's own, or set "
            "DBSYNC_REVISIONS to a folder",
        )
    if model.revisions is None:
        raise SettingsError(
            "the models' module has no folder",
            operation=_OPERATION,
            remedy="set DBSYNC_REVISIONS to a folder",
        )
    if not re.search(r"\w", title):
        raise SettingsError(
            "the title is empty",
            operation=_OPERATION,
            remedy="describe the change in a few words",
        )
    with database.connect() as dialect:
        revisions.require_none_pending(dialect, model)
        left = [] if changes is None else _for_a_person(dialect, model)
        number = revisions.next_number(model)
        try:
            path = _generate(dialect, model, changes, number, title, left)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SettingsError(
                f"the revision cannot be written to {model.revisions}: {reason}",
                operation=_OPERATION,
                remedy="set DBSYNC_REVISIONS to a folder that can be created and written to",
            ) from None
    return Written(number, path, tuple(left))


_COMMAND = {
    "sql": False,
    "head": "head",
    "splice": False,
    "branch_label": None,
    "depends_on": None,
}
"""What Alembic's own command line gives for `alembic revision`."""

_RENDERING: dict[str, Any] = {
    "upgrade_token": "upgrades",
    "downgrade_token": "downgrades",
    "sqlalchemy_module_prefix": "sa.",
    "alembic_module_prefix": "op.",
    "user_module_prefix": None,
    "render_as_batch": False,
}
"""Alembic's own defaults for writing a revision."""


def _generate(
    dialect: Dialect,
    model: Model,
    changes: ColumnChanges | None,
    number: str,
    title: str,
    left: list[str],
) -> Path:
    from alembic.autogenerate import RevisionContext
    from alembic.config import Config

    from dbsync_pipeline.mirror.migrate.autogenerate import Draft

    def complete(context: MigrationContext, _revision: Any, scripts: list[MigrationScript]) -> None:
        if changes is not None:
            draft = Draft(dialect, model, changes)
            draft.complete(context, scripts[0], _missing_enum_values(dialect, model))
            left.extend(draft.left)
            _require_something(dialect, model, scripts[0], left)

    assert model.revisions is not None
    command = {**_COMMAND, "message": title, "version_path": model.revisions, "rev_id": number}
    context = RevisionContext(Config(), revisions.directory(model.revisions), command)
    rendering = {
        **_RENDERING,
        "target_metadata": model.metadata,
        "render_item": _render,
        "process_revision_directives": complete,
    }
    with structure.comparison(dialect, model, **rendering) as migration:
        (context.run_no_autogenerate if changes is None else context.run_autogenerate)(
            "head", migration
        )
        (script,) = context.generate_scripts()
    assert script is not None
    return Path(script.path)


def _render(kind: str, thing: Any, context: AutogenContext) -> str | Literal[False]:
    """Render a server default as the models have it, so that each engine can translate it; leave
    the rest to Alembic.

    Alembic would render it for the engine that it compares with. A type of the application's own
    module also gets its import.
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


def _missing_enum_values(dialect: Dialect, model: Model) -> list[AddEnumValuesOp]:
    """One operation for each enum type of which the database lacks values."""
    from dbsync_pipeline.mirror.migrate.autogenerate import AddEnumValuesOp

    existing, listed = structure.enums_here(dialect), {}
    for column in (column for table in model.tables for column in table.sa.columns):
        if not isinstance(column.type, sa.Enum):
            continue
        if (values := structure.enum_values(existing, column.type)) is not None:
            missing = [value for value in column.type.enums if value not in values]
            listed[column.type.schema, column.type.name] = column.type, missing
    return [AddEnumValuesOp(type_, missing) for type_, missing in listed.values() if missing]


def _for_a_person(dialect: Dialect, model: Model) -> list[str]:
    """List differences that a person has to write: the primary key, and values that an enum should
    no longer have.
    """
    keys, enums = structure.keys_here(dialect, model), structure.enums_here(dialect)
    absent = differences.missing(dialect, model)
    listed = []
    for table in (table for table in model.tables if table.name not in absent):
        texts = structure.keys(keys[table.sa.schema, table.sa.name], table.sa)
        listed += [f"{table.name}: {text}" for text in texts]
        for column in table.sa.columns:
            if isinstance(column.type, sa.Enum):
                values = structure.enum_values(enums, column.type) or []
                if surplus := [value for value in values if value not in column.type.enums]:
                    listed.append(
                        f"{table.name}: {column.type.name} has {', '.join(surplus)}, "
                        "which the models do not have"
                    )
    return listed


def _require_something(
    dialect: Dialect, model: Model, script: MigrationScript, left: Collection[str]
) -> None:
    assert script.upgrade_ops is not None
    if script.upgrade_ops.ops:
        return
    if dialect.name == model.read_from and not left:
        raise StructureError(
            "the models were read from it, so there is nothing to write",
            operation=_OPERATION,
            database=dialect.name,
            remedy="name the database that lacks the change: `dbsync migrate new TITLE --database "
            "NAME`; `dbsync tables check` lists what differs",
        )
    raise StructureError(
        f"a person has to write the difference: {'; '.join(left)}"
        if left
        else "it is equal to the models, so there is nothing to write",
        operation=_OPERATION,
        database=dialect.name,
        remedy="`dbsync migrate new TITLE --empty`, and write the change there",
    )
