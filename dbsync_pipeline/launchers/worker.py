"""The Celery app that a worker loads: `celery -A dbsync_pipeline.launchers.worker worker`."""

from __future__ import annotations

from dbsync_pipeline.launchers.celery import worker_app

app = worker_app()
