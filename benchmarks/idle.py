"""What it costs to be idle: the CPU time of `dbsync ui` on a machine with nothing to do.

Three times the same five processes (the pages, the daemon, and what serves the definitions to
them), at the same time, beside three SQLite files with the sample's tables: with empty definitions,
with the tables but no schedule and no sensor, and with everything. The table has the CPU seconds of
each process and of all that it started, per hundred seconds: percent of one core. The difference of
the last two is what the schedules' ticks, the sensors and the check of the standbys cost. That
check is a run of its own every 15 minutes, so the default of 15 minutes has one of them.

Nothing is asserted. Run it with `python benchmarks/idle.py [--minutes N]`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

VARIANTS = {
    "Dagster alone": "from dagster import Definitions\n\ndefs = Definitions()\n",
    "and the tables": """from dagster import Definitions

from dbsync_pipeline.definitions import defs as all_of_it

defs = Definitions(
    assets=all_of_it.assets,
    jobs=all_of_it.jobs,
    resources=all_of_it.resources,
    executor=all_of_it.executor,
)
""",
    "and schedules and sensors": "from dbsync_pipeline.definitions import defs\n\n__all__ = ['defs']\n",
}
"""What is served, as the module that Dagster loads."""
PARTS = {
    "dagster_webserver": "pages",
    "dagster._daemon": "daemon",
    "dagster api": "definitions",
    "dagster code-server": "proxy of the definitions",
    "dagster dev": "parent",
}
BAR = 2.0
"""Percent of a core that the schedules and sensors may cost."""
_SETTLING = 90.0


@dataclass
class Idle:
    """One `dagster dev` and what it started."""

    process: subprocess.Popen[bytes]

    def seconds(self) -> dict[str, float]:
        """CPU seconds so far, by part; those of an ended run count for what started it."""
        parent = psutil.Process(self.process.pid)
        spent = dict.fromkeys(PARTS.values(), 0.0)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                command = " ".join(process.cmdline())
                part = next((part for key, part in PARTS.items() if key in command), "definitions")
                spent[part] += sum(process.cpu_times()[:4])
        return spent


@contextlib.contextmanager
def idle(folder: Path, definitions: str) -> Iterator[Idle]:
    """Yield the processes of a folder with a filled dataset, started; end them at the end."""
    folder.mkdir()
    (folder / "served.py").write_text(definitions)
    subprocess.run(
        [sys.executable, "-m", "dbsync_pipeline.cli.entry", "demo", "--quiet"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    port = free_port()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "dagster",
            "dev",
            "-m",
            "served",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
        ],
        cwd=folder,
        env={**os.environ, "DAGSTER_HOME": str(folder / ".dbsync" / "dagster")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/server_info")
        yield Idle(process)
    finally:
        parent = psutil.Process(process.pid)
        for one in (*parent.children(recursive=True), parent):
            one.kill()
        process.wait()


def wait_for(url: str) -> None:
    """Wait until the pages answer, two minutes at most."""
    until = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url):
            return
        if time.monotonic() > until:
            sys.exit(f"{url} does not answer")
        time.sleep(1)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Measure the variants at the same time, and print percent of a core."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=15)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(idle(Path(folder) / str(number), definitions))
            for number, (name, definitions) in enumerate(VARIANTS.items())
        }
        time.sleep(_SETTLING)
        before = {name: one.seconds() for name, one in running.items()}
        started = time.monotonic()
        time.sleep(minutes * 60)
        after = {name: one.seconds() for name, one in running.items()}
        passed = time.monotonic() - started
        print(f"| % of a core, {minutes:g} minutes | {' | '.join(PARTS.values())} | all |")
        print(f"|{'---|' * (len(PARTS) + 2)}")
        total = {}
        for name in VARIANTS:
            percent = [(after[name][p] - before[name][p]) / passed * 100 for p in PARTS.values()]
            total[name] = sum(percent)
            print(f"| {name} | {' | '.join(f'{one:.2f}' for one in percent)} | {total[name]:.2f} |")
        _, tables, everything = total.values()
        cost = everything - tables
        print(f"\nschedules and sensors: {cost:.2f} % of a core; the bar is {BAR:g} %", flush=True)


if __name__ == "__main__":
    main()
