"""Runs as Celery tasks, each on whichever worker is free; and the app that the workers run.

A worker takes one run at a time and acknowledges it when it ends, so a second run goes to another
worker instead of waiting behind the first. The broker and the result backend are
CELERY_BROKER_URL and CELERY_RESULT_BACKEND.
"""

from __future__ import annotations

import os

from celery import Celery
from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus  # Dagster exports neither
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.make_app import make_app
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

from dbsync_pipeline.launchers.monitoring import LeavesOtherRunsAlone


class CeleryLauncher(LeavesOtherRunsAlone, CeleryRunLauncher):
    """Dagster's Celery launcher, with monitoring and cancelling that fit a mirror."""

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return the health of the run's task; running if the task is not recorded yet."""
        if DAGSTER_CELERY_TASK_ID_TAG not in run.tags:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return super().check_run_worker_health(run)

    def terminate(self, run_id: str) -> bool:
        """Cancel the run. Return False if it has ended or does not exist.

        Dagster's own method only ends the task, so the run ends as a failure and is retried.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        return DAGSTER_CELERY_TASK_ID_TAG not in run.tags or super().terminate(run_id)


def worker_app() -> Celery:
    """Return the app of a worker: `celery -A dbsync_pipeline.launchers.worker worker`."""
    app = make_app(  # type: ignore[no-untyped-call]
        {
            "broker": os.environ["CELERY_BROKER_URL"],
            "backend": os.environ["CELERY_RESULT_BACKEND"],
        }
    )
    app.conf.worker_prefetch_multiplier = 1
    app.conf.task_acks_late = True
    create_execute_job_task(app)
    create_resume_job_task(app)
    return app
