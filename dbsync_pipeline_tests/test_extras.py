"""The extras: the error where one is not installed, and the DataFrames for notebooks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dbsync_pipeline
from dbsync_pipeline import extras, frames
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline_tests import forked
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.worlds import MODEL, execute, user
from dbsync_pipeline_tests.worlds import sync as mirror

ROOT = Path(__file__).parent.parent
users = MODEL.table("users").sa

WITHOUT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None  # an import of it raises ImportError
from dbsync_pipeline.cli import entry
sys.argv = ["dbsync", *{words!r}]
entry.main()
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


def without(missing: list[str], words: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """The exit status and the errors of `dbsync` in a process that cannot import these packages."""
    program = WITHOUT.format(missing=missing, words=words)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    return done.returncode, done.stderr


def dbsync(words: list[str], environment: dict[str, str]) -> int:
    command = [*forked.python(), "-m", "dbsync_pipeline.cli.entry", *words]
    return subprocess.run(command, capture_output=True, env=environment).returncode


def test_the_version_is_that_of_the_metadata() -> None:
    assert f'version = "{dbsync_pipeline.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_error_for_a_missing_extra_names_a_command_that_installs_it() -> None:
    with pytest.raises(SettingsError, match=r"make install EXTRAS=api") as caught:
        extras.require("api", "no_such_package", operation="serve")
    assert "no_such_package is not installed" in str(caught.value)
    assert str(ROOT) in str(caught.value)


@pytest.mark.parametrize("extra", ["api", "frames", "mssql", "parquet", "postgres-storage"])
def test_every_extra_that_code_names_exists(extra: str) -> None:
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("missing", "words", "extra"),
    [
        (["fastapi"], ["serve"], "api"),
        (["mssql_python"], ["status"], "mssql"),
        (["pyarrow"], ["rescue", "export", "demo", "out"], "parquet"),
        (["dagster_postgres"], ["history"], "postgres-storage"),
    ],
)
def test_a_command_without_its_extra_says_how_to_install_it(
    places: Places, missing: list[str], words: list[str], extra: str
) -> None:
    if extra == "mssql":
        places.set(DBSYNC_AZURE_URL="mssql://u:p@localhost/app", DBSYNC_PRIMARY="azure")
    if extra == "postgres-storage":
        places.set(DBSYNC_DAGSTER_STORAGE_URL="postgresql://u:p@localhost/dagster")
    places.set(DBSYNC_API_TOKEN="x" * 20)
    if extra == "parquet":
        mirror(places.named("windows"), places.named("linux"), run_id="demo")
    _, err = without(missing, words, places.environment(ROOT))
    assert f"make install EXTRAS={extra}" in err and "Traceback" not in err


def test_only_frames_needs_pandas_and_no_base_command_imports_an_extra(places: Places) -> None:
    heavy = ["pandas", "pyarrow", "fastapi", "mssql_python", "pyodbc", "dagster_postgres"]
    for words in (["tables", "create"], ["plan"], ["sync", "--json"], ["status"], ["history"]):
        status, err = without(heavy, words, places.environment(ROOT))
        assert status == 0, (words, err)


def test_history_as_a_frame(places: Places) -> None:
    environment = places.environment(ROOT)
    for words in (["tables", "create"], ["sync", "--target", "linux"]):
        assert dbsync(words, environment) == 0
    execute(places.named("windows"), users.insert().values(user(1000)))
    assert dbsync(["sync", "--target", "linux"], environment) == 0
    frame = frames.history()
    newest = frame[frame.run_id == frame.run_id.iloc[0]].set_index("table")
    assert newest.loc["users", "inserted"] == 1 and newest.loc["chats", "inserted"] == 0
    assert set(newest.target) == {"linux"} and frame.started_at.is_monotonic_decreasing


def test_rescued_rows_as_frames_keep_their_values(places: Places) -> None:
    windows, linux = places.named("windows"), places.named("linux")
    execute(windows, users.insert().values(user(1000)))
    mirror(windows, linux, run_id="first")
    execute(windows, users.delete().where(users.c.id == 1000))
    mirror(windows, linux, run_id="second")
    frame = frames.rescued("second", "linux")["users"]
    assert list(frame.dbsync_change) == ["deleted"] and list(frame.id) == [1000]
    assert set(frame.dtypes.map(str)) == {"object"}
    with pytest.raises(SettingsError, match="no database that answers"):
        frames.rescued("third")


def test_the_type_marker_is_part_of_the_package() -> None:
    assert (ROOT / "dbsync_pipeline" / "py.typed").is_file()
