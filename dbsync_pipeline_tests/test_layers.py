"""The floors of the house: a file imports only from floors below its own (the contracts stand in pyproject.toml)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
