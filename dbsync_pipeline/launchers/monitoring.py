"""Run monitoring that leaves runs of the command line alone.

Dagster's daemon asks the launcher whether each started run is alive. A launcher knows only the runs
that it launched, so it takes a `dbsync sync` in another process for dead: the daemon fails the run,
and an alert is sent, while the sync goes on and publishes. If such a process does die, the sensor
`end_dead_runs` ends its run after three minutes.
"""

from __future__ import annotations

from dagster import DagsterRun

# Private, because Dagster exports neither; every launcher imports them from here.
from dagster._core.launcher import CheckRunHealthResult, RunLauncher, WorkerStatus

from dbsync_pipeline.defs.alerts import is_command_line_run


class LeavesOtherRunsAlone(RunLauncher):
    """Put before a launcher's class: report runs that no launcher started as alive."""

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return the health of the run's worker; of a command-line run, that it is running."""
        if is_command_line_run(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return super().check_run_worker_health(run)
