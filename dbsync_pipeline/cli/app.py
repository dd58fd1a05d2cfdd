"""`dbsync`: the command line. Every verb reads the settings, calls the layer below, and shows what came back.

With `--json` a verb prints one JSON value on stdout and nothing else there; progress and messages go to stderr. Exit status is 0 when
what was asked is so, 1 when it is not, 2 when the asking was wrong, 130 after Ctrl-C. Dagster is imported by the verbs that run it or
read its runs.
"""

from __future__ import annotations

import datetime as dt
import errno
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dbsync_pipeline import extras, output, redact, signals
from dbsync_pipeline.cli import render
from dbsync_pipeline.errors import DbsyncError, Refused, SettingsError
from dbsync_pipeline.mirror import pausing, schema
from dbsync_pipeline.mirror.database import Database, database, databases
from dbsync_pipeline.mirror.failover import failover, term
from dbsync_pipeline.mirror.guard import Finding, Plan
from dbsync_pipeline.mirror.ledger import Publish
from dbsync_pipeline.mirror.migrate import apply as migrations
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.model import Model, load_model
from dbsync_pipeline.mirror.rescue import rescue
from dbsync_pipeline.mirror.status import status as read_status
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.policy import Overrides, Policy
from dbsync_pipeline.request import SyncRequest, resolve
from dbsync_pipeline.settings import Settings, load
from dbsync_pipeline.text import count

app = typer.Typer(
    help="Keep the standby copies of an application's database equal to the primary.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
rescue_app = typer.Typer(help="The rows that syncs deleted or replaced.", no_args_is_help=True)
tables_app = typer.Typer(
    help="Create, check or recreate the tables on the databases.", no_args_is_help=True
)
migrate_app = typer.Typer(
    help="Apply the models' revisions to every database that lacks them, the primary first.",
    invoke_without_command=True,
)
app.add_typer(rescue_app, name="rescue")
app.add_typer(tables_app, name="tables")
app.add_typer(migrate_app, name="migrate")

Source = Annotated[
    str | None,
    typer.Option("--source", help="The database to copy from; the primary if not given."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target", help="A database to copy to, again for more; all others if not given."
    ),
]
Tables = Annotated[
    list[str] | None,
    typer.Option("--table", help="A table to copy, again for more; all if not given."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Overwrite rows that somebody else wrote to the target.")
]
Partial = Annotated[
    bool | None,
    typer.Option(
        "--partial/--no-partial",
        help="Allow, or refuse, a selection of tables, which leaves the target mixed.",
    ),
]
Fraction = Annotated[
    float | None,
    typer.Option(
        "--max-change-fraction",
        min=0,
        max=1,
        help="Refuse to change or delete more than this part of a table's rows.",
    ),
]
Rows = Annotated[
    int | None,
    typer.Option(
        "--max-change-rows",
        min=0,
        help="So many rows of a table may be changed or deleted whatever its size.",
    ),
]
OneDatabase = Annotated[str | None, typer.Option("--database", help="Only this database.")]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON value on stdout, and nothing else there.")
]


def main() -> None:
    """Runs a verb; every failure ends as a text for a person, or as JSON, and a status that is not 0."""
    try:
        _run()
    except DbsyncError as error:
        _fail(error)
    except Exception as error:
        _fail(DbsyncError(redact.text(error)))


_UsageError: Any = typer.BadParameter.__base__
"""What Typer raises for any wrong word; it has no name of its own there."""


def _run() -> None:
    """Typer shows a wrong word by itself, as text; where JSON is asked for it becomes an error like all others."""
    if "--json" not in sys.argv:
        app(prog_name="dbsync")
    try:
        sys.exit(app(prog_name="dbsync", standalone_mode=False))
    except _UsageError as error:
        asked = error.ctx.command_path if error.ctx else "dbsync"
        raise SettingsError(
            error.format_message(), operation=asked, remedy=f"{asked} --help"
        ) from None


def _fail(error: DbsyncError) -> NoReturn:
    if "--json" in sys.argv:
        render.json_out({"error": output.error_json(error)})
    else:
        render.complain(str(error))
    sys.exit(2 if isinstance(error, SettingsError) else 1)


# The mirror ------------------------------------------------------------------------------------------------------------


@app.command()
def demo(as_json: Json = False) -> None:
    """Make a realistic dataset in the primary, if it has none, and sync it to all other databases."""
    with signals.at_once():
        from dbsync_pipeline.demo.fill import fill

    settings, model = _ground()
    choice = resolve(settings, model)
    report = fill(database(settings, choice.source), model)
    outcomes = _sync_all(settings, choice)
    if as_json:
        render.json_out(
            {
                "created": report.created,
                "rows": report.rows,
                **output.outcomes_json(choice, outcomes),
            }
        )
    else:
        render.demo(choice, report, outcomes, _edit_by_hand(database(settings, choice.source)))
    raise typer.Exit(_status(outcomes))


def _edit_by_hand(place: Database) -> str:
    """A way to change one row of the demo."""
    change = "UPDATE users SET name = 'Ada' WHERE id = 1"
    return place.dialect.command(place.url, place.name, change)


@app.command()
def sync(
    source: Source = None,
    target: Targets = None,
    table: Tables = None,
    overwrite: Overwrite = False,
    max_change_fraction: Fraction = None,
    max_change_rows: Rows = None,
    partial: Partial = None,
    as_json: Json = False,
) -> None:
    """Make the targets equal to the source. Rows of a target that the source does not have are deleted."""
    settings, model = _ground()
    if not as_json and source is None and target is None:
        source, target = _ask(settings)
    allowed = _overrides(overwrite or None, max_change_fraction, max_change_rows, partial)
    choice = resolve(settings, model, source, target or [], table or [], allowed)
    outcomes = _sync_all(settings, choice)
    if as_json:
        render.json_out(output.outcomes_json(choice, outcomes))
    else:
        render.outcomes(outcomes)
    raise typer.Exit(_status(outcomes))


@app.command()
def plan(
    source: Source = None,
    target: Targets = None,
    table: Tables = None,
    overwrite: Overwrite = False,
    max_change_fraction: Fraction = None,
    max_change_rows: Rows = None,
    partial: Partial = None,
    as_json: Json = False,
) -> None:
    """Say what a sync would insert, update and delete, and change nothing."""
    settings, model = _ground()
    allowed = _overrides(overwrite or None, max_change_fraction, max_change_rows, partial)
    choice = resolve(settings, model, source, target or [], table or [], allowed)
    plans = _each(choice.targets, lambda name: _plan(settings, model, choice, name))
    if as_json:
        render.json_out(output.plans_json(choice, plans))
    else:
        render.plans(choice, plans)
    raise typer.Exit(
        _status_of(plans) or int(any(output.refused(result) for result in plans.values()))
    )


@app.command()
def status(as_json: Json = False) -> None:
    """Say of each database whether it answers, what it holds, and how far it is from the primary."""
    settings, model = _ground()
    found = read_status(settings, model)
    if as_json:
        render.json_out(found)
    else:
        render.status(found, settings.primary)


@app.command()
def history(
    limit: Annotated[
        int,
        typer.Option("--limit", min=1, max=output.MOST_RUNS, help="How many runs, newest first."),
    ] = 20,
    source: Annotated[
        str | None, typer.Option("--source", help="Only those from this database.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Only those to this database.")
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only those that ended and published nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the syncs that ran, however they were launched: from here, the UI, a schedule or `dagster job execute`."""
    with render.starting_dagster():
        from dbsync_pipeline.runs import history as record
        from dbsync_pipeline.runs import launch

    settings = load()
    source, target = (
        None if name is None else settings.database(name).name for name in (source, target)
    )
    wanted = record.Wanted(limit, source, target, failed)
    with launch.dagster_instance(settings) as instance:
        found = record.past(instance, databases(settings), wanted, seconds=settings.answer_seconds)
    for error in found.unread.values():
        render.complain(
            f"{error.database}: its ledger was not read, so what it published may be missing: {error.cause}"
        )
    if as_json:
        render.json_out(found.runs)
    else:
        render.history(found.runs)


def _plan(
    settings: Settings, model: Model, choice: SyncRequest, target: str
) -> tuple[Plan, tuple[Finding, ...]]:
    source, far = database(settings, choice.source), database(settings, target)
    policy = choice.overrides.applied_to(settings.policy)
    with Session(
        source, far, model, choice.tables, run_id="plan", settings=settings, policy=policy
    ) as session:
        return session.plan()


def _sync_all(settings: Settings, choice: SyncRequest) -> list[Any]:
    """One run per target, in turn; one that fails does not hold the next one back."""
    with render.starting_dagster():
        from dbsync_pipeline.runs import launch
    outcomes = []
    with launch.dagster_instance(settings) as instance, render.watching() as watch:
        for target in choice.targets:
            with _interruptible():
                outcomes.append(launch.sync(instance, choice, target, watch(target)))
    return outcomes


@contextmanager
def _interruptible() -> Iterator[None]:
    """A run that Ctrl-C ends is no failure to go on after, and it may have ended after its commit."""
    try:
        with signals.kept():
            yield
    except KeyboardInterrupt:
        render.complain("interrupted: `dbsync history` says what was published")
        raise


def _status(outcomes: list[Any]) -> int:
    return 0 if all(outcome.succeeded for outcome in outcomes) else 1


def _ask(settings: Settings) -> tuple[str | None, list[str] | None]:
    """Source and targets from the person at the terminal; nothing when there is none."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None, None
    source = render.ask("Copy from", settings.names, term.primary(settings))
    others = [name for name in settings.names if name != source]
    if len(others) < 2:
        return source, others
    target = render.ask("Copy to", [*others, "all"], "all")
    return source, others if target == "all" else [target]


@app.command()
def verify(
    source: Annotated[
        str | None,
        typer.Option(
            "--source", help="The database to compare the others with; the primary if not given."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="A database to compare with it, again for more; all others if not given.",
        ),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option("--table", help="A table to compare, again for more; all if not given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare databases row by row with SHA-256, trusting no ledger; status 0 when all are equal."""
    from dbsync_pipeline.mirror.verify import verify as compare

    settings, model = _ground()
    choice = resolve(settings, model, source, target or [], table or [])
    ours = database(settings, choice.source)
    found = _each(
        choice.targets, lambda name: compare(ours, database(settings, name), model, choice.tables)
    )
    if as_json:
        render.json_out(
            [
                {"source": choice.source, "target": name, **output.verdicts_json(result)}
                for name, result in found.items()
            ]
        )
    else:
        render.verdicts(choice.source, found)
    raise typer.Exit(
        _status_of(found)
        or int(not all(verdict.equal for result in found.values() for verdict in result))
    )


# What syncs took away --------------------------------------------------------------------------------------------------

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, or its beginning; see `dbsync history`.")
]


@app.command()
def undo(
    run: Run,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Also where the target was written to since that run."),
    ] = False,
    only: OneDatabase = None,
    as_json: Json = False,
) -> None:
    """Put a target back to what it was before that run, and hold its schedule until `dbsync release TARGET`."""
    settings, model = _ground()
    place, entry = _published(settings, run, only)
    if not yes:
        _agree(
            f"{place.name} goes back to before run {entry.run_id} ({count(entry.changed, 'row')})",
            f"dbsync undo {run}{f' --database {only}' if only else ''}{' --overwrite' if overwrite else ''} --yes",
            as_json,
            "undo",
        )
    undone = rescue.undo(
        place, model, entry.run_id, by=str(uuid.uuid4()), settings=settings, overwrite=overwrite
    )
    if as_json:
        render.json_out(undone)
    else:
        render.good(
            f"{place.name}: as it was before run {entry.run_id} ({count(undone.changed, 'row')} put back); its schedule is held"
        )
        render.say(
            f"To take this back: dbsync undo {undone.run_id}\nTo let the schedule go on: dbsync release {place.name}"
        )


@app.command()
def pause(
    name: Annotated[str, typer.Argument(metavar="TARGET")],
    reason: Annotated[
        str, typer.Option("--reason", help="Why, for whoever looks at it later.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Hold a target: schedules and sensors leave it alone until `dbsync release TARGET`. An explicit `dbsync sync` still syncs it."""
    settings, _ = _ground()
    why = f"paused at {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC" + (
        f": {reason}" if reason else ""
    )
    before = pausing.pause(database(settings, name), why)
    if as_json:
        render.json_out({"database": name, "held": why, "was_held": before})
    else:
        render.say(f"{name}: {why}; `dbsync release {name}` lets its schedule go on")


@app.command()
def release(name: Annotated[str, typer.Argument(metavar="TARGET")], as_json: Json = False) -> None:
    """Let a target's schedule go on after a pause or an undo."""
    settings, _ = _ground()
    reason = pausing.resume(database(settings, name))
    if as_json:
        render.json_out({"database": name, "was_held": reason})
    else:
        render.say(f"{name}: released ({reason})" if reason else f"{name}: was not held")


@rescue_app.command("list")
def rescue_list(only: OneDatabase = None, as_json: Json = False) -> None:
    """The runs whose rescued rows are still kept, newest first."""
    settings, _ = _ground()
    found = _each(_names(settings, only), lambda name: rescue.kept(database(settings, name)))
    if as_json:
        render.json_out(
            [
                {"database": name, **output.result_json("rescued", result)}
                for name, result in found.items()
            ]
        )
    else:
        render.rescued(found)
    raise typer.Exit(_status_of(found))


@rescue_app.command("show")
def rescue_show(run: Run, only: OneDatabase = None, as_json: Json = False) -> None:
    """The rows that a run deleted or replaced, as they were."""
    settings, model = _ground()
    place, entry = _published(settings, run, only)
    found = rescue.rescued_rows(place, model, entry.run_id)
    if as_json:
        render.json_out(
            [{"table": table, **row} for table, rows in found for row in output.rows_json(rows)]
        )
    else:
        render.rows(found)


@rescue_app.command("export")
def rescue_export(
    run: Run,
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    only: OneDatabase = None,
    as_json: Json = False,
) -> None:
    """Write the rows that a run deleted or replaced as Parquet, one file a table."""
    settings, model = _ground()
    place, entry = _published(settings, run, only)
    try:
        files = rescue.export(place, model, entry.run_id, folder)
    except OSError as error:
        raise SettingsError(
            f"the files cannot be written to {folder}: {error.strerror or type(error).__name__}",
            operation="export rescued rows",
            remedy="name a folder that can be made and written to",
        ) from None
    if as_json:
        render.json_out({"run_id": entry.run_id, "files": files})
    else:
        render.say("\n".join(map(str, files)) or "nothing was rescued")


@rescue_app.command("merge")
def rescue_merge(run: Run, only: OneDatabase = None, as_json: Json = False) -> None:
    """Put back the deleted rows whose keys are free, and name the rest; status 0 when there is no rest."""
    settings, model = _ground()
    place, entry = _published(settings, run, only)
    put, rest = rescue.merge(place, model, entry.run_id)
    if as_json:
        render.json_out({"database": place.name, "put_back": put, "rest": rest})
    else:
        render.merged(place.name, put, rest)
    raise typer.Exit(int(bool(rest)))


def _published(settings: Settings, run: str, only: str | None) -> tuple[Database, Publish]:
    """Where a run published, and what."""
    return rescue.find([database(settings, name) for name in _names(settings, only)], run)


def _agree(what: str, command: str, as_json: bool, operation: str) -> None:
    """A person at the terminal says yes, or it is refused."""
    if (
        not as_json
        and sys.stdin.isatty()
        and render.ask(f"{what}. Go on?", ["yes", "no"], "no") == "yes"
    ):
        return
    raise Refused(f"{what}, and nobody agreed", operation=operation, remedy=command)


# Failover --------------------------------------------------------------------------------------------------------------

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command()
def promote(
    name: Annotated[str, typer.Argument(metavar="DATABASE")],
    yes: Yes = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Also where another database holds a newer state, which goes with the next sync.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a database the primary, with a majority of all. Moves no rows, and tells no application."""
    settings, _ = _ground()
    if not yes:
        again = f"dbsync promote {name}{' --overwrite' if overwrite else ''} --yes"
        _agree(failover.at_stake(settings, name, overwrite), again, as_json, "promote")
    done = failover.promote(settings, name, overwrite=overwrite)
    if as_json:
        render.json_out(done)
    else:
        render.promoted(done)


@app.command("failover")
def fail_over(
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the probes and the decision, and change nothing."),
    ] = False,
    down: Annotated[
        bool, typer.Option("--down", help="With --dry-run: as if the primary did not answer.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Do now what the failover sensor would do: bring the standbys up to the newest, and promote it where the application writes."""
    settings, model = _ground()
    if down and not dry_run:
        raise SettingsError(
            "--down is for a rehearsal",
            operation="failover",
            remedy="dbsync failover --dry-run --down",
        )
    seen = failover.observe(settings, model, down=down)
    decision = failover.decided(seen, settings)
    if not as_json:
        render.decision(seen, decision)
    if dry_run or decision.nothing:
        if as_json:
            render.json_out({"run_id": None, "seen": seen, "decision": decision})
        raise typer.Exit(int(not dry_run and not _answers(seen, decision.primary)))
    if not yes:
        _agree(failover.words(decision), "dbsync failover --yes", as_json, "failover")
    with render.starting_dagster():
        from dbsync_pipeline.runs import launch
    with launch.dagster_instance(settings) as instance, _interruptible():
        done = launch.failover(instance)
    _end(done, as_json)


@app.command()
def failback(
    yes: Yes = False,
    max_change_fraction: Fraction = None,
    max_change_rows: Rows = None,
    as_json: Json = False,
) -> None:
    """Give the configured primary its place back: sync it from the primary of now, which nobody can write to meanwhile."""
    settings, _ = _ground()
    if not yes:
        what = f"{settings.primary} becomes equal to the primary of now and takes its place; its own rows go into the rescue tables"
        allowed = _overrides(None, max_change_fraction, max_change_rows).given.items()
        said = "".join(f" --{name.replace('_', '-')} {value}" for name, value in allowed)
        _agree(what, f"dbsync failback{said} --yes", as_json, "failback")
    with render.starting_dagster():
        from dbsync_pipeline.runs import launch
    with (
        launch.dagster_instance(settings) as instance,
        render.watching() as watch,
        _interruptible(),
    ):
        done = launch.failback(
            instance,
            _overrides(None, max_change_fraction, max_change_rows),
            watch(settings.primary),
        )
    _end(done, as_json)


def _answers(seen: Sequence[failover.Observation], name: str) -> bool:
    return any(one.answers for one in seen if one.name == name)


def _end(done: Any, as_json: bool) -> NoReturn:
    """Show how a run of a job ended, and exit with its status."""
    if as_json:
        render.json_out(done)
    elif done.succeeded:
        render.good(done.note or "")
    else:
        render.complain(done.reason or done.status)
    raise typer.Exit(int(not done.succeeded))


# The tables ------------------------------------------------------------------------------------------------------------


@tables_app.command("create")
def tables_create(only: OneDatabase = None, as_json: Json = False) -> None:
    """Create the tables that are missing, on every database that answers."""
    settings, model = _ground()
    found = _each(
        _names(settings, only), lambda name: schema.ensure(database(settings, name), model)
    )
    if as_json:
        render.json_out(
            [
                {"database": name, **output.result_json("created", result)}
                for name, result in found.items()
            ]
        )
    else:
        render.created(found)
    raise typer.Exit(_status_of(found))


@tables_app.command("check")
def tables_check(only: OneDatabase = None, as_json: Json = False) -> None:
    """Compare each database's tables with the models; status 0 when all are equal in structure."""
    settings, model = _ground()
    found = _each(
        _names(settings, only), lambda name: schema.check(database(settings, name), model)
    )
    if as_json:
        render.json_out(
            [{"database": name, **output.check_json(result)} for name, result in found.items()]
        )
    else:
        render.checked(found)
    raise typer.Exit(
        _status_of(found) or int(any(output.differs(result) for result in found.values()))
    )


@tables_app.command("recreate")
def tables_recreate(
    name: Annotated[
        str, typer.Option("--database", help="The database whose tables are dropped and created.")
    ],
    yes_destroy: Annotated[
        str | None,
        typer.Option("--yes-destroy", help="The database's name again: all its rows are lost."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Drop and create the tables of one database. All its rows are lost."""
    settings, model = _ground()
    place = database(settings, name)
    _confirm(name, yes_destroy, as_json)
    recreated = schema.recreate(place, model)
    if as_json:
        render.json_out({"database": name, "recreated": recreated})
    else:
        render.say(f"{name}: recreated {', '.join(recreated)}; all are empty now")


def _confirm(name: str, typed: str | None, as_json: bool) -> None:
    if typed is None and not as_json and sys.stdin.isatty():
        typed = render.ask_text(f"All rows of {name} will be lost. Type its name to go on")
    if typed != name:
        raise Refused(
            "all its rows would be lost, and its name was not repeated"
            if typed is None
            else f"{typed!r} is not its name",
            operation="recreate tables",
            database=name,
            remedy=f"dbsync tables recreate --database {name} --yes-destroy {name}",
        )


@migrate_app.callback()
def migrate(
    context: typer.Context,
    only: OneDatabase = None,
    yes: Yes = False,
    as_applied: Annotated[
        bool,
        typer.Option(
            "--as-applied",
            help="Run none of them, and note all: tables and rows have had them by other means.",
        ),
    ] = False,
    from_start: Annotated[
        bool,
        typer.Option(
            "--from-start",
            help="Run all of them on a database that is equal to the models and has never noted one.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Apply the models' revisions to every database that lacks them, the primary first: where that one fails, no other is altered."""
    if context.invoked_subcommand is not None:
        if any((only, yes, as_applied, from_start, as_json)):
            raise typer.BadParameter(
                f"the options of `dbsync migrate {context.invoked_subcommand}` go behind that word"
            )
        return
    if as_applied and from_start:
        raise typer.BadParameter(
            "--as-applied runs no revision and --from-start all of them: give one of the two"
        )
    settings, model = _ground()
    places = _primary_first(settings, only)
    how: migrations.How | None = (
        "as-applied" if as_applied else "from-start" if from_start else None
    )
    lacking = {
        place.name: _attempt(
            lambda name: revisions.lacking(database(settings, name), model), place.name
        )
        for place in places
    }
    if not yes and any(found for found in lacking.values() if not isinstance(found, DbsyncError)):
        told = " --as-applied" if as_applied else " --from-start" if from_start else ""
        again = f"dbsync migrate{f' --database {only}' if only else ''}{told} --yes"
        what = "revisions are noted and not run" if as_applied else "tables are altered"
        _agree(f"{what}: {render.to_come(lacking)}", again, as_json, "migrate")
    with redirect_stdout(sys.stderr):  # what a revision prints is no part of the answer
        found = migrations.migrate_each(places, model, wait_seconds=settings.lock_seconds, how=how)
    if as_json:
        render.json_out(
            [{"database": name, **output.applied_json(result)} for name, result in found.items()]
        )
    else:
        render.migrated(found)
    raise typer.Exit(_status_of(found))


def _primary_first(settings: Settings, only: str | None) -> list[Database]:
    first = term.primary(settings)
    return [
        database(settings, name)
        for name in sorted(_names(settings, only), key=lambda name: name != first)
    ]


@migrate_app.command("new")
def migrate_new(
    title: Annotated[str, typer.Argument(metavar="TITLE", help="What it does, in a few words.")],
    name: Annotated[
        str | None,
        typer.Option(
            "--database",
            help="The database that the models are compared with; the primary if not given.",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE.OLD=NEW", help="A column that has another name now, again for more."
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE.COLUMN", help="A column that goes with its values, again for more."
        ),
    ] = None,
    empty: Annotated[
        bool, typer.Option("--empty", help="Compare nothing: a person writes what it does.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the next revision: what makes the tables that are there equal to the models. Changes no database."""
    from dbsync_pipeline.mirror.migrate.autogenerate import Wanted

    settings, model = _ground()
    wanted = None if empty else Wanted(drop or (), dict(_renamed(one) for one in rename or ()))
    written = migrations.write(
        database(settings, name or term.primary(settings)), model, title, wanted
    )
    if as_json:
        render.json_out(written)
    else:
        render.written(written)


def _renamed(words: str) -> tuple[str, str]:
    old, equals, new = words.partition("=")
    if "." not in old or not equals or not new:
        raise SettingsError(
            f"--rename {words} is not TABLE.OLD=NEW",
            operation="write a revision",
            remedy="dbsync migrate new --help",
        )
    return old, new


@migrate_app.command("list")
def migrate_list(as_json: Json = False) -> None:
    """The models' revisions, and which of them each database lacks; status 0 when none lacks any."""
    settings, model = _ground()
    line = revisions.line(model)
    lacking = _each(settings.names, lambda name: revisions.lacking(database(settings, name), model))
    if as_json:
        render.json_out(output.revisions_json(line, lacking))
    else:
        render.revisions(line, lacking)
    raise typer.Exit(_status_of(lacking) or int(any(lacking.values())))


def _names(settings: Settings, only: str | None) -> tuple[str, ...]:
    return (settings.database(only).name,) if only else settings.names


# Dagster's own ---------------------------------------------------------------------------------------------------------


@app.command()
def ui(
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="The port on this machine.")
    ] = 3000,
    as_json: Json = False,
) -> None:
    """Run Dagster's web pages and its daemon, with the same history as this command line; Ctrl-C ends both."""
    settings, _ = _ground()
    _refuse_taken("127.0.0.1", port, "ui")
    with render.starting_dagster():
        from dbsync_pipeline.runs import launch
    home = launch.prepare_home(settings)
    url = f"http://127.0.0.1:{port}"
    if as_json:
        render.json_out({"url": url, "dagster_home": home})
        os.dup2(2, 1)  # what Dagster prints is no JSON
    else:
        render.say(f"Dagster at {url}, its runs in {home}; Ctrl-C ends it")
    # `dagster dev` points at a tool of another packaging; nobody who asked for the pages can do anything about it.
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    command = [
        sys.executable,
        *quiet,
        "-m",
        "dagster",
        "dev",
        "-m",
        "dbsync_pipeline.definitions",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    _become(command, {**os.environ, "DAGSTER_HOME": str(home)})


@app.command()
def serve(
    host: Annotated[
        str,
        typer.Option(
            "--host", help="The address of this machine to listen on; an IPv4 address or a name."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="The port on this machine.")
    ] = 8000,
    as_json: Json = False,
) -> None:
    """Answer the admin API over HTTP to whoever brings DBSYNC_API_TOKEN; Ctrl-C ends it and the syncs in hand."""
    settings, _ = _ground()
    settings.required_api_token()
    extras.require("api", "fastapi", "uvicorn", operation="serve")
    _refuse_taken(host, port, "serve")
    url = f"http://{host}:{port}"
    if as_json:
        render.json_out({"url": url})
        os.dup2(2, 1)  # what uvicorn prints is no JSON
    else:
        render.say(f"The admin API at {url}; docs/api.md has its words. Ctrl-C ends it")
    where = ["--host", host, "--port", str(port), "--no-server-header"]
    _become(
        [sys.executable, "-m", "uvicorn", "--factory", "dbsync_pipeline.http.app:create", *where],
        dict(os.environ),
    )


def _refuse_taken(host: str, port: int, verb: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:
            raise SettingsError(
                f"{host} is no address", operation=verb, remedy=f"dbsync {verb} --host 127.0.0.1"
            ) from None
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                cause = f"nothing can listen on {host}, port {port}: {error.strerror}"
                raise SettingsError(
                    cause, operation=verb, remedy="name an address of this machine, and a free port"
                ) from None
            raise SettingsError(
                f"port {port} is taken", operation=verb, remedy=f"dbsync {verb} --port {port + 1}"
            ) from None


def _become(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Give the process over, so that signals reach Dagster itself; Windows has no exec that keeps the terminal waiting.

    A shell starts its background jobs deaf to SIGINT, and Dagster, finding itself so, would be deaf to SIGTERM too.
    """
    sys.stdout.flush()
    if os.name == "posix":
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execve(command[0], command, environment)
    sys.exit(subprocess.call(command, env=environment))


# Shared ----------------------------------------------------------------------------------------------------------------


def _overrides(*values: bool | float | None) -> Overrides:
    return Overrides.model_validate(dict(zip(Policy.model_fields, values, strict=False)))


def _ground() -> tuple[Settings, Model]:
    settings = load()
    return settings, load_model(settings.models, settings.revisions)


def _each(names: Iterable[str], work: Callable[[str], Any]) -> dict[str, Any]:
    """What the work returns for each name, or the DbsyncError that it raised: one failure does not hide the others' answers."""
    return {name: _attempt(work, name) for name in names}


def _attempt(work: Callable[[str], Any], name: str) -> Any:
    try:
        return work(name)
    except DbsyncError as error:
        return error


def _status_of(results: dict[str, Any]) -> int:
    return 1 if any(isinstance(result, DbsyncError) for result in results.values()) else 0


if __name__ == "__main__":
    main()
