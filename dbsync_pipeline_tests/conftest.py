"""Real databases for the tests: SQLite files, PostgreSQL servers from a wheel, and the servers that DBSYNC_TEST_URLS names.

`DBSYNC_TEST_URLS` is a list of URLs separated by spaces, each with the right to create databases. Where it names no PostgreSQL server,
two of the wheel are used. SQL Server is tested where it names one.

The whole suite runs in three processes a processor, at most six (pytest-xdist): half of the time
they wait for servers and for processes that they started. They share the servers, each of which starts when
the first test needs it, and each database has a name of its own.

What tests write goes into memory where there is room (`in_memory.py`), and a test's folder goes with the test unless it failed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import os
import signal
import sqlite3
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests import compiled, forked, in_memory, lanes, versions
from dbsync_pipeline_tests.roles import Roles
from dbsync_pipeline_tests.servers import Servers, administer

_MOST_WORKERS = 6
_numbers = itertools.count(1)
_SERVERS = pytest.StashKey[Servers]()

ENGINES = ("postgresql", *(["mssql"] if versions.named_servers("mssql") else []), "sqlite")
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
    return 0 if chosen else min(3 * (os.cpu_count() or 1), _MOST_WORKERS)


def pytest_configure(config: pytest.Config) -> None:
    in_memory.use()
    _let_ctrl_c_arrive()
    compiled.share()
    _keep_what_is_compiled()
    for marker in lanes.MARKERS:
        config.addinivalue_line("markers", marker)
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    for variable in [
        name for name in os.environ if name.startswith("DBSYNC_") and name != "DBSYNC_TEST_URLS"
    ]:
        del os.environ[variable]
    if hasattr(config, "workerinput"):
        config.stash[_SERVERS] = Servers(Path(config.workerinput["servers"]))
    else:
        config.stash[_SERVERS] = Servers.in_a_new_folder()
        config.add_cleanup(config.stash[_SERVERS].stop)
    forked.use(config.stash[_SERVERS].folder)


def pytest_configure_node(node: Any) -> None:
    """The first process shares its servers with another one."""
    node.workerinput["servers"] = str(node.config.stash[_SERVERS].folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lanes.mark(items)


def pytest_collection_finish() -> None:
    """What is imported and collected stays: searching it for garbage took a tenth of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with lanes.held_to_its_lane(item):
        return (yield)


def _let_ctrl_c_arrive() -> None:
    """A shell ignores it for what it starts in the background, and so would the commands that tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _keep_what_is_compiled() -> None:
    """Where an image forbids it, each process compiles all of its sources, and each new store of Dagster its migrations."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def pytest_report_header(config: pytest.Config) -> list[str]:
    return config.stash[_SERVERS].describe()


@pytest.fixture(autouse=True, scope="session")
def _definitions_without_urls() -> None:
    """Load Dagster's definitions before any test sets a URL: they name the variables that are set."""
    if "dagster" in sys.modules:
        importlib.import_module("dbsync_pipeline.definitions")


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    """The servers. A test that takes this, directly or by another fixture, is no unit test."""
    return pytestconfig.stash[_SERVERS]


NewDatabase = Callable[..., Database]


@pytest.fixture
def new_database(tmp_path: Path, servers: Servers) -> Iterator[NewDatabase]:
    """Makes an empty database: `new_database(engine, name, server=0)`. It is gone after the test."""
    with databases_in(tmp_path, servers) as make:
        yield make


@pytest.fixture(scope="module")
def shared_database(
    tmp_path_factory: pytest.TempPathFactory, servers: Servers
) -> Iterator[NewDatabase]:
    """As `new_database`, for what all tests of a file read and none changes."""
    with databases_in(tmp_path_factory.mktemp("shared"), servers) as make:
        yield make


@contextlib.contextmanager
def databases_in(folder: Path, servers: Servers) -> Iterator[NewDatabase]:
    made: list[tuple[sa.URL, str]] = []

    def make(engine: str, name: str, server: int = 0) -> Database:
        if engine == "sqlite":
            return Database(name, sa.make_url(f"sqlite:///{folder / name}.db"))
        url = servers.url(engine, server)
        fresh = f"t{os.getpid()}_{next(_numbers)}"
        for statement in _CREATE[engine]:
            administer(url, statement.format(fresh), tries=5)
        made.append((url, fresh))
        return Database(name, url.set(database=fresh))

    yield make
    for url, fresh in made:
        for statement in _DROP[url.get_backend_name()]:
            administer(url, statement.format(fresh), tries=20)


@pytest.fixture
def roles(new_database: NewDatabase) -> Iterator[Roles]:
    """Makes roles of PostgreSQL that are no superusers; they go before the databases of the test do."""
    made = Roles()
    yield made
    made.drop()


_CREATE = {
    "postgresql": [
        versions.as_of("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' STRATEGY file_copy")
    ],
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
