"""What to sync, as it was asked for: a choice of source, targets and tables, checked against the settings and the models.

Every door uses it, so that the same wrong word is met by the same sentence everywhere, before anything is opened. Only where no source is
named, the databases are asked who the primary is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.guard import Policy
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.sync.session import policy_of
from dbsync_pipeline.settings import Settings


@dataclass(frozen=True)
class Overrides:
    """What a person lets the guards pass this once; nothing said is what the settings say."""

    overwrite: bool | None = None
    max_change_fraction: float | None = None
    max_change_rows: int | None = None
    partial: bool | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What was said, by its name; these are the names of the settings, of the run's config and of the options too."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def policy(self, settings: Settings) -> Policy:
        """The policy that the guards go by."""
        return replace(policy_of(settings), **self.given)


@dataclass(frozen=True)
class SyncRequest:
    """One source, at least one target, tables in the models' order, and what a person allows beyond the settings."""

    source: str
    targets: tuple[str, ...]
    tables: tuple[str, ...]
    allowed: Overrides


def resolve(
    settings: Settings,
    model: Model,
    source: str | None = None,
    targets: Sequence[str] = (),
    tables: Sequence[str] = (),
    allowed: Overrides | None = None,
) -> SyncRequest:
    """The choice; what was not said is: the primary by the databases' terms, all other databases, all tables.

    Raises SettingsError for an unknown name, for a source that is a target too, and when there is no target.
    """
    asked = tuple(dict.fromkeys(settings.database(target).name for target in targets))
    selected = tuple(table.name for table in model.select(tables))
    chosen = settings.database(term.primary(settings) if source is None else source).name
    if chosen in asked:
        raise SettingsError(
            f"source and target are the same database, {chosen}: nothing can be copied",
            operation="sync",
            remedy="name another source, or another target",
        )
    found = asked or tuple(name for name in settings.names if name != chosen)
    if not found:
        raise SettingsError(
            f"there is no database but the source, {chosen}",
            operation="sync",
            remedy="set DBSYNC_<NAME>_URL for a target",
        )
    return SyncRequest(chosen, found, selected, allowed or Overrides())
