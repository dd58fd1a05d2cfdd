"""The verbs of `dbsync tables`: create, check, recreate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dbsync_pipeline.cli.common import chosen, configured
from dbsync_pipeline.cli.options import OnlyDatabase
from dbsync_pipeline.cli.verb import may_ask
from dbsync_pipeline.errors import Refused
from dbsync_pipeline.output.tables import Checked, Created, Recreated

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.database import Database
    from dbsync_pipeline.mirror.model import Model
    from dbsync_pipeline.settings import Settings

_CHECK_SECONDS = 120.0
"""How long a database may take to describe all its tables."""


def create(only: OnlyDatabase = None) -> Created:
    """Create the tables that are missing, on every database that answers."""
    from dbsync_pipeline.mirror import schema
    from dbsync_pipeline.mirror.fanout import one_by_one

    settings, model = configured(fresh=True)
    databases = {database.name: database.at_once for database in chosen(settings, only)}
    return Created(one_by_one(tuple(databases), lambda name: schema.ensure(databases[name], model)))


def check(only: OnlyDatabase = None) -> Checked:
    """Compare each database's tables with the models.

    The exit status is 0 if all are equal in structure.
    """
    from dbsync_pipeline.mirror import schema
    from dbsync_pipeline.mirror.fanout import ask

    settings, model = configured(fresh=True)
    databases = chosen(settings, only)
    return Checked(ask(databases, lambda database: schema.check(database, model), _CHECK_SECONDS))


def recreate(
    name: Annotated[
        str, typer.Option("--database", help="The database whose tables are dropped and created.")
    ],
    yes_destroy: Annotated[
        str | None,
        typer.Option(
            "--yes-destroy", help="The database's name again, to confirm that its rows are lost."
        ),
    ] = None,
) -> Recreated:
    """Drop and create the tables of one standby. All its rows are lost.

    Refused for the primary while it has rows, since nobody else has its newest ones.
    """
    from dbsync_pipeline.mirror import schema
    from dbsync_pipeline.mirror.database import database

    settings, model = configured()
    target = database(settings, name)
    _confirm(name, yes_destroy)
    _refuse_primary(settings, target, model)
    return Recreated(name, schema.recreate(target, model))


def _confirm(name: str, typed: str | None) -> None:
    if typed is None and may_ask():
        from dbsync_pipeline.cli.render.base import ask_text

        typed = ask_text(f"All rows of {name} will be lost. Type its name to go on")
    if typed == name:
        return
    raise Refused(
        "all its rows would be lost; its name must be repeated to confirm"
        if typed is None
        else f"{typed!r} is not its name",
        operation="recreate tables",
        database=name,
        remedy=f"dbsync tables recreate --database {name} --yes-destroy {name}",
    )


def _refuse_primary(settings: Settings, target: Database, model: Model) -> None:
    from dbsync_pipeline.mirror import schema
    from dbsync_pipeline.mirror.failover import term

    if target.name == term.primary(settings) and schema.has_rows(target, model):
        raise Refused(
            "it is the primary and has rows: the newest of them would be lost for good",
            operation="recreate tables",
            database=target.name,
            remedy="alter its tables by hand, or by `dbsync migrate`; promote another database "
            "first if this one is to be emptied",
        )
