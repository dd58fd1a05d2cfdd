"""The models are read once, and what cannot be mirrored is refused there by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbsync_pipeline.errors import SettingsError, StructureError
from dbsync_pipeline.mirror.model import load_model

_TABLE = """
import sqlalchemy as sa
metadata = sa.MetaData()
sa.Table("notes", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("{}", sa.Integer))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["dbsync_publish", "dbsync_change", "DBSYNC_Change"])
def test_a_column_with_a_name_of_the_rescue_tables_is_refused(name: str, folder: Path) -> None:
    (folder / f"models_with_{name}.py").write_text(_TABLE.format(name))
    with pytest.raises(StructureError, match=f"table notes: column {name} has a name") as refused:
        load_model(f"models_with_{name}")
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("module", "text", "told"),
    [
        ("models_misspelt", "class Base(:", "SyntaxError: invalid syntax"),
        (
            "models_that_fail",
            "raise ValueError('postgresql://bob:hunter2@host/db')",
            r"ValueError: \[hidden\]",
        ),
        ("models_that_are_not", None, "ModuleNotFoundError: No module named 'models_that_are_not'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_reported_with_the_reason(
    module: str, text: str | None, told: str, folder: Path
) -> None:
    if text is not None:
        (folder / f"{module}.py").write_text(text)
    with pytest.raises(SettingsError, match=f"'{module}' cannot be imported: {told}") as refused:
        load_model(module)
    assert "DBSYNC_MODELS" in (refused.value.remedy or "") and "hunter2" not in str(refused.value)
