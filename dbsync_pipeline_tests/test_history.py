"""History: every run on this store, however it was launched, as a plain record."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, execute_job, job, materialize, op, reconstructable

from dbsync_pipeline import history, runs
from dbsync_pipeline.choice import choose
from dbsync_pipeline.defs.assets import table_assets
from dbsync_pipeline.defs.resources import Sync
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.worlds import MODEL, execute


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


@pytest.fixture
def instance(places: Places) -> Iterator[DagsterInstance]:
    with places.dagster() as opened:
        yield opened


@op
def something_else() -> None:
    """A step of another project."""


@job
def of_another_project() -> None:
    something_else()


def sync(instance: DagsterInstance, target: str) -> history.Run:
    return runs.sync(instance, choose(load(), MODEL, None, [target]), target, lambda *_: None)


def test_a_run_that_published_has_its_rows(places: Places, instance: DagsterInstance) -> None:
    before = dt.datetime.now(dt.timezone.utc)
    found = sync(instance, "azure")
    assert (found.status, found.source, found.target, found.reason) == ("SUCCESS", "windows", "azure", None)
    assert before - dt.timedelta(seconds=1) <= found.started_at <= dt.datetime.now(dt.timezone.utc)
    assert found.seconds is not None and found.seconds > 0
    counts = found.tables["messages"]
    assert (counts.rows, counts.inserted, counts.updated, counts.deleted) == (200, 200, 0, 0)
    assert list(found.tables) == list(MODEL.names)
    execute(places.named("windows"), "UPDATE users SET name = 'new' WHERE id = 1")
    assert sync(instance, "azure").tables["users"].updated == 1


def test_newest_first_and_no_more_than_asked(places: Places, instance: DagsterInstance) -> None:
    ids = [sync(instance, target).run_id for target in ("azure", "linux", "azure")]
    assert [one.run_id for one in history.read(instance)] == ids[::-1]
    assert [one.run_id for one in history.read(instance, 2)] == [ids[2], ids[1]]


def test_a_materialization_is_found_and_another_projects_job_is_not(places: Places, instance: DagsterInstance) -> None:
    tables = [table_assets(MODEL, load().names)]
    materialize(tables, partition_key="linux", instance=instance, resources={"sync": Sync()})
    with execute_job(reconstructable(of_another_project), instance):
        pass
    (found,) = history.read(instance, 1)
    assert (found.status, found.source, found.target) == ("SUCCESS", "windows", "linux")


def test_a_failure_has_its_reason(places: Places, instance: DagsterInstance) -> None:
    places.out_of_reach("azure")
    found = sync(instance, "azure")
    assert (found.status, found.target, found.tables) == ("FAILURE", "azure", {})
    assert found.reason and "database azure" in found.reason and "hunter2" not in found.reason


def test_a_run_that_never_began_is_there(places: Places, instance: DagsterInstance) -> None:
    run = instance.create_run_for_job(
        runs.sync_job(), tags={"dagster/partition": "linux"}, run_config={"resources": {"sync": {"config": {"source": "azure"}}}}
    )
    (found,) = history.read(instance)
    assert (found.run_id, found.status, found.source, found.target) == (run.run_id, "NOT_STARTED", "azure", "linux")
    assert (found.seconds, found.tables, found.reason) == (None, {}, None)
    instance.report_run_canceled(run)
    assert history.read_one(instance, run.run_id).reason


def test_making_the_store_twice_changes_nothing(places: Places) -> None:
    home = runs.prepare_home(load())
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    assert runs.prepare_home(load()) == home == places.folder / ".dbsync" / "dagster"
    assert (home / "dagster.yaml").read_text() == "telemetry:\n  enabled: false\n"
