"""Run launchers: runs of the command line are left alone, and a cancelled run is cancelled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.launcher import WorkerStatus
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from dbsync_pipeline.launchers.celery import CeleryLauncher, worker_app
from dbsync_pipeline_tests.processes import ROOT


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def launcher(instance: DagsterInstance) -> CeleryLauncher:
    """A Celery launcher whose broker is in this process."""
    launcher = CeleryLauncher("dagster", broker="memory://", backend="cache+memory://")
    launcher.register_instance(instance)
    return launcher


def stored(instance: DagsterInstance, status: DagsterRunStatus) -> DagsterRun:
    return instance.add_run(DagsterRun(job_name="sync_job", status=status))


def test_monitoring_reports_a_run_of_the_command_line_as_running(
    instance: DagsterInstance, launcher: CeleryLauncher
) -> None:
    run = stored(instance, DagsterRunStatus.STARTED)
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING


def test_terminating_cancels_a_run_instead_of_failing_it(
    instance: DagsterInstance, launcher: CeleryLauncher
) -> None:
    run = stored(instance, DagsterRunStatus.STARTED)
    assert launcher.terminate(run.run_id)
    canceling = instance.get_run_by_id(run.run_id)
    assert canceling and canceling.status == DagsterRunStatus.CANCELING
    assert DAGSTER_CELERY_TASK_ID_TAG not in canceling.tags


def test_an_ended_or_unknown_run_is_not_terminated(
    instance: DagsterInstance, launcher: CeleryLauncher
) -> None:
    run = stored(instance, DagsterRunStatus.SUCCESS)
    assert not launcher.terminate(run.run_id) and not launcher.terminate("unknown")


def test_a_worker_takes_one_run_at_a_time_and_acknowledges_it_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "cache+memory://")
    app = worker_app()
    assert app.conf.worker_prefetch_multiplier == 1 and app.conf.task_acks_late
    assert "execute_job" in app.tasks


KUBERNETES = """
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "https://127.0.0.1:1"}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
users: [{name: none, user: {token: none}}]
"""
LAUNCHERS: dict[str, dict[str, Any]] = {
    "docker.DockerLauncher": {"image": "dbsync:latest", "network": "dbsync"},
    "kubernetes.KubernetesLauncher": {
        "service_account_name": "dagster",
        "job_image": "registry.example.org/dbsync:latest",
        "dagster_home": "/opt/dagster",
        "instance_config_map": "dagster-instance",
        "load_incluster_config": False,
        "kubeconfig_file": "kubeconfig",
        "env_secrets": ["dbsync"],
    },
}
"""The launchers that need a server which no test has, as `dagster.yaml` configures them."""


@pytest.mark.system
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_is_loaded_by_dagster_yaml_and_leaves_other_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kubeconfig").write_text(KUBERNETES)
    module, class_name = name.split(".")
    launcher = {
        "module": f"dbsync_pipeline.launchers.{module}",
        "class": class_name,
        "config": LAUNCHERS[name],
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"run_launcher": launcher}))
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        assert type(instance.run_launcher).__name__ == class_name
        assert instance.run_launcher.supports_check_run_worker_health
        run = stored(instance, DagsterRunStatus.STARTED)
        health = instance.run_launcher.check_run_worker_health(run)
    assert health.status == WorkerStatus.RUNNING


@pytest.mark.system
@pytest.mark.parametrize("name", ["compose.yaml", "compose.celery.yaml"])
def test_the_compose_files_are_valid(name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(ROOT / "deploy" / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.system
@pytest.mark.parametrize("others", [[], ["compose.celery.yaml"]], ids=["alone", "with Celery"])
def test_docker_compose_itself_accepts_the_files(others: list[str], tmp_path: Path) -> None:
    """Compose reads and joins them without an engine. It refuses a store without a password."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"]).returncode:
        pytest.skip("needs the plugin `docker compose`")
    deploy = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy", deploy)
    (deploy / ".env").write_text("DBSYNC_WINDOWS_URL=postgresql://app@win-db/app\n")
    files = [part for name in ["compose.yaml", *others] for part in ("-f", str(deploy / name))]
    command = [docker, "compose", *files, "config", "--format", "json"]
    environment = {name: value for name, value in os.environ.items() if name != "STORE_PASSWORD"}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode and "STORE_PASSWORD" in refused.stderr
    given = {**environment, "STORE_PASSWORD": "only-for-this-test"}
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    added = {"redis", "worker"} if others else set()
    assert set(services) == {"store", "code", "pages", "daemon"} | added
    for name in set(services) - {"store", "redis"}:
        assert services[name]["environment"]["DBSYNC_WINDOWS_URL"], name


def test_the_values_for_kubernetes_are_the_projects_own_settings() -> None:
    """The chart writes `dagster.yaml` itself, in its own spelling."""
    own = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    daemon = yaml.safe_load((ROOT / "deploy" / "values.yaml").read_text())["dagsterDaemon"]
    queue = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    runs = own["concurrency"]["runs"]
    assert queue["maxConcurrentRuns"] == runs["max_concurrent_runs"]
    assert queue["tagConcurrencyLimits"] == runs["tag_concurrency_limits"]
    assert daemon["runMonitoring"] == {
        "enabled": True,
        "startTimeoutSeconds": own["run_monitoring"]["start_timeout_seconds"],
        "cancelTimeoutSeconds": own["run_monitoring"]["cancel_timeout_seconds"],
        "pollIntervalSeconds": own["run_monitoring"]["poll_interval_seconds"],
        "maxResumeRunAttempts": 0,
    }
    assert daemon["runRetries"] == {
        "enabled": own["run_retries"]["enabled"],
        "maxRetries": own["run_retries"]["max_retries"],
        "retryOnAssetOrOpFailure": own["run_retries"]["retry_on_asset_or_op_failure"],
    }


def test_the_celery_settings_of_dagster_are_the_projects_own_and_the_launcher() -> None:
    own = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    celery = yaml.safe_load((ROOT / "deploy" / "dagster.celery.yaml").read_text())
    assert celery.pop("run_launcher")["class"] == CeleryLauncher.__name__
    assert celery == own


def test_each_import_of_a_private_module_of_dagster_has_its_reason() -> None:
    """The line before it, or the one before its group, is a comment that says `private`, or it ends with a comment."""
    without = []
    for path in sorted((ROOT / "dbsync_pipeline").rglob("*.py")):
        reason = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            private = line.lstrip().startswith(("from dagster._", "import dagster._"))
            if private and not reason and "#" not in line:
                without.append(f"{path.relative_to(ROOT)}:{number}")
            reason = line.lstrip().startswith("# Private") or (
                reason and (private or line.startswith(("#", ")", "    ")))
            )
    assert without == []
