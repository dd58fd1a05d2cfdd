"""What a caller asks of one sync, and what it gets to see of its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Term
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.sync.rounds import Round
from dbsync_pipeline.policy import Policy
from dbsync_pipeline.settings import Settings

Observer = Callable[[str, str, int, "int | None"], None]
"""Called with the progress: table, phase (compare, stage, publish, prove), rows done, rows in all.

The last is None if the number of rows is not known.
"""


def ignore_progress(table: str, phase: str, done: int, total: int | None) -> None:
    """The observer of a caller that does not want to see the progress."""


@dataclass(frozen=True)
class Task:
    """One sync: `tables` of `source` are copied to `target`.

    `fence` is a transaction of the caller that keeps writers out of the source; the publish's
    number is recorded in it. `new_term` is the term that the target accepts with the publish;
    without it the target accepts the source's. `round_id` is that of the request, and `shared` its
    state of the source, if several targets have their turns in this process.
    """

    source: Database
    target: Database
    model: Model
    tables: tuple[Table, ...]
    run_id: str
    settings: Settings
    policy: Policy
    observe: Observer = ignore_progress
    fence: Dialect | None = None
    new_term: Term | None = None
    round_id: str | None = None
    shared: Round | None = None

    @property
    def label(self) -> str:
        """What the servers show of this sync's connections."""
        return f"dbsync run {self.run_id}"


@dataclass(frozen=True)
class TableDiff:
    """What one table needs, in rows: `rows` of the source, of which some are to insert or update.

    `delete` counts rows of the target. `bytes` were staged, in `seconds`.
    """

    table: str
    rows: int
    insert: int
    update: int
    delete: int
    bytes: int
    seconds: float


class Phases:
    """How long each phase of a sync took."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time spent within to the phase."""
        started = time.monotonic()
        yield
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.monotonic() - started

    @property
    def seconds(self) -> Mapping[str, float]:
        """The seconds of each phase, rounded to milliseconds."""
        return {phase: round(seconds, 3) for phase, seconds in self._seconds.items()}
