"""A sync as it was requested, checked against the settings and the models before anything runs.

The command line, the HTTP API and their tests all use it, so one wrong name causes one and the same
error everywhere. It reads the databases only to find the primary, and only if no source is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.policy import Overrides
from dbsync_pipeline.settings import Settings


@dataclass(frozen=True)
class SyncRequest:
    """One source, at least one target, tables in the models' order, and the overrides."""

    source: str
    targets: tuple[str, ...]
    tables: tuple[str, ...]
    overrides: Overrides = field(default_factory=Overrides)


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
