"""How tests and pages start the program: `python()` in place of `sys.executable`, where how Python itself starts is not the question.

One fork server (`forkserver.py`) serves all processes of the suite. It starts when a test first needs it, and only on Linux: elsewhere
`python()` is Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import filelock

ROOT = Path(__file__).parent.parent
_CLIENT = Path(__file__).with_name("fork_client.py")
_START_SECONDS = 120

_folder: list[Path] = []
_environment: dict[str, str] = {}


def use(folder: Path) -> None:
    """Keep the fork server of the suite in that folder; it gets the environment of this moment, but no PYTHONPATH."""
    _folder[:] = [folder]
    _environment.update(os.environ)
    _environment.pop("PYTHONPATH", None)


def python() -> list[str]:
    """The words that begin a command, as `[sys.executable]` does."""
    if sys.platform != "linux":
        return [sys.executable]
    return [sys.executable, "-I", "-S", str(_CLIENT), str(_started(_folder[0] / "forks"))]


def _started(path: Path) -> Path:
    """The socket of the server. Start it unless another process of the suite did."""
    if not path.exists():
        with filelock.FileLock(path.with_suffix(".lock")):
            if not path.exists():
                _start(path)
    return path


def _start(path: Path) -> None:
    owner = path.with_name("owner").read_text()
    with path.with_suffix(".log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "dbsync_pipeline_tests.forkserver", str(path), owner],
            cwd=ROOT,
            env={**_environment, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    path.with_suffix(".pid").write_text(str(server.pid))
    deadline = time.monotonic() + _START_SECONDS
    while not path.exists():
        assert server.poll() is None, path.with_suffix(".log").read_text()
        assert time.monotonic() < deadline, "the fork server does not start"
        time.sleep(0.05)
