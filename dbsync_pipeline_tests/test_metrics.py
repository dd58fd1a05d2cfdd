"""`GET /metrics`: what Prometheus reads of databases that were synced, refused and checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dbsync_pipeline.http import metrics
from dbsync_pipeline_tests import commands
from dbsync_pipeline_tests.http_server import serving
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.test_cli import Dbsync, dbsync, places  # noqa: F401
from dbsync_pipeline_tests.worlds import execute

TOKEN = "only-for-these-tests-0123456789"
ROOT = Path(__file__).parents[1]


def scraped(url: str) -> dict[tuple[str, ...], float]:
    """The value of each metric by its name and labels."""
    response = requests.get(
        f"{url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_prometheus_reads_the_state_of_every_database(
    places: Places,  # noqa: F811
    dbsync: Dbsync,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dbsync_pipeline.definitions import defs

    monkeypatch.setattr(metrics, "CACHE_SECONDS", 0)
    places.set(DBSYNC_API_TOKEN=TOKEN)
    assert dbsync("sync", "--target", "linux", "--quiet").status == 0
    with serving() as url:
        assert requests.get(f"{url}/metrics", timeout=60).status_code == 401
        values = scraped(url)
        assert values["dbsync_up", "linux"] == 1 and values["dbsync_up", "azure"] == 0
        assert values["dbsync_primary", "windows"] == 1 and values["dbsync_primary", "linux"] == 0
        assert 0 < values["dbsync_standby_age_seconds", "linux"] < 600
        assert values["dbsync_last_publish_seconds", "linux"] > 0
        assert values["dbsync_last_publish_bytes", "linux"] > 0
        assert values["dbsync_table_rows", "linux", "users"] == 20
        assert values["dbsync_failed_runs", "linux"] == values["dbsync_paused", "linux"] == 0
        assert ("dbsync_ready", "linux") not in values, "it was not checked yet"

        execute(places.named("linux"), "UPDATE users SET name = 'local' WHERE id = 1")
        execute(places.named("windows"), "UPDATE users SET name = 'new' WHERE id = 1")
        assert dbsync("sync", "--target", "linux", "--quiet").status == 1
        assert dbsync("pause", "linux").status == 0
        with places.dagster() as instance:
            defs.resolve_job_def("readiness_job").execute_in_process(instance=instance)
        values = scraped(url)
        assert values["dbsync_failed_runs", "linux"] == values["dbsync_paused", "linux"] == 1
        assert values["dbsync_ready", "linux"] == 0
        assert values["dbsync_ready_checked_timestamp_seconds", "linux"] > 1e9
    without_value = {"dbsync_term"}  # no database was ever promoted
    assert {name for name, *_ in values} == {each.name for each in metrics.METRICS} - without_value


def test_the_rules_for_alerts_name_metrics_and_labels_that_exist() -> None:
    text = (ROOT / "deploy" / "alerts.yaml").read_text(encoding="utf-8")
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    known = {metric.name: set(metric.labels) for metric in metrics.METRICS}
    assert len(rules) >= 8 and len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        named = re.findall(r"\bdbsync_\w+", rule["expr"])
        labels = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert named and labels <= set.union(*(known[name] for name in named)), rule
        command = re.sub(r"{{.*?}}", "linux", rule["annotations"]["remedy"])
        assert commands.wrong(command) is None, command
