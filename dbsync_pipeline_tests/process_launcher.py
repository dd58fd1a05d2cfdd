"""A run launcher that is not Dagster's default: each run is a process of its own, as in a container.

`dagster.yaml` names it, so the command, the API and the daemon load it from here. The run's tag has the process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from dbsync_pipeline_tests.processes import ROOT

PROCESS_TAG = "test/process"


class ProcessLauncher(RunLauncher, ConfigurableClass):
    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> ProcessLauncher:
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        assert run.job_code_origin is not None
        args = ExecuteRunArgs(run.job_code_origin, run.run_id, self._instance.get_ref())
        command = [sys.executable, "-m", *args.get_command_args()]
        log = open(Path(self._instance.root_directory) / "runs.log", "ab")  # noqa: SIM115 - the run's
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._instance.add_run_tags(run.run_id, {PROCESS_TAG: str(process.pid)})

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        os.kill(int(run.tags[PROCESS_TAG]), signal.SIGINT)
        return True


def install(dagster_home: Path, *, queue: bool) -> None:
    """Make it the launcher of that store; without `queue` a run is launched as soon as it is submitted."""
    config = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    config["run_launcher"] = {"module": __name__, "class": "ProcessLauncher"}
    if not queue:
        del config["concurrency"]
        config["run_coordinator"] = {
            "module": "dagster._core.run_coordinator",
            "class": "DefaultRunCoordinator",
        }
    (dagster_home / "dagster.yaml").write_text(yaml.safe_dump(config))
