"""Three SQLite databases and a store of Dagster's runs in a folder of the test's own, as the embedded default has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dagster import DagsterInstance

from dbsync_pipeline.mirror.database import Database, database, databases
from dbsync_pipeline.runs import launch
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests import store
from dbsync_pipeline_tests.worlds import prepare, small_world

UNREACHABLE = "postgresql://bob:hunter2@127.0.0.1:1/nowhere"
SECRET = b"hunter2"


class Places:
    """The folder, and the databases by name; `windows` is the primary and has a small world in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
        home = folder / ".dbsync"
        embedded = not any(name.endswith("_URL") for name in os.environ if name[:7] == "DBSYNC_")
        if embedded and store.copy_of_first(home):
            return
        prepare(self.named("windows"), small_world())
        launch.prepare_home(load())
        if embedded:
            store.keep_as_first(home)

    def named(self, name: str) -> Database:
        return database(load(), name)

    def all(self) -> tuple[Database, ...]:
        return databases(load())

    def set(self, **variables: str) -> None:
        """Environment variables, as an operator sets them."""
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def out_of_reach(self, name: str) -> None:
        """Nothing answers at the URL of that database; the others stay what they are."""
        for other in load().databases:
            self.set(**{f"DBSYNC_{other.name.upper()}_URL": other.url.get_secret_value()})
        self.set(**{f"DBSYNC_{name.upper()}_URL": f"{UNREACHABLE}_{name}"})

    @property
    def dagster_home(self) -> Path:
        return load().dagster_home

    @contextmanager
    def dagster(self) -> Iterator[DagsterInstance]:
        with launch.dagster_instance(load()) as instance:
            yield instance

    def environment(self, root: Path) -> dict[str, str]:
        """For a process of its own, which runs the package in `root`."""
        return {**os.environ, "PYTHONPATH": str(root)}

    def shown(self) -> bytes:
        """Every byte that Dagster keeps."""
        return b"".join(
            path.read_bytes() for path in self.dagster_home.rglob("*") if path.is_file()
        )
