"""Find the SQLAlchemy metadata that DBSYNC_MODELS names, in modules as people write them.

A module may have `Base`, `metadata`, Flask-SQLAlchemy's `db`, SQLModel's classes, or a MetaData
that it reflected itself; several modules may share one metadata or have their own.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline import redact
from dbsync_pipeline.errors import SettingsError

_USUAL = ("Base", "metadata", "db", "SQLModel")
"""The attributes that are looked for first, in this order."""


def find(models: str) -> tuple[sa.MetaData, Path | None]:
    """Return the metadata of modules, and the file of the first.

    `models` is as in DBSYNC_MODELS: `package.module` or `package.module:attribute`, several
    separated by commas. Raise SettingsError if a module cannot be imported or has no metadata with
    tables, or if two modules have different tables of one name.
    """
    named: list[tuple[str, sa.MetaData]] = []
    files: list[Path] = []
    for name in filter(None, map(str.strip, models.split(","))):
        module_name, _, attribute = name.partition(":")
        module = _imported(module_name)
        named.append((name, _metadata(module, attribute)))
        files += [Path(module.__file__)] if module.__file__ else []
    if not named:
        raise SettingsError(
            "DBSYNC_MODELS names no module", remedy="set it to the module that has the models"
        )
    return _united(named), files[0] if files else None


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # the user's module may fail in any way
        why = redact.clean(f"{type(error).__name__}: {error}".splitlines()[0])
        raise SettingsError(
            f"the models' module {name!r} cannot be imported: {why}",
            remedy="fix the module, or set DBSYNC_MODELS to another one",
        ) from None


def _metadata(module: ModuleType, attribute: str) -> sa.MetaData:
    """Return the metadata of the attribute or, if none is named, the one that the module has."""
    if attribute:
        thing: Any = module
        for part in attribute.split("."):
            thing = getattr(thing, part, None)
        metadata = _of(thing)
        if metadata is not None:
            return metadata
        raise SettingsError(
            f"the module {module.__name__!r} has no {attribute} with tables in it",
            remedy="set DBSYNC_MODELS to package.module:attribute, where the attribute is a base "
            "class of models, a MetaData, or Flask-SQLAlchemy's db",
        )
    for name in _USUAL:
        metadata = _of(getattr(module, name, None))
        if metadata is not None:
            return metadata
    others = list(_others(module))
    if len({id(metadata) for _, metadata in others}) == 1:
        return others[0][1]
    what = f"several: {', '.join(name for name, _ in others)}" if others else "none"
    raise SettingsError(
        f"the module {module.__name__!r} has no Base.metadata and no metadata with tables in it; "
        f"of other attributes that have one, it has {what}",
        remedy="set DBSYNC_MODELS to the module that has the models, or to module:attribute",
    )


def _of(thing: Any) -> sa.MetaData | None:
    """Return the metadata that a thing is or has, if there are tables in it."""
    metadata = thing if isinstance(thing, sa.MetaData) else getattr(thing, "metadata", None)
    return metadata if isinstance(metadata, sa.MetaData) and metadata.tables else None


def _others(module: ModuleType) -> Iterator[tuple[str, sa.MetaData]]:
    for name, thing in vars(module).items():
        metadata = None if isinstance(thing, ModuleType) else _of(thing)
        if metadata is not None:
            yield name, metadata


def _united(named: Sequence[tuple[str, sa.MetaData]]) -> sa.MetaData:
    """Return one metadata with the tables of all; the metadata itself if there is only one."""
    different = {id(metadata): (name, metadata) for name, metadata in named}
    if len(different) == 1:
        return named[0][1]
    united, owners = sa.MetaData(), dict[str, str]()
    for name, metadata in different.values():
        for table in metadata.tables.values():
            if table.key in owners:
                raise SettingsError(
                    f"{owners[table.key]} and {name} both have a table {table.key}",
                    operation="read models",
                    remedy="name only one of them in DBSYNC_MODELS",
                )
            owners[table.key] = name
        copy_tables(metadata, united, tuple(metadata.tables))
    return united


def copy_tables(source: sa.MetaData, target: sa.MetaData, names: Sequence[str]) -> None:
    """Copy tables, with the statements that are attached to their creation."""
    target.dispatch._update(source.dispatch, only_propagate=False)
    for name in names:
        table = source.tables[name]
        copy = table.to_metadata(target)
        copy.dispatch._update(table.dispatch, only_propagate=False)
