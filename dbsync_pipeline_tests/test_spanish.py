"""The Spanish pages: the tutorial has the English one's commands, and the guide's table works."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbsync_pipeline.cli import app
from dbsync_pipeline_tests.places import Places

DOCS = Path(__file__).parent.parent / "docs"
GUIDE = (DOCS / "es" / "guia-anterior.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.system

SERVERS = ("dbsync ui", "dbsync serve")
"""Commands that do not end by themselves."""


def commands() -> Iterator[str]:
    """Every command in the last column of the guide's tables, in their order, each once."""
    rows = [line for line in GUIDE.splitlines() if line.startswith("| ")]
    cells = [row.split("|")[-2] for row in rows]
    found = [command for cell in cells for command in re.findall(r"`(dbsync [^`]*)`", cell)]
    return (command for command in dict.fromkeys(found) if command not in SERVERS)


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```(?:ba)?sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_tutorial_runs_the_same_commands_as_the_english_one() -> None:
    assert blocks("es/tutorial.md") == blocks("tutorial.md")


def test_every_command_of_the_old_guide_has_a_row() -> None:
    scripts = (
        *("create_tables.py --all", "create_tables.py --database windows", "--check", "--drop"),
        *("1. Sincronizar", "2. Sincronizar", "3. Sincronizar", "4. Solo ver estado"),
        *("auto_sync.py`", "--source linux", "--history", "--status", "test_orchestrator.py"),
        *("alembic revision", "alembic upgrade", "crontab", "schtasks", "/admin/db-status"),
        *("Table doesn't exist", "No databases available", "muy lenta", "estructuras"),
    )
    assert [script for script in scripts if script not in GUIDE] == []


def test_the_table_has_commands() -> None:
    assert len(list(commands())) > 20


def test_every_command_of_the_table_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = Places(tmp_path, monkeypatch)
    places.set(DBSYNC_REVISIONS=str(tmp_path / "revisions"))
    for command in commands():
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            app.main()
        assert not ended.value.code, f"{command}\n{capsys.readouterr().err[-2000:]}"
