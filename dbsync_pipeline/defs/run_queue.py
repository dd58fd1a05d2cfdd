"""The queue of runs: Dagster's own, with each sync tagged by its target before it waits.

`dagster.yaml` limits the runs per value of `dbsync/target`, so the syncs of one target run one
after the other. A limit on Dagster's own `dagster/partition` would also throttle the partitioned
jobs of other projects in the same deployment. Schedules and the command line set the tag
themselves; a materialization from the pages has only its partition, and gets the tag here.
"""

from __future__ import annotations

from dagster import DagsterRun, QueuedRunCoordinator, SubmitRunContext

from dbsync_pipeline.defs.run_tags import PARTITION_TAG, TARGET_TAG, is_sync


class RunQueue(QueuedRunCoordinator):
    """Dagster's queued run coordinator, which `dagster.yaml` names."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Tag the run with its target if it is a sync, then queue it."""
        run = context.dagster_run
        if TARGET_TAG not in run.tags and PARTITION_TAG in run.tags and is_sync(run):
            self._instance.add_run_tags(run.run_id, {TARGET_TAG: run.tags[PARTITION_TAG]})
        return super().submit_run(context)
