"""Dagster's own tools load the definitions, and show of a database's URL nothing but where it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.processes import ROOT, free_port, started, wait_for

pytestmark = pytest.mark.system

RESOURCES = """{
  allTopLevelResourceDetailsOrError(repositorySelector: {
    repositoryName: "__repository__", repositoryLocationName: "dbsync_pipeline.definitions"
  }) { ... on ResourceDetailsList { results { name configuredValues { key type value } } } }
}"""
SECRET = "postgresql://bob:hunter2@h/d"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


def dg(*words: str) -> str:
    """What the command prints in the checkout."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dg")), *words],
        cwd=ROOT,
        env={**os.environ, "VIRTUAL_ENV": sys.prefix},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    return done.stdout


def test_dg_checks_and_lists_the_definitions_without_a_secret(
    places: Places, tmp_path: Path
) -> None:
    """One URL is in the environment, one in a file; nothing is connected to."""
    (tmp_path / "secret").write_text(f"{SECRET}_azure\n")
    places.set(
        DBSYNC_WINDOWS_URL=f"{SECRET}_windows",
        DBSYNC_LINUX_URL=f"{SECRET}_linux",
        DBSYNC_AZURE_URL_FILE=str(tmp_path / "secret"),
    )
    assert "All definitions loaded successfully" in dg("check", "defs")
    listed = json.loads(dg("list", "defs", "--json"))
    found = {asset["asset_key"]: asset["group_name"] for asset in listed["assets"]}
    assert found["users"] == "tables" and found["dbsync/standby/azure"] == "standbys"
    resources = {one["name"] for one in listed["resources"]}
    assert resources == {"sync", "windows", "linux", "azure"}


def test_dagster_dev_reads_the_urls_of_an_env_file_and_shows_only_their_names(
    places: Places, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}_azure\n")
    lines = {
        "DBSYNC_WINDOWS_URL": f"sqlite:///{tmp_path}/primary.db",
        "DBSYNC_LINUX_URL": f"{SECRET}_linux",
        "DBSYNC_AZURE_URL_FILE": str(tmp_path / "secret"),
    }
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    with dagster_dev(places) as address:
        answer = ask(address, RESOURCES)
    assert "hunter2" not in json.dumps(answer)
    urls = {
        resource["name"]: {one["key"]: one for one in resource["configuredValues"]}.get("url")
        for resource in answer["data"]["allTopLevelResourceDetailsOrError"]["results"]
    }
    assert set(urls) == {"sync", "windows", "linux", "azure"}
    assert urls["linux"] == {"key": "url", "type": "ENV_VAR", "value": "DBSYNC_LINUX_URL"}


@contextmanager
def dagster_dev(places: Places) -> Iterator[str]:
    """The address of the pages, in the folder with the settings."""
    port = free_port()
    words = ["dagster", "dev", "-m", "dbsync_pipeline.definitions", "-p", str(port)]
    with (places.folder / "dev.log").open("w") as log:
        running = started(places, *words, output=log, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}/server_info", running)
            yield f"http://127.0.0.1:{port}"
        finally:
            parent = psutil.Process(running.pid)
            for process in (*parent.children(recursive=True), parent):
                process.kill()
            running.wait(60)
    assert "hunter2" not in (places.folder / "dev.log").read_text()


def ask(address: str, query: str) -> Any:
    request = urllib.request.Request(
        f"{address}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)
