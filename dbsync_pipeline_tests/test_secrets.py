"""No URL, and no piece of one, is left behind by runs that succeed or fail: every byte is searched for a planted password."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from dbsync_pipeline.cli import app
from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror import pausing, schema
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests import forked
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import (
    MODEL,
    SETTINGS,
    content,
    execute,
    prepare,
    session,
    small_world,
    user,
)

ROOT = Path(__file__).parent.parent
PASSWORD = "m4rkeR@pl4nTed/#?%:Zz9"
MARKS = (b"m4rkeR", b"pl4nTed", b"Zz9")
"""Pieces of the password that no way of writing it changes."""


@dataclass
class Place:
    """A folder in which everything that a process leaves behind comes to lie."""

    folder: Path
    urls: dict[str, str] = field(default_factory=dict)
    said: list[bytes] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DBSYNC_")}
        variables = {f"DBSYNC_{name.upper()}_URL": url for name, url in self.urls.items()}
        return {
            **kept,
            **variables,
            "DBSYNC_CONNECT_SECONDS": "2",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder),
            "DAGSTER_HOME": str(self.folder / "dagster"),
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [*forked.python(), *command], cwd=self.folder, env=self.environment, capture_output=True
        )
        self.said += [done.stdout, done.stderr]
        return done

    def left(self) -> dict[str, bytes]:
        """Every file by name, with what Dagster compressed beside it, and all output."""
        found = {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        for path in [
            Path(name) for name, data in found.items() if data.startswith(b"SQLite format 3")
        ]:
            found[f"{path}, unpacked"] = _unpacked(path)
        return {**found, **{f"said {n}": data for n, data in enumerate(self.said)}}


def _unpacked(path: Path) -> bytes:
    parts = []
    connection = sqlite3.connect(path)
    for (table,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table'"
    ).fetchall():
        for row in connection.execute(f'SELECT * FROM "{table}"'):
            for value in row:
                data = value.encode() if isinstance(value, str) else value
                if isinstance(data, bytes):
                    try:
                        parts.append(zlib.decompress(data))
                    except zlib.error:
                        parts.append(data)
    connection.close()
    return b"\n".join(parts)


def nowhere_in(found: dict[str, bytes]) -> None:
    for name, data in found.items():
        for mark in MARKS:
            place = data.find(mark)
            assert place < 0, f"{name}: ...{data[max(0, place - 80) : place + 20]!r}"


def with_password(url: sa.URL) -> str:
    return url.set(password=PASSWORD).render_as_string(hide_password=False)


UNREACHABLE = f"postgresql://app:{quote(PASSWORD, safe='')}@127.0.0.1:1/application"


@pytest.fixture
def place(tmp_path: Path, new_database: NewDatabase) -> Place:
    """A primary and five standbys, of which one will be synced, and four will not, each for a reason of its own."""
    windows, linux, guarded = (
        new_database("postgresql", name, server=n)
        for n, name in enumerate(("windows", "linux", "guarded"))
    )
    prepare(windows, small_world())
    execute(windows, "UPDATE messages SET created_at = 'infinity' WHERE id = 7")
    prepare(guarded, {"users": [user(5000)]})
    folder = tmp_path / "left behind"
    folder.mkdir()
    return Place(
        folder,
        {
            "windows": with_password(windows.url),
            "linux": with_password(linux.url),
            "unreachable": UNREACHABLE,
            "wrong": with_password(linux.url.set(database="no_such_database")),
            "guarded": with_password(guarded.url),
            "narrow": f"sqlite:///{folder / 'narrow.db'}",
        },
    )


_VERBS = """
import contextlib, sys
from dbsync_pipeline.cli import app
for words in ("status", "plan", "history --json", "tables check", "rescue list"):
    sys.argv = ["dbsync", *words.split()]
    with contextlib.suppress(SystemExit):
        app.main()
"""


def test_the_command_line_leaves_no_password_behind_whether_it_succeeds_or_fails(
    place: Place,
) -> None:
    done = place.run("-m", "dbsync_pipeline.cli.entry", "sync", "--json")
    runs = {run["target"]: run for run in json.loads(done.stdout)["runs"]}
    assert {target: run["status"] for target, run in runs.items()} == {
        "linux": "SUCCESS",
        **dict.fromkeys(("unreachable", "wrong", "guarded", "narrow"), "FAILURE"),
    }
    reasons = {target: run["reason"] or "" for target, run in runs.items()}
    assert "nothing answers" in reasons["unreachable"] and "does not exist" in reasons["wrong"]
    assert "never published" in reasons["guarded"] and "cannot be held exactly" in reasons["narrow"]
    assert done.returncode == 1
    place.run("-c", _VERBS)
    left = place.left()
    assert any(b"nothing answers" in data for name, data in left.items() if "dagster" in name), (
        "the search reads what Dagster keeps"
    )
    assert any(name.endswith("unpacked") for name in left)
    nowhere_in(left)


def test_a_job_that_dagster_executes_leaves_no_password_behind_when_it_fails(place: Place) -> None:
    (place.folder / "dagster").mkdir()
    (place.folder / "dagster" / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    job = ["-m", "dagster", "job", "execute", "-m", "dbsync_pipeline.definitions", "-j", "sync_job"]
    done = place.run(*job, "--tags", json.dumps({"dagster/partition": "unreachable"}))
    assert done.returncode != 0
    left = place.left()
    assert any(b"nothing answers" in data for data in left.values())
    nowhere_in(left)


MALFORMED = [
    f"postgresql://app:{PASSWORD}@127.0.0.1:1/application",
    "postgresql://app:m4rkeR/pl4nTed@127.0.0.1:1/application",
    "postgresql://app:m4rkeR@pl4nTed@127.0.0.1:1/application",
    "postgresql://app:m4rkeR@pl4nTed:Zz9@127.0.0.1:1/application",
    "postgresql://app:m4rkeR#pl4nTed@127.0.0.1:1/application",
    "postgresql://app:m4rkeR?pl4nTed=Zz9@127.0.0.1:1/application",
    "postgresql://app@127.0.0.1:m4rkeR/application",
    "postgresql://app@127.0.0.1:1/application?pl4nTed=Zz9",
    "postgresql://app@127.0.0.1:1/application?sslmode=pl4nTed",
    "postgresql://app@127.0.0.1:1/application?port=pl4nTed",
    "postgresql://app@127.0.0.1:1/application?options=-c%20pl4nTed",
    "postgresql://app@127.0.0.1:1/application?password=pl4nTed&connect_timeout=Zz9",
    "postgresql://app:m4rkeR%ZZpl4nTed@[::1/application",
    "app:m4rkeR@127.0.0.1/application",
    "m4rkeR://app:pl4nTed@127.0.0.1/application",
    "postgresql:app:m4rkeR@127.0.0.1",
    "postgresql+pl4nTed://app:m4rkeR@127.0.0.1:1/application",
    "sqlite://app:m4rkeR@/pl4nTed.db",
    "sqlite:////no/such/folder/pl4nTed.db?mode=m4rkeR",
    "sqlite:///?Zz9=pl4nTed",
    "host=127.0.0.1 password=m4rkeR dbname=pl4nTed",
    "mssql://app:m4rkeR@127.0.0.1:1/application?driver=pl4nTed",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_url_that_is_wrong_is_never_quoted(
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: tuple[Database, Database],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBSYNC_WINDOWS_URL", str(files[0].url))
    monkeypatch.setenv("DBSYNC_LINUX_URL", url)
    monkeypatch.setenv("DBSYNC_CONNECT_SECONDS", "2")
    for words in (["status"], ["plan", "--json"], ["tables", "create", "--database", "linux"]):
        monkeypatch.setattr(sys, "argv", ["dbsync", *words])
        with pytest.raises(SystemExit) if words[0] != "status" else _either():
            app.main()
        said = "".join(capsys.readouterr())
        assert "linux" in said
        assert "unexpected" not in said, said
        nowhere_in({" ".join(words): said.encode()})


class _either:
    """A command that may end in either way."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is None or issubclass(kind, SystemExit)


@pytest.fixture
def files(new_database: NewDatabase) -> tuple[Database, Database]:
    windows, linux = new_database("sqlite", "windows"), new_database("sqlite", "linux")
    prepare(windows, {})
    return windows, linux


def _steps(target: Database, source: Database) -> list[Callable[[], object]]:
    def whole() -> None:
        with session(source, target) as one:
            one.ensure_schema()

    def planned() -> None:
        with session(source, target) as one:
            one.plan()

    return [
        whole,
        planned,
        lambda: schema.ensure(target, MODEL),
        lambda: schema.check(target, MODEL),
        lambda: undo(target, MODEL, "run", by="x", settings=SETTINGS),
        lambda: pausing.resume(target),
    ]


def test_neither_a_traceback_nor_a_chain_nor_a_repr_shows_a_url(
    files: tuple[Database, Database],
) -> None:
    target = Database("linux", sa.make_url(UNREACHABLE), connect_seconds=2)
    nowhere_in({"repr": repr(target).encode(), "str": str(target).encode()})
    for step in _steps(target, files[0]):
        with pytest.raises(DbsyncError) as failed:
            step()
        chain = (
            failed.value.__cause__,
            failed.value.__context__ if not failed.value.__suppress_context__ else None,
        )
        assert chain == (None, None)
        told = "".join(traceback.format_exception(failed.value))
        nowhere_in({"traceback": told.encode(), "repr": repr(failed.value).encode()})


def test_the_settings_do_not_show_urls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"DBSYNC_LINUX_URL={UNREACHABLE}\n")
    settings = load()
    assert settings.names == ("linux",) and databases(settings)[0].url.password == PASSWORD
    nowhere_in(
        {
            "repr": repr(settings).encode(),
            "json": settings.model_dump_json().encode(),
            "databases": repr(databases(settings)).encode(),
        }
    )


def test_the_rows_of_a_refused_value_are_not_shown(files: tuple[Database, Database]) -> None:
    source, target = files
    execute(
        source,
        (
            MODEL.table("users").sa.insert(),
            [user(1, name="m4rkeR"), user(2, password_hash="pl4nTed")],
        ),
    )
    prepare(target, {"users": [user(1, name="Zz9")]})
    with pytest.raises(DbsyncError) as refused, session(source, target) as one:
        one.ensure_schema()
        for table in MODEL.names:
            one.copy(table)
        one.publish()
    nowhere_in({"refusal": str(refused.value).encode()})
    assert content(target)["users"][0][2] == "Zz9"
