"""The program as a process: Ctrl-C at any moment, and output that cannot be written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.processes import ROOT, dbsync

PROGRAM = [sys.executable, "-m", "dbsync_pipeline.cli.entry"]
FULL = Path("/dev/full")
INTERRUPTED = (130, -signal.SIGINT)
"""Python ends itself by the signal where it met code that is made from text; a shell calls both 130."""


LINGERS = """
import runpy, sys, time

class Lingering:
    def find_spec(self, name, *_):
        if name == module:
            print("lingering", file=sys.stderr, flush=True)
            time.sleep(100)

module = sys.argv.pop(1)
sys.meta_path.insert(0, Lingering())
runpy.run_module("dbsync_pipeline.cli.entry", run_name="__main__")
"""
"""The program, which takes its time over the import of the module that its first word names."""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


def interruptible() -> None:
    """Make Ctrl-C work, also if a shell started the tests in the background, with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(places: Places, command: list[str], at: str) -> tuple[int, list[str]]:
    """Ctrl-C as soon as stderr says so; how the program ended, and the lines of stderr after that."""
    environment = places.environment(ROOT)
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    ) as program:
        assert program.stderr is not None
        next(line for line in program.stderr if at in line)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=120)
        assert out == ""
        return program.returncode, err.splitlines()


@pytest.mark.skipif(os.name != "posix", reason="another Ctrl-C")
def test_ctrl_c_while_modules_are_loaded_shows_no_traceback(places: Places) -> None:
    for module in ("typer.models", "sqlalchemy.engine"):
        status, lines = interrupted(
            places, [sys.executable, "-c", LINGERS, module, "status"], "lingering"
        )
        assert (status, lines) == (130, [])


@pytest.mark.skipif(os.name != "posix", reason="another Ctrl-C")
def test_ctrl_c_ends_a_sync_and_what_would_have_come_after(places: Places) -> None:
    status, lines = interrupted(places, [*PROGRAM, "sync"], "linux  users")
    assert status in INTERRUPTED
    assert [line for line in lines if "  " not in line] == [
        "interrupted: `dbsync history` shows what was published"
    ]
    assert {run["target"] for run in dbsync(places, "history")} == {"linux"}


@pytest.mark.skipif(not FULL.exists(), reason="no file that is always full")
@pytest.mark.parametrize(
    "words", [["--help"], ["status"], ["status", "--json"], ["nope", "--json"]]
)
def test_output_that_cannot_be_written_is_reported_in_one_line(
    words: list[str], places: Places
) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [*PROGRAM, *words],
            env=places.environment(ROOT),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    told = [
        line
        for line in done.stderr.splitlines()
        if line.startswith("the output") or "Error" in line
    ]
    assert done.returncode == 1 and told == [
        "the output could not be written: No space left on device"
    ]


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_closed_output_is_reported_and_a_reader_that_ended_is_not(places: Places) -> None:
    for shell, said in (
        ('"$@" >&-', "the output could not be written: it is closed\n"),
        ('"$@" | true; exit ${PIPESTATUS[0]}', ""),
    ):
        command = ["bash", "-c", shell, "bash", *PROGRAM, "--help"]
        done = subprocess.run(command, env=places.environment(ROOT), capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.parametrize("words", [["--help"], ["sync", "--help"], ["--version"], ["nope"]])
def test_what_needs_no_database_imports_no_library_for_one(
    words: list[str], places: Places
) -> None:
    program = f"""
import sys
from dbsync_pipeline.cli import app
sys.argv = ["dbsync", *{words!r}]
try:
    app.main()
except SystemExit:
    pass
slow = ("sqlalchemy", "numpy", "alembic", "dagster", "fastapi", "psycopg2", "pyarrow")
print([name for name in slow if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=places.environment(ROOT),
    )
    assert done.stderr.splitlines()[-1] == "[]"
