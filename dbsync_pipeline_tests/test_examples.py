"""The example applications return what the command line prints, and nothing without the token."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.processes import ROOT, dbsync, free_port, started, wait_for
from dbsync_pipeline_tests.worlds import content
from examples import flask_admin

pytestmark = pytest.mark.system

TOKEN = "only-for-these-tests-0123456789"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    places = Places(tmp_path, monkeypatch)
    places.set(DBSYNC_API_TOKEN=TOKEN, PYTHONPATH=str(ROOT))
    return places


def test_flask_syncs_and_returns_what_the_command_line_prints(places: Places) -> None:
    client = flask_admin.create_app().test_client()
    assert client.get("/admin/db-status").status_code == 401
    synced = client.post("/admin/sync", json={"target": ["linux"]}, headers=AUTHORIZED)
    assert synced.status_code == 200 and synced.get_json()["equal"]
    assert content(places.named("linux")) == content(places.named("windows"))
    history = client.get("/admin/sync-history?limit=1", headers=AUTHORIZED)
    assert history.get_json() == dbsync(places, "history", "--limit", "1")
    status = client.get("/admin/db-status", headers=AUTHORIZED).get_json()
    assert [database["name"] for database in status] == ["windows", "linux", "azure"]
    wrong = client.post("/admin/sync", json={"target": ["mars"]}, headers=AUTHORIZED)
    assert wrong.status_code == 400 and "mars" in wrong.get_json()["error"]["cause"]


def test_fastapi_serves_the_api_beside_its_own_pages(places: Places) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    server = started(
        places,
        *("uvicorn", "--factory", "examples.fastapi_admin:create_app", "--port", str(port)),
        output=None,
    )
    try:
        wait_for(url, server)
        assert _get(url, {}) == {"shop": "open"}
        status = _get(f"{url}/dbsync/admin/db-status", AUTHORIZED)
        assert [database["name"] for database in status] == ["windows", "linux", "azure"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            _get(f"{url}/dbsync/admin/db-status", {})
        assert refused.value.code == 401
    finally:
        server.terminate()
        server.wait(60)


PAGE = (ROOT / "docs" / "how-to" / "from-an-application.md").read_text(encoding="utf-8")
SERVERS = ("uvicorn ", "flask ")
"""How the commands begin that do not end by themselves."""


@pytest.mark.parametrize(("heading", "port"), [("FastAPI", 8000), ("Flask", 5000)])
def test_the_commands_of_the_page_run(places: Places, heading: str, port: int) -> None:
    """All but the installation, on a port that is free; what `curl` gets is the answer."""
    free = free_port()
    (block,) = re.findall(rf"^## {heading}\n\n```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line for line in block.replace("\\\n", "").splitlines() if line[:5] != "make "]
    commands = [
        f"{line} --port {free} & server=$!; trap 'kill $server' EXIT; {waiting(free)}"
        if line.startswith(SERVERS)
        else line.replace("curl ", f"curl -fsS -o {number}.json ").replace(f":{port}/", f":{free}/")
        for number, line in enumerate(lines)
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -e", *commands])],
        env={**places.environment(ROOT), "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = sorted(places.folder.glob("?.json"))
    answers = [json.loads(answer.read_text()) for answer in found]
    assert [database["name"] for database in answers[0]] == ["windows", "linux", "azure"]
    if heading == "Flask":
        assert answers[1]["equal"]
        assert content(places.named("linux")) == content(places.named("windows"))


def waiting(port: int) -> str:
    return (
        f"until curl -s -o /dev/null http://127.0.0.1:{port}/; do kill -0 $server; sleep 0.5; done"
    )


def _get(url: str, headers: dict[str, str]) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
        return json.load(response)
