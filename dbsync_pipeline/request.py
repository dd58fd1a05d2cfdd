"""What can be requested: the options of a sync and of history, and a sync request that was checked.

The options are declared once, as pydantic models. The command line makes its options of their
fields and the HTTP API its bodies and queries, so that both accept and refuse the same. A request
is checked against the settings and the models before anything runs. Databases are read only to find
the primary, and only if no source is named.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.policy import Overrides

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.model import Model
    from dbsync_pipeline.settings import Settings

MOST_RUNS = 1_000_000
"""The longest history that can be requested; every engine accepts this number as a limit."""

Name = Annotated[str, Field(min_length=1, max_length=200)]


class CompareOptions(BaseModel):
    """Which databases to compare, and which tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Name | None = Field(
        default=None, description="The database to compare the others with. Default: the primary."
    )
    target: list[Name] = Field(
        default=[],
        description="A database to compare with it; may be repeated. Default: all others.",
    )
    table: list[Name] = Field(
        default=[], description="A table to compare; may be repeated. Default: all."
    )

    def resolve(self, settings: Settings, model: Model) -> SyncRequest:
        """Return the request with its gaps filled; see `resolve`."""
        return resolve(settings, model, self.source, self.target, self.table)


class SyncOptions(Overrides):
    """What to sync, and what the guards may allow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Name | None = Field(
        default=None, description="The database to copy from. Default: the primary."
    )
    target: list[Name] = Field(
        default=[], description="A database to copy to; may be repeated. Default: all others."
    )
    table: list[Name] = Field(
        default=[], description="A table to copy; may be repeated. Default: all."
    )

    def resolve(self, settings: Settings, model: Model) -> SyncRequest:
        """Return the request with its gaps filled; see `resolve`."""
        return resolve(settings, model, self.source, self.target, self.table, self.overrides)


class AdoptOptions(Overrides):
    """Which standbys to take in, and what the guards may allow. They are taken in whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Name | None = Field(
        default=None, description="The database that they are copies of. Default: the primary."
    )
    target: list[Name] = Field(
        default=[], description="A standby to take in; may be repeated. Default: all others."
    )

    def resolve(self, settings: Settings, model: Model) -> SyncRequest:
        """Return the request with its gaps filled; see `resolve`."""
        return resolve(settings, model, self.source, self.target, (), self.overrides)


class HistoryOptions(BaseModel):
    """Which runs to list, newest first. A failed run is one that ended without a publish."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int = Field(
        default=20, ge=1, le=MOST_RUNS, description="How many runs at most, newest first."
    )
    source: Name | None = Field(default=None, description="Only runs from this database.")
    target: Name | None = Field(default=None, description="Only runs to this database.")
    failed: bool = Field(default=False, description="Only runs that ended without a publish.")

    def check(self, settings: Settings) -> None:
        """Raise SettingsError if a database that is named does not exist."""
        for name in (self.source, self.target):
            if name is not None:
                settings.database(name)


@dataclass(frozen=True)
class SyncRequest:
    """One source, at least one target, tables in the models' order, and the overrides.

    `round_id` identifies the request: the standbys that it syncs, one after another, are of one
    round.
    """

    source: str
    targets: tuple[str, ...]
    tables: tuple[str, ...]
    overrides: Overrides = field(default_factory=Overrides)
    round_id: str = field(default_factory=lambda: str(uuid.uuid4()), compare=False)


def resolve(
    settings: Settings,
    model: Model,
    source: str | None = None,
    targets: Sequence[str] = (),
    tables: Sequence[str] = (),
    overrides: Overrides | None = None,
) -> SyncRequest:
    """Return the request with its gaps filled.

    The default source is the primary according to the databases' terms, the default targets are all
    other databases, and the default tables are all tables.

    Raise SettingsError for an unknown name, if the source is also a target, and if there is no
    target.
    """
    from dbsync_pipeline.mirror.failover import term

    named_targets = tuple(dict.fromkeys(settings.database(target).name for target in targets))
    table_names = tuple(table.name for table in model.select(tables))
    source_name = settings.database(term.primary(settings) if source is None else source).name
    if source_name in named_targets:
        raise SettingsError(
            f"{source_name} is both the source and a target",
            operation="sync",
            remedy="name another source, or another target",
        )
    target_names = named_targets or tuple(name for name in settings.names if name != source_name)
    if not target_names:
        raise SettingsError(
            f"{source_name} is the only database, so there is no target",
            operation="sync",
            remedy="set DBSYNC_<NAME>_URL for a target",
        )
    return SyncRequest(source_name, target_names, table_names, overrides or Overrides())
