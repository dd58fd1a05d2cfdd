"""A run is cancelled from Dagster's pages while one of its connections is silent: it ends within seconds, and the locks are free."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.processes import ROOT, free_port, started, until, wait_for
from dbsync_pipeline_tests.proxy import TO_SERVER, Action, Proxy, proxy_to, stall, swallow
from dbsync_pipeline_tests.test_safety import free_after
from dbsync_pipeline_tests.worlds import (
    MODEL,
    content,
    execute,
    prepare,
    small_world,
    sync,
)

SECONDS = 10
"""From the request to cancel until the run has ended, and from then until its locks are free."""
LOAD = 10
"""Seconds more on a machine where other tests run."""

users = MODEL.table("users").sa

LAUNCH = """
mutation ($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) { __typename ... on LaunchRunSuccess { run { runId } } }
}"""
TERMINATE = """
mutation ($run: String!) {
  terminateRun(runId: $run, terminatePolicy: SAFE_TERMINATE) { __typename }
}"""
STATUS = "query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


class Pages:
    """Dagster's web server, asked by GraphQL as its pages ask, and the proxy before the target."""

    def __init__(self, port: int, proxy: Proxy) -> None:
        self.proxy = proxy
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, query: str, **variables: Any) -> Any:
        request = urllib.request.Request(
            f"{self.address}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        (data,) = answer["data"].values()
        return data

    def launch(self, target: str) -> str:
        selector = {
            "repositoryLocationName": "dbsync_pipeline.definitions",
            "repositoryName": "__repository__",
            "jobName": "sync_job",
        }
        tags = [{"key": "dagster/partition", "value": target}]
        launched = self.ask(
            LAUNCH,
            parameters={
                "selector": selector,
                "runConfigData": {},
                "executionMetadata": {"tags": tags},
            },
        )
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def status(self, run: str) -> str:
        return str(self.ask(STATUS, run=run)["status"])


@pytest.fixture
def pair(new_database: NewDatabase) -> tuple[Database, Database]:
    source, target = (
        new_database("postgresql", name, server=n) for n, name in enumerate(("windows", "linux"))
    )
    prepare(source, small_world())
    sync(source, target)
    execute(source, users.update().where(users.c.id < 5).values(name="new"))
    return source, target


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A store whose runs start at once, by Dagster's own launcher, without a daemon."""
    made = Places(tmp_path, monkeypatch)
    config = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    del config["concurrency"]
    config["run_coordinator"] = {
        "module": "dagster._core.run_coordinator",
        "class": "DefaultRunCoordinator",
    }
    (made.dagster_home / "dagster.yaml").write_text(yaml.safe_dump(config))
    return made


@pytest.fixture
def pages(places: Places, pair: tuple[Database, Database]) -> Iterator[Pages]:
    port = free_port()
    words = ["dagster_webserver", "-m", "dbsync_pipeline.definitions", "-p", str(port)]
    with proxy_to(pair[1].url) as proxy:
        for name, url in {"WINDOWS": pair[0].url, "LINUX": proxy.url}.items():
            places.set(**{f"DBSYNC_{name}_URL": url.render_as_string(hide_password=False)})
        places.set(DBSYNC_SILENCE_SECONDS="600")
        log = (places.folder / "pages.log").open("w")
        server = started(places, *words, output=log)
        try:
            pages = Pages(port, proxy)
            wait_for(f"{pages.address}/server_info", server)
            yield pages
        finally:
            server.terminate()
            server.wait(60)
            log.close()


@pytest.mark.parametrize("action", [stall, swallow], ids=["stalled", "swallowed"])
def test_a_run_that_is_cancelled_while_its_target_is_silent_ends_within_seconds(
    pages: Pages, pair: tuple[Database, Database], action: Action
) -> None:
    before = content(pair[1])
    fired = pages.proxy.before(b"DELETE FROM", TO_SERVER, action)
    run = pages.launch("linux")
    assert fired.wait(120), pages.status(run)
    time.sleep(1)
    asked = time.monotonic()
    assert pages.ask(TERMINATE, run=run)["__typename"] == "TerminateRunSuccess"
    until("the run has ended", lambda: pages.status(run) in ("CANCELED", "FAILURE", "SUCCESS"))
    seconds = time.monotonic() - asked
    status = pages.status(run)
    free = free_after(*pair, SECONDS)
    print(f"{status} {seconds:.1f} s after the request, locks free {free:.1f} s later")
    assert status == "CANCELED"
    assert seconds < SECONDS + LOAD
    assert content(pair[1]) == before
    assert sync(*pair).changed == 4
