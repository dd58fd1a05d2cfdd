"""What a sync would do, for the databases that a request names."""

from __future__ import annotations

from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror.database import database
from dbsync_pipeline.mirror.guard import Finding, Plan
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.report.file import Report
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.request import SyncRequest
from dbsync_pipeline.settings import Settings


def plan_sync(
    settings: Settings,
    model: Model,
    request: SyncRequest,
    target: str,
    report: Report | None = None,
) -> tuple[Plan, tuple[Finding, ...]]:
    """Return what a sync to this target of the request would do now, and the guards' objections.

    Reads one snapshot of each side, locks nothing, and changes nothing. Does not wait for a
    database that starts. The rows that differ are written to the report.
    """
    with Session(
        database(settings, request.source).at_once,
        database(settings, target).at_once,
        model,
        request.tables,
        run_id="plan",
        settings=settings,
        policy=request.overrides.applied_to(settings.policy),
    ) as session:
        try:
            return session.plan(report)
        except DbsyncError as error:
            if report is not None:
                report.failed(target, error)
            raise
