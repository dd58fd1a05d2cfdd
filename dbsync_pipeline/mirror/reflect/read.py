"""Read the structure of a database as models, of all its tables or of those that are chosen."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.reflection import Reflection, key
from dbsync_pipeline.dialects.table import Kind, kind_of
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror.reflect import render
from dbsync_pipeline.mirror.reflect.portable import default_source
from dbsync_pipeline.mirror.selection import TableFilter, add_outside, described, mirrored_tables


@dataclass(frozen=True)
class Structure:
    """The structure of a database as the source of a module of models.

    `tables` are the mirrored tables, `skipped` those that are left out with the reason, `notes`
    what of the mirrored ones is not carried, and why.
    """

    source: str
    tables: tuple[str, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]


def read(dialect: Dialect, schemas: Sequence[str], selection: TableFilter) -> Structure:
    """Return the structure of an open database. Leaves no transaction open.

    Raise SettingsError if a table that is chosen does not exist, or if none is left.
    """
    with dialect.doing("read the structure"):
        places = {key(place): place for place in dialect.places(schemas)}
        skipped = selection.skipped(places)
        names = [name for name in places if name not in skipped]
        if not names:
            raise _nothing(dialect.name, schemas, skipped)
        reflection = dialect.reflect([places[name] for name in names])
        add_outside(reflection.metadata)
        _bind_checks(reflection.metadata, dialect.engine_name)
        own = [*_only_here(reflection, dialect), *reflection.notes]
        reflection.notes = [*_left_out(skipped), *own]
        opaque = _opaque(load(_module(reflection, dialect), "the structure"), reflection, dialect)
        reflection.notes = [*_left_out(skipped), *opaque, *own]
        source = _module(reflection, dialect)
    dialect.rollback()
    return Structure(source, tuple(names), skipped, tuple(reflection.notes))


def _nothing(database: str, schemas: Sequence[str], skipped: Mapping[str, str]) -> SettingsError:
    where = f" in {', '.join(schemas)}" if schemas else ""
    return SettingsError(
        f"no table is left: {described(skipped)}" if skipped else f"it has no tables{where}",
        operation="read the structure",
        database=database,
        remedy="correct DBSYNC_SCHEMAS, DBSYNC_TABLES and DBSYNC_SKIP_TABLES, or create the tables",
    )


def _bind_checks(metadata: sa.MetaData, engine: str) -> None:
    """Note on each CHECK the engine in whose words it is."""
    for table in metadata.tables.values():
        for constraint in table.constraints:
            if isinstance(constraint, sa.CheckConstraint):
                constraint.info["engine"] = engine


def _left_out(skipped: Mapping[str, str]) -> list[str]:
    return [f"the table {name}: {reason}" for name, reason in skipped.items()]


def _opaque(metadata: sa.MetaData, reflection: Reflection, dialect: Dialect) -> list[str]:
    return [
        f"{table.key}.{column.name} to another engine than {dialect.engine_name}: "
        f"{reflection.types.get((table.key, column.name), column.type) or 'no type'} has no equal"
        for table in mirrored_tables(metadata)
        for column in table.columns
        if column.computed is None and kind_of(column.type) is Kind.OPAQUE
    ]


def _only_here(reflection: Reflection, dialect: Dialect) -> list[str]:
    """Name the defaults and rules of each table that only this engine reads."""
    engine, notes = dialect.engine_name, []
    for table in mirrored_tables(reflection.metadata):
        defaults = [
            column.name
            for column in table.columns
            if (default_source(column, engine) or "").startswith("default_on")
        ]
        checks = any(isinstance(each, sa.CheckConstraint) for each in table.constraints)
        parts = [
            f"the default of {', '.join(defaults)}" * bool(defaults),
            "its CHECK constraints" * checks,
            "the statements of its after_create" * (table.key in reflection.after),
        ]
        if any(parts):
            without = ", ".join(filter(None, parts))
            notes.append(f"{table.key} to another engine than {engine}: without {without}")
    return notes


def _module(reflection: Reflection, dialect: Dialect) -> str:
    title = f"The tables of a {dialect.engine_name} database, as `dbsync` read them."
    return render.module(reflection, dialect.connection.dialect, title)


def load(source: str, file: str) -> sa.MetaData:
    """Return the metadata of a module of models with that source; `file` is for its errors."""
    spec = importlib.util.spec_from_loader("dbsync_models", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(source, file, "exec"), module.__dict__)
    metadata: sa.MetaData = module.metadata
    return metadata
