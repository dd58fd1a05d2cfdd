"""What it costs to start: seconds of `dbsync` commands that have little or nothing to do.

The databases are three empty SQLite files with the sample's five tables, and three more with a
hundred tables; the store of Dagster's runs is SQLite, and each command runs in a process of its
own. The table has the median wall and CPU seconds beside the bar of each
command and `python -c "import dagster"` in the same run. Nothing is asserted: on a busy machine the
wall seconds are those of the machine. Run it with `python benchmarks/start.py [--rounds N]`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

DBSYNC = ["-m", "dbsync_pipeline.cli.entry"]
Commands = dict[str, tuple[list[str], float | None]]
COMMANDS: Commands = {
    "python -c pass": (["-c", "pass"], None),
    "import dagster": (["-c", "import dagster"], None),
    "dbsync --help": ([*DBSYNC, "--help"], 0.5),
    "dbsync status": ([*DBSYNC, "status"], 1.0),
    "dbsync history": ([*DBSYNC, "history"], 2.0),
    "dbsync sync --target linux": ([*DBSYNC, "sync", "--target", "linux"], 3.0),
}
"""Each command, and the seconds that it may take on two idle cores."""
HUNDRED = "dbsync sync --target linux, 100 tables"
WITH_A_HUNDRED: Commands = {HUNDRED: ([*DBSYNC, "sync", "--target", "linux"], 8.0)}
MODELS = """import sqlalchemy as sa

metadata = sa.MetaData()
for number in range(100):
    sa.Table(
        f"table_{number}",
        metadata,
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("text", sa.UnicodeText),
    )
"""
"""A hundred tables, as a module of models."""


@dataclass
class Cost:
    """The seconds of each round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure(arguments: list[str], folder: Path, cost: Cost) -> None:
    """Run Python with these arguments once, and add what it cost."""
    before, started = os.times(), time.monotonic()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    after = os.times()
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    cost.wall.append(time.monotonic() - started)
    cost.cpu.append(
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def prepare(folder: Path) -> None:
    """Create the tables in a folder's databases, and sync them once."""
    measure([*DBSYNC, "tables", "create"], folder, Cost())
    measure([*DBSYNC, "sync"], folder, Cost())


def main() -> None:
    """Measure every command in each round, and print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    commands = {**COMMANDS, **WITH_A_HUNDRED}
    costs = {name: Cost() for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        for place in (few, many):
            place.mkdir()
        (many / "many.py").write_text(MODELS)
        (many / ".env").write_text("DBSYNC_MODELS=many\n")
        prepare(few)
        prepare(many)
        for _ in range(rounds):
            for name, (arguments, _) in commands.items():
                measure(arguments, many if name in WITH_A_HUNDRED else few, costs[name])
    print(f"| command | bar, s | wall, s | CPU, s |  (medians of {rounds} rounds)")
    print("|---|---|---|---|")
    for name, (_, bar) in commands.items():
        wall, cpu = statistics.median(costs[name].wall), statistics.median(costs[name].cpu)
        print(f"| {name} | {bar or ''} | {wall:.2f} | {cpu:.2f} |")


if __name__ == "__main__":
    main()
