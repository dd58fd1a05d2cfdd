"""Schedules: what a tick requests, what it skips and why, and that no database can delay it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, DefaultScheduleStatus, build_schedule_context

from dbsync_pipeline.definitions import defs
from dbsync_pipeline.defs import retention, run_tags
from dbsync_pipeline.defs.connections import connections
from dbsync_pipeline.defs.schedules import due_targets, sync_schedules
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror import pausing, schema
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.ledger import Ledger, Term
from dbsync_pipeline.runs import launch
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.silent import silent_server
from dbsync_pipeline_tests.worlds import MODEL, execute

AT = dt.datetime(2026, 3, 1, 6, tzinfo=dt.UTC)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    """A store in files, which the context of a schedule can open again."""
    store = tmp_path / "store"
    store.mkdir()
    with DagsterInstance.local_temp(str(store)) as opened:
        yield opened


def tick_schedule(instance: DagsterInstance) -> tuple[list[str], str]:
    """Evaluate the six-hourly schedule as the daemon does; return its targets and its skip reason."""
    context = build_schedule_context(
        instance, AT, resources=connections(load()), repository_def=defs.get_repository_def()
    )
    result = defs.resolve_schedule_def("every_6_hours").evaluate_tick(context)
    requests = result.run_requests or []
    assert all(
        one.tags["dagster/partition"] == one.tags["dbsync/target"] == one.partition_key
        and one.run_key
        for one in requests
    )
    assert len({one.run_key for one in requests}) == len(requests)
    return [str(one.partition_key) for one in requests], result.skip_message or ""


@pytest.mark.parametrize(
    ("paused", "active", "due", "reasons"),
    [
        ({}, {}, ["linux", "azure"], []),
        ({"linux": "a test"}, {}, ["azure"], ["linux is paused: a test (`dbsync resume linux`)"]),
        ({}, {"azure": "r1"}, ["linux"], ["azure is skipped: its run r1 has not ended yet"]),
        (
            {"linux": "paused", "windows": "x"},
            {"azure": "r1", "windows": "r2"},
            [],
            ["linux", "azure"],
        ),
    ],
)
def test_which_targets_are_due(
    paused: dict[str, str], active: dict[str, str], due: list[str], reasons: list[str]
) -> None:
    targets, skipped = due_targets(["windows", "linux", "azure"], "windows", paused, active)
    assert targets == due and len(skipped) == len(reasons)
    assert all(reason in why for reason, why in zip(reasons, skipped, strict=True))


def test_each_standby_gets_a_run(places: Places, instance: DagsterInstance) -> None:
    assert tick_schedule(instance) == (["linux", "azure"], "")


def test_the_current_primary_gets_no_run(places: Places, instance: DagsterInstance) -> None:
    for one in places.all():
        schema.ensure(one, MODEL)
    assert term.give(Term(1, "linux"), places.all(), 20) == {}
    assert tick_schedule(instance) == (["windows", "azure"], "")


def test_a_paused_target_is_skipped(places: Places, instance: DagsterInstance) -> None:
    for name in ("linux", "azure"):
        schema.ensure(places.named(name), MODEL)
        pausing.pause(places.named(name), "a test")
    due, why = tick_schedule(instance)
    assert due == [] and "linux is paused: a test" in why and "azure is paused" in why
    pausing.resume(places.named("azure"))
    assert tick_schedule(instance)[0] == ["azure"]


def test_a_target_with_an_unfinished_run_is_skipped_with_the_reason(
    places: Places, instance: DagsterInstance
) -> None:
    for name, status in (("linux", DagsterRunStatus.STARTED), ("azure", DagsterRunStatus.STARTING)):
        instance.create_run_for_job(
            launch.sync_job(), tags={run_tags.PARTITION_TAG: name}, status=status
        )
    due, why = tick_schedule(instance)
    assert due == [] and "linux is skipped: its run " in why and "azure is skipped: its run " in why


def test_an_ended_run_delays_nothing(places: Places, instance: DagsterInstance) -> None:
    for status in (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED):
        instance.create_run_for_job(
            launch.sync_job(), tags={run_tags.PARTITION_TAG: "linux"}, status=status
        )
    assert tick_schedule(instance)[0] == ["linux", "azure"]


def test_a_database_that_never_answers_does_not_delay_the_tick(
    places: Places, instance: DagsterInstance
) -> None:
    with silent_server() as url:
        for other in load().databases:
            places.set(**{f"DBSYNC_{other.name.upper()}_URL": other.url.get_secret_value()})
        places.set(DBSYNC_AZURE_URL=url, DBSYNC_CONNECT_SECONDS="0.1")
        assert tick_schedule(instance) == (["linux", "azure"], "")


def test_the_schedules_as_the_daemon_finds_them(places: Places) -> None:
    places.set(DBSYNC_TIMEZONE="Europe/Madrid", DBSYNC_SCHEDULE="30 */4 * * *")
    often, daily = sync_schedules(load())
    assert (often.cron_schedule, often.default_status) == (
        "30 */4 * * *",
        DefaultScheduleStatus.RUNNING,
    )
    assert (daily.cron_schedule, daily.default_status) == (
        "0 2 * * *",
        DefaultScheduleStatus.STOPPED,
    )
    assert often.execution_timezone == daily.execution_timezone == "Europe/Madrid"
    assert defs.resolve_schedule_def("every_6_hours").cron_schedule == "0 */6 * * *"
    # Dagster makes up for all missed ticks only of schedules with a partition set; these have none.
    assert all(
        one.default_status == DefaultScheduleStatus.RUNNING
        for one in map(defs.resolve_schedule_def, ("readiness", "retention"))
    )


def test_an_unknown_time_zone_is_refused(places: Places) -> None:
    places.set(DBSYNC_TIMEZONE="Europe/Atlantis")
    with pytest.raises(SettingsError, match="DBSYNC_TIMEZONE"):
        load()


def test_an_automatic_run_leaves_a_paused_target_alone_and_a_persons_run_syncs_it(
    places: Places,
) -> None:
    schema.ensure(places.named("linux"), MODEL)
    pausing.pause(places.named("linux"), "a test")
    with DagsterInstance.ephemeral() as instance:
        job = launch.sync_job()
        automatic = job.execute_in_process(
            partition_key="linux",
            instance=instance,
            tags={"dagster/schedule_name": "every_6_hours"},
            raise_on_error=False,
        )
        assert not automatic.success
        failures = [
            event.step_failure_data.user_failure_data
            for event in automatic.all_events
            if event.is_step_failure
        ]
        assert failures[0] and "paused: a test" in str(failures[0].description)
        assert job.execute_in_process(
            partition_key="linux", instance=instance, raise_on_error=False
        ).success


@pytest.mark.system
def test_old_runs_are_deleted_with_their_files_and_unfinished_ones_stay(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    tags = {run_tags.PARTITION_TAG: "linux"}
    done = instance.create_run_for_job(launch.sync_job(), tags=tags)
    instance.report_run_failed(done)
    active_run = instance.create_run_for_job(
        launch.sync_job(), tags=tags, status=DagsterRunStatus.STARTED
    )
    assert retention.delete_runs(instance, 1) == 0 and list(tmp_path.rglob(f"*{done.run_id}*"))
    assert retention.delete_runs(instance, -1) == 1
    assert (
        instance.get_run_by_id(done.run_id) is None
        and instance.get_run_by_id(active_run.run_id) is not None
    )
    assert list(tmp_path.rglob(f"*{done.run_id}*")) == []


@pytest.mark.system
def test_scheduled_runs_that_find_nothing_are_folded_and_others_stay(
    places: Places, instance: DagsterInstance, tmp_path: Path
) -> None:
    source, job = places.named("windows"), launch.sync_job()

    def run(target: str, **tags: str) -> str:
        done = job.execute_in_process(partition_key=target, instance=instance, tags=tags)
        assert done.success
        return done.run_id

    scheduled = {"dagster/schedule_name": "every_6_hours"}
    first = run("linux", **scheduled)
    quiet = [run("linux", **scheduled) for _ in range(3)]
    by_a_person = run("linux")
    other = run("azure", **scheduled), run("azure", **scheduled)
    execute(source, "UPDATE users SET name = 'changed' WHERE id = 1")
    changing = run("linux", **scheduled)
    last = run("linux", **scheduled)
    assert retention.fold_quiet_runs(instance, ["linux", "azure"]) == 3
    assert {entry.run_id for entry in instance.get_runs()} == {
        first,
        by_a_person,
        *other,
        changing,
        last,
    }
    assert all(list(tmp_path.rglob(f"*{run_id}*")) == [] for run_id in quiet)
    kept = instance.get_run_by_id(last)
    assert kept is not None and kept.tags[run_tags.QUIET_TAG] == "1"
    assert retention.fold_quiet_runs(instance, ["linux", "azure"]) == 0
    with places.named("linux").connect() as dialect:
        held = Ledger(dialect).last()
        assert held is not None and held.confirmations == 1
        assert [entry.run_id for entry in Ledger(dialect).publishes()] == [changing, first]
