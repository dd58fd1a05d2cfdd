"""Failover in Dagster and on the command line: what the sensors request, what the jobs do, and what
a person reads."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    SensorDefinition,
    build_sensor_context,
)

from dbsync_pipeline.defs import failover
from dbsync_pipeline.defs.connections import connections
from dbsync_pipeline.defs.probing import Cursor
from dbsync_pipeline.defs.run_tags import NOTE_TAG, ROUND_TAG, round_of
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.ledger import Ledger, Term
from dbsync_pipeline.policy import Overrides
from dbsync_pipeline.request import SyncOptions
from dbsync_pipeline.runs import history, launch
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.places import SECRET, Places
from dbsync_pipeline_tests.silent import silent_server
from dbsync_pipeline_tests.test_cli import Dbsync, dbsync  # noqa: F401
from dbsync_pipeline_tests.worlds import MODEL, content, execute, sync, user

users = MODEL.table("users").sa


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """windows with a small world, and linux and azure equal to it."""
    places = Places(tmp_path, monkeypatch)
    for name in ("linux", "azure"):
        sync(places.named("windows"), places.named(name), round_id="first")
    return places


@pytest.fixture
def instance(places: Places) -> Iterator[DagsterInstance]:
    with places.dagster() as opened:
        yield opened


def gone(places: Places, name: str = "windows") -> None:
    places.out_of_reach(name)


def back(places: Places) -> None:
    places.set(DBSYNC_WINDOWS_URL=f"sqlite:///{places.folder / '.dbsync' / 'windows.db'}")


def terms(places: Places) -> dict[str, Term | None]:
    return {name: term.read_term(places.named(name)) for name in ("windows", "linux", "azure")}


class Sensor:
    """One of the sensors, evaluated as the daemon does: each tick gets the cursor of the last one."""

    def __init__(self, name: str, instance: DagsterInstance | None = None) -> None:
        self._instance = instance or DagsterInstance.ephemeral()
        self._sensor: SensorDefinition = next(
            one for one in failover.sensors(load()) if one.name == name
        )
        self.cursor: str | None = None

    def tick(self) -> tuple[list[str], str]:
        """Return (requested run keys, skip reason)."""
        result: Any = self._sensor.evaluate_tick(
            build_sensor_context(
                self._instance,
                self.cursor,
                sensor_name=self._sensor.name,
                resources=connections(load()),
            )
        )
        self.cursor = result.cursor
        self.tags = [request.tags for request in result.run_requests or []]
        return [
            str(request.run_key) for request in result.run_requests or []
        ], result.skip_message or ""


# The failover sensor ------------------------------------------------------------------------------


def test_an_outage_has_one_run_key_however_often_the_sensor_ticks(places: Places) -> None:
    places.set(DBSYNC_FAILOVER_GRACE_SECONDS="0")
    sensor = Sensor("failover")
    assert sensor.tick() == ([], "windows answers")
    gone(places)
    assert (
        "did not answer 1 probe in a row" in sensor.tick()[1]
        and "did not answer 2 probes" in sensor.tick()[1]
    )
    (first,), _ = sensor.tick()
    (again,), _ = sensor.tick()
    assert first == again and first.startswith("windows 20")
    back(places)
    assert sensor.tick() == ([], "windows answers")
    gone(places)
    sensor.tick(), sensor.tick()
    (other,), _ = sensor.tick()
    assert other != first


@pytest.mark.parametrize("name", ["failover", "primary_back"])
def test_a_standby_sleeps_while_the_known_primary_answers(places: Places, name: str) -> None:
    connected = list[str]()
    opened = Database.connect

    def connect(database: Database, *arguments: Any, **options: Any) -> Any:
        connected.append(database.name)
        return opened(database, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "connect", connect)
        sensor = Sensor(name)
        sensor.tick()
        assert set(connected) == {"windows", "linux", "azure"}, "it does not know the primary yet"
        connected.clear()
        sensor.tick()
        assert connected == ["windows"]
        remembered = Cursor.from_text(sensor.cursor)
        hours_ago = remembered.all_at - dt.timedelta(hours=7)
        sensor.cursor = replace(remembered, all_at=hours_ago).to_text()
        sensor.tick()
        assert {"linux", "azure"} < set(connected), "all databases, every six hours"
        gone(places)
        connected.clear()
        sensor.tick()
        assert {"linux", "azure"} < set(connected), "the primary does not answer"


def test_a_failed_run_is_followed_by_another_up_to_a_limit(
    places: Places, instance: DagsterInstance
) -> None:
    places.set(DBSYNC_FAILOVER_GRACE_SECONDS="0", DBSYNC_FAILOVER_AFTER_FAILURES="1")
    gone(places)
    sensor, keys = Sensor("failover", instance), list[str]()
    for _ in range(5):
        (key,), _ = sensor.tick()
        assert sensor.tick()[0] == [key], "no other run before this one failed"
        keys.append(key)
        instance.create_run_for_job(
            launch.failover_job(), tags=sensor.tags[0], status=DagsterRunStatus.FAILURE
        )
    assert len(set(keys)) == 3 and keys[2] == keys[3] == keys[4]


def test_a_sensor_changes_nothing(places: Places) -> None:
    places.set(DBSYNC_FAILOVER_GRACE_SECONDS="0", DBSYNC_FAILOVER_AFTER_FAILURES="1")
    execute(places.named("linux"), (users.insert(), [user(900)]))
    gone(places)
    before = {path: path.read_bytes() for path in places.folder.rglob("*.db")}
    keys, _ = Sensor("failover").tick()
    assert (
        len(keys) == 1
        and {path: path.read_bytes() for path in places.folder.rglob("*.db")} == before
    )


def test_within_the_grace_and_without_any_answer_nothing_is_requested(places: Places) -> None:
    sensor = Sensor("failover")
    gone(places)
    assert [sensor.tick()[0] for _ in range(5)] == [[]] * 5, (
        "five failures within seconds are not an outage"
    )
    places.set(DBSYNC_FAILOVER_GRACE_SECONDS="0")
    for name in ("linux", "azure"):
        places.set(**{f"DBSYNC_{name.upper()}_URL": f"postgresql://bob:hunter2@127.0.0.1:1/{name}"})
    assert "the monitor may be cut off" in sensor.tick()[1]
    assert Cursor.from_text(sensor.cursor).own == "nothing"


def test_off_and_alert(places: Places) -> None:
    places.set(
        DBSYNC_FAILOVER_GRACE_SECONDS="0", DBSYNC_FAILOVER_AFTER_FAILURES="1", DBSYNC_FAILOVER="off"
    )
    gone(places)
    sensor = Sensor("failover")
    assert sensor.tick() == ([], "DBSYNC_FAILOVER is off")
    places.set(DBSYNC_FAILOVER="alert")
    assert len(sensor.tick()[0]) == 1 and sensor.tags[0][failover.MODE_TAG] == "alert"


def test_a_database_that_hangs_does_not_hang_the_sensor(places: Places) -> None:
    places.set(
        DBSYNC_FAILOVER_GRACE_SECONDS="0",
        DBSYNC_FAILOVER_AFTER_FAILURES="1",
        DBSYNC_CONNECT_SECONDS="2",
    )
    gone(places)
    with silent_server() as url:
        places.set(DBSYNC_WINDOWS_URL=url, DBSYNC_AZURE_URL=f"{url}2")
        started = time.monotonic()
        keys, _ = Sensor("failover").tick()
        assert len(keys) == 1 and time.monotonic() - started < 30, (
            "both are probed at the same time, within the deadline"
        )


def test_the_sensors_are_loaded_and_start_with_the_daemon() -> None:
    from dbsync_pipeline.definitions import defs

    found = {one.name: one for one in defs.sensors or () if isinstance(one, SensorDefinition)}
    for name, job in (("failover", "failover_job"), ("primary_back", "primary_back_job")):
        assert found[name].default_status.value == "RUNNING" and found[name].job_name == job
        assert found[name].minimum_interval_seconds == 60


# The jobs -----------------------------------------------------------------------------------------


def test_the_job_promotes_with_evidence_and_history_and_alerts_have_it(
    places: Places, instance: DagsterInstance
) -> None:
    execute(places.named("linux"), (users.insert(), [user(900)]))
    gone(places)
    done = launch.failover(instance)
    assert (
        done.succeeded
        and done.report is not None
        and done.report["promotion"]["primary"] == "linux"
    )
    back(places)
    assert terms(places) == {"windows": None, "linux": Term(1, "linux"), "azure": Term(1, "linux")}
    assert content(places.named("azure")) == content(places.named("linux"))
    (run,) = history.read(instance)
    assert (run.run_id, run.source, run.target, run.tables["users"].inserted) == (
        done.run_id,
        "linux",
        "azure",
        1,
    )
    tags = instance.get_run_by_id(done.run_id).tags  # type: ignore[union-attr]
    assert "point the application to it" in tags[NOTE_TAG] and done.note == tags[NOTE_TAG]
    assert SECRET not in places.shown()


def test_a_primary_that_answers_again_is_left_alone(
    places: Places, instance: DagsterInstance
) -> None:
    execute(places.named("linux"), (users.insert(), [user(900)]))
    done = launch.failover(instance)  # as if the primary answered after the sensor's request
    assert done.succeeded and done.note == "windows answers"
    assert NOTE_TAG not in instance.get_run_by_id(done.run_id).tags  # type: ignore[union-attr]
    assert terms(places) == dict.fromkeys(("windows", "linux", "azure"))


def test_in_alert_mode_the_run_fails_with_what_a_person_should_do(
    places: Places, instance: DagsterInstance
) -> None:
    execute(places.named("linux"), (users.insert(), [user(900)]))
    gone(places)
    job = launch.failover_job()
    result = job.execute_in_process(
        instance=instance, tags={failover.MODE_TAG: "alert"}, raise_on_error=False
    )
    reason = history.read_one(instance, result.run_id).reason or ""
    assert (
        not result.success
        and "the application writes to linux (users)" in reason
        and "promote linux" in reason
    )
    back(places)
    assert terms(places) == dict.fromkeys(("windows", "linux", "azure"))


def test_failback_after_a_failover(places: Places, instance: DagsterInstance) -> None:
    execute(places.named("windows"), (users.insert(), [user(700)]))
    execute(places.named("linux"), (users.insert(), [user(900)]))
    gone(places)
    assert launch.failover(instance).succeeded
    sensor = Sensor("primary_back")
    assert sensor.tick()[0] == []
    back(places)
    (key,), _ = sensor.tick()
    assert sensor.tick()[0] == [key], "one run per return: Dagster runs a key once"
    reported = launch.primary_back_job().execute_in_process(instance=instance)
    assert "linux is the primary" in instance.get_run_by_id(reported.run_id).tags[NOTE_TAG]  # type: ignore[union-attr]
    done = launch.failback(instance, Overrides(), lambda *_: None)
    assert done.succeeded and done.report is not None, done.reason
    assert done.report["rescued"] == {"users": {"deleted": [[700]], "replaced": []}}
    assert terms(places) == dict.fromkeys(("windows", "linux", "azure"), Term(2, "windows"))
    assert content(places.named("windows")) == content(places.named("linux"))
    assert sensor.tick()[0] == [] and Cursor.from_text(sensor.cursor).own == "nothing"
    (run, *_) = history.read(instance)
    assert (run.source, run.target) == ("linux", "windows")
    assert "already" in (launch.failback(instance, Overrides(), lambda *_: None).reason or "")


# Rounds -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "round_id"),
    [
        ({}, "run"),
        ({ROUND_TAG: "tick 1"}, "tick 1"),
        ({"dagster/backfill": "abc"}, "abc"),
        (
            {ROUND_TAG: "tick 1", "dagster/parent_run_id": "p", "dagster/retry_number": "1"},
            "tick 1",
        ),
        ({ROUND_TAG: "tick 1", "dagster/parent_run_id": "p"}, "run"),  # by a person, days later
        ({"dagster/backfill": "abc", "dagster/parent_run_id": "p"}, "run"),
    ],
)
def test_a_run_is_of_the_round_of_its_request_or_of_its_own(
    tags: dict[str, str], round_id: str
) -> None:
    assert round_of(DagsterRun("sync_job", run_id="run", tags=tags)) == round_id


def test_the_targets_of_one_request_are_of_one_round(
    places: Places, instance: DagsterInstance
) -> None:
    request = SyncOptions().resolve(load(), MODEL)
    for target in request.targets:
        assert launch.sync(instance, request, target).succeeded
    rounds = set[str | None]()
    for target in request.targets:
        with places.named(target).connect() as dialect:
            last = Ledger(dialect).last()
        assert last is not None
        rounds.add(last.round)
    assert rounds == {request.round_id}


# The command line ---------------------------------------------------------------------------------


def test_the_command_line_rehearses_promotes_and_fails_back(places: Places, dbsync: Dbsync) -> None:  # noqa: F811
    rehearsed = dbsync("failover", "--dry-run", "--down")
    assert rehearsed.status == 0 and "dbsync promote azure" in rehearsed.out, rehearsed.err
    assert dbsync("failover", "--json").json["decision"]["why"] == "windows answers"
    assert dbsync("failover", "--down").status == 2
    gone(places)
    shown = dbsync("failover", "--dry-run", "--json").json
    assert shown["run_id"] is None and [one["answers"] for one in shown["seen"]] == [
        False,
        True,
        True,
    ]
    refused = dbsync("promote", "linux", "--json")
    assert refused.status == 1 and "minutes ago" in refused.json["error"]["cause"]
    assert refused.json["error"]["remedy"] == "dbsync promote linux --yes"
    done = dbsync("promote", "linux", "--yes", "--json")
    assert done.status == 0 and done.json["term"] == {"n": 1, "primary": "linux", "after": None}
    assert "is already the primary" in dbsync("promote", "linux", "--yes").out
    assert "linux is already the primary" in dbsync("promote", "linux").err
    assert dbsync("promote", "mars", "--yes").status == 2
    back(places)
    assert dbsync("status", "--json").json[1]["role"] == "primary"
    execute(places.named("linux"), (users.insert(), [user(900)]))
    assert dbsync("failback", "--json").json["error"]["remedy"] == "dbsync failback --yes"
    execute(places.named("linux"), "DELETE FROM user_memory")
    refused = dbsync("failback", "--yes")
    assert refused.status == 1 and "`dbsync failback --max-change-fraction 1`" in refused.err
    asked = dbsync(
        "failback", "--max-change-fraction", "1", "--max-change-rows", "1000000", "--json"
    )
    assert (
        asked.json["error"]["remedy"]
        == "dbsync failback --max-change-fraction 1.0 --max-change-rows 1000000 --yes"
    )
    end = dbsync("failback", "--max-change-fraction", "1", "--yes", "--json")
    assert (
        end.status == 0
        and end.json["status"] == "SUCCESS"
        and end.json["report"]["primary"] == "windows"
    ), end.err
    again = dbsync("failback", "--yes")
    assert again.status == 1 and "windows is already the primary" in again.err
    assert dbsync("sync", "--json").json["source"] == "windows"


def test_the_command_line_fails_over(places: Places, dbsync: Dbsync) -> None:  # noqa: F811
    execute(places.named("azure"), (users.insert(), [user(900)]))
    gone(places)
    assert "needs confirmation" in dbsync("failover").err
    done = dbsync("failover", "--yes")
    assert done.status == 0 and "azure is now the primary" in done.out, done.err
    assert [one.name for one in databases(load())] == ["windows", "linux", "azure"]
    assert content(places.named("linux")) == content(places.named("azure"))
    gone(places, "linux")
    alone = dbsync("failover", "--json")
    assert alone.status == 0 and alone.json["decision"]["why"] == "azure answers"
