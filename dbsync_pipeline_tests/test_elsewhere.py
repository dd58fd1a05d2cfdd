"""With a run launcher that is not Dagster's default, `dbsync sync` and the API submit their runs to it and follow them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from dbsync_pipeline.defs.run_tags import PROGRESS_TAG, ROUND_TAG, launcher_of
from dbsync_pipeline_tests import process_launcher
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.http_server import serving
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.process_launcher import PROCESS_TAG
from dbsync_pipeline_tests.processes import ROOT, dbsync, until
from dbsync_pipeline_tests.test_kills import waits, writing
from dbsync_pipeline_tests.worlds import MODEL, content, execute

TOKEN = "a-token-of-more-than-sixteen-characters"
Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A store whose launcher starts a process for each run."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Places(tmp_path, monkeypatch)
    process_launcher.install(made.dagster_home, queue=False)
    return made


@pytest.fixture
def command(places: Places) -> Iterator[Command]:
    """Starts `dbsync`, which ends with the test."""
    made: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        made.append(
            subprocess.Popen(
                [sys.executable, "-m", "dbsync_pipeline.cli.entry", *words],
                env=places.environment(ROOT),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


def runs(instance: DagsterInstance) -> dict[str, DagsterRun]:
    """The newest run of each target."""
    return {run.tags["dagster/partition"]: run for run in reversed(instance.get_runs())}


def test_a_command_follows_its_runs_in_the_processes_of_the_launcher(
    places: Places, command: Command
) -> None:
    process = command("sync", "--json")
    out, progress = process.communicate(timeout=120)
    assert process.returncode == 0, out + progress
    assert {run["target"]: run["published"] for run in json.loads(out)["runs"]} == {
        "linux": True,
        "azure": True,
    }
    for target in ("linux", "azure"):
        assert content(places.named(target)) == content(places.named("windows"))
        for table in MODEL.names:
            assert f"{target}  {table}\n" in progress
    with places.dagster() as instance:
        launched = runs(instance)
        own = {int(run.tags[PROCESS_TAG]) for run in launched.values()}
        assert len(own) == 2 and process.pid not in own
        assert {launcher_of(run) for run in launched.values()} == {"command line"}
        assert len({run.tags[ROUND_TAG] for run in launched.values()}) == 1


def test_a_refusal_over_there_is_the_exit_status_here(places: Places) -> None:
    dbsync(places, "sync", "--target", "linux")
    execute(places.named("linux"), "UPDATE users SET name = 'local' WHERE id = 1")
    execute(places.named("windows"), "UPDATE users SET name = 'new' WHERE id = 1")
    (refused,) = dbsync(places, "sync", "--target", "linux", status=1)["runs"]
    assert [finding["guard"] for finding in refused["verdicts"]] == ["local writes"]
    (allowed,) = dbsync(places, "sync", "--target", "linux", "--overwrite")["runs"]
    assert allowed["published"] and allowed["allowed"] == {"overwrite": True}


def test_the_api_submits_too(places: Places) -> None:
    places.set(DBSYNC_API_TOKEN=TOKEN)
    with serving() as address:
        request = urllib.request.Request(
            f"{address}/admin/sync",
            data=b'{"target": ["azure"]}',
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            (run,) = json.load(response)["runs"]
    assert run["published"] and run["launched_by"] == "api"
    with places.dagster() as instance:
        assert PROCESS_TAG in runs(instance)["azure"].tags


def test_ctrl_c_cancels_the_run_and_the_target_stays_as_it_was(
    places: Places, command: Command, new_database: NewDatabase
) -> None:
    linux = new_database("postgresql", "linux")
    for other in places.all():
        places.set(**{f"DBSYNC_{other.name.upper()}_URL": str(other.url)})
    places.set(
        DBSYNC_LINUX_URL=linux.url.render_as_string(hide_password=False), DBSYNC_LOCK_SECONDS="600"
    )
    dbsync(places, "sync", "--target", "linux")
    before = content(linux)
    execute(places.named("windows"), "UPDATE users SET name = 'new' WHERE id = 1")
    with writing(linux):
        process = command("sync", "--target", "linux", "--quiet")
        until("the run waits for its target", lambda: waits(linux))
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 130, out
        with places.dagster() as instance:
            until(
                "the run is cancelled",
                lambda: runs(instance)["linux"].status == DagsterRunStatus.CANCELED,
            )
    assert content(linux) == before


def test_without_a_daemon_nothing_is_queued(places: Places) -> None:
    process_launcher.install(places.dagster_home, queue=True)
    error = dbsync(places, "sync", "--target", "linux", status=1)["error"]
    assert "no daemon starts the queued runs" in error["cause"]
    assert "dagster-daemon run" in error["remedy"]
    with places.dagster() as instance:
        assert instance.get_runs() == []


def test_a_workspace_without_the_tables_is_refused(places: Places) -> None:
    (places.folder / "other.py").write_text(
        "import dagster\nfrom dagster import asset\n\n@asset\ndef other(): ...\n\n"
        "defs = dagster.Definitions(assets=[other])\n"
    )
    (places.folder / "workspace.yaml").write_text("load_from:\n- python_file: other.py\n")
    error = dbsync(places, "sync", "--target", "linux", status=2)["error"]
    assert "no code location has the tables" in error["cause"]


def test_progress_is_recorded_for_a_follower_only(places: Places) -> None:
    dbsync(places, "sync", "--target", "linux")
    (
        places.dagster_home / "dagster.yaml"
    ).unlink()  # the project's own comes back, with the default launcher
    dbsync(places, "sync", "--target", "azure")
    with places.dagster() as instance:
        launched = runs(instance)
        assert PROGRESS_TAG in launched["linux"].tags
        assert PROGRESS_TAG not in launched["azure"].tags
