"""Results of `undo`, `pause`, `resume` and `rescue`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbsync_pipeline.output.base import Json, Result, per_database

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.fanout import PerDatabase
    from dbsync_pipeline.mirror.ledger import Publish, Rescued


@dataclass(frozen=True)
class Undone(Result):
    """The publish that restored the before-images of the run `undone`."""

    target: str
    undone: str
    publish: Publish

    def json(self) -> Publish:
        """Return the publish."""
        return self.publish


@dataclass(frozen=True)
class Paused(Result):
    """A paused target: why, and why it was paused before, if it was."""

    database: str
    reason: str
    before: str | None

    def json(self) -> Json:
        """Return `{database, held, was_held}`."""
        return {"database": self.database, "held": self.reason, "was_held": self.before}


@dataclass(frozen=True)
class Resumed(Result):
    """A target that is no longer paused; `before` is why it was, or None."""

    database: str
    before: str | None

    def json(self) -> Json:
        """Return `{database, was_held}`."""
        return {"database": self.database, "was_held": self.before}


@dataclass(frozen=True)
class RescuedRuns(Result):
    """The publishes of each database whose before-images are still kept."""

    kept: PerDatabase[list[tuple[Publish, list[Rescued]]]]

    def json(self) -> list[Json]:
        """Return one object per database."""
        return per_database(self.kept, lambda runs: {"rescued": runs}, {"rescued": None})

    @property
    def ok(self) -> bool:
        """Whether every database could be read."""
        return not self.kept.failed


@dataclass(frozen=True)
class RescuedRows(Result):
    """Before-images in lists of at most 100 rows of a table, read as they are shown."""

    rows: Iterable[tuple[str, list[dict[str, Any]]]]

    def json(self) -> list[Json]:
        """Return all rows."""
        return [{"table": table, **row} for table, rows in self.rows for row in rows_json(rows)]


def rows_json(rows: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Return before-images as JSON objects; a value that JSON cannot hold exactly is text."""
    return [{name: _cell(value) for name, value in row.items()} for row in rows]


def _cell(value: Any) -> Any:
    from dbsync_pipeline.mirror.rescue.read import as_text

    exact = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if exact else as_text(value)


@dataclass(frozen=True)
class Exported(Result):
    """The Parquet files with the before-images of a run."""

    run_id: str
    files: Sequence[Path]

    def json(self) -> Json:
        """Return `{run_id, files}`."""
        return {"run_id": self.run_id, "files": list(self.files)}


@dataclass(frozen=True)
class Merged(Result):
    """Deleted rows that were put back, by table, and the keys of those that could not be."""

    database: str
    put_back: Mapping[str, int]
    rest: Mapping[str, Sequence[Any]]

    def json(self) -> Json:
        """Return `{database, put_back, rest}`."""
        return {"database": self.database, "put_back": self.put_back, "rest": self.rest}

    @property
    def ok(self) -> bool:
        """Whether every deleted row was put back."""
        return not self.rest
