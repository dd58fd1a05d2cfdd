"""Where Dagster keeps runs, events and ticks: in SQLite beside `dagster.yaml`, or in the PostgreSQL
that DBSYNC_DAGSTER_STORAGE_URL names.

`dagster.yaml` names this class instead of a storage, so one setting decides for the command line,
the daemon, the pages and every run. The URL is read from the settings each time and stored nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

# Private, because Dagster exports no storage class; `dagster.yaml` names one by its path.
from dagster._core.storage.base_storage import DagsterStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from dbsync_pipeline import extras
from dbsync_pipeline.defs.sqlite_storage import SqliteStorage
from dbsync_pipeline.dialects import normalized_url
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.settings import load

if TYPE_CHECKING:
    from dagster._config.config_schema import UserConfigSchema  # for an annotation

VARIABLE = "DBSYNC_DAGSTER_STORAGE_URL"

_STATEMENT_MILLISECONDS = 600_000
_RECYCLE_SECONDS = 600
_MORE_CONNECTIONS = 4
"""Connections that a store may open beside the one that it keeps, for threads."""


class Storage(DagsterStorage, ConfigurableClass):
    """The storage that `dagster.yaml` names; it builds one of Dagster's own."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return the fields in `dagster.yaml`: none."""
        return {}

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """None: there are no instances."""
        return None

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> DagsterStorage:
        """Return the storage that the settings name.

        Raise SettingsError for a malformed URL, and if the package for PostgreSQL is missing.
        """
        settings = load()
        url = settings.dagster_storage_url.get_secret_value()
        if not url:
            return SqliteStorage.from_local(str(settings.dagster_home), inst_data)
        extras.require("postgres-storage", "dagster_postgres", operation=f"use {VARIABLE}")
        from dagster_postgres import DagsterPostgresStorage

        return _pooled(DagsterPostgresStorage(with_driver(url), inst_data=inst_data))


def _pooled(storage: DagsterStorage) -> DagsterStorage:
    """Let each store keep one connection open. Dagster's webserver does the same; other processes
    open a connection for each statement."""
    for store in (storage.event_log_storage, storage.run_storage, storage.schedule_storage):
        store.optimize_for_webserver(
            statement_timeout=_STATEMENT_MILLISECONDS,
            pool_recycle=_RECYCLE_SECONDS,
            max_overflow=_MORE_CONNECTIONS,
        )
    return storage


def with_driver(url: str) -> str:
    """Return the PostgreSQL URL with the driver that this project installs; for a bare
    `postgresql://` SQLAlchemy would choose another. Raise SettingsError, without quoting the URL,
    if it is malformed.
    """
    try:
        parsed = sa.make_url(normalized_url(url))
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.get_backend_name() != "postgresql":
        raise SettingsError(
            f"{VARIABLE} is not the URL of a PostgreSQL database",
            remedy=f"write {VARIABLE} as postgresql://user:password@host:port/name",
        )
    return parsed.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
