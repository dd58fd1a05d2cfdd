"""Turn a function that returns a `Result` into a command.

The command has the function's options, those of its overrides, and `--json`. It prints the result
as text or as JSON, and its exit status is 0 if the result is `ok`, 3 if it is `unknown`, and else
1. No verb prints its own result or chooses an exit status.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, get_args

import typer
from pydantic import BaseModel, ValidationError

from dbsync_pipeline.cli.options import AsJson, model_options
from dbsync_pipeline.errors import DbsyncError, OutcomeUnknown, SettingsError
from dbsync_pipeline.output.base import Result, error_json, text
from dbsync_pipeline.output.serve import Server
from dbsync_pipeline.policy import Policy
from dbsync_pipeline.policy import option as option_name

UNKNOWN = 3
"""The exit status if COMMIT got no reply and the database cannot be asked."""

_AS_JSON: ContextVar[bool] = ContextVar("as_json", default=False)


def as_json() -> bool:
    """Whether the result of the running verb is printed as JSON."""
    return _AS_JSON.get()


def may_ask() -> bool:
    """Whether a person can be asked: stdin and stderr are a terminal, and there is no `--json`."""
    return not as_json() and sys.stdin.isatty() and sys.stderr.isatty()


def verb(function: Callable[..., Result]) -> Callable[..., None]:
    """Return the command for a function that returns a result."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    expanded = [option for parameter in parameters for option in _expanded(parameter)]
    options = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in expanded]
    options.append(
        inspect.Parameter(
            "print_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson
        )
    )

    @functools.wraps(function)
    def command(*, print_json: bool, **values: Any) -> None:
        with _printing_json(print_json):
            finish(function(**_packed(parameters, values)))

    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


def finish(result: Result) -> NoReturn:
    """Print the result, and end with its status; a server's process is replaced by the server."""
    _print(result)
    if isinstance(result, Server):
        become(result.command, result.environment)
    raise typer.Exit(UNKNOWN if result.unknown else 0 if result.ok else 1)


def fail(error: DbsyncError) -> NoReturn:
    """Print the error and end the program.

    The status is 2 if the request was wrong, 3 if the outcome is unknown, otherwise 1.
    """
    if as_json() or "--json" in sys.argv:
        _print_json({"error": error_json(error)})
    else:
        from dbsync_pipeline.cli.render.base import complain

        complain(str(error))
    if isinstance(error, OutcomeUnknown):
        sys.exit(UNKNOWN)
    sys.exit(2 if isinstance(error, SettingsError) else 1)


def become(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by the command, so that signals reach it directly.

    Windows cannot replace a process while the terminal waits for it; there the command is a child.
    Shells start background jobs with SIGINT ignored, and Dagster would then ignore SIGTERM too, so
    SIGINT gets its default action first.
    """
    import signal
    import subprocess

    sys.stdout.flush()
    if as_json():
        os.dup2(2, 1)  # what the server prints is not JSON
    if os.name == "posix":
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execve(command[0], list(command), environment)
    sys.exit(subprocess.call(command, env=environment))


def _print(result: Result) -> None:
    if as_json():
        for warning in result.warnings:
            print(warning, file=sys.stderr)
        _print_json(result.json())
    else:
        from dbsync_pipeline.cli.render.base import complain
        from dbsync_pipeline.cli.render.show import show

        for warning in result.warnings:
            complain(warning)
        show(result)


def _print_json(value: Any) -> None:
    sys.stdout.write(text(value))
    sys.stdout.flush()


@contextmanager
def _printing_json(value: bool) -> Iterator[None]:
    token = _AS_JSON.set(value)
    try:
        yield
    finally:
        _AS_JSON.reset(token)


def _expanded(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Return the options that stand for a parameter: of a pydantic model, one for each field."""
    model, names = _model_of(parameter)
    return model_options(model, names) if model else [parameter]


def _model_of(parameter: inspect.Parameter) -> tuple[type[BaseModel] | None, tuple[str, ...]]:
    """Return the pydantic model of a parameter and the names of the fields that it may have."""
    kind, *rest = get_args(parameter.annotation) or (parameter.annotation,)
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return None, ()
    overrides_last = sorted(kind.model_fields, key=lambda name: name in Policy.model_fields)
    return kind, tuple(rest[0]) if rest else tuple(overrides_last)


def _packed(parameters: list[inspect.Parameter], values: dict[str, Any]) -> dict[str, Any]:
    """Return the function's arguments, with the options of each model packed into an instance."""
    packed = dict(values)
    for parameter in parameters:
        model, names = _model_of(parameter)
        if model:
            packed[parameter.name] = _validated(model, {name: packed.pop(name) for name in names})
    return packed


def _validated(model: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        wrong = [
            f"{option_name(str(problem['loc'][0]))}: {problem['msg']}" for problem in error.errors()
        ]
        raise typer.BadParameter("; ".join(wrong)) from None
