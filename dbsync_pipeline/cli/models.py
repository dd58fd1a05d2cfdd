"""The verb of `dbsync models`: write models that describe a database as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.output.tables import WrittenModels


def from_database(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The module to write.")],
    database_name: Annotated[
        str | None,
        typer.Option("--database", help="The database to read. Default: the configured primary."),
    ] = None,
    schema: Annotated[
        list[str] | None,
        typer.Option(
            help="A schema to read; may be repeated. Default: DBSYNC_SCHEMAS, or all but the "
            "system's."
        ),
    ] = None,
) -> WrittenModels:
    """Write the structure of a database as models that can be kept and edited.

    Says what of it cannot be mirrored, and why. Changes no database and no existing file.
    """
    from dbsync_pipeline.mirror.database import database
    from dbsync_pipeline.mirror.reflect.read import read
    from dbsync_pipeline.mirror.selection import TableFilter
    from dbsync_pipeline.settings import load

    settings = load()
    name = database_name or settings.primary
    selection = TableFilter.of(settings.tables, settings.skip_tables)
    with database(settings, name).connect() as dialect:
        structure = read(dialect, schema or settings.schema_names, selection)
    _write(file, structure.source)
    return WrittenModels(file, name, structure)


def _write(file: Path, source: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as written:
            written.write(source)
    except FileExistsError:
        raise SettingsError(
            f"{file} exists, and somebody may have edited it",
            operation="write models",
            remedy="name another file, or remove it first",
        ) from None
    except OSError as error:
        raise SettingsError(
            f"{file} cannot be written: {error.strerror or type(error).__name__}",
            operation="write models",
            remedy="name a file in a folder that exists and can be written to",
        ) from None
