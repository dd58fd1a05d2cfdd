"""Each run in a Docker container of its own."""

from __future__ import annotations

from dagster_docker import DockerRunLauncher

from dbsync_pipeline.launchers.monitoring import LeavesOtherRunsAlone


class DockerLauncher(LeavesOtherRunsAlone, DockerRunLauncher):
    """Dagster's Docker launcher, whose monitoring leaves runs of the command line alone."""
