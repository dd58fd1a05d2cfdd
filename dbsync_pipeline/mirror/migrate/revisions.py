"""The line of revisions by which the models became what they are, and how far along it a database is.

A revision is a file of Alembic's, `0002_users_phone.py`, whose `upgrade()` brings tables from the models of the one before it to its
own; there is no way back but another revision. They stand in one folder, in one line. Each database notes the
newest that it has in its ledger. Where there are no revisions, tables are made, compared and recreated, and never altered.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dbsync_pipeline import redact
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import SettingsError, StructureError
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.model import Model

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

_NOTED = "revision"
"""The fact that holds the newest revision that a database has."""
BASE = "base"
"""Its value where the database has none yet, but will have all that come."""
_TEMPLATE = Path(__file__).parents[2] / "dbsync_revisions"


@dataclass(frozen=True)
class Revision:
    """One revision: its number of four digits, what it does in a few words, its file, and the function that does it."""

    number: str
    title: str
    path: Path
    upgrade: Callable[[], None] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.number} ({self.title})"


def directory(folder: Path) -> ScriptDirectory:
    """The folder as Alembic sees it; it need not be there yet."""
    from alembic.script import ScriptDirectory

    named = "%(rev)s_%(slug)s"
    return ScriptDirectory(
        _TEMPLATE, version_locations=[folder], file_template=named, messaging_opts={"quiet": True}
    )


def line(model: Model) -> tuple[Revision, ...]:
    """All revisions of the models, oldest first. Raises SettingsError where the files cannot be read, or are no single line."""
    folder = model.revisions
    if folder is None or not folder.is_dir():
        return ()
    if (folder / "env.py").exists():
        raise _wrong(folder, "it is of another program, since it has an env.py")
    scripts = directory(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error"
            )  # of two files with one number, and of one that follows a number that is not there
            heads = scripts.get_heads()
            found = [
                Revision(one.revision, one.doc.rstrip("."), Path(one.path), one.module.upgrade)
                for one in scripts.walk_revisions()
            ]
    except Exception as error:  # the files are not ours: they may fail in any way
        raise _wrong(
            folder, redact.clean(f"{type(error).__name__}: {error}".splitlines()[0])
        ) from None
    if len(heads) > 1:
        raise _wrong(
            folder,
            f"{' and '.join(sorted(heads))} are both the newest: write in one that it follows the other",
        )
    return tuple(reversed(found))


def next_number(model: Model) -> str:
    """The number of a revision that follows the newest."""
    found = line(model)
    newest = found[-1].number if found else "0"
    return f"{int(newest) + 1 if newest.isdigit() else len(found) + 1:04}"


def _wrong(folder: Path, why: str) -> SettingsError:
    return SettingsError(
        f"the revisions in {folder} cannot be used: {why}",
        operation="read revisions",
        remedy="mend the files, or set DBSYNC_REVISIONS to the folder that has the models' revisions",
    )


def lacking(database: Database, model: Model) -> tuple[Revision, ...]:
    """As `pending`, of a database that is not open."""
    with database.connect() as dialect:
        return pending(dialect, model)


def pending(dialect: Dialect, model: Model) -> tuple[Revision, ...]:
    """The revisions that the database lacks, oldest first: all of them where it has never noted any.

    Raises StructureError where it has one that is not in the folder. Leaves the transaction as it was.
    """
    revisions = line(model)
    has = noted(dialect) if revisions else None
    if has in (None, BASE):
        return revisions
    numbers = [one.number for one in revisions]
    if has not in numbers:
        raise StructureError(
            f"it has revision {has}, and the newest that is known here is {numbers[-1]}",
            operation="read revisions",
            database=dialect.name,
            remedy="use the models and the revisions that the database was migrated with",
        )
    return revisions[numbers.index(has) + 1 :]


def noted(dialect: Dialect) -> str | None:
    """The number of the newest revision that the database has, `base` where it awaits the first; None where it has noted nothing."""
    ledger = Ledger(dialect)
    return ledger.fact(_NOTED) if ledger.exists() else None


def note(dialect: Dialect, model: Model) -> None:
    """Within the open transaction: the database has all revisions that there are."""
    revisions = line(model)
    Ledger(dialect).note(_NOTED, revisions[-1].number if revisions else BASE)


def require_up(dialect: Dialect, model: Model) -> None:
    """Raises StructureError where the database has noted revisions and lacks others: its rows may be of before one that changes rows.

    A source that has noted none is taken as it is: it may be one that only this program's syncs read.
    """
    if line(model) and noted(dialect) is not None:
        require_none_pending(dialect, model)


def require_none_pending(dialect: Dialect, model: Model) -> None:
    """Raises StructureError where the database lacks revisions."""
    if lacking := pending(dialect, model):
        raise StructureError(
            f"it lacks {', '.join(map(str, lacking))} of the models' revisions",
            operation="structure",
            database=dialect.name,
            remedy=f"`dbsync migrate --database {dialect.name}`",
        )
