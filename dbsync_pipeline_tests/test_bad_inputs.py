"""Bad input of every kind has its own clear error and changes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from dagster import DagsterInstance

from dbsync_pipeline.runs import launch
from dbsync_pipeline_tests.http_server import serving
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.test_cli import Dbsync, dbsync, places  # noqa: F401

TOKEN = "only-for-these-tests-0123456789"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}

NOT_A_NUMBER = "unable to parse string as"
SETTINGS: list[tuple[str, str, str]] = [
    *((name, "many", NOT_A_NUMBER) for name in ("KEY_GAP", "RESCUE_DAYS", "LOCK_SECONDS")),
    *((name, "", NOT_A_NUMBER) for name in ("KEY_GAP", "RESCUE_MB", "MAX_AGE_HOURS")),
    *(
        (name, value, "finite")
        for name in (
            "RESCUE_DAYS",
            "RESCUE_MB",
            "LOCK_SECONDS",
            "CONNECT_SECONDS",
            "MAX_AGE_HOURS",
            "HISTORY_DAYS",
            "FAILOVER_GRACE_SECONDS",
            "MAX_CHANGE_FRACTION",
        )
        for value in ("nan", "inf")
    ),
    ("KEY_GAP", "-1", "greater than or equal to 0"),
    ("KEY_GAP", "9223372036854775807", "less than or equal to"),
    ("KEY_GAP", "9223372036854675807", "less than or equal to"),
    ("KEY_GAP", "1" * 30, "less than or equal to"),
    ("KEY_GAP", "1.5", "integer"),
    ("RESCUE_DAYS", "1000000", "less than or equal to"),
    ("RESCUE_DAYS", "-1", "greater than or equal to 0"),
    ("RESCUE_MB", "1e300", "less than or equal to"),
    ("LOCK_SECONDS", "0", "greater than or equal to 0.1"),
    ("LOCK_SECONDS", "0.0001", "greater than or equal to 0.1"),
    ("LOCK_SECONDS", "1e9", "less than or equal to"),
    ("CONNECT_SECONDS", "0", "greater than or equal to 0.1"),
    ("CONNECT_SECONDS", "1e18", "less than or equal to"),
    ("MAX_AGE_HOURS", "0", "greater than 0"),
    ("MAX_AGE_HOURS", "1e300", "less than or equal to"),
    ("HISTORY_DAYS", "0", "greater than 0"),
    ("HISTORY_DAYS", "1e7", "less than or equal to"),
    ("MAX_CHANGE_FRACTION", "1.01", "less than or equal to 1"),
    ("MAX_CHANGE_FRACTION", "-0.1", "greater than or equal to 0"),
    ("MAX_CHANGE_ROWS", "-1", "greater than or equal to 0"),
    ("MAX_CHANGE_ROWS", "1.5", "integer"),
    ("OVERWRITE", "perhaps", "boolean"),
    ("PARTIAL", "", "boolean"),
    ("FAILOVER", "sometimes", "'auto', 'alert' or 'off'"),
    ("FAILOVER_AFTER_FAILURES", "0", "greater than or equal to 1"),
    ("FAILOVER_AFTER_FAILURES", "1000000", "less than or equal to"),
    ("FAILOVER_GRACE_SECONDS", "1e10", "less than or equal to"),
    ("FAILOVER_PROBE_SECONDS", "0", "greater than or equal to 1"),
    ("FAILOVER_PROBE_SECONDS", str(10**12), "less than or equal to"),
    ("PRIMARY", "", "empty"),
    ("PRIMARY", "  ", "empty"),
    ("PRIMARY", "Windows", "lower-case letters"),
    ("PRIMARY", "win dows", "lower-case letters"),
    ("PRIMARY", "mars", "DBSYNC_PRIMARY names"),
    ("HOME", "", "empty"),
    ("MODELS", "", "empty"),
    ("MODELS", "no.such.module", "no.such.module"),
    ("MODELS", "json", "metadata"),
    ("MODELS", "not a module", "not a module"),
    ("REVISIONS", "", "empty"),
    ("TIMEZONE", "Mars/Olympus", "unknown time zone"),
    ("TIMEZONE", "", "empty"),
    ("TIMEZONE", "../../etc/passwd", "unknown time zone"),
    ("SCHEDULE", "", "empty"),
    ("HEARTBEAT_URL", "ftp://hunter2", "http://"),
    ("HEARTBEAT_URL", "hunter2", "http://"),
    ("SILENCE_SECONDS", "0", "greater than or equal to 1"),
    ("SILENCE_SECONDS", "1e12", "less than or equal to"),
    ("ASSET_OWNERS", "me", "mail addresses and teams"),
    ("ASSET_OWNERS", "team:", "mail addresses and teams"),
    ("ASSET_TAGS", "domain", "name=value"),
    ("ASSET_TAGS", "a=b=c", "name=value"),
    ("LINUX_URL", "hunter2", "URL cannot be read"),
    ("LINUX_URL", "://hunter2", "URL cannot be read"),
    ("LINUX_URL", "mysql://a:hunter2@localhost/x", "known are: postgresql"),
    ("LINUX_URL", "postgresql://a:hunter2@localhost:port/x", "URL cannot be read"),
    ("LINUX_URL", "postgresql://a:hunter2@localhost:99999999/x", "linux"),
    ("LINUX_URL", "sqlite://", "linux"),
    ("LINUX_URL", "sqlite:///:memory:", "linux"),
    ("LINUX_URL", "sqlite:////no/such/folder/hunter2.db", "linux"),
    ("LINUX_URL_FILE", "/no/such/file", "cannot be read"),
    ("LINUX_URL_FILE", "/", "cannot be read"),
    ("API_TOKEN_FILE", "/no/such/file", "cannot be read"),
    ("HOME_FILE", "/etc/hostname", "no such setting: DBSYNC_HOME_FILE"),
    ("SCHEDUEL", "x", "probably DBSYNC_SCHEDULE"),
    ("ALERT_URL", "json://hunter2", "probably DBSYNC_ALERT_URLS"),
]


@pytest.mark.parametrize(("name", "value", "cause"), SETTINGS)
def test_a_setting_out_of_range_is_refused_by_name(
    name: str,
    value: str,
    cause: str,
    tmp_path: Path,
    dbsync: Dbsync,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if name.startswith("LINUX"):
        monkeypatch.setenv("DBSYNC_WINDOWS_URL", f"sqlite:///{tmp_path / 'windows.db'}")
    monkeypatch.setenv(f"DBSYNC_{name}", value)
    line = "tables check --database linux" if name.startswith("LINUX") else "plan"
    done = dbsync(*line.split(), "--json")
    error = done.json["error"] if isinstance(done.json, dict) else done.json[0]["error"]
    text = f"{error['cause']} {error['database']} {error['remedy']}"
    assert done.status != 0 and cause in text and error["remedy"]
    assert "unexpected" not in text and "hunter2" not in done.out + done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == []


ARGUMENTS: list[tuple[str, str]] = [
    ("sync --source mars", "no database 'mars'"),
    ("sync --target mars", "no database 'mars'"),
    ("sync --source linux --target linux", "both the source and a target"),
    ("sync --table moons", "moons"),
    ("sync --max-change-rows -1", "--max-change-rows"),
    ("sync --max-change-rows few", "--max-change-rows"),
    ("sync --max-change-rows 1.5", "--max-change-rows"),
    ("sync --max-change-fraction 2", "--max-change-fraction"),
    ("sync --max-change-fraction nan", "--max-change-fraction"),
    ("sync --max-change-fraction inf", "--max-change-fraction"),
    ("sync --max-change-fraction -1", "--max-change-fraction"),
    ("sync extra", "extra"),
    ("plan --nope", "--nope"),
    ("verify --overwrite", "--overwrite"),
    ("history --limit 0", "--limit"),
    ("history --limit 1000000000000", "--limit"),
    ("history --source mars", "no database 'mars'"),
    ("history --target mars", "no database 'mars'"),
    ("undo", "RUN"),
    ("undo no-such-run", "no-such-run"),
    ("undo %", "%"),
    ("rescue show no-such-run", "no-such-run"),
    ("rescue merge no-such-run", "no-such-run"),
    ("rescue list --database mars", "no database 'mars'"),
    ("rescue nope", "nope"),
    ("pause mars --reason x", "no database 'mars'"),
    ("resume mars", "no database 'mars'"),
    ("promote mars --yes", "no database 'mars'"),
    ("failover --down", "--dry-run"),
    ("tables recreate --database mars --yes-destroy mars", "no database 'mars'"),
    ("tables recreate --database linux", "its name must be repeated"),
    ("tables recreate --database linux --yes-destroy azure", "not its name"),
    ("tables check --database mars", "no database 'mars'"),
    ("migrate --database mars --yes", "no database 'mars'"),
    ("migrate --as-applied --from-start", "one of the two"),
    ("migrate --json list --yes", "migrate"),
    ("migrate new x --rename users=phone", "TABLE.OLD=NEW"),
    ("migrate new x --database mars", "no database 'mars'"),
    *(  # a variable of a shell script that is not set
        (f"{command} --database ''", "no database ''")
        for command in ("migrate --yes", "migrate new x", "tables create", "undo run")
    ),
    ("history --target ''", "at least 1 character"),
    ("serve --port 0", "--port"),
    ("serve --port 65536", "--port"),
    ("serve --host not-an-address.invalid", "not-an-address.invalid"),
    ("ui --port -1", "--port"),
    ("nope", "nope"),
]


@pytest.mark.parametrize(("line", "cause"), ARGUMENTS)
def test_a_wrong_argument_is_refused_by_name(
    line: str,
    cause: str,
    tmp_path: Path,
    dbsync: Dbsync,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBSYNC_API_TOKEN", TOKEN)
    done = dbsync(*shlex.split(line), "--json")
    error = done.json["error"]
    assert done.status in (1, 2) and cause in f"{error['cause']} {error['remedy']}"
    assert error["remedy"] and " at dbsync_pipeline/" not in error["cause"]
    assert not list(tmp_path.rglob("*.db"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("served"))
        patch.setenv("DBSYNC_API_TOKEN", TOKEN)
        with serving() as address:
            yield address


BODIES: list[tuple[Any, str]] = [
    ({"target": ["mars"]}, "no database 'mars'"),
    ({"source": "mars"}, "no database 'mars'"),
    ({"source": "linux", "target": ["linux"]}, "both the source and a target"),
    ({"source": ""}, "source: "),
    ({"source": 5}, "source: "),
    ({"source": "x" * 1000}, "source: "),
    ({"target": "linux"}, "target: "),
    ({"target": [None]}, "target.0: "),
    ({"table": ["nothing"]}, "nothing"),
    ({"table": {}}, "table: "),
    ({"targets": ["linux"]}, "targets: Extra inputs"),
    ({"overwrite": "perhaps"}, "overwrite: "),
    ({"partial": 7}, "partial: "),
    ({"max_change_fraction": 2}, "max_change_fraction: "),
    ({"max_change_fraction": -1}, "max_change_fraction: "),
    ({"max_change_fraction": "NaN"}, "max_change_fraction: "),
    ({"max_change_fraction": "Infinity"}, "max_change_fraction: "),
    ({"max_change_rows": -1}, "max_change_rows: "),
    ({"max_change_rows": 1.5}, "max_change_rows: "),
    ({"wait": "later"}, "wait: "),
    ([], "body: "),
    ("text", "body: "),
    (b"{broken", "JSON"),
    (b"\xff\xfe", "JSON"),
    (b'{"source": "\\ud800"}', "source: "),
    (b'{"max_change_fraction": NaN}', "max_change_fraction"),
    (b"[" * 60_000, "parsing the body"),
]


@pytest.mark.parametrize(("body", "cause"), BODIES)
def test_a_wrong_body_is_refused_by_its_field(body: Any, cause: str, url: str) -> None:
    content = {"data": body} if isinstance(body, bytes) else {"json": body}
    response = requests.post(
        f"{url}/admin/sync",
        headers={**HEADERS, "Content-Type": "application/json"},
        timeout=60,
        **content,
    )
    error = response.json()["error"]
    assert response.status_code == 400 and cause in error["cause"] and error["remedy"]
    assert "unexpected" not in error["cause"]


QUERIES: list[tuple[str, str]] = [
    ("limit=0", "limit: "),
    ("limit=many", "limit: "),
    (f"limit={10**30}", "limit: "),
    (f"limit={'9' * 5000}", "limit: "),
    ("source=", "source: "),
    ("source=mars", "no database 'mars'"),
    ("target=%00", "no database"),
    ("failed=perhaps", "failed: "),
    ("surce=linux", "surce: Extra inputs"),
]


@pytest.mark.parametrize(("query", "cause"), QUERIES)
def test_a_wrong_query_is_refused_by_its_field(query: str, cause: str, url: str) -> None:
    response = requests.get(f"{url}/admin/sync-history?{query}", headers=HEADERS, timeout=60)
    error = response.json()["error"]
    assert response.status_code == 400 and cause in error["cause"] and error["remedy"]


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"overwrite": "perhaps"}, "overwrite"),
    ({"max_change_fraction": 2.0}, "max_change_fraction"),
    ({"max_change_fraction": float("nan")}, "max_change_fraction"),
    ({"max_change_fraction": "half"}, "max_change_fraction"),
    ({"max_change_rows": -1}, "max_change_rows"),
    ({"max_change_rows": 1.5}, "max_change_rows"),
    ({"overwite": True}, "overwite"),
]


@pytest.mark.parametrize(("config", "cause"), CONFIGS)
def test_a_wrong_run_config_is_refused_by_its_field(
    config: dict[str, Any],
    cause: str,
    places: Places,  # noqa: F811
) -> None:
    run_config = {"ops": {"sync": {"ops": {"ensure_schema": {"config": config}}}}}
    with DagsterInstance.ephemeral() as instance, pytest.raises(Exception, match=cause):
        launch.sync_job().execute_in_process(
            instance=instance,
            run_config=run_config,
            partition_key="linux",
            raise_on_error=True,
        )
    assert not (places.folder / ".dbsync" / "linux.db").exists()


def test_two_settings_for_one_database_are_refused(
    tmp_path: Path,
    dbsync: Dbsync,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for first, second in (
        ("sqlite:///a.db", f"sqlite:///{tmp_path}/a.db"),
        ("postgresql://a:hunter2@HOST/app", "postgresql+psycopg2://b@host:5432/app"),
        ("mssql://a:hunter2@host/app", "mssql+pyodbc://host:1433/App?driver=x"),
    ):
        monkeypatch.setenv("DBSYNC_WINDOWS_URL", first)
        monkeypatch.setenv("DBSYNC_LINUX_URL", second)
        error = dbsync("status", "--json").json["error"]
        assert "DBSYNC_WINDOWS_URL and DBSYNC_LINUX_URL name the same" in error["cause"]
        assert "hunter2" not in str(error)


def test_a_secret_may_be_in_a_file(
    tmp_path: Path,
    dbsync: Dbsync,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBSYNC_WINDOWS_URL", "sqlite:///a.db")
    secret = tmp_path / "secret"
    monkeypatch.setenv("DBSYNC_LINUX_URL_FILE", str(secret))
    for content, cause in ((b"", "empty"), (b"\xff", "not text"), (b"x" * 70_000, "too long")):
        secret.write_bytes(content)
        assert cause in dbsync("status", "--json").json["error"]["cause"]
    secret.write_text("sqlite:///b.db\n")
    assert [one["name"] for one in dbsync("status", "--json").json] == ["windows", "linux"]
    monkeypatch.setenv("DBSYNC_LINUX_URL", "sqlite:///c.db")
    assert "so is DBSYNC_LINUX_URL" in dbsync("status", "--json").json["error"]["cause"]


def test_an_unreadable_env_file_is_refused(
    tmp_path: Path,
    dbsync: Dbsync,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(b"DBSYNC_HOME=\xff\xfe")
    error = dbsync("status", "--json").json["error"]
    assert ".env cannot be read" in error["cause"] and error["remedy"]
