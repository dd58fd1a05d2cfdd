"""The command line: what each verb does to real databases, its JSON, its exit status, and that no failure is a traceback."""

from __future__ import annotations

import importlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from dbsync_pipeline.cli import app
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.settings import load
from dbsync_pipeline.text import count
from dbsync_pipeline_tests import commands
from dbsync_pipeline_tests.places import SECRET, Places
from dbsync_pipeline_tests.processes import ROOT, free_port, wait_for
from dbsync_pipeline_tests.worlds import MODEL, content, execute, memory, prepare, user

users = MODEL.table("users").sa

VERBS = tuple(words for words, _ in commands.leaves())


@dataclass(frozen=True)
class Done:
    """How a command ended; `json` is what it printed on stdout, which must be one JSON value."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Dbsync = Callable[..., Done]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


@pytest.fixture
def dbsync(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dbsync:
    """The entry point itself, in this process."""

    def call(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["dbsync", *words])
        capsys.readouterr()
        status = 0
        try:
            app.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Done(status, out, err)

    return call


# The command as a whole ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_and_a_json_option(verb: str, dbsync: Dbsync) -> None:
    done = dbsync(*verb.split(), "--help")
    assert done.status == 0 and "--json" in done.out


def test_the_help_of_verify_speaks_of_comparing(dbsync: Dbsync) -> None:
    shown = dbsync("verify", "--help").out
    assert "compare" in shown and "copy" not in shown


def test_what_does_not_run_dagster_does_not_import_it(places: Places) -> None:
    program = """
import sys
from dbsync_pipeline.cli import app
for words in (["--help"], ["status"], ["plan"], ["tables", "check"], ["tables", "create"]):
    sys.argv = ["dbsync", *words]
    try:
        app.main()
    except SystemExit:
        pass
print([name for name in ("dagster", "pandas", "pyarrow") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=places.environment(ROOT),
    )
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["sync", "--source", "linux", "--target", "linux"],
            "linux is both the source and a target",
        ),
        (["sync", "--target", "mars"], "the databases are: windows, linux, azure"),
        (["sync", "--table", "moons"], "users, chats"),
        (["plan", "--source", "mars"], "the databases are: windows, linux, azure"),
        (
            ["tables", "recreate", "--database", "mars", "--yes-destroy", "mars"],
            "the databases are: windows, linux, azure",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_names(
    words: list[str], text: str, places: Places, dbsync: Dbsync
) -> None:
    done = dbsync(*words)
    assert done.status == 2 and text in done.err and done.out == ""
    error = dbsync(*words, "--json").json["error"]
    assert (
        set(error) == {"operation", "database", "table", "cause", "remedy"}
        and text in error["cause"]
    )


@pytest.mark.parametrize(
    ("words", "text", "remedy"),
    [
        (["plan", "--nope"], "--nope", "dbsync plan --help"),
        (["plan", "--max-change-rows", "few"], "--max-change-rows", "dbsync plan --help"),
        (["sync", "--max-change-fraction", "7"], "--max-change-fraction", "dbsync sync --help"),
        (["undo"], "RUN", "dbsync undo --help"),
        (["tables", "recreate"], "--database", "dbsync tables recreate --help"),
        (["nope"], "nope", "dbsync --help"),
    ],
)
def test_a_wrong_option_is_reported_as_json_with_json(
    words: list[str], text: str, remedy: str, places: Places, dbsync: Dbsync
) -> None:
    done = dbsync(*words, "--json")
    error = done.json["error"]
    assert (
        done.status == 2 and done.err == "" and text in error["cause"] and error["remedy"] == remedy
    )
    told = dbsync(*words)
    assert told.status == 2 and told.out == "" and text in told.err


@pytest.mark.parametrize(
    ("variable", "value", "words", "text"),
    [
        ("DBSYNC_HOME", "a_file/below", ["sync"], "Remedy: set DBSYNC_HOME"),
        (
            "DBSYNC_HOME",
            "a_file/below",
            ["tables", "create", "--database", "linux"],
            "Remedy: fix DBSYNC_HOME",
        ),
        ("DBSYNC_READINESS_SCHEDULE", "often", ["sync"], "DBSYNC_READINESS_SCHEDULE (not a cron"),
        ("DBSYNC_SCHEDULE", "never at all", ["sync"], "DBSYNC_SCHEDULE (not a cron expression"),
        ("DBSYNC_PRIMARY", "nosuch", ["plan"], "Remedy: name one of them in DBSYNC_PRIMARY"),
    ],
)
def test_an_impossible_setting_is_reported_by_name(
    variable: str,
    value: str,
    words: list[str],
    text: str,
    places: Places,
    dbsync: Dbsync,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (places.folder / "a_file").touch()
    places.set(**{variable: value})
    monkeypatch.delitem(
        sys.modules, "dbsync_pipeline.definitions", raising=False
    )  # it reads the settings as it is imported
    done = dbsync(*words)
    assert done.status != 0 and text in done.err and "unexpected" not in done.err


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("DBSYNC_SCHEDUEL", "probably DBSYNC_SCHEDULE)"),
        ("DBSYNC_RESCUE_DAY", "probably DBSYNC_RESCUE_DAYS)"),
        ("DBSYNC_LINUX_ULR", "probably DBSYNC_LINUX_URL)"),
        ("dbsync_linux_url", "probably DBSYNC_LINUX_URL)"),
        ("DBSYNC_QQQQ", "DBSYNC_<NAME>_URL"),
        ("DBSYNC_ALERT_URL", "probably DBSYNC_ALERT_URLS)"),
        ("DBSYNC_ALERTS_URL", "probably DBSYNC_ALERT_URLS)"),
        ("DBSYNC_ALRET_URL", "probably DBSYNC_ALERT_URLS)"),
        ("DBSYNC_HEARTBEATS_URL", "probably DBSYNC_HEARTBEAT_URL)"),
        ("DBSYNC_HEARTBEAT_URLS", "probably DBSYNC_HEARTBEAT_URL)"),
        ("DBSYNC_DAGSTER_STORE_URL", "probably DBSYNC_DAGSTER_STORAGE_URL)"),
        ("DBSYNC_DAGSTERSTORAGE_URL", "probably DBSYNC_DAGSTER_STORAGE_URL)"),
    ],
)
def test_a_misspelt_setting_is_refused_and_nothing_is_done(
    variable: str, meant: str, places: Places, dbsync: Dbsync
) -> None:
    (places.folder / ".env").write_text(f"{variable}=hunter2\n")
    done = dbsync("sync")
    assert done.status == 2 and f"no such setting: {variable}" in done.err and meant in done.err
    (places.folder / ".env").unlink()
    places.set(**{variable: "hunter2"})
    error = dbsync("status", "--json").json["error"]
    assert variable in error["cause"] and SECRET.decode() not in done.err + str(error)
    assert not places.folder.joinpath(".dbsync", "linux.db").exists()


def test_a_database_may_have_any_name_that_resembles_no_setting(
    places: Places, dbsync: Dbsync
) -> None:
    names = [
        "windows",
        "linux",
        "azure",
        "a",
        "berlin",
        "failover",
        "heart",
        "planetalert2",
        "primary",
        "storage",
    ]
    for name in names:
        places.set(**{f"DBSYNC_{name.upper()}_URL": f"sqlite:///{places.folder / name}.db"})
    places.set(DBSYNC_HEARTBEAT_URL="http://127.0.0.1:1/", DBSYNC_ALERT_URLS="json://127.0.0.1:1")
    assert [one["name"] for one in dbsync("status", "--json").json] == names


def test_variables_of_other_programs_are_ignored(places: Places, dbsync: Dbsync) -> None:
    """The tests' own, another database, a setting in another case, and what Kubernetes sets for services `dbsync` and `dbsync-ui`."""
    url = f"sqlite:///{places.folder / 'mars.db'}"
    places.set(
        DBSYNC_TEST_URLS="sqlite://",
        DBSYNC_WINDOWS_URL=url,
        DBSYNC_MARS2_URL=f"{url}2",
        dbsync_rescue_days="3",
    )
    places.set(
        DBSYNC_SERVICE_HOST="10.0.0.1",
        DBSYNC_PORT="tcp://10.0.0.1:80",
        DBSYNC_PORT_80_TCP_ADDR="10.0.0.1",
    )
    places.set(DBSYNC_UI_SERVICE_PORT_HTTP="3000", DBSYNC_UI_PORT_3000_TCP="tcp://10.0.0.2:3000")
    assert [one["name"] for one in dbsync("status", "--json").json] == ["windows", "mars2"]


def test_one_database_alone_is_no_mirror(places: Places, dbsync: Dbsync) -> None:
    places.set(DBSYNC_WINDOWS_URL="sqlite:///alone.db")
    done = dbsync("sync")
    assert done.status == 2 and "is the only database" in done.err


# sync, plan, history ---------------------------------------------------------------------------------------------------


def test_sync_makes_all_others_equal_and_history_has_one_run_for_each(
    places: Places, dbsync: Dbsync
) -> None:
    done = dbsync("sync", "--json")
    assert done.status == 0 and done.json["equal"] is True and done.json["source"] == "windows"
    assert [run["target"] for run in done.json["runs"]] == ["linux", "azure"]
    assert (
        content(places.named("linux"))
        == content(places.named("azure"))
        == content(places.named("windows"))
    )
    assert "azure  messages\n" in done.err  # its progress

    runs = dbsync("history", "--json").json
    assert [run["target"] for run in runs] == ["azure", "linux"]
    for run in runs:
        assert set(run) >= {
            "run_id",
            "status",
            "source",
            "target",
            "started_at",
            "seconds",
            "tables",
            "reason",
        }
        assert (run["published"], run["verdicts"], run["launched_by"]) == (
            True,
            [],
            "command line",
        ) and run["phases"]["publish"] > 0
        assert (run["status"], run["source"], run["reason"]) == ("SUCCESS", "windows", None)
        assert run["started_at"].endswith("+00:00") and run["seconds"] > 0
        users = {"rows": 20, "inserted": 20, "updated": 0, "deleted": 0}
        assert users.items() <= run["tables"]["users"].items() and set(run["tables"]) == set(
            MODEL.names
        )
    assert len(dbsync("history", "--json", "--limit", "1").json) == 1
    assert [run["target"] for run in dbsync("history", "--json", "--target", "linux").json] == [
        "linux"
    ]
    assert (
        dbsync("history", "--json", "--failed").json
        == []
        == dbsync("history", "--json", "--source", "azure").json
    )
    assert "windows → azure" in dbsync("history").out
    again = dbsync("sync", "--target", "azure").out
    assert "nothing to do" in again and "\n  compared 5 tables by digests: the engine" in again
    assert max(map(len, again.splitlines())) <= 100


def test_a_target_that_fails_does_not_stop_the_others(places: Places, dbsync: Dbsync) -> None:
    places.out_of_reach("linux")
    done = dbsync("sync")
    assert done.status == 1
    assert (
        "azure: equal to windows" in done.out
        and "linux: not published" in done.err
        and "Remedy:" in done.err
    )
    assert content(places.named("azure")) == content(places.named("windows"))
    assert SECRET.decode() not in done.out + done.err and SECRET not in places.shown()
    assert dbsync("sync", "--target", "linux", "--json").json["equal"] is False


def test_a_selection_of_tables(places: Places, dbsync: Dbsync) -> None:
    assert dbsync("sync", "--target", "azure", "--table", "users", "--table", "chats").status == 0
    rows = content(places.named("azure"))
    assert len(rows["users"]) == 20 and len(rows["chats"]) == 40 and rows["messages"] == []


def test_plan_shows_what_a_sync_would_do_and_changes_nothing(
    places: Places, dbsync: Dbsync
) -> None:
    assert dbsync("sync", "--target", "azure").status == 0
    execute(
        places.named("windows"),
        "UPDATE users SET name = 'new' WHERE id = 1",
        "DELETE FROM user_memory WHERE user_id = 2",
    )
    before = content(places.named("azure"))
    done = dbsync("plan", "--target", "azure", "--json")
    (target,) = done.json["targets"]
    assert done.status == 0 and (target["target"], target["equal"], target["refusals"]) == (
        "azure",
        False,
        [],
    )
    assert target["tables"]["users"] == {"rows": 20, "insert": 0, "update": 1, "delete": 0}
    assert target["tables"]["user_memory"]["delete"] == 1
    assert content(places.named("azure")) == before
    assert "user_memory" in dbsync("plan").out


def test_plan_predicts_a_refusal_and_overwrite_allows_it(places: Places, dbsync: Dbsync) -> None:
    prepare(places.named("azure"), {"users": [user(99)]})
    foretold = dbsync("plan", "--target", "azure")
    assert (
        foretold.status == 1
        and "would be refused" in foretold.err
        and "--overwrite" in foretold.err
    )
    assert dbsync("sync", "--target", "azure").status == 1
    assert dbsync("plan", "--target", "azure", "--overwrite").status == 0
    assert dbsync("sync", "--target", "azure", "--overwrite").status == 0
    assert content(places.named("azure")) == content(places.named("windows"))


def test_the_command_of_a_refusal_does_only_what_was_requested(
    places: Places, dbsync: Dbsync
) -> None:
    """A table that was not chosen, and its local writes, are left alone."""
    windows, linux = places.named("windows"), places.named("linux")
    assert dbsync("sync", "--target", "linux").status == 0
    execute(linux, (users.insert(), [user(300)]))
    execute(linux, (MODEL.table("user_memory").sa.insert(), [memory(300, "a")]))
    narrower = dbsync(
        "plan", "--target", "linux", "--table", "user_memory", "--max-change-rows", "70"
    )
    assert "--overwrite --max-change-rows 70`" in narrower.err
    refused = dbsync("sync", "--target", "linux", "--table", "user_memory")
    assert refused.status == 1 and dbsync(*_commands(refused.err)[0]).status == 0
    assert len(content(linux)["users"]) == len(content(windows)["users"]) + 1
    assert content(linux)["user_memory"] == content(windows)["user_memory"]


@pytest.mark.parametrize("said", [(), ("--overwrite",), ("--max-change-fraction", "1")])
def test_the_command_that_a_refusal_names_is_refused_by_no_other_guard(
    places: Places, dbsync: Dbsync, said: tuple[str, ...]
) -> None:
    windows, linux = places.named("windows"), places.named("linux")
    assert dbsync("sync", "--target", "linux").status == 0
    execute(linux, (users.insert(), [user(300)]))
    execute(windows, "DELETE FROM user_memory")
    refused = dbsync("sync", "--target", "linux", *said)
    assert refused.status == 1 and dbsync(*_commands(refused.err)[0]).status == 0
    assert content(linux) == content(windows)


def test_who_agrees_to_an_undo_of_a_target_that_was_written_to_gets_there(
    places: Places, dbsync: Dbsync
) -> None:
    (run,) = dbsync("sync", "--target", "linux", "--json").json["runs"]
    execute(places.named("linux"), (users.insert(), [user(300)]))
    refused = dbsync("undo", run["run_id"], "--yes")
    agreed = dbsync(*_commands(refused.err)[0])
    assert refused.status == agreed.status == 1 and agreed.err.endswith("--overwrite --yes\n"), (
        agreed.err
    )
    assert dbsync(*agreed.err.split("dbsync ")[-1].split()).status == 0
    assert content(places.named("linux"))["users"] == []


def test_an_empty_name_is_no_database(places: Places, dbsync: Dbsync) -> None:
    for words in (
        ("sync", "--source", ""),
        ("sync", "--target", ""),
        ("history", "--source", ""),
        ("history", "--target", ""),
    ):
        assert dbsync(*words).status == 2, words
    assert dbsync("history", "--limit", str(10**30)).status == 2


def test_plan_shows_a_refusal_where_nothing_differs(places: Places, dbsync: Dbsync) -> None:
    url = next(one.url for one in load().databases if one.name == "windows").get_secret_value()
    alias = places.folder / "alias.db"
    os.link(url.removeprefix("sqlite:///"), alias)
    places.set(DBSYNC_WINDOWS_URL=url, DBSYNC_LINUX_URL=f"sqlite:///{alias}")
    done = dbsync("plan", "--target", "linux")
    assert (
        done.status == 1
        and "are the same database" in done.err
        and "Remedy: fix DBSYNC_LINUX_URL" in done.err
    )
    assert "nothing to do" not in done.out


def test_a_plan_for_a_database_out_of_reach(places: Places, dbsync: Dbsync) -> None:
    assert dbsync("tables", "create", "--database", "azure").status == 0
    places.out_of_reach("linux")
    done = dbsync("plan", "--json")
    linux, azure = done.json["targets"]
    assert done.status == 1 and linux["error"]["database"] == "linux" and azure["error"] is None


@pytest.mark.system
def test_demo_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dbsync: Dbsync) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    first = dbsync("demo", "--json")
    assert (
        first.status == 0
        and first.json["created"]
        and first.json["equal"]
        and first.json["rows"]["messages"] == 20_000
    )
    assert all(
        counts["inserted"] == counts["rows"]
        for run in first.json["runs"]
        for counts in run["tables"].values()
    )
    assert {path.name for path in (tmp_path / ".dbsync").glob("*.db")} == {
        "windows.db",
        "linux.db",
        "azure.db",
    }
    again = dbsync("demo")
    assert (
        again.status == 0
        and "Nothing to do: linux, azure equal windows." in again.out
        and "Try next" in again.out
    )


# status, tables --------------------------------------------------------------------------------------------------------


def test_status_shows_who_answers_and_how_far_off(places: Places, dbsync: Dbsync) -> None:
    assert dbsync("sync", "--target", "linux").status == 0
    execute(places.named("windows"), "UPDATE users SET name = 'new' WHERE id = 1")
    places.out_of_reach("azure")
    done = dbsync("status", "--json")
    windows, linux, azure = done.json
    assert done.status == 0
    assert (windows["role"], windows["available"], windows["rows"]["messages"]) == (
        "primary",
        True,
        200,
    )
    assert (linux["in_sync"], linux["behind"], linux["last_publish"]["source"]) == (
        False,
        {"users": 1},
        "windows",
    )
    assert (azure["available"], azure["last_publish"]) == (False, None) and azure["reason"]
    assert (linux["ready"], linux["not_ready"], windows["ready"]) == (True, {}, None)
    assert azure["ready"] is False and set(azure["not_ready"]) == {"reachable"}
    last, why = linux["last_publish"], "digests: the engine does not show when a row was written"
    assert set(last["proofs"].values()) == {f"{why} (source)"} and len(last["proofs"]) == 5
    assert (last["rows_read"], last["bytes_read"]) == (sum(windows["rows"].values()), None)
    text = dbsync("status")
    assert f"linux: its last publish compared 5 tables by {why} (source)" in text.out
    assert f"; windows read {last['rows_read']} rows for it in " in text.out
    assert "1 row off" in text.out and SECRET.decode() not in text.out + text.err


def test_status_shows_no_grid_of_tables_where_no_database_has_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dbsync: Dbsync
) -> None:
    monkeypatch.chdir(tmp_path)
    told = dbsync("status").out
    assert "windows" in told and "table" not in told.split()


def test_tables_are_created_where_a_database_answers(places: Places, dbsync: Dbsync) -> None:
    places.out_of_reach("azure")
    done = dbsync("tables", "create", "--json")
    windows, linux, azure = done.json
    assert done.status == 1
    assert (
        windows["created"] == []
        and linux["created"] == list(MODEL.names)
        and azure["error"]["database"] == "azure"
    )
    one = dbsync("tables", "create", "--database", "linux")
    assert one.status == 0 and "all tables exist" in one.out


def test_check_names_the_difference(places: Places, dbsync: Dbsync) -> None:
    assert dbsync("tables", "create").status == 0
    assert dbsync("tables", "check").status == 0
    execute(places.named("azure"), "ALTER TABLE users DROP COLUMN name", "DROP TABLE documents")
    done = dbsync("tables", "check", "--json")
    windows, _, azure = done.json
    assert done.status == 1 and windows["equal"] and not azure["equal"] and azure["available"]
    assert azure["tables"]["documents"] == ["missing"] and "name" in azure["tables"]["users"][0]
    assert "azure: table users" in dbsync("tables", "check", "--database", "azure").err


def test_recreate_requires_the_name_twice(places: Places, dbsync: Dbsync) -> None:
    assert dbsync("sync", "--target", "azure").status == 0
    for words in ([], ["--yes-destroy", "linux"]):
        refused = dbsync("tables", "recreate", "--database", "azure", *words)
        assert refused.status == 1 and "--yes-destroy azure" in refused.err
    assert len(content(places.named("azure"))["users"]) == 20
    done = dbsync("tables", "recreate", "--database", "azure", "--yes-destroy", "azure", "--json")
    assert done.status == 0 and done.json == {"database": "azure", "recreated": list(MODEL.names)}
    assert content(places.named("azure"))["users"] == []


def test_the_tables_of_the_primary_are_not_recreated_while_it_has_rows(
    places: Places, dbsync: Dbsync
) -> None:
    recreate = ("tables", "recreate", "--database", "windows", "--yes-destroy", "windows")
    refused = dbsync(*recreate)
    assert refused.status == 1 and "it is the primary and has rows" in refused.err
    assert len(content(places.named("windows"))["users"]) == 20
    assert dbsync("sync", "--target", "linux").status == 0
    assert dbsync("promote", "linux", "--yes").status == 0
    refused = dbsync("tables", "recreate", "--database", "linux", "--yes-destroy", "linux")
    assert refused.status == 1 and "it is the primary" in refused.err
    assert dbsync(*recreate).status == 0, "windows is a standby now"


def test_an_empty_run_is_no_run(places: Places, dbsync: Dbsync) -> None:
    assert dbsync("sync", "--target", "linux").status == 0
    for words in (["undo", "", "--yes"], ["rescue", "show", " "]):
        refused = dbsync(*words)
        assert refused.status != 0 and "the run's id is empty" in refused.err
    assert len(content(places.named("linux"))["users"]) == 20


# ui --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def changed(places: Places, dbsync: Dbsync, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """All databases equal, and then one column more in the models, which are a module of the operator's own."""
    (places.folder / "app").mkdir()
    models = places.folder / "app" / "changing.py"
    text = (ROOT / "dbsync_pipeline" / "models.py").read_text()
    models.write_text(text)
    monkeypatch.syspath_prepend(places.folder)
    places.set(DBSYNC_MODELS="app.changing")
    assert dbsync("sync").status == 0
    models.write_text(
        text.replace(
            "    name: Mapped",
            "    phone: Mapped[str | None] = mapped_column(Unicode(40))\n    name: Mapped",
            1,
        )
    )
    _forget("app.changing")
    yield places
    _forget("app.changing")


def _forget(module: str) -> None:
    sys.modules.pop(module, None)
    importlib.invalidate_caches()


def test_a_change_of_the_models_reaches_every_database(changed: Places, dbsync: Dbsync) -> None:
    refused = dbsync("sync")
    assert refused.status == 1 and "dbsync migrate new" in refused.out + refused.err
    assert dbsync("migrate", "list", "--json").json["revisions"] == []
    written = dbsync("migrate", "new", "users phone", "--json").json
    assert (
        written["path"] == str(changed.folder / "app" / "dbsync_revisions" / "0001_users_phone.py")
        and written["left"] == []
    )
    listed = dbsync("migrate", "list", "--json")
    assert listed.status == 1 and {
        one["database"]: one["lacking"] for one in listed.json["databases"]
    } == {
        "windows": ["0001"],
        "linux": ["0001"],
        "azure": ["0001"],
    }
    asked = dbsync("migrate")
    assert (
        asked.status == 1
        and "windows gets 0001 (users phone)" in asked.err
        and "dbsync migrate --yes" in asked.err
    )
    done = dbsync("migrate", "--yes", "--json")
    assert done.status == 0 and [one["database"] for one in done.json] == [
        "windows",
        "linux",
        "azure",
    ]
    assert all([one["number"] for one in found["applied"]] == ["0001"] for found in done.json)
    assert dbsync("tables", "check").status == 0 and dbsync("migrate", "list").status == 0
    assert dbsync("migrate").out.splitlines() == [
        f"{name}: up to date" for name in ("windows", "linux", "azure")
    ]
    with (
        closing(sqlite3.connect(changed.folder / ".dbsync" / "windows.db")) as connection,
        connection,
    ):
        connection.execute("UPDATE users SET phone = '1'")
    assert dbsync("sync").status == 0 and dbsync("verify").status == 0


def test_where_the_primary_is_out_of_reach_no_database_is_altered(
    changed: Places, dbsync: Dbsync
) -> None:
    assert dbsync("migrate", "new", "users phone").status == 0
    changed.out_of_reach("windows")
    done = dbsync("migrate", "--yes", "--json")
    assert done.status == 1 and [one["applied"] for one in done.json] == [None, None, None]
    assert (
        "windows comes first" in done.json[1]["error"]["cause"]
        and SECRET.decode() not in done.out + done.err
    )
    assert dbsync("migrate", "--database", "linux", "--yes").status == 0


def test_changes_by_other_means_are_recorded(changed: Places, dbsync: Dbsync) -> None:
    assert dbsync("migrate", "new", "users phone").status == 0
    assert "phone is missing" in dbsync("migrate", "--as-applied", "--yes").err
    for name in ("windows", "linux", "azure"):
        with closing(sqlite3.connect(changed.folder / ".dbsync" / f"{name}.db")) as connection:
            connection.execute("ALTER TABLE users ADD COLUMN phone VARCHAR(40)")
    assert dbsync("migrate", "--yes").status == 1, "the column is there"
    assert dbsync("migrate", "--as-applied", "--yes").status == 0
    assert dbsync("migrate", "list").status == 0


def test_a_revision_that_cannot_be_written_is_an_error(changed: Places, dbsync: Dbsync) -> None:
    changed.set(DBSYNC_REVISIONS=str(changed.folder / "app" / "changing.py" / "no"))
    told = dbsync("migrate", "new", "users phone")
    assert told.status == 2 and "DBSYNC_REVISIONS" in told.err
    assert dbsync("migrate", "new", "x", "--rename", "users=phone").status == 2
    assert dbsync("migrate", "new", " ").status == 2


def test_an_option_of_migrate_before_its_verb_is_refused(changed: Places, dbsync: Dbsync) -> None:
    for words in (
        ("--database", "linux", "new", "x"),
        ("--json", "list"),
        ("--as-applied", "--from-start"),
    ):
        told = dbsync("migrate", *words)
        assert told.status == 2 and "migrate" in told.out + told.err, words


def test_what_a_revision_prints_is_not_in_the_json(changed: Places, dbsync: Dbsync) -> None:
    path = Path(dbsync("migrate", "new", "users phone", "--json").json["path"])
    path.write_text(
        path.read_text().replace(
            "def upgrade() -> None:", "def upgrade() -> None:\n    print('filling')"
        )
    )
    done = dbsync("migrate", "--yes", "--json")
    assert done.status == 0 and done.json[0]["applied"] and "filling" in done.err


def test_ui_serves_and_leaves_no_process_behind(places: Places) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "dbsync_pipeline.cli.entry",
        "ui",
        "--port",
        str(port),
        "--json",
    ]
    server = subprocess.Popen(
        command,
        env=places.environment(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/server_info", server)
        family = [
            psutil.Process(server.pid),
            *psutil.Process(server.pid).children(recursive=True),
        ]
        assert len(family) >= 3  # itself, the pages, the daemon
        taken = subprocess.run(
            command, env=places.environment(ROOT), capture_output=True, text=True
        )
        assert taken.returncode == 2 and "is taken" in json.loads(taken.stdout)["error"]["cause"]
    finally:
        server.terminate()
    printed, _ = server.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    assert json.loads(printed) == {
        "url": f"http://127.0.0.1:{port}",
        "dagster_home": str(places.dagster_home),
    }


# What syncs took away --------------------------------------------------------------------------------------------------


def test_overwritten_rows_are_listed_shown_exported_merged_and_undone(
    places: Places, dbsync: Dbsync, tmp_path: Path
) -> None:
    assert dbsync("sync", "--target", "linux").status == 0
    users = MODEL.table("users").sa
    execute(places.named("linux"), (users.insert(), [user(777, name="precious")]))
    before = content(places.named("linux"))
    refused = dbsync("sync", "--target", "linux", "--json")
    assert refused.status == 1 and "--overwrite" in refused.json["runs"][0]["reason"]
    run = dbsync("sync", "--target", "linux", "--overwrite", "--json").json["runs"][0]["run_id"]
    (linux,) = [
        place for place in dbsync("rescue", "list", "--json").json if place["database"] == "linux"
    ]
    assert [
        (part["table"], part["deleted"]) for _, parts in linux["rescued"] for part in parts
    ] == [("users", 1)]
    assert dbsync("rescue", "show", run[:8], "--json").json[0]["name"] == "precious"
    assert "precious" in dbsync("rescue", "show", run[:8]).out
    assert dbsync("rescue", "export", run, str(tmp_path / "out"), "--json").json["files"] == [
        str(tmp_path / "out" / "users.parquet")
    ]
    (tmp_path / "a_file").touch()
    assert "cannot be written to" in dbsync("rescue", "export", run, str(tmp_path / "a_file")).err
    assert "the name of the folder is empty" in dbsync("rescue", "export", run, "").err
    assert dbsync("undo", run, "--json").json["error"]["remedy"] == f"dbsync undo {run} --yes"
    undone = dbsync("undo", run, "--yes", "--json")
    assert undone.status == 0 and content(places.named("linux")) == before
    assert "resumed" in dbsync("resume", "linux").out
    dbsync("sync", "--target", "linux", "--overwrite")
    run = dbsync("history", "--json").json[0]["run_id"]
    assert dbsync("rescue", "merge", run, "--json").json["put_back"] == {"users": 1}
    assert content(places.named("linux")) == before


def test_a_paused_target_is_synced_by_an_explicit_command_and_resumed(
    places: Places, dbsync: Dbsync
) -> None:
    assert "dbsync tables create --database azure" in dbsync("pause", "azure").err
    assert dbsync("tables", "create").status == 0
    done = dbsync("pause", "azure", "--reason", "we look at it", "--json").json
    assert (
        done["database"] == "azure"
        and done["held"].endswith("UTC: we look at it")
        and done["was_held"] is None
    )
    assert dbsync("sync", "--target", "azure").status == 0
    assert dbsync("status", "--json").json[2]["held"] == done["held"]
    assert dbsync("release", "azure", "--json").json == {
        "database": "azure",
        "was_held": done["held"],
    }


def test_verify_names_what_differs(places: Places, dbsync: Dbsync) -> None:
    assert dbsync("sync", "--target", "linux").status == 0
    assert dbsync("verify", "--target", "linux").status == 0
    execute(
        places.named("linux"),
        MODEL.table("users").sa.update().where(MODEL.table("users").sa.c.id == 3).values(name="x"),
    )
    found = dbsync("verify", "--target", "linux", "--json")
    assert found.status == 1
    assert [table["keys"] for table in found.json[0]["tables"] if table["differing"]] == [[[3]]]


def test_one_row_is_singular(places: Places, dbsync: Dbsync) -> None:
    assert dbsync("sync", "--target", "linux").status == 0
    execute(
        places.named("linux"),
        MODEL.table("users").sa.update().values(name="x").where(MODEL.table("users").sa.c.id == 3),
    )
    assert "table users: 1 row not equal to windows" in dbsync("verify", "--target", "linux").err
    assert "up to 1 row would be changed or deleted" in dbsync("plan", "--target", "linux").err
    assert "(1 row changed, " in dbsync("sync", "--target", "linux", "--overwrite").out
    run = dbsync("history", "--json", "--limit", "1").json[0]["run_id"]
    assert "(1 row); this needs confirmation" in dbsync("undo", run).err
    first = dbsync("history", "--json").json[-1]["run_id"]
    refused = dbsync("undo", first).err
    assert "other publishes stand on top" in refused and "confirmation" not in refused
    assert "(1 row restored)" in dbsync("undo", run, "--yes").out


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 rows"), (1, "1 row"), (25_300, "25,300 rows")]
)
def test_a_number_and_its_noun_agree(number: int, words: str) -> None:
    assert count(number, "row") == words


def test_a_limit_of_rows_has_one_name_everywhere(places: Places, dbsync: Dbsync) -> None:
    assert dbsync("sync", "--target", "linux").status == 0
    execute(places.named("windows"), MODEL.table("users").sa.update().values(name="all of them"))
    strict = ("--target", "linux", "--max-change-rows", "5", "--json")
    assert [
        refusal["guard"] for refusal in dbsync("plan", *strict).json["targets"][0]["refusals"]
    ] == ["mass change"]
    assert dbsync("sync", *strict).status == 1
    assert dbsync("sync", *strict, "--max-change-fraction", "1").status == 0
    part = ("--target", "linux", "--table", "users", "--no-partial", "--json")
    execute(
        places.named("windows"), MODEL.table("users").sa.update().values(name="all of them again")
    )
    assert "partial" in [
        refusal["guard"] for refusal in dbsync("plan", *part).json["targets"][0]["refusals"]
    ]


# A primary that was restored from a backup ------------------------------------------------------------------------------


@pytest.fixture(params=["before any term", "after the failback"])
def restored(request: pytest.FixtureRequest, places: Places, dbsync: Dbsync) -> Places:
    """windows was the primary, linux after it, and windows again; then it is lost and restored from a backup of before its last publish."""
    windows, backup = places.named("windows"), places.folder / "backup.db"
    assert dbsync("sync").status == 0
    if request.param == "before any term":
        _copy(windows, backup)
    assert dbsync("promote", "linux", "--yes").status == 0
    execute(places.named("linux"), "UPDATE users SET name = 'on linux' WHERE id = 2")
    assert dbsync("sync", "--target", "azure").status == dbsync("failback", "--yes").status == 0
    if request.param == "after the failback":
        _copy(windows, backup)
    execute(windows, "UPDATE users SET name = 'on windows' WHERE id = 3")
    assert dbsync("sync", "--target", "linux").status == 0
    execute(windows, "UPDATE users SET name = 'the last one' WHERE id = 4")
    assert dbsync("sync", "--target", "azure").status == 0
    for ending in ("-wal", "-shm"):
        Path(f"{windows.url.database}{ending}").unlink(missing_ok=True)
    backup.replace(windows.url.database or "")
    execute(windows, "UPDATE users SET name = 'after the restore' WHERE id = 5")
    return places


def _copy(database: Database, file: Path) -> None:
    with (
        closing(sqlite3.connect(database.url.database or "")) as live,
        closing(sqlite3.connect(file)) as copy,
    ):
        live.backup(copy)


def _commands(text: str) -> list[list[str]]:
    """The commands that a remedy names, as words."""
    return [command.split() for command in re.findall(r"`dbsync ([^`]+)`", text)]


def test_status_names_a_restored_primary_and_the_remedy_brings_it_up(
    restored: Places, dbsync: Dbsync
) -> None:
    told = dbsync("status")
    assert (
        "windows: it was restored from an older state" in told.err and "on linux, state" in told.err
    )
    newest = content(restored.named("azure"))
    assert dbsync("sync").status == 1, "every standby refuses it"
    assert content(restored.named("azure")) == newest
    remedy = _commands(told.err)[0]
    assert remedy == ["sync", "--source", "azure", "--target", "windows", "--overwrite"]
    assert dbsync(*remedy).status == 0
    assert content(restored.named("windows")) == newest
    found = {one["name"]: one for one in dbsync("status", "--json").json}
    assert (
        found["windows"]["role"] == "primary"
        and found["windows"]["term"] == 2
        and found["windows"]["lacks"] == {}
    )
    execute(restored.named("windows"), "UPDATE users SET name = 'it goes on' WHERE id = 6")
    assert dbsync("sync").status == 0
    assert (
        content(restored.named("linux"))
        == content(restored.named("azure"))
        == content(restored.named("windows"))
    )


@pytest.mark.parametrize("restored", ["before any term"], indirect=True)
def test_each_refusal_of_a_restored_primary_names_a_way_out(
    restored: Places, dbsync: Dbsync
) -> None:
    for target in ("azure", "linux"):
        refused = dbsync("sync", "--target", target)
        assert refused.status == 1 and f"{target} has state" in refused.err
        up = _commands(refused.err)[0]
        assert up == ["sync", "--source", target, "--target", "windows", "--overwrite"]
    assert dbsync(*up).status == 0, "up to linux, which is behind azure"
    refused = dbsync("sync", "--target", "azure")
    assert refused.status == 1 and "the last one" in str(content(restored.named("azure")))
    assert dbsync(*_commands(refused.err)[0]).status == 0
    assert "the last one" in str(content(restored.named("windows")))
    assert dbsync("sync").status == 0


def test_the_loss_of_newer_states_is_accepted_by_name(restored: Places, dbsync: Dbsync) -> None:
    refused = dbsync("sync", "--target", "azure")
    accept = _commands(refused.err)[-1]
    if accept[0] == "promote":
        unasked = dbsync("promote", "windows", "--yes")
        assert (
            unasked.status == 1
            and "it does not know state" in unasked.err
            and accept in _commands(unasked.err)
        )
    assert dbsync(*accept).status == 0
    assert dbsync("sync", "--target", "azure").status == 0
    assert content(restored.named("azure")) == content(restored.named("windows"))
    (kept,) = dbsync("rescue", "list", "--database", "azure", "--json").json
    run = kept["rescued"][0][0]["run_id"]
    assert "the last one" in dbsync("rescue", "show", run, "--json").out
