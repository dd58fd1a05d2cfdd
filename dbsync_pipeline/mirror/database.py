"""A configured database: a name and a secret URL, from which connections are opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

import sqlalchemy as sa
import tenacity

from dbsync_pipeline import signals
from dbsync_pipeline.dialects import ENGINES, dialect_class, normalized_url
from dbsync_pipeline.dialects.contract import Dialect, labelled
from dbsync_pipeline.errors import DbsyncError, SettingsError, Starting
from dbsync_pipeline.settings import DatabaseSetting, Settings


@dataclass(frozen=True)
class Database:
    """One database of the application. The URL is a secret: it is not shown and not compared.

    Connecting to a server that does not answer fails after `connect_seconds`, to one that reports
    that it is starting after `start_seconds`. An open connection from which no byte comes for
    `silence_seconds`, although one is due, is ended.
    """

    name: str
    url: sa.URL = field(repr=False, compare=False)
    connect_seconds: float = 10
    start_seconds: float = 90
    silence_seconds: float = 60

    @property
    def engine_name(self) -> str:
        """The first word of the URL, such as `postgresql`."""
        return self.url.get_backend_name()

    @property
    def dialect(self) -> type[Dialect]:
        """The class of its connections."""
        return dialect_class(self.engine_name)

    @property
    def at_once(self) -> Database:
        """A copy that raises Starting at once instead of waiting for the server."""
        return replace(self, start_seconds=0)

    def engine(self, *, create: bool = False) -> sa.Engine:
        """Return the engine of this database, the same one for the life of the process.

        It has no pool, so no session is used twice. `create` creates a missing SQLite file; without
        it a missing file raises Unavailable.
        """
        url = self.dialect.locate(self.url, self.name, create=create)
        try:
            return _engine(self.dialect, url, self.connect_seconds, self.silence_seconds)
        except (sa.exc.ArgumentError, ValueError):
            raise _unreadable(self.name) from None
        except DbsyncError as error:  # a missing driver does not know the database
            error.database = self.name
            raise

    @contextmanager
    def connect(self, label: str = "dbsync", *, create: bool = False) -> Iterator[Dialect]:
        """Yield an open connection; close it at the end, rolling back what was not committed.

        Raise Unavailable if the database does not answer in time.
        """
        dialect = self.open(label, create=create)
        try:
            yield dialect
        finally:
            dialect.close()

    def open(self, label: str = "dbsync", *, create: bool = False) -> Dialect:
        """Return an open connection, which the caller must close."""
        patiently = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Starting),
            wait=tenacity.wait_exponential(max=10),
            stop=tenacity.stop_after_delay(self.start_seconds),
            reraise=True,
        )
        return patiently(self._connected, self.engine(create=create), label)

    def _connected(self, engine: sa.Engine, label: str) -> Dialect:
        def connect() -> sa.Connection:
            with labelled(label):
                return engine.connect()

        try:
            dialect = self.dialect(self.name, signals.interruptible(connect))
        except self.dialect.driver_errors as error:
            raise self.dialect.translate(error, self.name, "connect") from None
        signals.cancel_on_signal(dialect)
        return dialect


@lru_cache(maxsize=64)
def _engine(
    dialect: type[Dialect], url: sa.URL, connect_seconds: float, silence_seconds: float
) -> sa.Engine:
    """Each engine keeps compiled statements and queries of the catalog: with one per connection, a
    process grew by 2 MB with each sync until SQLAlchemy's caches were full."""
    return dialect.engine(url, connect_seconds=connect_seconds, silence_seconds=silence_seconds)


def databases(settings: Settings) -> tuple[Database, ...]:
    """Return all configured databases, in their order.

    Raise SettingsError for a URL that cannot be read, without quoting it.
    """
    return tuple(_database(setting, settings) for setting in settings.databases)


def database(settings: Settings, name: str) -> Database:
    """Return the database of that name; raise SettingsError naming the known ones."""
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
            remedy=f"fix {_variable(setting.name)}",
        )
    return Database(
        setting.name,
        url,
        connect_seconds=settings.connect_seconds,
        silence_seconds=settings.silence_seconds,
    )


def _unreadable(name: str) -> SettingsError:
    return SettingsError(
        "its URL cannot be read",
        database=name,
        remedy=f"write {_variable(name)} as engine://user:password@host:port/name, with special "
        "characters as %XX",
    )


def _variable(name: str) -> str:
    return f"DBSYNC_{name.upper()}_URL"
