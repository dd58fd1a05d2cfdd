"""The databases as Dagster resources: `windows`, `linux`, `azure`, or whatever is configured.

The ops, schedules and sensors ask for all of them, and an asset of your own can ask for one:

    @asset
    def active_users(linux: DatabaseConnection) -> int:
        with linux.connect() as dialect:
            return dialect.connection.scalar(sa.text("SELECT count(*) FROM users WHERE is_active"))

If DBSYNC_<NAME>_URL is an environment variable, the resource's `url` names it by an EnvVar, so no
page, snapshot, launchpad or run contains the URL. Otherwise `url` is empty and the settings have
it: from `.env`, from a file, or the embedded default. A test hands in another connection.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from dagster import ConfigurableResource, EnvVar
from pydantic import Field, SecretStr

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.mirror import database
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.settings import DatabaseSetting, Settings, load


class DatabaseConnection(ConfigurableResource[None]):
    """One database of the mirror. It opens no connection by itself."""

    name: str = Field(description="The database's name in settings, commands and partitions.")
    url: str = Field(
        default="",
        description="Its URL. Empty: DBSYNC_<NAME>_URL from .env or a file, or the embedded SQLite "
        "file. Give it as an EnvVar: the pages show a literal URL with its password.",
    )

    def database(self) -> Database:
        """Return the database with the timeouts of the settings. Raise SettingsError for a URL that
        cannot be read, without quoting it."""
        return database.database(with_connections(load(), [self]), self.name)

    @contextmanager
    def connect(self) -> Iterator[Dialect]:
        """Yield an open connection; close it at the end, rolling back what was not committed.

        Raise Unavailable if the database does not answer in time.
        """
        with self.database().connect() as dialect:
            yield dialect


def connections(settings: Settings) -> dict[str, DatabaseConnection]:
    """Return a resource for each configured database, by its name."""
    return {name: _connection(name) for name in settings.names}


def _connection(name: str) -> DatabaseConnection:
    variable = f"DBSYNC_{name.upper()}_URL"
    if os.environ.get(variable):
        return DatabaseConnection(name=name, url=EnvVar(variable))
    return DatabaseConnection(name=name)


def settings_of(resources: object, names: Iterable[str]) -> Settings:
    """Return the settings, with the databases that a context's `resources` have under `names`.

    All else in them is policy: limits, deadlines, the models and the configured primary.
    """
    return with_connections(load(), [getattr(resources, name) for name in names])


def with_connections(settings: Settings, resources: Iterable[DatabaseConnection]) -> Settings:
    """Return the settings with the URLs of those `resources` that have one."""
    known = {setting.name: setting for setting in settings.databases}
    given = {
        resource.name: DatabaseSetting(name=resource.name, url=SecretStr(resource.url))
        for resource in resources
        if resource.url
    }
    return settings.model_copy(update={"databases": tuple({**known, **given}.values())})
