"""The verbs that move or compare rows: demo, sync, plan, adopt, verify, status, history."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbsync_pipeline import signals
from dbsync_pipeline.cli.common import configured, confirm, interruptible, starting_dagster
from dbsync_pipeline.cli.options import Quiet, as_options
from dbsync_pipeline.cli.verb import may_ask
from dbsync_pipeline.output.sync import (
    Adopted,
    DemoSynced,
    Listed,
    Planned,
    Statuses,
    Synced,
    Verified,
)
from dbsync_pipeline.request import AdoptOptions, CompareOptions, HistoryOptions, SyncOptions

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.database import Database
    from dbsync_pipeline.mirror.model import Model
    from dbsync_pipeline.mirror.report.file import Report
    from dbsync_pipeline.request import SyncRequest
    from dbsync_pipeline.settings import Settings


def demo(quiet: Quiet = False) -> DemoSynced:
    """Fill an empty primary with sample rows, and sync it to all other databases."""
    with signals.at_once():
        from dbsync_pipeline.demo.fill import fill
        from dbsync_pipeline.mirror.database import database

    settings, model = configured()
    request = SyncOptions().resolve(settings, model)
    source = database(settings, request.source)
    report = fill(source, model)
    return DemoSynced(report, _sync_all(settings, request, quiet), _sample_edit(source))


def _sample_edit(source: Database) -> str:
    """Return a command that changes one row of the demo."""
    change = "UPDATE users SET name = 'Ada' WHERE id = 1"
    return source.dialect.command(source.url, source.name, change)


def sync(options: SyncOptions, quiet: Quiet = False) -> Synced | Planned | Statuses:
    """Make the targets equal to the source. Rows that only a target has are deleted there.

    At a terminal, without a source, target or table, it asks what to sync and shows the plan first.
    """
    settings, model = configured(fresh=True)
    if may_ask() and not (options.source or options.target or options.table):
        return _guided(settings, model, options, quiet)
    return _sync_all(settings, options.resolve(settings, model), quiet)


def guided() -> Synced | Planned | Statuses:
    """Ask a person what to sync, show the plan, and sync after a yes."""
    settings, model = configured(fresh=True)
    return _guided(settings, model, SyncOptions(), quiet=False)


def _guided(
    settings: Settings, model: Model, options: SyncOptions, quiet: bool
) -> Synced | Planned | Statuses:
    from dbsync_pipeline.cli.menu import choose

    chosen = choose(settings, model.names, options)
    if chosen is None:
        return status()
    request = chosen.resolve(settings, model)
    planned = _planned(settings, model, request)
    if planned.refused or planned.empty:
        return planned
    targets = ", ".join(request.targets)
    confirm(
        f"{targets} becomes equal to {request.source}"
        if len(request.targets) == 1
        else f"{targets} become equal to {request.source}",
        " ".join(
            [
                f"dbsync sync --source {request.source}",
                *(f"--target {target}" for target in request.targets),
                *(f"--table {table}" for table in chosen.table),
                *as_options(chosen),
            ]
        ),
        "sync",
        preview=planned,
    )
    return _sync_all(settings, request, quiet)


def plan(
    options: SyncOptions,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write the rows that differ, by table and key, into this new file: .html, "
            ".csv, or .sql.",
        ),
    ] = None,
    values: Annotated[
        bool, typer.Option("--values", help="Write values into the report, except secret ones.")
    ] = False,
) -> Planned:
    """Show what a sync would insert, update and delete, and whether it would be refused.

    Changes nothing. The exit status is 1 if a sync would be refused.
    """
    settings, model = configured(fresh=True)
    request = options.resolve(settings, model)
    if report is None:
        return _planned(settings, model, request)
    from dbsync_pipeline.mirror.report.file import opened

    with opened(report, with_values=values, targets=len(request.targets)) as file:
        return replace(_planned(settings, model, request, file), report=report)


def _planned(
    settings: Settings, model: Model, request: SyncRequest, report: Report | None = None
) -> Planned:
    from dbsync_pipeline.mirror.fanout import one_by_one
    from dbsync_pipeline.runs.planning import plan_sync

    return Planned(
        request,
        one_by_one(request.targets, lambda name: plan_sync(settings, model, request, name, report)),
        model.skipped,
    )


def adopt(options: AdoptOptions, quiet: Quiet = False) -> Adopted:
    """Take in standbys whose rows another tool copied: compare, show how far apart they are, sync.

    Nothing that is equal is sent. What differs is refused until options allow it. A standby that
    was taken in earlier is left as it is.
    """
    settings, model = configured(fresh=True)
    request = options.resolve(settings, model)
    with starting_dagster():
        from dbsync_pipeline.cli.render.progress import watching
        from dbsync_pipeline.runs import launch
        from dbsync_pipeline.runs.adopt import adopt as take_in

    with (
        launch.dagster_instance(settings) as instance,
        watching(quiet) as watch,
        interruptible(),
    ):
        return Adopted(request.source, take_in(instance, settings, model, request, watch))


def verify(options: CompareOptions) -> Verified:
    """Compare databases row by row with SHA-256, without relying on the ledgers.

    The exit status is 0 if all are equal.
    """
    from dbsync_pipeline.mirror.database import database
    from dbsync_pipeline.mirror.fanout import one_by_one
    from dbsync_pipeline.mirror.verify import verify as compare

    settings, model = configured()
    request = options.resolve(settings, model)
    source = database(settings, request.source).at_once
    return Verified(
        request.source,
        one_by_one(
            request.targets,
            lambda name: compare(source, database(settings, name).at_once, model, request.tables),
        ),
    )


def status() -> Statuses:
    """Show for each database whether it answers, what it holds, and how far it is behind."""
    from dbsync_pipeline.mirror.status import status as read

    settings, model = configured()
    return Statuses(read(settings, model), settings.primary, model.skipped)


def history(options: HistoryOptions) -> Listed:
    """List past syncs, however they were started: here, in Dagster's pages, by a schedule."""
    with starting_dagster():
        from dbsync_pipeline.mirror.database import databases
        from dbsync_pipeline.runs import history as runs
        from dbsync_pipeline.runs import launch
        from dbsync_pipeline.settings import load

    settings = load()
    options.check(settings)
    with launch.dagster_instance(settings) as instance:
        return Listed(
            runs.past(instance, databases(settings), options, seconds=settings.answer_seconds)
        )


def _sync_all(settings: Settings, request: SyncRequest, quiet: bool) -> Synced:
    """Run one sync per target; the failure of one does not stop the others."""
    with starting_dagster():
        from dbsync_pipeline.cli.render.progress import watching
        from dbsync_pipeline.runs import launch

    with launch.dagster_instance(settings) as instance, watching(quiet) as watch, interruptible():
        return Synced(request, launch.sync_all(instance, request, watch))
