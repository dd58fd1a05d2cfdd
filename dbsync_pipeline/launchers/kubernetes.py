"""Each run in a Kubernetes job of its own."""

from __future__ import annotations

from dagster_k8s import K8sRunLauncher

from dbsync_pipeline.launchers.monitoring import LeavesOtherRunsAlone


class KubernetesLauncher(LeavesOtherRunsAlone, K8sRunLauncher):
    """Dagster's Kubernetes launcher, whose monitoring leaves runs of the command line alone."""
