"""The models' tables, ordered by their foreign keys; all other structure is derived from them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.sql.ddl import sort_tables_and_constraints

from dbsync_pipeline import redact
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import SettingsError, StructureError

RESERVED = ("dbsync_publish", "dbsync_change")
"""The columns that a table of before-images has beside those of the model's table."""


@dataclass(frozen=True)
class Model:
    """The mirrored tables of a SQLAlchemy metadata, and the folder of their revisions, if any."""

    metadata: sa.MetaData
    revisions: Path | None = None

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The tables, parents first as far as cycles allow, in the same order on every run."""
        by_name = sorted(self.metadata.tables.values(), key=lambda table: table.key)
        in_order = sort_tables_and_constraints(by_name)  # type: ignore[no-untyped-call]
        return tuple(Table(table) for table, _ in in_order if table is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tables, in their order."""
        return tuple(table.name for table in self.tables)

    def table(self, name: str) -> Table:
        """Return the table of that name; raise SettingsError naming the known ones."""
        for table in self.tables:
            if table.name == name:
                return table
        raise SettingsError(
            f"the models have no table {name!r}; their tables are: {', '.join(self.names)}",
            table=name,
            remedy="name one of them, or set DBSYNC_MODELS to the module that has it",
        )

    def select(self, names: Iterable[str]) -> tuple[Table, ...]:
        """Return the tables of these names, in the models' order; all if no name is given."""
        chosen = {self.table(name).name for name in names} or set(self.names)
        return tuple(table for table in self.tables if table.name in chosen)

    def parents(self, name: str) -> tuple[str, ...]:
        """Return the tables that this one refers to and that precede it: a graph without cycles."""
        mine = self.table(name)
        referred = {str(key.referred_table.key) for key in mine.sa.foreign_key_constraints}
        earlier = self.names[: self.names.index(name)]
        return tuple(parent for parent in earlier if parent in referred)


def load_model(module: str, revisions: Path | None = None) -> Model:
    """Return the model in `module`: its `Base.metadata`, or its `metadata`.

    Its revisions are in the folder `revisions`, or else in `dbsync_revisions` beside the module.
    Raise SettingsError if the module cannot be imported or has no metadata, StructureError if a
    table cannot be mirrored.
    """
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # the user's module may fail in any way
        why = redact.clean(f"{type(error).__name__}: {error}".splitlines()[0])
        raise SettingsError(
            f"the models' module {module!r} cannot be imported: {why}",
            remedy="fix the module, or set DBSYNC_MODELS to another one",
        ) from None
    metadata = getattr(getattr(imported, "Base", None), "metadata", None) or getattr(
        imported, "metadata", None
    )
    if not isinstance(metadata, sa.MetaData) or not metadata.tables:
        raise SettingsError(
            f"the module {module!r} has no Base.metadata and no metadata with tables in it",
            remedy="set DBSYNC_MODELS to the module that has the models",
        )
    if revisions is None and imported.__file__:
        revisions = Path(imported.__file__).with_name("dbsync_revisions")
    model = Model(metadata, revisions and revisions.absolute())
    for table in model.tables:
        _ = table.key  # refuses a table without a key before anything is done
        if not table.columns:
            raise StructureError("has no columns to copy", table=table.name)
        for column in table.columns:
            if column.name.lower() in RESERVED:
                raise StructureError(
                    f"column {column.name} has a name that tables of before-images need",
                    table=table.name,
                    remedy="give the column another name in the database",
                )
    return model
