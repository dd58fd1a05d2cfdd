"""`dbsync`: every verb of the command line, on one page.

Each verb is a function that returns a `Result`; `verb` makes a command of it. Exit status: 0 if the
verb did what was requested, 1 if not, 2 if the request was wrong, 130 after Ctrl-C. Modules that
take long to import are imported by the verbs that need them.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from dbsync_pipeline import redact
from dbsync_pipeline.cli import doctor, failover, migrate, models, rescue, serve, sync, tables
from dbsync_pipeline.cli.verb import fail, may_ask, verb
from dbsync_pipeline.errors import DbsyncError, SettingsError

_USAGE_ERROR: Any = typer.BadParameter.__base__
"""Typer's base class of usage errors; Typer does not export it."""


def main() -> None:
    """Run the verb of the command line; print a failure, and end with its status."""
    try:
        _run()
    except DbsyncError as error:
        fail(error)
    except Exception as error:
        fail(DbsyncError(redact.text(error)))


def _run() -> None:
    """Run the verb; with `--json`, make usage errors, which Typer prints as text, JSON too."""
    app = build()
    if "--json" not in sys.argv:
        app(prog_name="dbsync")
    try:
        sys.exit(app(prog_name="dbsync", standalone_mode=False))
    except _USAGE_ERROR as error:
        command = error.ctx.command_path if error.ctx else "dbsync"
        raise SettingsError(
            error.format_message(), operation=command, remedy=f"{command} --help"
        ) from None


def build() -> typer.Typer:
    """Return the command line with all its verbs."""
    app = typer.Typer(
        invoke_without_command=True, add_completion=True, pretty_exceptions_enable=False
    )
    app.callback()(_dbsync)
    app.command()(verb(sync.demo))
    app.command()(verb(sync.sync))
    app.command()(verb(sync.plan))
    app.command()(verb(sync.adopt))
    app.command()(verb(sync.status))
    app.command()(verb(sync.history))
    app.command()(verb(sync.verify))
    app.command()(verb(doctor.doctor))
    app.command()(verb(rescue.undo))
    app.command()(verb(rescue.pause))
    app.command()(verb(rescue.resume))
    app.command("release", hidden=True)(verb(rescue.resume))
    app.command()(verb(failover.promote))
    app.command("failover")(verb(failover.fail_over))
    app.command()(verb(failover.failback))
    app.command()(verb(serve.ui))
    app.command()(verb(serve.serve))
    app.add_typer(_rescue(), name="rescue")
    app.add_typer(_tables(), name="tables")
    app.add_typer(_migrate(), name="migrate")
    app.add_typer(_models(), name="models")
    return app


def _rescue() -> typer.Typer:
    group = _group("List, show, export or merge the rows that syncs deleted or replaced.")
    group.command("list")(verb(rescue.list_runs))
    group.command()(verb(rescue.show))
    group.command()(verb(rescue.export))
    group.command()(verb(rescue.merge))
    return group


def _tables() -> typer.Typer:
    group = _group("Create, check or recreate the tables on the databases.")
    group.command()(verb(tables.create))
    group.command()(verb(tables.check))
    group.command()(verb(tables.recreate))
    return group


def _models() -> typer.Typer:
    group = _group("Write models that describe a database as it is.")
    group.command("from-database")(verb(models.from_database))
    return group


def _migrate() -> typer.Typer:
    group = typer.Typer(invoke_without_command=True)
    group.callback()(migrate.migrate)
    group.command()(verb(migrate.new))
    group.command("list")(verb(migrate.list_revisions))
    return group


def _group(help_text: str) -> typer.Typer:
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )


def _print_version(requested: bool) -> None:
    if requested:
        from dbsync_pipeline import __version__

        print(f"dbsync {__version__}")
        raise typer.Exit()


def _dbsync(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Keep the standby copies of an application's database equal to the primary.

    Without a command, at a terminal, it asks what to sync.
    """
    if context.invoked_subcommand is not None:
        return
    if may_ask():
        verb(sync.guided)(print_json=False)
    print(context.get_help())
    raise typer.Exit(2)


if __name__ == "__main__":
    main()
