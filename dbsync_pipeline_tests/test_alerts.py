"""Alerts: they arrive at a real receiver, once; one that cannot be delivered fails nothing and shows no URL."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    build_run_status_sensor_context,
    job,
    op,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from dbsync_pipeline import notify
from dbsync_pipeline.definitions import defs
from dbsync_pipeline.defs import alerts, readiness, run_tags
from dbsync_pipeline.mirror import pausing
from dbsync_pipeline.mirror.ready import AGE, REACHABLE, RELEASED, WHOLE, Report
from dbsync_pipeline.runs import launch
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.mail import mail_server
from dbsync_pipeline_tests.places import SECRET, Places
from dbsync_pipeline_tests.receiver import Receiver
from dbsync_pipeline_tests.worlds import execute, sync

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
def receiver(places: Places) -> Iterator[Receiver]:
    """A receiver that the settings name twice: as alerts, with a password, and as the heartbeat."""
    made = Receiver()
    places.set(
        DBSYNC_ALERT_URLS=f"json://bob:hunter2@{made.address}/in",
        DBSYNC_HEARTBEAT_URL=f"http://{made.address}/beat",
    )
    yield made
    made.close()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


# The door --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("json://a", ("json://a",)),
        ("json://a, mailto://b?to=x,y\n tgram://c", ("json://a", "mailto://b?to=x,y", "tgram://c")),
    ],
)
def test_any_number_of_urls(text: str, found: tuple[str, ...]) -> None:
    assert notify.urls(text) == found


def test_an_alert_arrives_and_carries_no_secret(receiver: Receiver, places: Places) -> None:
    said: list[str] = []
    assert (
        notify.send(load(), "a title", "cannot reach postgresql://bob:hunter2@host/db", said.append)
        == 1
    )
    assert receiver.alerts == [("a title", "cannot reach [hidden]")] and said == []


def test_what_cannot_be_delivered_is_said_without_its_url_and_hinders_no_other(
    receiver: Receiver, places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bad = "jsons://bob:hunter2@127.0.0.1:1/x, nonsense://hunter2, "
    places.set(DBSYNC_ALERT_URLS=bad + load().alert_urls.get_secret_value())
    said: list[str] = []
    assert notify.send(load(), "a title", "a body", said.append) == 1
    assert [one.split(" in ")[0] for one in said] == [
        "alert 1 of 3",
        "alert 2 of 3",
    ] and "(jsons)" in said[0]
    assert SECRET.decode() not in "".join(said) + caplog.text
    assert receiver.alerts == [("a title", "a body")]


def test_a_mail_says_it_line_by_line_and_as_it_is(places: Places) -> None:
    with mail_server() as (address, taken):
        places.set(
            DBSYNC_ALERT_URLS=f"mailto://{address}/?from=dbsync@example.org&to=ops@example.org&mode=insecure"
        )
        assert notify.send(load(), "azure was not synced", "key <b>7</b>: ñ 漢字\nRun 1") == 1
    (mail,) = taken
    said = mail.get_payload(decode=True)
    assert isinstance(said, bytes)
    assert (mail["Subject"], mail.get_content_type()) == ("azure was not synced", "text/plain")
    assert said.decode().split("\r\n") == ["key <b>7</b>: ñ 漢字", "Run 1", ""]


def test_the_settings_do_not_show_the_urls(receiver: Receiver, places: Places) -> None:
    assert SECRET.decode() not in repr(load()) + str(load().model_dump())


def test_a_heartbeat_that_fails_is_only_said(receiver: Receiver, places: Places) -> None:
    said: list[str] = []
    assert notify.heartbeat(load(), said.append) and receiver.beats == ["/beat"]
    for url in (
        f"http://{receiver.address}/broken",
        "http://bob:hunter2@127.0.0.1:1/",
        "file:///etc/hostname",
    ):
        places.set(DBSYNC_HEARTBEAT_URL=url)
        assert not notify.heartbeat(load(), said.append)
    assert len(said) == 3 and SECRET.decode() not in "".join(said)


# Runs ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


def run(instance: DagsterInstance, target: str) -> DagsterRun:
    """A run of the command line, in this process; as it stands in Dagster afterwards."""
    done = launch.sync_job().execute_in_process(
        partition_key=target, instance=instance, raise_on_error=False
    )
    found = instance.get_run_by_id(done.run_id)
    assert found is not None
    return found


def test_a_good_sync_beats_and_a_refused_one_tells_once(
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
    assert receiver.beats == ["/beat"] and not alerts.is_unreported(refused)
    assert refused.tags[alerts.RETRY_TAG] == "false"
    told_by_the_daemon(instance, refused)
    assert len(receiver.alerts) == 1


def test_an_alert_that_fails_leaves_the_failure_as_it_was(
    places: Places, instance: DagsterInstance
) -> None:
    places.set(DBSYNC_ALERT_URLS="json://bob:hunter2@127.0.0.1:1/in")
    places.out_of_reach("azure")
    failed = run(instance, "azure")
    assert failed.status == DagsterRunStatus.FAILURE and failed.tags[alerts.RETRY_TAG] == "true"


def told_by_the_daemon(instance: DagsterInstance, failed: DagsterRun) -> None:
    """The daemon's sensor, evaluated for that run."""
    instance.report_run_failed(failed)
    event = instance.get_records_for_run(failed.run_id).records[-1].event_log_entry.dagster_event
    assert event is not None
    context = build_run_status_sensor_context(
        "alert_on_failure", event, instance, failed
    ).for_run_failure()
    defs.resolve_sensor_def("alert_on_failure")(context)


def test_of_a_run_that_was_killed_the_daemon_tells(
    receiver: Receiver, places: Places, instance: DagsterInstance
) -> None:
    killed = instance.create_run_for_job(
        launch.sync_job(), tags={"dagster/partition": "linux"}, status=DagsterRunStatus.STARTED
    )
    told_by_the_daemon(instance, killed)
    ((title, body),) = receiver.alerts
    assert (
        title == "dbsync: linux was not synced from the primary"
        and "the run's process is gone: it was killed" in body
    )


@op
def fail_over() -> None:
    """What a failover does."""


@job
def failover_job() -> None:
    fail_over()


def test_of_a_failover_the_daemon_tells_what_the_run_noted(
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
    ("job_name", "tags", "told"),
    [
        ("sync_job", {}, True),
        ("sync_job", {run_tags.ALERTED_TAG: "1"}, False),
        ("sync_job", {run_tags.ALERTED_TAG: "its parent's"}, True),
        ("failover_job", {}, True),
        ("readiness_job", {}, True),
        ("of_another_project", {}, False),
    ],
)
def test_of_which_runs_the_daemon_tells(job_name: str, tags: dict[str, str], told: bool) -> None:
    assert alerts.is_unreported(DagsterRun(job_name=job_name, run_id="1", tags=tags)) is told


# Runs whose process is gone --------------------------------------------------------------------------------------------


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
def test_whose_process_is_gone(
    job_name: str, sign: dt.datetime | None, updated: dt.datetime, dead: bool
) -> None:
    tags = {run_tags.ALIVE_TAG: sign.isoformat()} if sign else {}
    assert (
        alerts.is_dead(DagsterRun(job_name=job_name, run_id="1", tags=tags), updated, NOW) is dead
    )


def test_a_materialization_in_the_pages_that_ended_before_its_first_sign_is_dead_too() -> None:
    run = DagsterRun(job_name="__ASSET_JOB", run_id="1", tags={run_tags.TARGET_TAG: "linux"})
    assert alerts.is_dead(run, NOW - dt.timedelta(minutes=4), NOW)


def test_a_dead_run_is_ended_and_its_target_is_free_again(instance: DagsterInstance) -> None:
    at = dt.datetime.now(dt.UTC)
    tags = {"dagster/partition": "linux", run_tags.ALIVE_TAG: at.isoformat()}
    killed = instance.create_run_for_job(
        launch.sync_job(), tags=tags, status=DagsterRunStatus.STARTED
    )
    assert (
        alerts.end_dead_runs(instance, at) == []
        and run_tags.active_run(instance, "linux") is not None
    )
    assert alerts.end_dead_runs(instance, at + dt.timedelta(minutes=4)) == [killed.run_id]
    found = instance.get_run_by_id(killed.run_id)
    assert (
        found
        and found.status == DagsterRunStatus.FAILURE
        and run_tags.active_run(instance, "linux") is None
    )


# Standbys --------------------------------------------------------------------------------------------------------------

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
def test_what_is_news(report: Report, before: dict[str, str], title: str | None) -> None:
    assert [told for told, _ in readiness.news(report, before)] == ([title] if title else [])


def test_the_readiness_of_every_partition_and_one_alert_for_each_change(
    receiver: Receiver, places: Places, instance: DagsterInstance
) -> None:
    sync(places.named("windows"), places.named("linux"))
    sync(places.named("windows"), places.named("azure"))
    look(instance)
    assert receiver.alerts == []
    pausing.pause(places.named("azure"), "paused by a test")
    look(instance)
    look(instance)
    ((title, body),) = receiver.alerts
    assert (
        title == "dbsync: azure could not take over now"
        and "held: paused by a test" in body
        and "dbsync release azure" in body
    )
    assert (
        passed(instance, "linux", RELEASED) is True and passed(instance, "azure", RELEASED) is False
    )
    assert passed(instance, "azure", WHOLE) is True
    places.set(DBSYNC_MAX_AGE_HOURS="0.000001")  # time goes by, and no sync runs
    look(instance)
    assert [title for title, _ in receiver.alerts[1:]] == [
        "dbsync: linux is older than it should be",
        "dbsync: azure could not take over now",
    ]
    assert passed(instance, "linux", AGE) is False


def look(instance: DagsterInstance) -> None:
    assert defs.resolve_job_def("readiness_job").execute_in_process(instance=instance).success


def passed(instance: DagsterInstance, name: str, check: str) -> bool:
    """What Dagster's pages show of that check for that database."""
    key = AssetCheckKey(AssetKey(list(run_tags.STANDBY)), check)
    (found,) = instance.event_log_storage.get_asset_check_partition_info(
        [key], partition_keys=[name]
    )
    assert found.is_current
    return found.latest_execution_status == AssetCheckExecutionRecordStatus.SUCCEEDED


def test_one_partition_is_looked_at_by_hand(places: Places, instance: DagsterInstance) -> None:
    sync(places.named("windows"), places.named("linux"))
    from dagster import materialize

    from dbsync_pipeline.definitions import standby

    done = materialize([standby], partition_key="linux", instance=instance)
    checks = {one.check_name: one.passed for one in done.get_asset_check_evaluations()}
    assert done.success and set(checks) == set(readiness.ready.CHECKS) and all(checks.values())
