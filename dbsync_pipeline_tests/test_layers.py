"""The floors of the house: a file imports only from floors below its own (the contracts stand in pyproject.toml)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dbsync_pipeline.dialects import ENGINES

pytestmark = pytest.mark.system
ROOT = Path(__file__).parent.parent


def test_a_file_imports_only_from_floors_below_its_own() -> None:
    program = (
        "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_mirror_runs_without_dagster() -> None:
    program = "import sys, dbsync_pipeline.mirror.sync.session, dbsync_pipeline.mirror.status; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


CONTRACT = ROOT / "dbsync_pipeline" / "dialects" / "contract"


def test_each_role_of_an_engine_is_a_file_below_80_lines() -> None:
    lines = {file.name: len(file.read_text().splitlines()) for file in CONTRACT.glob("*.py")}
    assert len(lines) >= 10 and {name: n for name, n in lines.items() if n >= 80} == {}


def test_what_an_engine_lacks_is_a_role_that_it_does_not_take() -> None:
    """So mypy sees a call that some engines cannot serve."""
    calls = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "dbsync_pipeline").rglob("*.py")
        if "NotImplementedError" in file.read_text()
    ]
    assert calls == []


WRITES_MODELS = {"mirror/reflect/render.py", "mirror/reflect/portable.py"}
"""They write models for each engine, in which SQLAlchemy's names of the engines stand."""
DAGSTERS_OWN = {"defs/storage.py"}


def test_an_engine_is_named_in_its_folder_and_in_the_registry_alone() -> None:
    package = ROOT / "dbsync_pipeline"
    naming = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if "dialects" not in file.relative_to(package).parts
        for part in ast.walk(ast.parse(file.read_text()))
        if isinstance(part, ast.Constant) and part.value in (*ENGINES, 5432, 1433)
    }
    assert naming <= WRITES_MODELS | DAGSTERS_OWN
