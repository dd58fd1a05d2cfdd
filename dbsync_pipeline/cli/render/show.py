"""Print the text of any result: `show` chooses the function by the type of the result."""

from __future__ import annotations

from functools import singledispatch

from dbsync_pipeline.cli.render import doctor, failover, rescue, status, sync, tables
from dbsync_pipeline.cli.render.base import say
from dbsync_pipeline.output.base import Result
from dbsync_pipeline.output.serve import Server


@singledispatch
def show(result: Result) -> None:
    """Print a result as text."""
    raise TypeError(f"no text for {type(result).__name__}")


for function in (
    sync.synced,
    sync.demo,
    sync.planned,
    sync.adopted,
    sync.listed,
    sync.verified,
    status.statuses,
    rescue.undone,
    rescue.paused,
    rescue.resumed,
    rescue.rescued_runs,
    rescue.rescued_rows,
    rescue.exported,
    rescue.merged,
    doctor.diagnosis,
    failover.promoted,
    failover.rehearsed,
    failover.ended,
    tables.created,
    tables.checked,
    tables.recreated,
    tables.migrated,
    tables.written,
    tables.models,
    tables.revisions,
):
    show.register(function)


@show.register
def _server(result: Server) -> None:
    say(result.note)
