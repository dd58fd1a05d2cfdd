"""A configured database: a name and a secret URL, from which connections are opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import sqlalchemy as sa
import tenacity

from dbsync_pipeline.dialects import ENGINES, dialect_class, normalized_url
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import DbsyncError, SettingsError, Starting
from dbsync_pipeline.settings import DatabaseSetting, Settings


@dataclass(frozen=True)
class Database:
    """One database of the application. The URL is a secret: it is not shown and not compared.

    A server that does not answer is given up after `connect_seconds`, one that says that it is starting after `start_seconds`.
    """

    name: str
    url: sa.URL = field(repr=False, compare=False)
    connect_seconds: float = 10
    start_seconds: float = 90

    @property
    def engine_name(self) -> str:
        return self.url.get_backend_name()

    @property
    def dialect(self) -> type[Dialect]:
        return dialect_class(self.engine_name)

    @property
    def at_once(self) -> Database:
        """The same, of which is told at once that its server is starting."""
        return replace(self, start_seconds=0)

    def engine(self, label: str = "dbsync", *, create: bool = False) -> sa.Engine:
        """An engine without a pool. `create` lets a SQLite file come into being; without it Unavailable is raised where there is none."""
        self.dialect.locate(self.url, self.name, create=create)
        try:
            return self.dialect.engine(self.url, label=label, connect_seconds=self.connect_seconds)
        except (sa.exc.ArgumentError, ValueError):
            raise _unreadable(self.name) from None
        except DbsyncError as error:  # of a driver that is not there, which knows no database
            error.database = self.name
            raise

    @contextmanager
    def connect(self, label: str = "dbsync", *, create: bool = False) -> Iterator[Dialect]:
        """An open connection, closed at the end; what it has not committed is rolled back.

        Raises Unavailable where the database does not answer in time.
        """
        dialect = self.open(label, create=create)
        try:
            yield dialect
        finally:
            dialect.close()

    def open(self, label: str = "dbsync", *, create: bool = False) -> Dialect:
        """As `connect`, for a caller that closes by itself."""
        patiently = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Starting),
            wait=tenacity.wait_exponential(max=10),
            stop=tenacity.stop_after_delay(self.start_seconds),
            reraise=True,
        )
        return patiently(self._connected, self.engine(label, create=create))

    def _connected(self, engine: sa.Engine) -> Dialect:
        try:
            return self.dialect(self.name, engine.connect())
        except self.dialect.driver_errors as error:
            raise self.dialect.translate(error, self.name, "connect") from None


def databases(settings: Settings) -> tuple[Database, ...]:
    """All configured databases, in their order. Raises SettingsError for a URL that cannot be read, without quoting it."""
    return tuple(_database(setting, settings) for setting in settings.databases)


def database(settings: Settings, name: str) -> Database:
    """The database of that name; raises SettingsError naming the known ones."""
    return _database(settings.database(name), settings)


def _database(setting: DatabaseSetting, settings: Settings) -> Database:
    try:
        url = sa.make_url(normalized_url(setting.url.get_secret_value()))
    except (sa.exc.ArgumentError, ValueError):
        raise _unreadable(setting.name) from None
    if url.get_backend_name() not in ENGINES:
        raise SettingsError(
            f"the engine that its URL names is not known; known are: {', '.join(ENGINES)}",
            database=setting.name,
            remedy=f"mend {_variable(setting.name)}",
        )
    return Database(setting.name, url, settings.connect_seconds)


def _unreadable(name: str) -> SettingsError:
    return SettingsError(
        "its URL cannot be read",
        database=name,
        remedy=f"write {_variable(name)} as engine://user:password@host:port/name, special characters as %XX",
    )


def _variable(name: str) -> str:
    return f"DBSYNC_{name.upper()}_URL"
