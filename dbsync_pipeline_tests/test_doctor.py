"""`dbsync doctor` finds what is not in place for a sync, says how to fix it, and changes no row."""

from __future__ import annotations

import datetime as dt
import sqlite3
import time
from contextlib import closing
from typing import Any

import pytest

from dbsync_pipeline.dialects.sqlite.dialect import DIALECT
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.doctor import Check, examine
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.places import SECRET, Places
from dbsync_pipeline_tests.roles import Roles
from dbsync_pipeline_tests.test_cli import Dbsync, dbsync, places  # noqa: F401
from dbsync_pipeline_tests.test_privileges import LEDGER, STANDBY, bare, give, take
from dbsync_pipeline_tests.worlds import MODEL, content, execute, prepare, small_world

Found = dict[tuple[str | None, str], dict[str, Any]]


def checks(dbsync: Dbsync, status: int) -> Found:  # noqa: F811
    done = dbsync("doctor", "--json")
    assert done.status == status and SECRET.decode() not in done.out + done.err
    found: Found = {(check["database"], check["check"]): check for check in done.json}
    assert all((check["state"] == "ok") == (check["remedy"] is None) for check in found.values())
    return found


def test_everything_is_in_place(places: Places, dbsync: Dbsync) -> None:  # noqa: F811
    assert dbsync("sync", "--quiet").status == 0
    before = {name: content(places.named(name)) for name in ("windows", "linux", "azure")}
    found = checks(dbsync, 0)
    assert {name for name, check in found.items() if check["state"] != "ok"} == {
        (None, "alerts"),
        (None, "Dagster's daemon"),
    }
    assert ("linux", "write rights") in found and ("windows", "write rights") not in found
    assert {name: content(places.named(name)) for name in before} == before
    assert dbsync("sync", "--quiet").status == 0, "no lock and no fact is left behind"
    assert "linux: write rights: tables can be locked" in dbsync("doctor").out


def test_each_fault_is_found_with_its_remedy(places: Places, dbsync: Dbsync) -> None:  # noqa: F811
    assert dbsync("sync", "--target", "linux", "--quiet").status == 0
    execute(places.named("linux"), "ALTER TABLE users ADD COLUMN extra TEXT")
    found = checks(dbsync, 1)
    assert found["azure", "connection"]["state"] == "failed"
    assert "dbsync tables create --database azure" in found["azure", "connection"]["remedy"]
    assert "extra" in found["linux", "structure"]["detail"]
    assert ("linux", "write rights") not in found, "it would fail for the structure alone"
    places.out_of_reach("linux")
    assert checks(dbsync, 1)["linux", "connection"]["state"] == "failed"


def test_locks_that_are_taken_are_no_failure(places: Places, dbsync: Dbsync) -> None:  # noqa: F811
    assert dbsync("sync", "--quiet").status == 0
    with closing(sqlite3.connect(places.folder / ".dbsync" / "linux.db")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        found = {(one["database"], one["check"]): one for one in dbsync("doctor", "--json").json}
        writer.rollback()
    assert [one for one in found.values() if one["state"] == "failed"] == []
    assert found["linux", "write rights"]["state"] == "warning"


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [
        ("DBSYNC_PRIMARY", "mars", "settings"),
        ("DBSYNC_KEY_GAP", "-1", "settings"),
        ("DBSYNC_MODELS", "no.such.module", "settings"),
        ("DBSYNC_SCHEDULE", "never", "definitions"),
    ],
)
def test_wrong_settings_are_checks_that_failed(
    variable: str,
    value: str,
    name: str,
    places: Places,  # noqa: F811
    dbsync: Dbsync,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    places.set(**{variable: value})
    monkeypatch.delitem(sys.modules, "dbsync_pipeline.definitions", raising=False)
    assert checks(dbsync, 1)[None, name]["state"] == "failed"


def test_a_home_that_cannot_be_written_to_is_found(
    places: Places,  # noqa: F811
    dbsync: Dbsync,  # noqa: F811
) -> None:
    (places.folder / "file").touch()
    places.set(DAGSTER_HOME=str(places.folder / "file" / "below"))
    assert checks(dbsync, 1)[None, "Dagster's home"]["remedy"]


def test_clocks_that_differ_are_found(
    places: Places,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snapshot = DIALECT.snapshot

    def ahead(dialect: Any) -> dt.datetime:
        return snapshot(dialect) + dt.timedelta(seconds=90)

    monkeypatch.setattr(DIALECT, "snapshot", ahead)
    found = {
        check.name: check for check in examine(places.named("windows"), MODEL, is_primary=True)
    }
    assert found["clock"].state == "warning" and "90 seconds" in found["clock"].detail
    assert "NTP" in (found["clock"].remedy or "")


def of(database: Database) -> dict[str, Check]:
    return {check.name: check for check in examine(database, MODEL, is_primary=False)}


@pytest.fixture
def standby(new_database: NewDatabase, roles: Roles) -> tuple[Database, Database]:
    """A standby with a ledger that an administrator created, and the role of docs/security.md."""
    target = new_database("postgresql", "linux")
    prepare(target, small_world())
    schema.ensure(target, MODEL)
    role = bare(target, roles)
    give(target, role, STANDBY)
    give(target, role, LEDGER)
    return target, role


def test_the_rights_of_a_standby_are_enough(standby: tuple[Database, Database]) -> None:
    target, role = standby
    before, started = content(target), time.monotonic()
    assert [check for check in of(role).values() if check.state != "ok"] == []
    assert content(target) == before and time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("grant", "check"),
    [
        (("TEMPORARY", "DATABASE {database}"), "write rights"),
        (("DELETE", "TABLE users"), "write rights"),
        (("INSERT", "TABLE chats"), "write rights"),
        (("INSERT", "TABLE dbsync.facts"), "write rights"),
        (("SELECT", "TABLE messages"), "read rights"),
    ],
)
def test_a_right_that_is_missing_is_found(
    grant: tuple[str, str], check: str, standby: tuple[Database, Database]
) -> None:
    target, role = standby
    take(target, role, grant)
    found = of(role)
    assert found[check].state == "failed" and found[check].remedy
