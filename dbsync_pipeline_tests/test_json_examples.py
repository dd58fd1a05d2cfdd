"""docs/json-examples.md: one example for each command, whose shape is what the command prints.

`make reference` writes the page again, from what the commands print here. The test compares shapes:
the same fields with values of the same types, at every level.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbsync_pipeline.cli import app
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.processes import free_port
from dbsync_pipeline_tests.worlds import MODEL, execute, user

pytestmark = pytest.mark.system

PAGE = Path(__file__).parent.parent / "docs" / "json-examples.md"
WRITE = "WRITE_JSON_EXAMPLES"
"""The environment variable that makes the test write the page."""

HEAD = """# An example of the JSON of each command

<!-- Made by `make reference`, from what the commands print in a test. -->

[What `--json` prints](json.md) explains the fields. The examples are of a small dataset on the
three embedded databases; a test checks that each command still prints this shape.
"""

PORTS = {"ui": 3000, "serve": 8000}
"""The default ports, which a machine may need for something else."""

users = MODEL.table("users").sa
Run = Callable[..., Any]


def scenario(places: Places, run: Run) -> None:
    """Every command once, so that its result has something in every field."""
    windows, linux = places.named("windows"), places.named("linux")
    execute(windows, users.insert().values(user(1000)))
    run("tables create")
    run("tables check")
    run("adopt", "--target", "azure")
    run("demo")
    execute(linux, users.update().where(users.c.id == 1).values(name="written on linux"))
    execute(windows, users.update().where(users.c.id == 1).values(name="written on windows"))
    execute(windows, users.delete().where(users.c.id == 1000))
    run("plan", "--target", "linux", status=1)
    synced = run("sync", "--target", "linux", "--overwrite")
    run_id = synced["runs"][0]["run_id"]
    run("status")
    run("doctor")
    run("history", "--limit", "1")
    run("verify", "--target", "linux")
    run("rescue list")
    run("rescue show", run_id)
    run("rescue export", run_id, "rescued")
    run("rescue merge", run_id, status=1)
    run("undo", run_id, "--yes", "--overwrite")
    run("pause", "linux", "--reason", "maintenance")
    run("resume", "linux")
    run("migrate new", "user phones", "--empty")
    run("migrate list", status=1)
    run("migrate", "--yes")
    run("tables recreate", "--database", "azure", "--yes-destroy", "azure")
    run("failover", "--dry-run")
    run("promote", "linux", "--yes", "--overwrite")
    run("failback", "--yes")
    run("ui", "--port", str(free_port()))
    run("serve", "--port", str(free_port()))
    run("sync", "--target", "mars", status=2, title="any failure")


@pytest.fixture
def printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    """What each command of the scenario printed, by its title."""
    places = Places(tmp_path, monkeypatch)
    places.set(DBSYNC_REVISIONS=str(tmp_path / "revisions"))
    places.set(DBSYNC_API_TOKEN="only-for-these-tests-0123456789")
    monkeypatch.setattr(os, "execve", _end)  # `ui` and `serve` would become their server here
    examples: dict[str, Any] = {}

    def run(verb: str, *words: str, status: int = 0, title: str = "") -> Any:
        monkeypatch.setattr(sys, "argv", ["dbsync", *verb.split(), *words, "--json"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == status, f"{verb}: {out[-1000:]}\n{err[-1000:]}"
        shown = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{PORTS.get(verb)}", out)
        value = json.loads(shown.replace(str(tmp_path), "/srv/dbsync"))
        examples[title or f"dbsync {verb}"] = value
        return value

    with _as_before():
        scenario(places, run)
    return examples


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Undo what `ui` and `serve` change before they become another program."""
    stdout, interrupt = os.dup(1), signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        signal.signal(signal.SIGINT, interrupt)


def _end(*_command: Any) -> None:
    raise SystemExit(0)


def page(examples: dict[str, Any]) -> str:
    parts = [
        f"## {title}\n\n```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```"
        for title, value in examples.items()
    ]
    return "\n\n".join([HEAD.strip(), *parts]) + "\n"


def written() -> dict[str, Any]:
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    found = re.findall(r"^## (.*?)\n\n```json\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    return {title: json.loads(value) for title, value in found}


def shape(value: Any) -> Any:
    """The value with types in place of values; every number is of one type."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def test_every_command_prints_the_shape_of_its_example(printed: dict[str, Any]) -> None:
    if os.environ.get(WRITE):
        PAGE.write_text(page(printed), encoding="utf-8")
    examples = written()
    assert list(examples) == list(printed), "run `make reference`"
    differing = {
        title: (shape(examples[title]), shape(value))
        for title, value in printed.items()
        if shape(examples[title]) != shape(value)
    }
    assert differing == {}, "run `make reference`"
