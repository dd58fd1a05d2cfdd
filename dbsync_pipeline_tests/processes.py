"""The project in processes of its own, as an operator runs it, and the patience to wait for what they do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbsync_pipeline_tests import forked
from dbsync_pipeline_tests.places import Places

ROOT = Path(__file__).parent.parent


def until(what: str, found: Callable[[], Any], seconds: float = 150) -> Any:
    """What is found, as soon as it is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.2)
    raise AssertionError(f"within {seconds} s not: {what}")


def dbsync(places: Places, *words: str, status: int = 0) -> Any:
    """What a command prints, as JSON."""
    command = [*forked.python(), "-m", "dbsync_pipeline.cli.entry", *words, "--json"]
    done = subprocess.run(command, env=places.environment(ROOT), capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def job_execute(target: str) -> list[str]:
    """The very command of the documentation."""
    job = ["job", "execute", "-m", "dbsync_pipeline.definitions", "-j", "sync_job"]
    return ["dagster", *job, "--tags", json.dumps({"dagster/partition": target})]


def started(
    places: Places, *module: str, output: Any = subprocess.PIPE, start_new_session: bool = False
) -> subprocess.Popen[str]:
    """A module that runs on, with the store that an operator has. In a session of its own, it is Python itself that starts."""
    python = [sys.executable] if start_new_session else forked.python()
    return subprocess.Popen(
        [*python, "-m", *module],
        env={**places.environment(ROOT), "DAGSTER_HOME": str(places.dagster_home)},
        stdout=output,
        stderr=output,
        text=True,
        start_new_session=start_new_session,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, server: subprocess.Popen[str], seconds: float = 120) -> None:
    """Until the server that was started answers there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"{url} does not answer")
