"""The models' tables, ordered by their foreign keys; all other structure is derived from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.sql.ddl import sort_tables_and_constraints

from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import SettingsError, StructureError
from dbsync_pipeline.mirror.metadata import find
from dbsync_pipeline.mirror.reflect.keep import Undecided, kept, revisions_of
from dbsync_pipeline.mirror.selection import TableFilter, chosen, described, mirrored_tables
from dbsync_pipeline.settings import Settings

REVISIONS_OFF = Path("off")
"""In place of a folder: the structure of the tables is the application's own, and never altered."""

SAMPLE = "dbsync_pipeline.models"
"""The module of the sample tables."""

RESERVED = ("dbsync_publish", "dbsync_change")
"""The columns that a table of before-images has beside those of the model's table."""


@dataclass(frozen=True)
class Model:
    """The mirrored tables of a SQLAlchemy metadata, and the folder of their revisions, if any.

    `skipped` has the tables that are not mirrored, each with the reason. `revisions` is
    REVISIONS_OFF where there shall be none. `read_from` is the database whose structure the models
    are, None if a module has them: it has every change before its revision is written. `assumed`
    is empty, or why it is unknown which models are meant: those of the sample are assumed, and not
    created.
    """

    metadata: sa.MetaData
    revisions: Path | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    read_from: str | None = None
    assumed: str = ""

    @property
    def why_unknown(self) -> str:
        """Why it is unknown which tables are meant; empty if it is known."""
        if not self.assumed:
            return ""
        return f"which tables are meant is unknown: DBSYNC_MODELS is not set, and {self.assumed}"

    def require_known(self, operation: str, database: str) -> None:
        """Raise SettingsError if it is unknown which tables are meant.

        It does not matter while the database has those of the sample.
        """
        if self.why_unknown:
            raise SettingsError(
                self.why_unknown,
                operation=operation,
                database=database,
                remedy="start the primary, or set DBSYNC_MODELS: `reflect`, the module of the "
                "models, or dbsync_pipeline.models for the tables of the sample",
            )

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The tables, parents first as far as cycles allow, in the same order on every run."""
        by_name = mirrored_tables(self.metadata)
        in_order = sort_tables_and_constraints(by_name)  # type: ignore[no-untyped-call]
        return tuple(Table(table) for table, _ in in_order if table is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tables, in their order."""
        return tuple(table.name for table in self.tables)

    @cached_property
    def _by_name(self) -> dict[str, Table]:
        return {table.name: table for table in self.tables}

    def table(self, name: str) -> Table:
        """Return the table of that name; raise SettingsError naming the known ones."""
        if name in self._by_name:
            return self._by_name[name]
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


def configured_model(settings: Settings, *, fresh: bool = False) -> Model:
    """Return the model that the settings name, with the tables that they choose.

    Where the structure of the primary is the model, it is the one that is kept; with `fresh` the
    primary is read again if it answers. Raise as `load_model` and `keep.kept`.
    """
    read = kept(settings, fresh=fresh)
    if isinstance(read, Undecided):
        return replace(load_model(SAMPLE, settings.revisions), assumed=read.why)
    if read is not None:
        revisions = settings.revisions or revisions_of(settings)
        if revisions != REVISIONS_OFF:
            revisions = revisions.absolute()
        return _checked(Model(read.metadata, revisions, read.skipped, settings.primary))
    selection = TableFilter.of(settings.tables, settings.skip_tables)
    return load_model(settings.models or SAMPLE, settings.revisions, selection)


def load_model(
    models: str, revisions: Path | None = None, selection: TableFilter | None = None
) -> Model:
    """Return the model of the modules that `models` names; see `metadata.find`.

    Its revisions are in the folder `revisions`, or else in `dbsync_revisions` beside the first
    module. Raise SettingsError if a module cannot be imported or has no metadata, or a table that
    is chosen does not exist, StructureError if a table cannot be mirrored.
    """
    metadata, file = find(models)
    if revisions is None and file:
        revisions = file.with_name("dbsync_revisions")
    names = [table.key for table in mirrored_tables(metadata)]
    skipped = (selection or TableFilter()).skipped(names)
    if revisions is not None and revisions != REVISIONS_OFF:
        revisions = revisions.absolute()
    model = Model(chosen(metadata, skipped), revisions, skipped)
    if not model.tables:
        raise SettingsError(
            f"no table is left: {described(skipped)}",
            operation="choose tables",
            remedy="correct DBSYNC_TABLES and DBSYNC_SKIP_TABLES",
        )
    return _checked(model)


def _checked(model: Model) -> Model:
    for table in model.tables:
        _require_mirrored(table)
    return model


def _require_mirrored(table: Table) -> None:
    """Raise StructureError if a table cannot be mirrored, before anything is done."""
    _ = table.key
    if not table.columns:
        raise StructureError("has no columns to copy", table=table.name)
    for column in table.columns:
        if column.name.lower() in RESERVED:
            raise StructureError(
                f"column {column.name} has a name that tables of before-images need",
                table=table.name,
                remedy="give the column another name in the database",
            )
