"""History: every run on this store, however it was launched, as a plain record."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import (
    DagsterInstance,
    execute_job,
    in_process_executor,
    job,
    materialize,
    op,
    reconstructable,
)

from dbsync_pipeline.defs.assets import table_assets
from dbsync_pipeline.defs.connections import connections
from dbsync_pipeline.defs.resources import Sync
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.ledger import Ledger, Publish
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.policy import Overrides
from dbsync_pipeline.request import HistoryOptions, resolve
from dbsync_pipeline.runs import history, launch
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.places import SECRET, Places
from dbsync_pipeline_tests.processes import dbsync
from dbsync_pipeline_tests.proxy import TO_SERVER, Connection, cut_and_refuse, reached_by_proxy
from dbsync_pipeline_tests.worlds import MODEL, execute, synced_pair
from dbsync_pipeline_tests.worlds import sync as mirror


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


@job(executor_def=in_process_executor)
def of_another_project() -> None:
    something_else()


def sync(instance: DagsterInstance, target: str) -> history.Run:
    return launch.sync(instance, resolve(load(), MODEL, None, [target]), target, lambda *_: None)


def test_a_run_that_published_has_its_rows(places: Places, instance: DagsterInstance) -> None:
    before = dt.datetime.now(dt.UTC)
    found = sync(instance, "azure")
    assert (found.status, found.source, found.target, found.reason) == (
        "SUCCESS",
        "windows",
        "azure",
        None,
    )
    assert before - dt.timedelta(seconds=1) <= found.started_at <= dt.datetime.now(dt.UTC)
    assert found.seconds is not None and found.seconds > 0
    counts = found.tables["messages"]
    assert (counts.rows, counts.inserted, counts.updated, counts.deleted) == (200, 200, 0, 0)
    assert list(found.tables) == list(MODEL.names)
    execute(places.named("windows"), "UPDATE users SET name = 'new' WHERE id = 1")
    assert sync(instance, "azure").tables["users"].updated == 1


def test_newest_first_and_at_most_as_many_as_requested(
    places: Places, instance: DagsterInstance
) -> None:
    ids = [sync(instance, target).run_id for target in ("azure", "linux", "azure")]
    assert [one.run_id for one in history.read(instance)] == ids[::-1]
    assert [one.run_id for one in history.read(instance, HistoryOptions(limit=2))] == [
        ids[2],
        ids[1],
    ]


def test_a_materialization_is_found_and_another_projects_job_is_not(
    places: Places, instance: DagsterInstance
) -> None:
    tables = [table_assets(MODEL, load().names)]
    materialize(
        tables,
        partition_key="linux",
        instance=instance,
        resources={"sync": Sync(), **connections(load())},
    )
    with execute_job(reconstructable(of_another_project), instance):
        pass
    (found,) = history.read(instance, HistoryOptions(limit=1))
    assert (found.status, found.source, found.target) == ("SUCCESS", "windows", "linux")


def test_a_failure_has_its_reason(places: Places, instance: DagsterInstance) -> None:
    places.out_of_reach("azure")
    found = sync(instance, "azure")
    assert (found.status, found.target, found.tables) == ("FAILURE", "azure", {})
    assert found.reason and "database azure" in found.reason and "hunter2" not in found.reason


def test_a_run_that_never_began_is_there(places: Places, instance: DagsterInstance) -> None:
    run = instance.create_run_for_job(
        launch.sync_job(),
        tags={"dagster/partition": "linux"},
        run_config={"resources": {"sync": {"config": {"source": "azure"}}}},
    )
    (found,) = history.read(instance)
    assert (found.run_id, found.status, found.source, found.target) == (
        run.run_id,
        "NOT_STARTED",
        "azure",
        "linux",
    )
    assert (found.seconds, found.tables, found.reason) == (None, {}, None)
    instance.report_run_canceled(run)
    assert history.read_one(instance, run.run_id).reason


# Joined with the ledgers -----------------------------------------------------------------------------------------------


def joined(instance: DagsterInstance, wanted: HistoryOptions = HistoryOptions()) -> history.Past:  # noqa: B008 - it is frozen
    return history.past(instance, databases(load()), wanted, seconds=10)


def test_a_lost_store_leaves_what_the_ledgers_know(
    places: Places, instance: DagsterInstance
) -> None:
    mirror(places.named("windows"), places.named("azure"))
    execute(places.named("windows"), "UPDATE users SET name = 'new' WHERE id = 1")
    mirror(places.named("windows"), places.named("azure"))
    newest, first = joined(instance).runs
    assert (newest.status, newest.published, newest.source, newest.target) == (
        None,
        True,
        "windows",
        "azure",
    )
    assert (
        newest.number,
        first.number,
        newest.tables["users"].updated,
        first.tables["users"].inserted,
    ) == (2, 1, 1, 20)
    assert (
        newest.phases.keys() >= {"schema", "compare", "publish"}
        and newest.started_at > first.started_at
    )
    assert [run.number for run in joined(instance, HistoryOptions(limit=1)).runs] == [2]
    assert (
        joined(instance, HistoryOptions(target="linux")).runs
        == joined(instance, HistoryOptions(failed=True)).runs
        == []
    )


def test_a_run_that_was_killed_after_its_commit_shows_as_published(
    places: Places, instance: DagsterInstance
) -> None:
    run = instance.create_run_for_job(launch.sync_job(), tags={"dagster/partition": "azure"})
    mirror(places.named("windows"), places.named("azure"), run_id=run.run_id)
    instance.report_run_failed(run)
    (found,) = joined(instance).runs
    assert (found.run_id, found.status, found.published, found.number) == (
        run.run_id,
        "FAILURE",
        True,
        1,
    )
    assert found.tables["users"].inserted == 20 and found.source == "windows"
    assert joined(instance, HistoryOptions(failed=True)).runs == []


def test_a_refused_run_has_the_guards_verdicts_and_what_was_allowed(
    places: Places, instance: DagsterInstance
) -> None:
    sync(instance, "azure")
    execute(places.named("windows"), "DELETE FROM user_memory")
    refused = sync(instance, "azure")
    assert [verdict["guard"] for verdict in refused.verdicts] == ["mass change"]
    (failed,) = joined(instance, HistoryOptions(failed=True)).runs
    assert (failed.run_id, failed.published, failed.verdicts) == (
        refused.run_id,
        False,
        refused.verdicts,
    )
    allowed = resolve(load(), MODEL, None, ["azure"], (), Overrides(max_change_fraction=1))
    assert launch.sync(instance, allowed, "azure", lambda *_: None).allowed == {
        "max_change_fraction": 1
    }


def test_a_ledger_out_of_reach_is_named_and_hides_no_run(
    places: Places, instance: DagsterInstance
) -> None:
    sync(instance, "azure")
    places.out_of_reach("azure")
    sync(instance, "azure")
    found = joined(instance)
    assert [(run.status, run.published) for run in found.runs] == [
        ("FAILURE", None),
        ("SUCCESS", True),
    ]
    assert (
        "azure" in found.unread
        and "windows" not in found.unread
        and SECRET.decode() not in str(found.unread)
    )


def test_an_undo_is_in_the_history(places: Places, instance: DagsterInstance) -> None:
    run = sync(instance, "azure")
    undo(places.named("azure"), MODEL, run.run_id, by="undo-1", settings=load())
    assert [(one.run_id, one.undoes) for one in joined(instance).runs] == [
        ("undo-1", 1),
        (run.run_id, None),
    ]


def test_an_old_run_is_found_in_a_ledger_with_many_newer_publishes(places: Places) -> None:
    entries = []
    for name in ("a", "b", "c"):
        execute(places.named("windows"), f"UPDATE users SET name = '{name}' WHERE id = 1")
        entries.append(mirror(places.named("windows"), places.named("azure")))
    with places.named("azure").connect() as dialect:
        ledger = Ledger(dialect)
        assert [entry.number for entry in ledger.publishes(2)] == [3, 2]
        assert ledger.of_runs([entries[0].run_id]) == [entries[0]]
        assert ledger.publishes(1, source="linux") == []


def test_a_run_of_several_targets_has_a_record_for_each() -> None:
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    run = history.Run("one", "SUCCESS", "linux", "windows, azure", at, 1.0, {}, None)
    entries = {
        name: [Publish(7, "one", "linux", name, at, at, {}, {"publish": 1.0})]
        for name in ("windows", "azure")
    }
    found = list(history.join([run], entries))
    assert [(one.target, one.status, one.published) for one in found] == [
        ("windows", "SUCCESS", True),
        ("azure", "SUCCESS", True),
    ]


def test_making_the_store_twice_changes_nothing(places: Places) -> None:
    home = launch.prepare_home(load())
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    assert launch.prepare_home(load()) == home == places.folder / ".dbsync" / "dagster"
    assert (home / "dagster.yaml").read_text() == "telemetry:\n  enabled: false\n"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_ledger_finds_more_runs_than_a_statement_has_parameters(
    engine: str, new_database: NewDatabase
) -> None:
    database, now = new_database(engine, "linux"), dt.datetime.now(dt.UTC)
    schema.ensure(database, MODEL)
    with database.connect() as dialect:
        ledger = Ledger(dialect)
        with dialect.connection.begin():
            for number in (1, 2, 3):
                ledger.record(
                    Publish(number, f"run {number}", "windows", "linux", now, now, {}, {}), ""
                )
        found = ledger.of_runs(["run 1", *(f"other {number}" for number in range(2500)), "run 3"])
    assert [entry.number for entry in found] == [3, 1]


def test_a_run_that_confirmed_and_lost_the_reply_is_shown_as_published(
    places: Places, new_database: NewDatabase
) -> None:
    """Until the ledger can be asked, nobody knows; then it is settled."""
    source, target = synced_pair(new_database)

    def at(database: Database) -> None:
        for name, one in {"WINDOWS": source, "LINUX": database}.items():
            places.set(**{f"DBSYNC_{name}_URL": one.url.render_as_string(hide_password=False)})

    places.set(DBSYNC_SILENCE_SECONDS="2", DBSYNC_CONNECT_SECONDS="2")
    with reached_by_proxy(target, silence_seconds=2) as (far, proxy):
        at(far)

        def arm(_connection: Connection) -> None:
            proxy.after(b"COMMIT", TO_SERVER, cut_and_refuse(600))

        proxy.after(b'"up_to": ', TO_SERVER, arm)
        dbsync(places, "sync", "--target", "linux", status=3)
    at(target)
    (lost, *_) = dbsync(places, "history")
    assert (lost["status"], lost["published"], lost["number"]) == ("FAILURE", True, 1)
    assert not lost["unknown"]
    assert lost["tables"]["users"]["inserted"] == 0
