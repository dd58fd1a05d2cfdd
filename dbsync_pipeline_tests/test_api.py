"""`dbsync serve`: a real server over HTTP, which returns what the command line prints."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from dbsync_pipeline.http import app
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.processes import dbsync, free_port, started, until
from dbsync_pipeline_tests.worlds import MODEL, content, execute, prepare, small_world, user

pytestmark = pytest.mark.system

TOKEN = "only-for-these-tests-0123456789"
users = MODEL.table("users").sa


@dataclass(frozen=True)
class Server:
    """The server's address, its log, and the databases that it syncs."""

    url: str
    log: Path
    places: Places

    @property
    def process(self) -> psutil.Process:
        (pid,) = re.findall(r"Started server process \[(\d+)\]", self.log.read_text())
        return psutil.Process(int(pid))

    @property
    def syncing(self) -> list[psutil.Process]:
        """The processes of the syncs that run: each is forked by a child of the server."""
        return [sync for one in self.process.children() for sync in one.children()]

    def ask(
        self, method: str, path: str, body: Any = None, token: str | None = TOKEN
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of the answer. A body that is bytes goes as it is."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {token}"} if token else {}),
        }
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, data, headers, method=method), timeout=200
            ) as answer:
                return answer.status, json.load(answer), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error), dict(error.headers)

    def sync(self, **words: Any) -> tuple[int, Any]:
        return self.ask("POST", "/admin/sync", words)[:2]


SERVE = ("dbsync_pipeline.cli.entry", "serve")
"""The command. It becomes the server by starting Python again."""
SERVER = ("dbsync_pipeline.http.server", "--host", "127.0.0.1")


@pytest.fixture
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    places = Places(tmp_path, monkeypatch)
    with served(places, getattr(request, "param", SERVER)) as server:
        yield server


@pytest.fixture
def idle_server(shared_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """For the tests whose requests are all refused, or change nothing: one server serves them all."""
    monkeypatch.chdir(shared_server.places.folder)
    return shared_server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        places = Places(tmp_path_factory.mktemp("idle"), monkeypatch)
        with served(places, SERVER) as server:
            monkeypatch.undo()
            yield server


@contextmanager
def served(places: Places, module: tuple[str, ...]) -> Iterator[Server]:
    port, log = free_port(), places.folder / "log"
    places.set(DBSYNC_API_TOKEN=TOKEN)
    with log.open("w") as output:
        process = started(places, *module, "--port", str(port), output=output)
        try:
            until(
                "the server answers",
                lambda: "Uvicorn running" in log.read_text() or process.poll() is not None,
            )
            yield Server(f"http://127.0.0.1:{port}", log, places)
        finally:
            process.terminate()
            process.wait(60)
    assert TOKEN not in log.read_text() and "Traceback" not in log.read_text()


@pytest.mark.parametrize("server", [SERVE], indirect=True, ids=["dbsync serve"])
def test_it_responds_with_what_the_command_line_prints(server: Server) -> None:
    places = server.places
    status, done = server.sync(source="windows", target=["linux"])
    assert (status, done["source"], done["equal"], [run["target"] for run in done["runs"]]) == (
        200,
        "windows",
        True,
        ["linux"],
    )
    assert content(places.named("linux")) == content(places.named("windows"))
    assert server.ask("POST", "/admin/sync")[1]["equal"] and content(
        places.named("azure")
    ) == content(places.named("windows"))
    assert server.ask("GET", "/admin/sync-history?limit=2")[1] == dbsync(
        places, "history", "--limit", "2"
    )
    assert server.ask("GET", "/admin/sync-history?target=azure")[1][0]["launched_by"] == "api"
    ours, theirs = server.ask("GET", "/admin/db-status")[1], dbsync(places, "status")
    assert [steady(place) for place in ours] == [steady(place) for place in theirs]


def steady(place: dict[str, Any]) -> dict[str, Any]:
    """A database's status without what is another at every look."""
    last = {
        key: value for key, value in (place["last_publish"] or {}).items() if key != "age_seconds"
    }
    return {**place, "latency_ms": None, "last_publish": last}


def test_a_refused_sync_has_its_reason_and_the_same_option_allows_it(
    server: Server,
) -> None:
    linux = server.places.named("linux")
    assert server.sync(target=["linux"])[0] == 200
    execute(linux, users.update().where(users.c.id == 1).values(name="written on the standby"))
    before = content(linux)
    status, done = server.sync(target=["linux"])
    assert (status, done["equal"]) == (409, False)
    assert (
        done["runs"][0]["verdicts"][0]["guard"] == "local writes"
        and "--overwrite" in done["runs"][0]["reason"]
    )
    assert content(linux) == before
    assert server.sync(target=["linux"], overwrite=True)[0] == 200
    assert content(linux) == content(server.places.named("windows"))


def test_a_standby_is_taken_in_once(server: Server) -> None:
    linux = server.places.named("linux")
    prepare(linux, {"users": [user(1, name="of another tool")]})
    body = {"source": "windows", "target": ["linux"]}
    status, done = server.ask("POST", "/admin/adopt", body)[:2]
    assert (status, done["targets"][0]["outcome"]) == (409, "refused")
    assert done["targets"][0]["tables"]["users"]["different"] == 1
    status, done = server.ask("POST", "/admin/adopt", {**body, "overwrite": True})[:2]
    assert (status, done["targets"][0]["outcome"]) == (200, "adopted")
    assert content(linux) == content(server.places.named("windows"))
    status, again = server.ask("POST", "/admin/adopt", body)[:2]
    assert (status, again["targets"][0]["outcome"]) == (200, "known")
    assert again["targets"][0]["number"] == done["targets"][0]["number"]


def test_nothing_is_served_without_the_token(idle_server: Server) -> None:
    asked = (
        ("GET", "/admin/db-status", None),
        ("GET", "/admin/sync-history", None),
        ("POST", "/admin/sync", {}),
        ("POST", "/admin/sync", b"{broken"),
        ("GET", "/admin/openapi.json", None),
        ("GET", "/anything", None),
        ("GET", "/metrics", None),
    )
    for token in (None, "x", TOKEN[:-1], TOKEN + "1", "ñ"):
        for method, path, body in asked:
            status, answer, headers = idle_server.ask(method, path, body, token)
            assert (status, headers["www-authenticate"]) == (
                401,
                "Bearer",
            ) and "DBSYNC_API_TOKEN" in answer["error"]["remedy"]
    assert dbsync(idle_server.places, "history") == []


def test_an_invalid_request_is_refused_with_its_cause(idle_server: Server) -> None:
    for method, path, body, status, cause in (
        ("POST", "/admin/sync", {"target": ["mars"]}, 400, "there is no database 'mars'"),
        (
            "POST",
            "/admin/sync",
            {"source": "linux", "target": ["linux"]},
            400,
            "both the source and a target",
        ),
        ("POST", "/admin/sync", {"table": ["nothing"]}, 400, "nothing"),
        ("POST", "/admin/sync", {"targets": ["linux"]}, 400, "targets: Extra inputs"),
        ("POST", "/admin/sync", {"max_change_fraction": 2}, 400, "max_change_fraction: "),
        ("POST", "/admin/sync", b"{broken", 400, "JSON"),
        ("POST", "/admin/sync", {"source": ""}, 400, "source: "),
        ("POST", "/admin/sync", {"target": ["x" * 1000]}, 400, "target.0: "),
        ("GET", "/admin/sync-history?limit=0", None, 400, "limit: "),
        ("GET", f"/admin/sync-history?limit={10**30}", None, 400, "limit: "),
        ("GET", "/admin/sync-history?source=", None, 400, "source: "),
        ("GET", "/admin/sync-history?surce=linux", None, 400, "surce: Extra inputs"),
        ("GET", "/admin/sync-history?source=mars", None, 400, "there is no database 'mars'"),
        ("GET", "/admin/nothing", None, 404, "GET /admin/nothing"),
        ("GET", "/admin/db-status/", None, 404, "GET /admin/db-status/"),
        ("GET", "/admin/sync", None, 405, "GET /admin/sync"),
    ):
        told, answer, _ = idle_server.ask(method, path, body)
        assert told == status and cause in answer["error"]["cause"] and answer["error"]["remedy"], (
            answer
        )
    assert dbsync(idle_server.places, "history") == []


def test_a_wrong_method_is_answered_with_the_right_one(idle_server: Server) -> None:
    for method, path, right in (
        ("GET", "/admin/sync", "POST"),
        ("POST", "/admin/db-status", "GET"),
    ):
        status, _, headers = idle_server.ask(method, path)
        assert (status, headers["allow"]) == (405, right)


def test_a_sync_that_a_retry_can_help_is_told_from_one_that_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 if all that failed may succeed later, 409 if one of them will not."""
    places = Places(tmp_path, monkeypatch)
    for name in ("linux", "azure"):
        places.out_of_reach(name)
    places.set(DBSYNC_CONNECT_SECONDS="2")
    with served(places, SERVER) as server:
        status, answer = server.sync()
        assert status == 503 and [run["transient"] for run in answer["runs"]] == [True, True]
        assert server.ask("POST", "/admin/adopt", {})[0] == 503
        assert server.ask("GET", "/admin/db-status")[0] == 200
    refusing = tmp_path / "refusing.db"
    places.set(DBSYNC_AZURE_URL=f"sqlite:///{refusing}")
    prepare(places.named("azure"), small_world(3))
    with served(places, SERVER) as server:
        status, answer = server.sync()
        assert status == 409 and [run["transient"] for run in answer["runs"]] == [True, False]
    for name in ("windows", "azure"):
        places.out_of_reach(name)
    with served(places, SERVER) as server:
        assert server.sync()[0] == 503, "no database answers"


def test_it_describes_its_addresses_to_a_program(idle_server: Server) -> None:
    paths = idle_server.ask("GET", "/admin/openapi.json")[1]["paths"]
    assert set(paths) == {
        "/admin/db-status",
        "/admin/sync-history",
        "/admin/sync",
        "/admin/adopt",
        "/metrics",
    }


def test_a_client_need_not_wait_for_a_sync(server: Server) -> None:
    status, answer = server.sync(target=["linux"], wait=False)
    assert (status, answer) == (202, {"source": "windows", "target": ["linux"]})
    until(
        "the sync is in history",
        lambda: [run for run in dbsync(server.places, "history") if run["status"] == "SUCCESS"],
    )
    assert content(server.places.named("linux")) == content(server.places.named("windows"))


def test_a_server_that_is_terminated_waits_for_a_sync_in_the_background(
    server: Server,
) -> None:
    assert server.sync(target=["linux"], wait=False)[0] == 202
    server.process.terminate()
    server.process.wait(120)
    assert content(server.places.named("linux")) == content(server.places.named("windows"))


def test_a_ledger_that_cannot_be_read_is_named(server: Server) -> None:
    assert server.sync(target=["linux"])[0] == 200
    server.places.folder.joinpath(".dbsync", "azure.db").write_bytes(b"no database at all" * 100)
    status, found, headers = server.ask("GET", "/admin/sync-history")
    assert (status, len(found), headers["dbsync-unread"]) == (200, 1, "azure")


def test_a_sync_whose_process_is_killed_is_reported(server: Server) -> None:
    answers: list[tuple[int, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(server.sync(target=["linux"])))
    asking.start()
    (syncing,) = until("the sync's process", lambda: server.syncing)
    os.kill(syncing.pid, signal.SIGKILL)
    asking.join(60)
    ((status, answer),) = answers
    assert (
        status == 409
        and "killed" in answer["error"]["cause"]
        and "dbsync history" in answer["error"]["remedy"]
    )


def test_the_number_of_syncs_at_once_is_limited(server: Server) -> None:
    """Those that run all wait for the same target's lock."""
    with (
        closing(sqlite3.connect(server.places.folder / ".dbsync" / "linux.db")) as writer,
        ThreadPoolExecutor(app.AT_ONCE) as clients,
    ):
        writer.execute("BEGIN IMMEDIATE")
        assert server.sync(target=["linux"], wait=False)[0] == 202
        waiting = [clients.submit(server.sync, target=["linux"]) for _ in range(app.AT_ONCE - 1)]
        until("so many run", lambda: len(server.syncing) == app.AT_ONCE)
        until("one more is refused", lambda: server.sync(target=["azure"])[0] == 503)
        assert server.sync(target=["azure"], wait=False)[0] == 503, "and not promised either"
        writer.rollback()
        assert {one.result()[0] for one in waiting} <= {200, 503}, "a busy target is for later"


def test_without_a_token_nothing_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(tmp_path, monkeypatch)
    for token, cause in (("", "not set"), ("short", "shorter than 20 characters")):
        places.set(DBSYNC_API_TOKEN=token)
        error = dbsync(places, "serve", status=2)["error"]
        assert cause in error["cause"] and "openssl rand" in error["remedy"]


def test_concurrent_syncs_do_not_hinder_each_other(server: Server) -> None:
    execute(server.places.named("windows"), (users.insert(), [user(5001)]))
    with ThreadPoolExecutor(2) as both:
        done = list(both.map(lambda name: server.sync(target=[name]), ("linux", "azure")))
    assert [status for status, _ in done] == [200, 200]
    assert (
        content(server.places.named("linux"))
        == content(server.places.named("windows"))
        == content(server.places.named("azure"))
    )
