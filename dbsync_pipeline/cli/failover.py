"""The verbs that change which database is the primary: promote, failover, failback."""

from __future__ import annotations

from typing import Annotated

import typer

from dbsync_pipeline.cli.common import configured, confirm, interruptible, starting_dagster
from dbsync_pipeline.cli.options import Limits, Quiet, Yes, as_options, database_names
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.output.failover import Ended, Promoted, Rehearsed


def promote(
    name: Annotated[str, typer.Argument(metavar="DATABASE", autocompletion=database_names)],
    yes: Yes = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Promote even if another database holds a newer state, which the next sync"
            " overwrites.",
        ),
    ] = False,
) -> Promoted:
    """Make a database the primary, with the votes of a majority of the configured databases.

    Copies no data and does not repoint the application.
    """
    from dbsync_pipeline.mirror.failover.promote import consequences
    from dbsync_pipeline.mirror.failover.promote import promote as promote_database

    settings, _ = configured()
    if not yes:
        again = f"dbsync promote {name}{' --overwrite' * overwrite} --yes"
        confirm(consequences(settings, name, overwrite), again, "promote")
    return Promoted(promote_database(settings, name, overwrite=overwrite))


def fail_over(
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the probes and the decision, and change nothing."),
    ] = False,
    down: Annotated[
        bool, typer.Option("--down", help="With --dry-run: as if the primary did not answer.")
    ] = False,
    yes: Yes = False,
) -> Rehearsed | Ended:
    """Do now what the failover sensor would do.

    If the primary does not answer, bring the standbys up to the newest one, and promote that one if
    the application already writes to it.
    """
    from dbsync_pipeline.mirror.failover.decide import decide_for
    from dbsync_pipeline.mirror.failover.observe import observe

    settings, model = configured()
    if down and not dry_run:
        raise SettingsError(
            "--down is only for --dry-run",
            operation="failover",
            remedy="dbsync failover --dry-run --down",
        )
    seen = observe(settings, model, down=down)
    rehearsed = Rehearsed(seen, decide_for(seen, settings), requested=not dry_run)
    if dry_run or rehearsed.decision.nothing:
        return rehearsed
    if not yes:
        confirm(rehearsed.decision.steps, "dbsync failover --yes", "failover", preview=rehearsed)
    with starting_dagster():
        from dbsync_pipeline.runs import launch
    with launch.dagster_instance(settings) as instance, interruptible():
        return Ended(launch.failover(instance))


def failback(yes: Yes = False, quiet: Quiet = False, *, overrides: Limits) -> Ended:
    """Make the configured primary the primary again.

    Sync it from the current primary, while writes there are blocked. Rows that only it has are kept
    as before-images.
    """
    settings, _ = configured()
    if not yes:
        confirm(
            f"{settings.primary} becomes equal to the current primary and replaces it; its own rows"
            " are kept as before-images",
            " ".join(["dbsync failback", *as_options(overrides), "--yes"]),
            "failback",
        )
    with starting_dagster():
        from dbsync_pipeline.cli.render.progress import watching
        from dbsync_pipeline.runs import launch
    with launch.dagster_instance(settings) as instance, watching(quiet) as watch, interruptible():
        return Ended(launch.failback(instance, overrides, watch(settings.primary)))
