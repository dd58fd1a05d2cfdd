"""Dagster's store: SQLite unless a setting names a PostgreSQL, whose URL is stored nowhere."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster import DagsterInstance

from dbsync_pipeline.defs.storage import with_driver
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.runs import launch
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.places import SECRET, Places


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "url", ["postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg2://u:p@h/d"]
)
def test_the_url_gets_the_installed_driver(url: str) -> None:
    assert with_driver(url) == "postgresql+psycopg2://u:p@h/d"


@pytest.mark.parametrize("url", ["hunter2", "sqlite:///x.db", "mysql://bob:hunter2@h/d"])
def test_a_wrong_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        with_driver(url)
    assert SECRET.decode() not in str(caught.value) and "DBSYNC_DAGSTER_STORAGE_URL" in str(
        caught.value
    )


def test_sqlite_by_default_beside_the_settings_of_dagster(places: Places) -> None:
    home = launch.prepare_home(load())
    assert (home / "history" / "runs").is_dir() and (home / "schedules").is_dir()


def test_postgresql_by_one_setting(places: Places, new_database: NewDatabase) -> None:
    shutil.rmtree(places.dagster_home)  # it was made in SQLite
    store = new_database("postgresql", "store")
    url = store.url.set(password="hunter2")  # the servers of the tests trust everybody
    places.set(DBSYNC_DAGSTER_STORAGE_URL=url.render_as_string(hide_password=False))
    with places.dagster() as instance:
        run = instance.create_run_for_job(launch.sync_job(), tags={"dagster/partition": "linux"})
        with DagsterInstance.from_ref(
            instance.get_ref()
        ) as again:  # as a run's own process opens it
            assert again.get_run_by_id(run.run_id) is not None
        assert SECRET.decode() not in str(instance.get_ref())
    with store.engine().connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM runs")) == 1
    assert SECRET not in places.shown() and not (places.dagster_home / "history").exists()


def test_a_store_with_tables_is_opened_without_loading_migrations(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Config] = []
    load = ScriptDirectory.from_config

    def from_config(config: Config) -> ScriptDirectory:
        loaded.append(config)
        return load(config)

    monkeypatch.setattr(ScriptDirectory, "from_config", from_config)
    with places.dagster() as instance:
        assert instance.get_runs_count() == 0 and instance.all_instigator_state() == []
    assert loaded == []
    shutil.rmtree(places.dagster_home / "schedules")
    shutil.rmtree(places.dagster_home / "history")
    with places.dagster() as instance:
        assert instance.get_runs_count() == 0 and instance.all_instigator_state() == []
    assert loaded, "a new store gets its tables, and their revision, from Dagster"
    with sqlite3.connect(places.dagster_home / "history" / "runs.db") as store:
        assert store.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
