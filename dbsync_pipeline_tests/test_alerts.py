"""Alerts arrive once at a real receiver; one that cannot be delivered fails nothing and shows no
URL."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    ExecuteInProcessResult,
    build_run_status_sensor_context,
    job,
    op,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from dbsync_pipeline import notify
from dbsync_pipeline.definitions import defs
from dbsync_pipeline.defs import alerts, readiness, reaper, run_tags
from dbsync_pipeline.mirror import pausing
from dbsync_pipeline.mirror.ready import AGE, CHECKS, REACHABLE, RELEASED, WHOLE, Report
from dbsync_pipeline.runs import launch
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.mail import mail_server
from dbsync_pipeline_tests.places import SECRET, Places
from dbsync_pipeline_tests.receiver import Receiver
from dbsync_pipeline_tests.worlds import execute, sync

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
def receiver(places: Places) -> Iterator[Receiver]:
    """A receiver of both alerts, with a password in its URL, and the heartbeat."""
    server = Receiver()
    places.set(
        DBSYNC_ALERT_URLS=f"json://bob:hunter2@{server.address}/in",
        DBSYNC_HEARTBEAT_URL=f"http://{server.address}/beat",
    )
    yield server
    server.close()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


# Delivery -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("json://a", ("json://a",)),
        ("json://a, mailto://b?to=x,y\n tgram://c", ("json://a", "mailto://b?to=x,y", "tgram://c")),
    ],
)
def test_the_setting_holds_any_number_of_urls(text: str, expected: tuple[str, ...]) -> None:
    assert notify.urls(text) == expected


def test_an_alert_arrives_and_carries_no_secret(receiver: Receiver, places: Places) -> None:
    logged: list[str] = []
    assert (
        notify.send(
            load(), "a title", "cannot reach postgresql://bob:hunter2@host/db", logged.append
        )
        == 1
    )
    assert receiver.alerts == [("a title", "cannot reach [hidden]")] and logged == []


def test_an_undelivered_alert_is_logged_without_its_url_and_the_others_arrive(
    receiver: Receiver, places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bad = "jsons://bob:hunter2@127.0.0.1:1/x, nonsense://hunter2, "
    places.set(DBSYNC_ALERT_URLS=bad + load().alert_urls.get_secret_value())
    logged: list[str] = []
    assert notify.send(load(), "a title", "a body", logged.append) == 1
    assert [line.split(" in ")[0] for line in logged] == [
        "alert 1 of 3",
        "alert 2 of 3",
    ] and "(jsons)" in logged[0]
    assert SECRET.decode() not in "".join(logged) + caplog.text
    assert receiver.alerts == [("a title", "a body")]


def test_a_mail_has_the_text_unchanged_line_by_line(places: Places) -> None:
    with mail_server() as (address, taken):
        places.set(
            DBSYNC_ALERT_URLS=f"mailto://{address}/?from=dbsync@example.org&to=ops@example.org&mode=insecure"
        )
        assert notify.send(load(), "azure was not synced", "key <b>7</b>: ñ 漢字\nRun 1") == 1
    (mail,) = taken
    text = mail.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert (mail["Subject"], mail.get_content_type()) == ("azure was not synced", "text/plain")
    assert text.decode().split("\r\n") == ["key <b>7</b>: ñ 漢字", "Run 1", ""]


def test_the_settings_do_not_show_the_urls(receiver: Receiver, places: Places) -> None:
    assert SECRET.decode() not in repr(load()) + str(load().model_dump())


def test_a_failed_heartbeat_is_only_logged(receiver: Receiver, places: Places) -> None:
    logged: list[str] = []
    assert notify.heartbeat(load(), logged.append) and receiver.beats == ["/beat"]
    for url in (f"http://{receiver.address}/broken", "http://bob:hunter2@127.0.0.1:1/"):
        places.set(DBSYNC_HEARTBEAT_URL=url)
        assert not notify.heartbeat(load(), logged.append)
    assert len(logged) == 2 and SECRET.decode() not in "".join(logged)


# Runs ---------------------------------------------------------------------------------------------


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


def run(instance: DagsterInstance, target: str) -> DagsterRun:
    """Run a sync as the command line does, in this process; return it as Dagster stores it."""
    done = launch.sync_job().execute_in_process(
        partition_key=target, instance=instance, raise_on_error=False
    )
    found = instance.get_run_by_id(done.run_id)
    assert found is not None
    return found


def test_a_good_sync_sends_a_heartbeat_and_a_refused_one_a_single_alert(
    receiver: Receiver, places: Places, instance: DagsterInstance
) -> None:
    assert run(instance, "azure").status == DagsterRunStatus.SUCCESS
    assert receiver.beats == ["/beat"] and receiver.alerts == []
    assert (
        run(instance, "windows").status == DagsterRunStatus.SUCCESS
    )  # the primary's own partition is no sync
    assert receiver.beats == ["/beat"]
    execute(places.named("windows"), "DELETE FROM user_memory")
    refused = run(instance, "azure")
    ((title, body),) = receiver.alerts
    assert title == "dbsync: azure was not synced from windows"
    assert (
        "the source's table is empty" in body
        and "--max-change-fraction 1" in body
        and refused.run_id in body
    )
    assert receiver.beats == ["/beat"] and not alerts.needs_alert(refused)
    assert refused.tags[alerts.RETRY_TAG] == "false"
    evaluate_alert_sensor(instance, refused)
    assert len(receiver.alerts) == 1


def test_an_alert_that_fails_leaves_the_failure_as_it_was(
    places: Places, instance: DagsterInstance
) -> None:
    places.set(DBSYNC_ALERT_URLS="json://bob:hunter2@127.0.0.1:1/in")
    places.out_of_reach("azure")
    failed = run(instance, "azure")
    assert failed.status == DagsterRunStatus.FAILURE and failed.tags[alerts.RETRY_TAG] == "true"


def evaluate_alert_sensor(instance: DagsterInstance, failed: DagsterRun) -> None:
    """Evaluate the sensor for that run, as the daemon does."""
    instance.report_run_failed(failed)
    event = instance.get_records_for_run(failed.run_id).records[-1].event_log_entry.dagster_event
    assert event is not None
    context = build_run_status_sensor_context(
        "alert_on_failure", event, instance, failed
    ).for_run_failure()
    defs.resolve_sensor_def("alert_on_failure")(context)


def test_the_daemon_alerts_for_a_run_that_was_killed(
    receiver: Receiver, places: Places, instance: DagsterInstance
) -> None:
    killed = instance.create_run_for_job(
        launch.sync_job(), tags={"dagster/partition": "linux"}, status=DagsterRunStatus.STARTED
    )
    evaluate_alert_sensor(instance, killed)
    ((title, body),) = receiver.alerts
    assert (
        title == "dbsync: linux was not synced from the primary"
        and "the run's process is gone: it was killed" in body
    )


@pytest.mark.parametrize("silent_minutes", [1, 4])
def test_a_run_that_is_alive_after_all_sends_no_alert(
    receiver: Receiver, places: Places, instance: DagsterInstance, silent_minutes: int
) -> None:
    sign = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=silent_minutes)
    tags = {"dagster/partition": "linux", run_tags.ALIVE_TAG: sign.isoformat()}
    run = instance.create_run_for_job(launch.sync_job(), tags=tags, status=DagsterRunStatus.STARTED)
    evaluate_alert_sensor(instance, run)
    assert bool(receiver.alerts) is (silent_minutes > 3)


@op
def fail_over() -> None:
    """Stand for the op of a failover."""


@job
def failover_job() -> None:
    fail_over()


def test_the_daemon_sends_the_note_of_a_failover(
    receiver: Receiver, places: Places, instance: DagsterInstance
) -> None:
    for tags in ({}, {run_tags.NOTE_TAG: "linux was promoted"}):
        done = failover_job.execute_in_process(instance=instance, tags=tags)
        run, event = instance.get_run_by_id(done.run_id), done.get_run_success_event()
        assert run is not None
        defs.resolve_sensor_def("alert_on_note")(
            build_run_status_sensor_context("alert_on_note", event, instance, run)
        )
    assert [(title, body.split("\n")[0]) for title, body in receiver.alerts] == [
        ("dbsync: failover_job has run", "linux was promoted")
    ]


@pytest.mark.parametrize(
    ("job_name", "tags", "needed"),
    [
        ("sync_job", {}, True),
        ("sync_job", {run_tags.ALERTED_TAG: "1"}, False),
        ("sync_job", {run_tags.ALERTED_TAG: "its parent's"}, True),
        ("failover_job", {}, True),
        ("readiness_job", {}, True),
        ("of_another_project", {}, False),
    ],
)
def test_which_failed_runs_need_an_alert_of_the_daemon(
    job_name: str, tags: dict[str, str], needed: bool
) -> None:
    run = DagsterRun(job_name=job_name, run_id="1", tags=tags)
    assert alerts.needs_alert(run) is needed


# Runs whose process is gone -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job_name", "sign", "updated", "dead"),
    [
        ("sync_job", NOW - dt.timedelta(minutes=1), NOW - dt.timedelta(hours=5), False),
        ("sync_job", NOW - dt.timedelta(minutes=4), NOW - dt.timedelta(hours=5), True),
        (
            "sync_job",
            NOW - dt.timedelta(hours=5),
            NOW - dt.timedelta(minutes=1),
            False,
        ),  # a retry has its parent's tags
        ("sync_job", None, NOW - dt.timedelta(minutes=4), True),
        ("sync_job", None, NOW - dt.timedelta(minutes=1), False),
        ("of_another_project", None, NOW - dt.timedelta(hours=5), False),
    ],
)
def test_a_run_without_a_recent_sign_of_life_is_dead(
    job_name: str, sign: dt.datetime | None, updated: dt.datetime, dead: bool
) -> None:
    tags = {run_tags.ALIVE_TAG: sign.isoformat()} if sign else {}
    assert (
        reaper.is_dead(DagsterRun(job_name=job_name, run_id="1", tags=tags), updated, NOW) is dead
    )


def test_a_materialization_from_the_ui_that_ended_before_its_first_sign_is_dead() -> None:
    run = DagsterRun(job_name="__ASSET_JOB", run_id="1", tags={run_tags.TARGET_TAG: "linux"})
    assert reaper.is_dead(run, NOW - dt.timedelta(minutes=4), NOW)


def test_a_dead_run_is_ended_and_frees_its_target(instance: DagsterInstance) -> None:
    at = dt.datetime.now(dt.UTC)
    tags = {"dagster/partition": "linux", run_tags.ALIVE_TAG: at.isoformat()}
    killed = instance.create_run_for_job(
        launch.sync_job(), tags=tags, status=DagsterRunStatus.STARTED
    )
    assert (
        reaper.end_dead_runs(instance, at) == []
        and run_tags.active_run(instance, "linux") is not None
    )
    assert reaper.end_dead_runs(instance, at + dt.timedelta(minutes=4)) == [killed.run_id]
    found = instance.get_run_by_id(killed.run_id)
    assert (
        found
        and found.status == DagsterRunStatus.FAILURE
        and run_tags.active_run(instance, "linux") is None
    )


# Standbys -----------------------------------------------------------------------------------------

STANDBY = Report("linux", False, True, {})


@pytest.mark.parametrize(
    ("report", "before", "title"),
    [
        (STANDBY, {}, None),
        (replace(STANDBY, reasons={AGE: "old"}), {}, "dbsync: linux is older than it should be"),
        (replace(STANDBY, reasons={AGE: "older"}), {AGE: "old"}, None),
        (
            replace(STANDBY, ready=False, reasons={WHOLE: "mixed"}),
            {AGE: "old"},
            "dbsync: linux could not take over now",
        ),
        (replace(STANDBY, reasons={}), {AGE: "old"}, "dbsync: linux is well again"),
        (
            Report("windows", True, False, {REACHABLE: "no"}),
            {},
            "dbsync: windows (the primary) does not answer",
        ),
        (Report("windows", True, True, {}), {REACHABLE: "no"}, "dbsync: windows is well again"),
    ],
)
def test_an_alert_is_sent_only_of_changes(
    report: Report, before: dict[str, str], title: str | None
) -> None:
    assert [sent for sent, _ in readiness.news(report, before)] == ([title] if title else [])


def test_readiness_covers_every_partition_and_alerts_once_per_change(
    receiver: Receiver, places: Places, instance: DagsterInstance
) -> None:
    sync(places.named("windows"), places.named("linux"))
    sync(places.named("windows"), places.named("azure"))
    check_readiness(instance)
    assert receiver.alerts == []
    pausing.pause(places.named("azure"), "a test")
    check_readiness(instance)
    check_readiness(instance)
    ((title, body),) = receiver.alerts
    assert (
        title == "dbsync: azure could not take over now"
        and ": a test" in body
        and "dbsync resume azure" in body
    )
    assert (
        passed(instance, "linux", RELEASED) is True and passed(instance, "azure", RELEASED) is False
    )
    assert passed(instance, "azure", WHOLE) is True
    places.set(DBSYNC_MAX_AGE_HOURS="0.000001")  # the same as waiting without a sync
    check_readiness(instance)
    assert [title for title, _ in receiver.alerts[1:]] == [
        "dbsync: linux is older than it should be",
        "dbsync: azure could not take over now",
    ]
    assert passed(instance, "linux", AGE) is False


def check_readiness(
    instance: DagsterInstance, selection: Sequence[AssetKey] | None = None
) -> ExecuteInProcessResult:
    done = defs.resolve_job_def("readiness_job").execute_in_process(
        instance=instance, asset_selection=selection
    )
    assert done.success
    return done


def passed(instance: DagsterInstance, name: str, check: str) -> bool:
    """Return what Dagster's pages show for that check of that database."""
    key = AssetCheckKey(readiness.standby_key(name), check)
    (found,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    return found.status == AssetCheckExecutionRecordStatus.SUCCEEDED


def test_a_person_checks_one_standby_by_observing_it(
    receiver: Receiver, places: Places, instance: DagsterInstance
) -> None:
    """It is the same alert as of the schedule, and sent once."""
    sync(places.named("windows"), places.named("linux"))
    pausing.pause(places.named("linux"), "a test")
    done = check_readiness(instance, [readiness.standby_key("linux")])
    found = {one.check_name: one.passed for one in done.get_asset_check_evaluations()}
    assert set(found) == set(CHECKS) and not found.pop(RELEASED) and all(found.values())
    last = readiness.last_check(instance, "linux")
    assert last is not None and list(last.reasons) == [RELEASED]
    assert readiness.last_check(instance, "azure") is None
    assert [title for title, _ in receiver.alerts] == ["dbsync: linux could not take over now"]
    check_readiness(instance)
    assert len([title for title, _ in receiver.alerts if "linux" in title]) == 1
    assert instance.get_latest_materialization_event(readiness.standby_key("linux")) is None


def test_a_person_runs_one_check(places: Places, instance: DagsterInstance) -> None:
    sync(places.named("windows"), places.named("linux"))
    job = defs.resolve_implicit_global_asset_job_def()
    key = AssetCheckKey(readiness.standby_key("linux"), WHOLE)
    done = job.get_subset(asset_selection=set(), asset_check_selection={key}).execute_in_process(
        instance=instance
    )
    assert [one.asset_check_key for one in done.get_asset_check_evaluations()] == [key]
    assert readiness.last_check(instance, "linux") is None
    of_the_pages = DagsterRun(job_name="__ASSET_JOB", asset_check_selection=frozenset({key}))
    assert run_tags.checks_standby(of_the_pages) and not run_tags.is_sync(of_the_pages)
