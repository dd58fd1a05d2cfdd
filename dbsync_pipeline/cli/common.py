"""Steps of several verbs: read settings, find a database, ask for confirmation, start Dagster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dbsync_pipeline import signals
from dbsync_pipeline.cli.verb import as_json, may_ask
from dbsync_pipeline.errors import Refused
from dbsync_pipeline.output.base import Result

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.database import Database
    from dbsync_pipeline.mirror.ledger import Publish
    from dbsync_pipeline.mirror.model import Model
    from dbsync_pipeline.settings import Settings


def configured(*, fresh: bool = False) -> tuple[Settings, Model]:
    """Return the settings and the models. Raise SettingsError if either is wrong.

    `fresh` is for verbs that read the primary: see `configured_model`.
    """
    from dbsync_pipeline.mirror.model import configured_model
    from dbsync_pipeline.settings import load

    settings = load()
    return settings, configured_model(settings, fresh=fresh)


def names(settings: Settings, only: str | None) -> tuple[str, ...]:
    """Return the named database, or all. Raise SettingsError if the name is unknown."""
    return settings.names if only is None else (settings.database(only).name,)


def chosen(settings: Settings, only: str | None) -> list[Database]:
    """Return the named database, or all. Raise SettingsError if the name is unknown."""
    from dbsync_pipeline.mirror.database import database

    return [database(settings, name) for name in names(settings, only)]


def find_publish(settings: Settings, run: str, only: str | None) -> tuple[Database, Publish]:
    """Return the database that received the publish of a run, and the publish."""
    from dbsync_pipeline.mirror.rescue.read import find

    return find(chosen(settings, only), run, settings.answer_seconds)


def confirm(question: str, remedy: str, operation: str, preview: Result | None = None) -> None:
    """Show what would happen, and return if the person at the terminal agrees.

    Raise Refused, with the command that needs no confirmation as its remedy, if the person does not
    agree or there is nobody to ask.
    """
    if preview is not None and not as_json():
        from dbsync_pipeline.cli.render.show import show

        show(preview)
    if may_ask():
        from dbsync_pipeline.cli.render.base import ask

        if ask(f"{question}. Go on?", ["yes", "no"], "no") == "yes":
            return
    raise Refused(f"{question}; this needs confirmation", operation=operation, remedy=remedy)


@contextmanager
def starting_dagster() -> Iterator[None]:
    """Show that Dagster is being imported, which takes seconds; Ctrl-C ends the program at once."""
    if as_json() or not sys.stderr.isatty():
        with signals.at_once():
            yield
        return
    from dbsync_pipeline.cli.render.base import waiting

    with waiting("Starting Dagster"):
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise a Ctrl-C that Dagster caught during the run, and say where its outcome can be seen.

    Without this the next target would be synced. The run may have ended after its commit.
    """
    try:
        with signals.kept():
            yield
    except KeyboardInterrupt:
        print("interrupted: `dbsync history` shows what was published", file=sys.stderr)
        raise
