"""What the fork server runs is the program as Python would run it: its words, folder, environment, streams, status and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dbsync_pipeline_tests import forked
from dbsync_pipeline_tests.processes import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="starts Python itself"),
]

TELLS = """
import os, sys
from shop import name
print(name, sys.argv, os.getcwd(), os.environ["GIVEN"], sys.stdin.read())
print("aside", file=sys.stderr)
sys.exit(int(os.environ["STATUS"]))
"""
LINGERS = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


@pytest.mark.parametrize("option", ["-m", "-c"])
def test_it_runs_as_python_runs_it(option: str, tmp_path: Path) -> None:
    for folder in ("elsewhere", "here"):
        (tmp_path / folder).mkdir()
    (tmp_path / "elsewhere" / "shop.py").write_text("name = 'shop'")
    (tmp_path / "here" / "tells.py").write_text(TELLS)
    done = [
        subprocess.run(
            [*python, option, "tells" if option == "-m" else TELLS, "two words", "ñ"],
            cwd=tmp_path / "here",
            env={
                **os.environ,
                "PYTHONPATH": str(tmp_path / "elsewhere"),
                "GIVEN": "é",
                "STATUS": "7",
            },
            input="typed",
            capture_output=True,
            text=True,
        )
        for python in ([sys.executable], forked.python())
    ]
    told = [(one.returncode, one.stdout, one.stderr) for one in done]
    assert told[0] == told[1] and told[0][0] == 7 and "typed" in told[0][1]


@pytest.mark.parametrize("program", ["1/0", "raise SystemExit('why')", "import os; os.abort()"])
def test_it_ends_as_python_ends(program: str) -> None:
    done = [
        subprocess.run([*python, "-c", program], capture_output=True, text=True)
        for python in ([sys.executable], forked.python())
    ]
    assert done[0].returncode == done[1].returncode != 0
    assert done[0].stderr.splitlines()[-1:] == done[1].stderr.splitlines()[-1:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_what_was_forked(number: int) -> None:
    with subprocess.Popen(
        [*forked.python(), "-c", LINGERS], stdout=-1, stderr=-1, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert pid != process.pid and psutil.pid_exists(pid)
        process.send_signal(number)
        process.wait(30)
    assert process.returncode == -number
    until("it has ended", lambda: not psutil.pid_exists(pid))
