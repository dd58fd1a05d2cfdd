"""The verbs that move or compare rows: demo, sync, plan, verify, status, history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbsync_pipeline import signals
from dbsync_pipeline.cli.common import configured, interruptible, starting_dagster
from dbsync_pipeline.cli.verb import may_ask
from dbsync_pipeline.output.sync import (
    DemoSynced,
    Listed,
    Planned,
    Statuses,
    Synced,
    Verified,
)
from dbsync_pipeline.request import CompareOptions, HistoryOptions, SyncOptions

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.database import Database
    from dbsync_pipeline.mirror.guard import Finding, Plan
    from dbsync_pipeline.mirror.model import Model
    from dbsync_pipeline.request import SyncRequest
    from dbsync_pipeline.settings import Settings


def demo() -> DemoSynced:
    """Fill an empty primary with sample rows, and sync it to all other databases."""
    with signals.at_once():
        from dbsync_pipeline.demo.fill import fill
        from dbsync_pipeline.mirror.database import database

    settings, model = configured()
    request = SyncOptions().resolve(settings, model)
    source = database(settings, request.source)
    report = fill(source, model)
    return DemoSynced(report, _sync_all(settings, request), _sample_edit(source))


def _sample_edit(source: Database) -> str:
    """Return a command that changes one row of the demo."""
    change = "UPDATE users SET name = 'Ada' WHERE id = 1"
    return source.dialect.command(source.url, source.name, change)


def sync(options: SyncOptions) -> Synced:
    """Make the targets equal to the source. Rows that only a target has are deleted there."""
    settings, model = configured()
    if options.source is None and not options.target and may_ask():
        options = options.model_copy(update=_ask(settings))
    return _sync_all(settings, options.resolve(settings, model))


def plan(options: SyncOptions) -> Planned:
    """Show what a sync would insert, update and delete, and whether it would be refused.

    Changes nothing. The exit status is 1 if a sync would be refused.
    """
    from dbsync_pipeline.mirror.fanout import one_by_one

    settings, model = configured()
    request = options.resolve(settings, model)
    return Planned(
        request, one_by_one(request.targets, lambda name: _plan(settings, model, request, name))
    )


def _plan(
    settings: Settings, model: Model, request: SyncRequest, target: str
) -> tuple[Plan, tuple[Finding, ...]]:
    from dbsync_pipeline.mirror.database import database
    from dbsync_pipeline.mirror.sync.session import Session

    with Session(
        database(settings, request.source),
        database(settings, target),
        model,
        request.tables,
        run_id="plan",
        settings=settings,
        policy=request.overrides.applied_to(settings.policy),
    ) as session:
        return session.plan()


def verify(options: CompareOptions) -> Verified:
    """Compare databases row by row with SHA-256, without relying on the ledgers.

    The exit status is 0 if all are equal.
    """
    from dbsync_pipeline.mirror.database import database
    from dbsync_pipeline.mirror.fanout import one_by_one
    from dbsync_pipeline.mirror.verify import verify as compare

    settings, model = configured()
    request = options.resolve(settings, model)
    source = database(settings, request.source)
    return Verified(
        request.source,
        one_by_one(
            request.targets,
            lambda name: compare(source, database(settings, name), model, request.tables),
        ),
    )


def status() -> Statuses:
    """Show for each database whether it answers, what it holds, and how far it is behind."""
    from dbsync_pipeline.mirror.status import status as read

    settings, model = configured()
    return Statuses(read(settings, model), settings.primary)


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


def _sync_all(settings: Settings, request: SyncRequest) -> Synced:
    """Run one sync per target, in turn; the failure of one does not stop the others."""
    with starting_dagster():
        from dbsync_pipeline.cli.render.progress import watching
        from dbsync_pipeline.runs import launch

    runs = []
    with launch.dagster_instance(settings) as instance, watching() as watch:
        for target in request.targets:
            with interruptible():
                runs.append(launch.sync(instance, request, target, watch(target)))
    return Synced(request, runs)


def _ask(settings: Settings) -> dict[str, Any]:
    """Ask the person at the terminal for source and targets."""
    from dbsync_pipeline.cli.render.base import ask
    from dbsync_pipeline.mirror.failover import term

    source = ask("Copy from", settings.names, term.primary(settings))
    others = [name for name in settings.names if name != source]
    if len(others) < 2:
        return {"source": source, "target": others}
    target = ask("Copy to", [*others, "all"], "all")
    return {"source": source, "target": others if target == "all" else [target]}
