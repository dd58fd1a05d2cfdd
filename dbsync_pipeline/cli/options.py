"""Options of verbs: those that several verbs share, and those made of a pydantic model's fields."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

import typer
from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.policy import Overrides, option


def database_names() -> list[str]:
    """Return the names of the databases for a shell's completion; none if a setting is wrong."""
    from dbsync_pipeline.settings import load

    try:
        return list(load().names)
    except DbsyncError:
        return []


OnlyDatabase = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="Only this database. Default: all.",
        autocompletion=database_names,
    ),
]
Target = Annotated[str, typer.Argument(metavar="TARGET", autocompletion=database_names)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's id or its beginning; see `dbsync history`."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON value on stdout, and nothing else there.")
]
Limits = Annotated[Overrides, ("max_change_fraction", "max_change_rows")]
"""The overrides of `failback`, which overwrites, and copies all tables, in any case."""


def model_options(model: type[BaseModel], names: Sequence[str]) -> list[inspect.Parameter]:
    """Return one option for each of these fields of a pydantic model, as parameters."""
    return [_parameter(name, model.model_fields[name]) for name in names]


def as_options(overrides: Overrides) -> list[str]:
    """Return the overrides that were given as words of a command line."""
    return [
        _flag(name, value) if isinstance(value, bool) else f"{option(name)} {value}"
        for name, value in overrides.given.items()
    ]


def _flag(name: str, value: bool) -> str:
    return option(name) if value else option(name).replace("--", "--no-", 1)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kind = _plain_type(field.annotation)
    both = kind is bool and field.default is None
    declaration = f"{_flag(name, True)}/{_flag(name, False)}" if both else option(name)
    info = typer.Option(
        declaration,
        help=field.description,
        metavar="NAME" if kind in (str, list[str]) else None,
        autocompletion=database_names if name in ("source", "target") else None,
        **_range(field),
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=Annotated[kind | None if field.default is None else kind, info],
    )


def _plain_type(annotation: Any) -> Any:
    """Return the type without its limits and without None, as Typer knows it."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _plain_type(arguments[0])
    if get_origin(annotation) is list:
        return list[_plain_type(arguments[0])]  # type: ignore[misc]  # a type made at run time
    if type(None) in arguments:
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _plain_type(kind)
    return annotation


def _range(field: FieldInfo) -> dict[str, Any]:
    """Return the field's limits as Typer names them."""
    limits: dict[str, Any] = {}
    for limit in field.metadata:
        if isinstance(limit, Ge):
            limits["min"] = limit.ge
        elif isinstance(limit, Le):
            limits["max"] = limit.le
    return limits
