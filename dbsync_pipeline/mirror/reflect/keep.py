"""The structure of the primary, kept as a module beside Dagster's records.

A failover is needed when the primary does not answer, so the models may not depend on it: the
structure is read once and kept, and every process loads what is kept. It is read again by commands
that read the primary anyway, and at the start of each sync. See decision 0018.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline import models as sample
from dbsync_pipeline import redact
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.reflection import key
from dbsync_pipeline.errors import DbsyncError, SettingsError, Transient, Unavailable
from dbsync_pipeline.mirror.database import Database, database
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.reflect.read import Structure, load, read
from dbsync_pipeline.mirror.selection import TableFilter
from dbsync_pipeline.settings import REFLECT, Settings
from dbsync_pipeline.text import count

_HEADER = "# "
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A kept structure: the tables, and those that are left out, each with the reason."""

    metadata: sa.MetaData
    skipped: Mapping[str, str]
    file: Path


@dataclass(frozen=True)
class Undecided:
    """No setting names the models, nothing is kept, and the primary cannot be asked: `why`."""

    why: str


_loaded: dict[Path, tuple[str, Kept | None]] = {}
"""What this process loaded, by file, with the file's text: a process works with one structure."""


def file_of(settings: Settings) -> Path:
    """Return the kept module, in the folder of Dagster's records.

    Its name has a hash of what it is read from: the primary's place, without user and password, and
    the settings that choose schemas and tables. Others have a file of their own.
    """
    read_from = json.dumps([_place(settings, settings.primary), _choices(settings)], sort_keys=True)
    return settings.dagster_home / f"dbsync_models_{_digest(read_from)}.py"


def revisions_of(settings: Settings) -> Path:
    """Return the folder of the revisions of a structure that is read.

    One line of them for all choices of tables, since a database records one number. The folder is
    named after the place of the database that was the primary first, and is found by any other of
    the same databases; those of other databases have a folder of their own.
    """
    others = [name for name in settings.names if name != settings.primary]
    folders = [
        settings.dagster_home / f"dbsync_revisions_{_digest(_place(settings, name))}"
        for name in (settings.primary, *others)
    ]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _place(settings: Settings, name: str) -> str:
    """Where a database is, without user and password."""
    url = sa.make_url(settings.database(name).url.get_secret_value())
    if not url.host and url.database:
        return str(Path(url.database).absolute())
    return url._replace(username=None, password=None).render_as_string()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def kept(settings: Settings, *, fresh: bool = False) -> Kept | Undecided | None:
    """Return the kept structure; None if the settings, or the primary, mean other models.

    If nothing is kept the primary is read. With `fresh` it is read again, if it answers, and what
    changed is logged. Raise Unavailable if the structure must be read and the primary does not
    answer, SettingsError if the file cannot be written or loaded.
    """
    if settings.models not in ("", REFLECT) or (not settings.models and settings.embedded):
        return None
    file = file_of(settings)
    text = _text(file, settings)
    if text is None:
        decided = _decide(file, settings)
        if not isinstance(decided, str):
            return decided
        text = decided
    elif fresh:
        text = _again(file, text, settings)
    known = _loaded.get(file)
    if known is None or (known[0] != text and (fresh or _is_overruled(known[0], settings))):
        known = _loaded[file] = text, _load(file, text)
    return known[1]


def require_current(settings: Settings) -> None:
    """Read the primary again, at the start of a sync from it; keep what changed.

    Raise Transient if it changed: this process has loaded the former structure.
    """
    file = file_of(settings)
    before = _loaded.get(file)
    if before is None or before[1] is None:
        return
    kept(settings, fresh=True)
    if _loaded[file][0] != before[0]:
        _loaded[file] = before
        raise Transient(
            "the structure of its tables changed, and is kept now",
            operation="read the structure",
            database=settings.primary,
            remedy="sync again; reload the code location, so that Dagster's pages show the tables",
        )


def _text(file: Path, settings: Settings) -> str | None:
    """Return the kept text; None if there is none, or one that a setting overrules."""
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(file, f"{type(error).__name__}: {error}") from None
    return None if _is_overruled(text, settings) else text


def _is_overruled(text: str, settings: Settings) -> bool:
    """Whether a kept text says that the sample is meant, which was decided while no setting asked
    for the structure.
    """
    return settings.models == REFLECT and bool(_header(text).get("sample"))


def _choices(settings: Settings) -> dict[str, str]:
    """The settings on which the structure depends."""
    return {
        name: getattr(settings, name) for name in ("primary", "schemas", "tables", "skip_tables")
    }


def _header(text: str) -> dict[str, Any]:
    try:
        header = json.loads(text.partition("\n")[0].removeprefix(_HEADER))
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}


def _decide(file: Path, settings: Settings) -> str | Undecided | None:
    """Read the primary for the first time; keep and return its structure.

    Where no setting asks for it, None if the primary has no tables, or is a file that is not there
    yet, and Undecided if it cannot be asked.
    """
    primary = database(settings, settings.primary).at_once
    if not settings.models and _has_no_file(primary):
        return None
    try:
        with primary.connect() as dialect:
            if not settings.models and (sample_meant := _means_sample(dialect, settings)):
                return _keep(file, "", settings, {}) if sample_meant == "present" else None
            structure = _read(dialect, settings)
    except DbsyncError as error:
        if not settings.models:
            return Undecided(f"{settings.primary} cannot be asked for its tables: {error.cause}")
        if isinstance(error, Unavailable):
            variable = f"DBSYNC_{settings.primary.upper()}_URL"
            error.remedy = (
                f"see that {variable} is right, with special characters as %XX, and start "
                f"{settings.primary} once, so that its structure can be kept in {file}; or copy "
                "that file from another machine, or set DBSYNC_MODELS to a module"
            )
        raise
    text = _keep(file, structure.source, settings, structure.skipped)
    _log.warning(
        "%s: read the structure of %s, kept in %s",
        settings.primary,
        count(len(structure.tables), "table"),
        file,
    )
    return text


def _has_no_file(primary: Database) -> bool:
    try:
        primary.dialect.locate(primary.url, primary.name, create=False)
    except Unavailable:
        return True
    return False


def _means_sample(dialect: Dialect, settings: Settings) -> str | None:
    """Return `present` if the database has a table of the sample, `empty` if it has none at all.

    A table of the sample has its columns, not only its name: `users` is in many databases.
    """
    names = {key(place) for place in dialect.places(settings.schema_names)}
    if not names:
        return "empty"
    inspector = sa.inspect(dialect.connection)
    for name, table in sample.Base.metadata.tables.items():
        if name in names:
            columns = {column["name"] for column in inspector.get_columns(name)}
            if columns >= {column.name for column in table.columns}:
                return "present"
    return None


def _again(file: Path, text: str, settings: Settings) -> str:
    """Read the primary again; keep and return its structure, or the former if it does not answer.

    A primary that another database replaced is not read: its structure may be the older one.
    """
    if _header(text).get("sample"):
        return text
    with contextlib.suppress(Unavailable):  # the command that reads it says so
        if term.primary(settings) != settings.primary:
            return text
        with database(settings, settings.primary).at_once.connect() as dialect:
            structure = _read(dialect, settings)
        if structure.source != text.partition("\n")[2]:
            changes = _changes(text, structure.source)
            text = _keep(file, structure.source, settings, structure.skipped)
            _log.warning("%s: the structure changed, and is kept: %s", settings.primary, changes)
    return text


def _read(dialect: Dialect, settings: Settings) -> Structure:
    selection = TableFilter.of(settings.tables, settings.skip_tables)
    return read(dialect, settings.schema_names, selection)


def _changes(before: str, after: str) -> str:
    """Return which tables are new, gone or different, on one line."""
    old, new = _blocks(before), _blocks(after)
    parts = {
        "new": sorted(new.keys() - old.keys()),
        "gone": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in old.keys() & new.keys() if old[name] != new[name]),
    }
    listed = [f"{what}: {', '.join(names)}" for what, names in parts.items() if names]
    return "; ".join(listed) or "what its tables need"


def _blocks(source: str) -> dict[str, str]:
    """Return the source of each table by its name, with its schema if it has one."""
    blocks = {}
    for block in re.findall(r"^sa\.Table\(\n.*?^\)$", source, re.MULTILINE | re.DOTALL):
        name = re.search(r"\A.*\n    '(.*)',\n", block)
        schema = re.search(r"^    schema='(.*)',$", block, re.MULTILINE)
        blocks[f"{schema[1]}.{name[1]}" if schema and name else name[1] if name else ""] = block
    return blocks


def _keep(file: Path, source: str, settings: Settings, skipped: Mapping[str, str]) -> str:
    """Write the file whole or not at all, and return its text."""
    header = {"settings": _choices(settings), "skipped": dict(skipped), "sample": not source}
    text = f"{_HEADER}{json.dumps(header, sort_keys=True)}\n{source}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=file.parent, prefix=".dbsync_models", delete=False
        ) as written:
            written.write(text)
        os.replace(written.name, file)
    except OSError as error:
        raise SettingsError(
            f"the structure of {settings.primary} cannot be kept in {file}: "
            f"{error.strerror or type(error).__name__}",
            operation="read the structure",
            remedy="let DAGSTER_HOME be a folder that can be written to, or set DBSYNC_MODELS to a "
            "module: `dbsync models from-database FILE` writes one",
        ) from None
    return text


def _load(file: Path, text: str) -> Kept | None:
    header = _header(text)
    if header.get("sample"):
        return None
    try:
        return Kept(load(text, str(file)), header["skipped"], file)
    except Exception as error:  # a person may have changed the file
        raise _unusable(file, f"{type(error).__name__}: {error}") from None


def _unusable(file: Path, why: str) -> SettingsError:
    return SettingsError(
        f"the kept structure in {file} cannot be used: {redact.clean(why.splitlines()[0])}",
        operation="read models",
        remedy="remove the file: the structure is read from the primary again",
    )
