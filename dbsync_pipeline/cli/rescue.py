"""The verbs for undo, pausing, and the rows that syncs deleted or replaced."""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path
from typing import Annotated

import typer

from dbsync_pipeline.cli.common import chosen, configured, confirm, find_publish
from dbsync_pipeline.cli.options import OnlyDatabase, Run, Target, Yes
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.output.rescue import (
    Exported,
    Merged,
    Paused,
    RescuedRows,
    RescuedRuns,
    Resumed,
    Undone,
)
from dbsync_pipeline.text import count


def undo(
    run: Run,
    yes: Yes = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Undo even if the target was written to since that run."),
    ] = False,
    only: OnlyDatabase = None,
) -> Undone:
    """Restore a target to what it was before a run, and pause it until `dbsync resume TARGET`."""
    from dbsync_pipeline.mirror.rescue.undo import require_undoable
    from dbsync_pipeline.mirror.rescue.undo import undo as undo_publish

    settings, model = configured()
    target, publish = find_publish(settings, run, only)
    if not yes:
        require_undoable(target, model, publish.run_id, overwrite=overwrite)
        again = ["dbsync undo", run, f"--database {only}" * bool(only), "--overwrite" * overwrite]
        confirm(
            f"{target.name} goes back to its state before run {publish.run_id}"
            f" ({count(publish.changed, 'row')})",
            " ".join([*filter(None, again), "--yes"]),
            "undo",
        )
    undone = undo_publish(
        target,
        model,
        publish.run_id,
        by=str(uuid.uuid4()),
        settings=settings,
        overwrite=overwrite,
    )
    return Undone(target.name, publish.run_id, undone)


def pause(
    name: Target,
    reason: Annotated[str, typer.Option("--reason", help="Why; shown by `dbsync status`.")] = "",
) -> Paused:
    """Stop schedules and sensors from syncing a target until `dbsync resume TARGET`.

    An explicit `dbsync sync` still syncs it.
    """
    from dbsync_pipeline.mirror import pausing
    from dbsync_pipeline.mirror.database import database

    settings, _ = configured()
    why = f"by hand at {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC" + f": {reason}" * bool(
        reason
    )
    return Paused(name, why, pausing.pause(database(settings, name), why))


def resume(name: Target) -> Resumed:
    """Let schedules and sensors sync a target again after `dbsync pause` or `dbsync undo`."""
    from dbsync_pipeline.mirror import pausing
    from dbsync_pipeline.mirror.database import database

    settings, _ = configured()
    return Resumed(name, pausing.resume(database(settings, name)))


def list_runs(only: OnlyDatabase = None) -> RescuedRuns:
    """List the runs whose deleted or replaced rows are still kept, newest first."""
    from dbsync_pipeline.mirror.fanout import ask
    from dbsync_pipeline.mirror.rescue.read import kept

    settings, _ = configured()
    return RescuedRuns(ask(chosen(settings, only), kept, settings.answer_seconds))


def show(run: Run, only: OnlyDatabase = None) -> RescuedRows:
    """Show the rows that a run deleted or replaced, as they were before it."""
    from dbsync_pipeline.mirror.rescue.read import rescued_rows

    settings, model = configured()
    target, publish = find_publish(settings, run, only)
    return RescuedRows(rescued_rows(target, model, publish.run_id))


def export(
    run: Run,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder without such files.")],
    only: OnlyDatabase = None,
) -> Exported:
    """Write the rows that a run deleted or replaced to Parquet files, one per table."""
    from dbsync_pipeline.mirror.rescue.export import export as export_rows

    settings, model = configured()
    target, publish = find_publish(settings, run, only)
    try:
        files = export_rows(target, model, publish.run_id, _folder(folder))
    except OSError as error:
        raise SettingsError(
            f"the files cannot be written to {folder}: {error.strerror or type(error).__name__}",
            operation="export rescued rows",
            remedy="name a folder that can be created and written to",
        ) from None
    return Exported(publish.run_id, files)


def _folder(name: str) -> Path:
    if not name.strip():
        raise SettingsError(
            "the name of the folder is empty",
            operation="export rescued rows",
            remedy="name a folder; `.` is the working folder",
        )
    return Path(name)


def merge(run: Run, only: OnlyDatabase = None) -> Merged:
    """Insert the rows that a run deleted again, where their keys are free.

    The exit status is 1 if some could not be inserted; they are listed by key.
    """
    from dbsync_pipeline.mirror.rescue.merge import merge as merge_rows

    settings, model = configured()
    target, publish = find_publish(settings, run, only)
    return Merged(target.name, *merge_rows(target, model, publish.run_id))
