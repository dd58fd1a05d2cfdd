"""Where Dagster keeps runs, events and ticks: SQLite beside `dagster.yaml`, or the PostgreSQL that DBSYNC_DAGSTER_STORAGE_URL names.

`dagster.yaml` names this class instead of a storage, so that one setting is all there is to it, whoever opens the store: the command
line, the daemon, the pages or a run. The URL is read from the settings each time and is written down nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from dbsync_pipeline import extras
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.settings import load

if TYPE_CHECKING:
    from dagster._config.config_schema import UserConfigSchema

VARIABLE = "DBSYNC_DAGSTER_STORAGE_URL"


class Storage(DagsterStorage, ConfigurableClass):
    """What `dagster.yaml` names; makes one of Dagster's own storages, and never one of its own."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {}

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return None

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> DagsterStorage:
        """The storage that the settings name. Raises SettingsError for a URL that cannot be read, and where the driver is not installed."""
        settings = load()
        url = settings.dagster_storage_url.get_secret_value()
        if not url:
            return DagsterSqliteStorage.from_local(str(settings.dagster_home), inst_data)
        extras.require("postgres-storage", "dagster_postgres", operation=f"use {VARIABLE}")
        from dagster_postgres import DagsterPostgresStorage

        return DagsterPostgresStorage(normal(url), inst_data=inst_data)


def normal(url: str) -> str:
    """The URL with the driver that this project installs; SQLAlchemy would take another one for `postgresql://`."""
    try:
        read = sa.make_url(url.replace("postgres://", "postgresql://", 1))
    except (sa.exc.ArgumentError, ValueError):
        read = None
    if read is None or read.get_backend_name() != "postgresql":
        raise SettingsError(
            f"{VARIABLE} cannot be read",
            remedy=f"write {VARIABLE} as postgresql://user:password@host:port/name",
        )
    return read.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
