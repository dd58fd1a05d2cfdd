"""The verbs of `dbsync migrate`: apply, write and list the models' revisions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from dbsync_pipeline.cli.common import chosen, configured, confirm, names
from dbsync_pipeline.cli.options import AsJson, OnlyDatabase, Yes
from dbsync_pipeline.cli.verb import verb
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.output.tables import Migrated, Revisions, WrittenRevision

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.database import Database
    from dbsync_pipeline.mirror.fanout import PerDatabase
    from dbsync_pipeline.mirror.migrate.apply import How
    from dbsync_pipeline.mirror.migrate.revisions import Revision
    from dbsync_pipeline.settings import Settings

AsApplied = Annotated[
    bool,
    typer.Option(
        "--as-applied",
        help="Run no revision, but record all of them: the database was changed by other means.",
    ),
]
FromStart = Annotated[
    bool,
    typer.Option(
        "--from-start",
        help="Run all revisions on a database that is equal to the models and has recorded none.",
    ),
]


def migrate(
    context: typer.Context,
    only: OnlyDatabase = None,
    yes: Yes = False,
    as_applied: AsApplied = False,
    from_start: FromStart = False,
    print_json: AsJson = False,
) -> None:
    """Apply the models' revisions to every database that lacks them, the primary first.

    If the primary fails, no other database is changed.
    """
    if context.invoked_subcommand is None:
        verb(apply)(
            only=only,
            yes=yes,
            as_applied=as_applied,
            from_start=from_start,
            print_json=print_json,
        )
    elif any((only, yes, as_applied, from_start, print_json)):
        subcommand = f"dbsync migrate {context.invoked_subcommand}"
        raise typer.BadParameter(f"write the options after the verb: `{subcommand} …`")


def apply(
    only: OnlyDatabase = None,
    yes: Yes = False,
    as_applied: AsApplied = False,
    from_start: FromStart = False,
) -> Migrated:
    """Apply the revisions that each database lacks, the primary first."""
    from dbsync_pipeline.mirror.fanout import ask
    from dbsync_pipeline.mirror.migrate import revisions
    from dbsync_pipeline.mirror.migrate.apply import migrate_each

    if as_applied and from_start:
        raise typer.BadParameter(
            "--as-applied runs no revision and --from-start runs all of them: give one of the two"
        )
    settings, model = configured()
    places = _primary_first(settings, only)
    how: How | None = "as-applied" if as_applied else "from-start" if from_start else None
    lacking = ask(places, lambda place: revisions.lacking(place, model), settings.answer_seconds)
    if not yes and any(lacking.good.values()):
        again = [f"--database {only}" * bool(only), f"--{how}" if how else ""]
        what = "revisions are recorded and not run" if as_applied else "tables are altered"
        confirm(
            f"{what}: {_missing(lacking, model.read_from)}",
            " ".join(["dbsync migrate", *filter(None, again), "--yes"]),
            "migrate",
        )
    with redirect_stdout(sys.stderr):  # what a revision prints is not part of the result
        applied = migrate_each(places, model, wait_seconds=settings.lock_seconds, how=how)
    left_alone = ask(places, lambda place: revisions.why_not(place, model), settings.answer_seconds)
    return Migrated(applied, {name: why for name, why in left_alone.good.items() if why})


def _missing(lacking: PerDatabase[tuple[Revision, ...]], read_from: str | None) -> str:
    """Return which revisions each database is about to get, on one line.

    The one that the models were read from has them, and records so.
    """
    return "; ".join(
        f"{name} {'has' if name == read_from else 'gets'} {', '.join(map(str, revisions))}"
        for name, revisions in lacking.good.items()
        if revisions
    )


def _primary_first(settings: Settings, only: str | None) -> list[Database]:
    from dbsync_pipeline.mirror.database import database
    from dbsync_pipeline.mirror.failover import term

    primary = term.primary(settings)
    ordered = sorted(names(settings, only), key=lambda name: name != primary)
    return [database(settings, name) for name in ordered]


def new(
    title: Annotated[
        str, typer.Argument(metavar="TITLE", help="What the revision does, in a few words.")
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--database",
            help="The database that the models are compared with. Default: the primary.",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE.OLD=NEW", help="A renamed column; may be repeated."),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE.COLUMN",
            help="A column to drop with its values; may be repeated.",
        ),
    ] = None,
    empty: Annotated[
        bool, typer.Option("--empty", help="Compare nothing; write an empty revision to fill in.")
    ] = False,
) -> WrittenRevision:
    """Write the revision that makes the tables equal to the models. Changes no database."""
    from dbsync_pipeline.mirror.database import database
    from dbsync_pipeline.mirror.failover import term
    from dbsync_pipeline.mirror.migrate.autogenerate import ColumnChanges
    from dbsync_pipeline.mirror.migrate.write import write

    settings, model = configured(fresh=True)
    renamed = dict(_renamed(pair) for pair in rename or ())
    changes = None if empty else ColumnChanges(drop or (), renamed)
    compared = database(settings, term.primary(settings) if name is None else name)
    return WrittenRevision(write(compared, model, title, changes))


def _renamed(value: str) -> tuple[str, str]:
    old, equals, new_name = value.partition("=")
    if "." not in old or not equals or not new_name:
        raise SettingsError(
            f"--rename {value} is not TABLE.OLD=NEW",
            operation="write a revision",
            remedy="dbsync migrate new --help",
        )
    return old, new_name


def list_revisions() -> Revisions:
    """List the models' revisions, and which of them each database lacks.

    The exit status is 0 if none lacks any.
    """
    from dbsync_pipeline.mirror.fanout import ask
    from dbsync_pipeline.mirror.migrate import revisions

    settings, model = configured()
    lacking: PerDatabase[Sequence[Revision]] = ask(
        chosen(settings, None),
        lambda database: revisions.lacking(database, model),
        settings.answer_seconds,
    )
    return Revisions(revisions.line(model), lacking)
