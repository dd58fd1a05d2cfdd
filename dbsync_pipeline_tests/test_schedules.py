"""Schedules: what a tick asks for, what it leaves out and says so, and that no database can hold it up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, DefaultScheduleStatus, build_schedule_context

from dbsync_pipeline.definitions import defs
from dbsync_pipeline.defs import retention, run_tags
from dbsync_pipeline.defs.schedules import sort_out, sync_schedules, tick
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror import pausing, schema
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.ledger import Term
from dbsync_pipeline.runs import launch
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.silent import silent_server
from dbsync_pipeline_tests.worlds import MODEL

AT = dt.datetime(2026, 3, 1, 6, tzinfo=dt.UTC)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    """A store that a context of a schedule can open again."""
    store = tmp_path / "store"
    store.mkdir()
    with DagsterInstance.local_temp(str(store)) as opened:
        yield opened


def ticked(instance: DagsterInstance) -> tuple[list[str], str]:
    """The targets that a tick of the six-hourly schedule asks runs for, as the daemon evaluates it, and why it asks for none."""
    context = build_schedule_context(instance, AT, repository_def=defs.get_repository_def())
    found = defs.resolve_schedule_def("every_6_hours").evaluate_tick(context)
    requests = found.run_requests or []
    assert all(
        one.tags["dagster/partition"] == one.partition_key and one.run_key for one in requests
    )
    assert len({one.run_key for one in requests}) == len(requests)
    return [str(one.partition_key) for one in requests], found.skip_message or ""


@pytest.mark.parametrize(
    ("held", "busy", "due", "words"),
    [
        ({}, {}, ["linux", "azure"], []),
        ({"linux": "paused"}, {}, ["azure"], ["linux is held: paused (`dbsync release linux`)"]),
        ({}, {"azure": "r1"}, ["linux"], ["azure is skipped: run r1 for it has not ended yet"]),
        (
            {"linux": "paused", "windows": "x"},
            {"azure": "r1", "windows": "r2"},
            [],
            ["linux", "azure"],
        ),
    ],
)
def test_who_is_due(
    held: dict[str, str], busy: dict[str, str], due: list[str], words: list[str]
) -> None:
    found, left = sort_out(["windows", "linux", "azure"], "windows", held, busy)
    assert found == due and len(left) == len(words)
    assert all(word in sentence for word, sentence in zip(words, left, strict=True))


def test_one_run_for_each_standby(places: Places, instance: DagsterInstance) -> None:
    assert ticked(instance) == (["linux", "azure"], "")


def test_the_source_is_the_primary_by_its_term(places: Places, instance: DagsterInstance) -> None:
    for one in places.all():
        schema.ensure(one, MODEL)
    assert term.give(Term(1, "linux"), places.all(), 20) == {}
    assert ticked(instance) == (["windows", "azure"], "")


def test_a_held_target_is_left_alone(places: Places, instance: DagsterInstance) -> None:
    for name in ("linux", "azure"):
        schema.ensure(places.named(name), MODEL)
        pausing.pause(places.named(name), "paused by a test")
    due, why = ticked(instance)
    assert due == [] and "linux is held: paused by a test" in why and "azure is held" in why
    pausing.resume(places.named("azure"))
    assert ticked(instance)[0] == ["azure"]


def test_a_target_whose_run_goes_on_is_skipped_with_the_reason(
    places: Places, instance: DagsterInstance
) -> None:
    for name, status in (("linux", DagsterRunStatus.STARTED), ("azure", DagsterRunStatus.STARTING)):
        instance.create_run_for_job(
            launch.sync_job(), tags={run_tags.PARTITION_TAG: name}, status=status
        )
    due, why = ticked(instance)
    assert due == [] and "linux is skipped: run " in why and "azure is skipped: run " in why


def test_a_run_that_ended_holds_nothing_up(places: Places, instance: DagsterInstance) -> None:
    for status in (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED):
        instance.create_run_for_job(
            launch.sync_job(), tags={run_tags.PARTITION_TAG: "linux"}, status=status
        )
    assert ticked(instance)[0] == ["linux", "azure"]


def test_a_database_that_never_answers_does_not_hold_the_tick_up(
    places: Places, instance: DagsterInstance
) -> None:
    with silent_server() as url:
        for other in load().databases:
            places.set(**{f"DBSYNC_{other.name.upper()}_URL": other.url.get_secret_value()})
        places.set(DBSYNC_AZURE_URL=url, DBSYNC_CONNECT_SECONDS="0.1")
        assert ticked(instance) == (["linux", "azure"], "")


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
    # Dagster catches up with missed ticks of schedules with a partition set alone; these have none, so the last one is all.
    assert all(
        one.default_status == DefaultScheduleStatus.RUNNING
        for one in map(defs.resolve_schedule_def, ("readiness", "retention"))
    )
    assert callable(tick)


def test_a_time_zone_that_does_not_exist_is_refused(places: Places) -> None:
    places.set(DBSYNC_TIMEZONE="Europe/Atlantis")
    with pytest.raises(SettingsError, match="DBSYNC_TIMEZONE"):
        load()


def test_what_nobody_asked_for_leaves_a_held_target_alone_and_a_person_does_not(
    places: Places,
) -> None:
    schema.ensure(places.named("linux"), MODEL)
    pausing.pause(places.named("linux"), "paused by a test")
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
        assert failures[0] and "held: paused by a test" in str(failures[0].description)
        assert job.execute_in_process(
            partition_key="linux", instance=instance, raise_on_error=False
        ).success


def test_old_runs_are_forgotten_with_their_files_and_others_stay(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    tags = {run_tags.PARTITION_TAG: "linux"}
    done = instance.create_run_for_job(launch.sync_job(), tags=tags)
    instance.report_run_failed(done)
    active_run = instance.create_run_for_job(
        launch.sync_job(), tags=tags, status=DagsterRunStatus.STARTED
    )
    assert retention.forget(instance, 1) == 0 and list(tmp_path.rglob(f"*{done.run_id}*"))
    assert retention.forget(instance, -1) == 1
    assert (
        instance.get_run_by_id(done.run_id) is None
        and instance.get_run_by_id(active_run.run_id) is not None
    )
    assert list(tmp_path.rglob(f"*{done.run_id}*")) == []
