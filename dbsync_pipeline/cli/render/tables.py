"""Texts of the verbs of `dbsync tables` and `dbsync migrate`."""

from __future__ import annotations

from dbsync_pipeline.cli.render.base import complain, good, say, successes
from dbsync_pipeline.output.tables import (
    Checked,
    Created,
    Migrated,
    Recreated,
    Revisions,
    WrittenModels,
    WrittenRevision,
)
from dbsync_pipeline.text import count


def created(result: Created) -> None:
    """Print the tables that were created on each database."""
    for name, tables in successes(result.created):
        say(f"{name}: created {', '.join(tables)}" if tables else f"{name}: all tables exist")


def checked(result: Checked) -> None:
    """Print the differences of each database."""
    for name, tables in successes(result.checked):
        for table, differences in tables.items():
            for difference in differences:
                complain(f"{name}: table {table}: {difference}")
        if not any(tables.values()):
            good(f"{name}: {count(len(tables), 'table')}, equal to the models")


def recreated(result: Recreated) -> None:
    """Print the tables that were recreated."""
    say(f"{result.database}: recreated {', '.join(result.tables)}; all are empty now")


def migrated(result: Migrated) -> None:
    """Print the revisions that were applied to each database."""
    for name, applied in successes(result.applied):
        if name in result.left_alone:
            say(f"{name}: left alone, {result.left_alone[name]}")
        elif applied:
            good(f"{name}: applied {', '.join(map(str, applied))}")
        else:
            say(f"{name}: up to date")


def written(result: WrittenRevision) -> None:
    """Print the file of the new revision, and what it leaves unchanged."""
    good(f"wrote {result.written.path}")
    for difference in result.written.left:
        complain(f"not in the revision: {difference}")
    say("Read it, and edit it where it is not what you intend; then: dbsync migrate")


def models(result: WrittenModels) -> None:
    """Print the file of the models, what cannot be mirrored, and how to use the file."""
    tables = count(len(result.structure.tables), "table")
    good(f"wrote {result.path}: {tables} of {result.database}")
    if result.structure.notes:
        say("Not mirrored:")
    for note in result.structure.notes:
        say(f"- {note}")
    say("Read it, and edit it where it is not what you intend; then set")
    say(f"  DBSYNC_MODELS={result.path.stem}")
    say(f"  PYTHONPATH={result.path.absolute().parent}")
    say("where dbsync and Dagster run: Python imports the module from a folder in PYTHONPATH.")


def revisions(result: Revisions) -> None:
    """Print the revisions, and which of them each database lacks."""
    for revision in result.revisions:
        say(str(revision))
    if not result.revisions:
        say("the models have no revisions; `dbsync migrate new TITLE` writes one")
    for name, lacking in successes(result.lacking):
        numbers = ", ".join(revision.number for revision in lacking)
        say(f"{name}: lacks {numbers}" if lacking else f"{name}: up to date")
