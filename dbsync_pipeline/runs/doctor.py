"""Check what schedules and history need: Dagster's home, its definitions, and its daemon."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

from dagster import DagsterInstance

from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror.doctor import Check
from dbsync_pipeline.runs import launch
from dbsync_pipeline.settings import Settings

LEAST_FREE_BYTES = 1_000_000_000
DAEMON_SECONDS = 300.0
"""A daemon whose last sign of life is older than this does not run."""


def examine(settings: Settings) -> Iterator[Check]:
    """Yield the checks of Dagster; the store is created if it does not exist."""
    try:
        launch.sync_job()
        yield Check("definitions", None, "ok", "Dagster loads them")
    except DbsyncError as error:
        yield Check("definitions", None, "failed", error.cause, error.remedy)
    try:
        with launch.dagster_instance(settings) as instance:
            yield from _store(settings, instance)
    except DbsyncError as error:
        yield Check("Dagster's home", None, "failed", error.cause, error.remedy)


def _store(settings: Settings, instance: DagsterInstance) -> Iterator[Check]:
    home = settings.dagster_home
    free = shutil.disk_usage(home).free
    if free < LEAST_FREE_BYTES:
        detail = f"{free / 1e6:,.0f} MB are free on the disk of {home}"
        yield Check("Dagster's home", None, "warning", detail, "free space there")
    else:
        yield Check("Dagster's home", None, "ok", f"{home} can be written to")
    beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
    if not beats or time.time() - max(beats) > DAEMON_SECONDS:
        yield Check(
            "Dagster's daemon",
            None,
            "warning",
            "it does not run: no schedule syncs and no sensor fails over",
            "`dbsync ui` runs it with the pages; docs/operations.md has a service",
        )
    else:
        yield Check("Dagster's daemon", None, "ok", "it runs")
