"""What the verbs return, for the command line and the HTTP API alike.

Each verb returns one `Result`. It knows its JSON value (docs/json.md is the contract), whether the
verb succeeded, which decides the exit status, and warnings. How a result looks as text is in
`cli/render/`. Only the standard library is imported here, so that `dbsync --help` is quick.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dbsync_pipeline.errors import DbsyncError

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.fanout import PerDatabase

Value = TypeVar("Value")
Json = dict[str, Any]


def text(value: Any) -> str:
    """Return the value as JSON text.

    Dataclasses become objects, and moments ISO 8601 in UTC. The text is ASCII, so it can be printed
    whatever the encoding of the terminal.
    """
    return json.dumps(value, indent=2, default=_encode) + "\n"


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def error_json(error: DbsyncError) -> Json:
    """Return where it happened, the cause and the remedy; a part that is not known is null."""
    return {
        "operation": error.operation,
        "database": error.database,
        "table": error.table,
        "cause": error.cause,
        "remedy": error.remedy,
    }


class Result(ABC):
    """What a verb returns."""

    @abstractmethod
    def json(self) -> Any:
        """Return the value that `--json` and the HTTP API print."""

    @property
    def ok(self) -> bool:
        """Whether the verb did, or found, what was requested; otherwise the exit status is 1."""
        return True

    @property
    def unknown(self) -> bool:
        """Whether it is unknown if the verb did it: COMMIT got no reply. The exit status is 3."""
        return False

    @property
    def transient(self) -> bool:
        """Whether it is not ok, and a retry can help all that failed."""
        return False

    @property
    def warnings(self) -> Sequence[str]:
        """What a person should know beside the result; printed on stderr, also with `--json`."""
        return ()


def per_database(
    results: PerDatabase[Value],
    good: Callable[[Value], Json],
    failed: Json,
    key: str = "database",
) -> list[Json]:
    """Return one object per database: what `good` makes of its value, or `failed`; and `error`."""
    return [
        {
            key: name,
            **(good(results.good[name]) if name in results.good else failed),
            "error": error_json(results.failed[name]) if name in results.failed else None,
        }
        for name in results.names
    ]
