"""The command line with a person at a terminal: questions, the plan before a yes, and progress."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from dbsync_pipeline.cli.render.progress import MOST_LINES, Block, Rows
from dbsync_pipeline_tests import forked
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.processes import ROOT
from dbsync_pipeline_tests.worlds import MODEL, content, execute

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")

PROGRAM = ["-m", "dbsync_pipeline.cli.entry"]
ENTER = ""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


def at_terminal(
    places: Places, words: Sequence[str], dialogue: Sequence[tuple[str, str]]
) -> tuple[int, str, str]:
    """Run a command at a terminal; type each reply once its question is shown.

    Return the exit status, stdout, and what the terminal showed.
    """
    ours, terminal = os.openpty()
    with subprocess.Popen(
        [*forked.python(), *PROGRAM, *words],
        env={**places.environment(ROOT), "TERM": "xterm", "COLUMNS": "200"},
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    ) as program:
        os.close(terminal)
        shown = ""
        for question, reply in dialogue:
            seen = len(shown)
            while question not in shown[seen:]:
                shown += os.read(ours, 4096).decode()
            os.write(ours, f"{reply}\n".encode())
        shown += _rest(ours)
        out, _ = program.communicate(timeout=120)
        return program.returncode, out, shown


def _rest(terminal: int) -> str:
    shown, deadline = "", time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            part = os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # the program has closed its end
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    return shown


def test_without_arguments_it_asks_shows_the_plan_and_syncs_after_a_yes(places: Places) -> None:
    status, out, shown = at_terminal(places, [], [("What should happen", ENTER), ("Go on?", "yes")])
    assert status == 0, shown
    assert re.search(r"users +20 +20", out) and "linux: equal to windows" in out
    for name in ("linux", "azure"):
        assert content(places.named(name)) == content(places.named("windows"))
    assert "rows" in shown, "the progress"


def test_sync_without_arguments_asks_too_and_a_no_changes_nothing(places: Places) -> None:
    dialogue = [
        ("What should happen", "3"),
        ("Which tables", "users, chats"),
        ("Copy from", ENTER),
        ("Copy to", "azure"),
        ("Go on?", ENTER),
    ]
    status, _, shown = at_terminal(places, ["sync"], dialogue)
    assert status == 1
    remedy = "dbsync sync --source windows --target azure --table users --table chats"
    assert "needs confirmation" in shown and remedy in " ".join(shown.split())
    assert not (places.folder / ".dbsync" / "azure.db").exists()


def test_status_only_syncs_nothing(places: Places) -> None:
    status, out, _ = at_terminal(places, ["sync"], [("What should happen", "4")])
    assert status == 0 and "reachable" in out
    assert not (places.folder / ".dbsync" / "linux.db").exists()


def test_a_refused_plan_is_shown_and_nothing_is_asked(places: Places) -> None:
    assert at_terminal(places, ["sync", "--target", "linux", "--quiet"], [])[0] == 0
    execute(places.named("linux"), "UPDATE users SET name = 'local' WHERE id = 1")
    dialogue = [("What should happen", "2"), ("Copy from", ENTER), ("Copy to", "linux")]
    status, _, shown = at_terminal(places, ["sync"], dialogue)
    assert status == 1 and "would be refused" in shown and "Go on?" not in shown


def test_the_end_of_the_input_is_a_refusal(places: Places) -> None:
    status, _, shown = at_terminal(places, ["sync"], [("What should happen", "\x04")])
    assert status == 1 and "the input ended" in shown and "Traceback" not in shown


@pytest.mark.parametrize("words", [["sync", "--target", "linux", "--quiet"], []])
def test_without_a_terminal_it_asks_nothing(words: list[str], places: Places) -> None:
    done = subprocess.run(
        [*forked.python(), *PROGRAM, *words],
        env=places.environment(ROOT),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == ((0, "") if words else (2, ""))
    assert ("equal to windows" if words else "Usage: dbsync") in done.stdout


def test_in_a_log_the_progress_is_one_line_for_each_table_and_target(places: Places) -> None:
    done = subprocess.run(
        [*forked.python(), *PROGRAM, "sync"],
        env=places.environment(ROOT),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    lines = [f"{target}  {table}" for target in ("linux", "azure") for table in MODEL.names]
    assert done.returncode == 0 and sorted(done.stderr.splitlines()) == sorted(lines)


def test_the_block_shows_rows_and_rate_of_the_tables_that_moved_last() -> None:
    written = StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    with Progress(*Progress.get_default_columns()[:1], Rows(), console=console) as progress:
        block = Block(progress, "linux")
        for number in range(MOST_LINES + 2):
            block(f"table{number}", "compare", 0, None)
            block(f"table{number}", "stage", 500, 1000)
        visible = [task.description for task in progress.tasks if task.visible]
    assert len(visible) == MOST_LINES and visible[0] == "linux  table2  stage"
    assert "500 of 1,000 rows" in written.getvalue()


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("dbsync s", {"sync", "status", "serve"}),
        ("dbsync rescue ", {"list", "show", "export", "merge"}),
        ("dbsync sync --source ", {"windows", "linux", "azure"}),
        ("dbsync promote l", {"linux"}),
    ],
)
def test_a_shell_completes_commands_and_databases(
    words: str, completed: set[str], places: Places
) -> None:
    environment = {
        **places.environment(ROOT),
        "_DBSYNC_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [*forked.python(), *PROGRAM], env=environment, capture_output=True, text=True
    )
    assert set(done.stdout.split()) == completed
