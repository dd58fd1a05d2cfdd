"""The result of `ui` and `serve`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbsync_pipeline.output.base import Json, Result


@dataclass(frozen=True)
class Server(Result):
    """A server that this process becomes once the result is printed; `fields` are its JSON."""

    fields: Mapping[str, Any]
    note: str
    command: Sequence[str]
    environment: Mapping[str, str]

    def json(self) -> Json:
        """Return `{url}`, and more where the server has it."""
        return dict(self.fields)
