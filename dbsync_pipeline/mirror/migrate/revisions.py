"""The revisions of the models, in order, and the newest one that each database has.

A revision is a file of Alembic's, `0002_users_phone.py`, whose `upgrade()` turns tables of the
previous models into tables of its own; the only way back is another revision. All files are in one
folder and follow each other in one line. Each database records its newest revision in its ledger.
Without revisions, tables are created, compared and recreated, and never altered.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from dbsync_pipeline import redact
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import DbsyncError, SettingsError, StructureError
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.model import REVISIONS_OFF, Model

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

_NOTED = "revision"
"""The name of the fact with the newest revision that a database has."""
BASE = "base"
"""Its value for a database without any revision yet, which will get all later ones."""
OWN = "alembic_version"
"""The table in which an application's own Alembic keeps its revision; `dbsync migrate` has none."""
_TEMPLATE = Path(__file__).parents[2] / "dbsync_revisions"


@dataclass(frozen=True)
class Revision:
    """One revision: its number (four digits), title, file, and the function that applies it."""

    number: str
    title: str
    path: Path
    upgrade: Callable[[], None] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.number} ({self.title})"


def directory(folder: Path) -> ScriptDirectory:
    """Return the folder as Alembic sees it; it need not exist yet."""
    from alembic.script import ScriptDirectory

    named = "%(rev)s_%(slug)s"
    return ScriptDirectory(
        _TEMPLATE, version_locations=[folder], file_template=named, messaging_opts={"quiet": True}
    )


def line(model: Model) -> tuple[Revision, ...]:
    """Return all revisions of the models, oldest first. Raise SettingsError if the files cannot be
    read, or are not one line.
    """
    folder = model.revisions
    if folder is None or folder == REVISIONS_OFF or not folder.is_dir():
        return ()
    if (folder / "env.py").exists():
        raise _wrong(folder, "it belongs to another program, since it has an env.py")
    scripts = directory(folder)
    try:
        with warnings.catch_warnings():
            # about two files with one number, and a file that follows a number that does not exist
            warnings.simplefilter("error")
            heads = scripts.get_heads()
            existing = [
                Revision(
                    script.revision,
                    script.doc.rstrip("."),
                    Path(script.path),
                    script.module.upgrade,
                )
                for script in scripts.walk_revisions()
            ]
    except Exception as error:  # a person wrote the files: they may fail in any way
        raise _wrong(
            folder, redact.clean(f"{type(error).__name__}: {error}".splitlines()[0])
        ) from None
    if len(heads) > 1:
        raise _wrong(
            folder,
            f"{' and '.join(sorted(heads))} are both the newest: let one of them follow the other",
        )
    return tuple(reversed(existing))


def next_number(model: Model) -> str:
    """Return the number of the revision that follows the newest."""
    existing = line(model)
    newest = existing[-1].number if existing else "0"
    return f"{int(newest) + 1 if newest.isdigit() else len(existing) + 1:04}"


def _wrong(folder: Path, why: str) -> SettingsError:
    return SettingsError(
        f"the revisions in {folder} cannot be used: {why}",
        operation="read revisions",
        remedy="correct the files, or set DBSYNC_REVISIONS to the folder of the models' revisions",
    )


def lacking(database: Database, model: Model) -> tuple[Revision, ...]:
    """As `pending`, for a database that is not open."""
    with database.connect() as dialect:
        return pending(dialect, model)


def pending(dialect: Dialect, model: Model, ledger: Ledger | None = None) -> tuple[Revision, ...]:
    """Return the revisions that the database lacks, oldest first: all of them if it never recorded
    one, and none if the application's own migrations alter it.

    Raise StructureError if it has one that is not in the folder. Does not end the transaction.
    """
    revisions = line(model)
    if not revisions or standing_back(dialect, model, ledger):
        return ()
    has = noted(dialect, ledger)
    if has in (None, BASE):
        return revisions
    numbers = [revision.number for revision in revisions]
    if has not in numbers:
        raise StructureError(
            f"it has revision {has}, which is unknown here: the newest is {numbers[-1]}",
            operation="read revisions",
            database=dialect.name,
            remedy="use the models and the revisions with which the database was migrated",
        )
    return revisions[numbers.index(has) + 1 :]


def own(dialect: Dialect, model: Model) -> tuple[str, ...] | None:
    """Return the revisions that the application's own Alembic recorded in the database.

    None if it recorded none there, or this role may not read them. Does not end the transaction.
    """
    recorded: list[str] = []
    with dialect.doing("read alembic_version"):
        inspector = sa.inspect(dialect.connection)
        places = [
            schema
            for schema in {None, *(table.sa.schema for table in model.tables)}
            if inspector.has_table(OWN, schema=schema)
        ]
        for schema in places:
            version = sa.table(OWN, sa.column("version_num", sa.Unicode), schema=schema)
            try:
                with dialect.attempt():
                    recorded += dialect.connection.scalars(sa.select(version.c.version_num))
            except dialect.driver_errors:  # of another tool, or not for this role
                continue
    return tuple(sorted(recorded)) or None


def standing_back(dialect: Dialect, model: Model, ledger: Ledger | None = None) -> str:
    """Return why this database's structure is not for `dbsync migrate`; empty if it is.

    Its owner says so by the setting, or has recorded revisions of its own, and the ledger none.
    `ledger` is as in `noted`.
    """
    if model.revisions == REVISIONS_OFF:
        return "DBSYNC_REVISIONS is off: the application's own migrations alter the tables"
    if noted(dialect, ledger) not in (None, BASE):
        return ""
    if recorded := own(dialect, model):
        return f"the application's own migrations alter it: {OWN} has {', '.join(recorded)}"
    return ""


def why_not(database: Database, model: Model) -> str:
    """As `standing_back`, for a database that is not open."""
    with database.connect() as dialect:
        return standing_back(dialect, model)


def of_both_sides(source: Database, target: Database, model: Model) -> str:
    """Return what the application's own migrations recorded on both sides, for a message.

    Empty if they recorded nothing on either. A side that does not respond counts as unknown.
    """
    recorded: dict[str, str | None] = {}
    for database in (source, target):
        try:
            with database.at_once.connect() as dialect:
                recorded[database.name] = ", ".join(own(dialect, model) or ()) or None
        except DbsyncError as error:
            recorded[database.name] = f"an unknown revision ({error.cause})"
    if not any(recorded.values()):
        return ""
    return f"; {OWN}: " + ", ".join(
        f"{name} has {revision or 'none'}" for name, revision in recorded.items()
    )


def noted(dialect: Dialect, ledger: Ledger | None = None) -> str | None:
    """Return the number of the newest revision that the database has, `base` before the first; None
    if it recorded nothing. `ledger` is the database's, if it is read anyway.
    """
    return (ledger or Ledger(dialect)).fact(_NOTED)


def note(dialect: Dialect, model: Model) -> None:
    """Record, within the open transaction, that the database has all present revisions."""
    Ledger(dialect).note(_NOTED, newest(model))


def newest(model: Model) -> str:
    """Return the number of the newest revision, `base` if there is none."""
    revisions = line(model)
    return revisions[-1].number if revisions else BASE


def require_up(dialect: Dialect, model: Model, ledger: Ledger) -> None:
    """Raise StructureError if the database has recorded revisions and lacks others: one of those
    may have changed rows.

    A source that has recorded none is accepted: it may be one that is only read.
    """
    recorded = noted(dialect, ledger)
    if recorded is not None and recorded != _newest_by_name(model):
        require_none_pending(dialect, model, ledger)


def _newest_by_name(model: Model) -> str | None:
    """The newest revision by its file's name, `base` without files; None if names have no order.

    Alembic, which always knows the order, takes longer to load than a sync of nothing.
    """
    folder = model.revisions
    if folder is None or folder == REVISIONS_OFF or not folder.is_dir():
        return BASE
    names = sorted(file.name for file in folder.glob("*.py"))
    if not all(re.fullmatch(r"\d{4}_.*", name) for name in names):
        return None
    return names[-1][:4] if names else BASE


def require_none_pending(dialect: Dialect, model: Model, ledger: Ledger | None = None) -> None:
    """Raise StructureError if the database lacks revisions. `ledger` is as in `noted`."""
    if lacking := pending(dialect, model, ledger):
        raise StructureError(
            f"it lacks {', '.join(map(str, lacking))} of the models' revisions",
            operation="structure",
            database=dialect.name,
            remedy=f"`dbsync migrate --database {dialect.name}`",
        )
