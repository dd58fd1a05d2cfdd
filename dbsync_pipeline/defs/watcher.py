"""A thread beside each sync: it records that the run is alive and, if another process follows it,
how far it is; and it cancels the work with the run.

Dagster interrupts the run's process, but a process that is blocked in a database call sees the
interrupt only when the call returns. The watcher therefore looks up the run's status and cancels
the statement in the database.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from datetime import UTC, datetime

from dagster import DagsterInstance, DagsterRunStatus, OpExecutionContext

from dbsync_pipeline.defs.run_tags import ALIVE_TAG, PROGRESS_TAG
from dbsync_pipeline.signals import Cancellable

_LOOK_SECONDS = 2.0
_ALIVE_SECONDS = 30.0
_CANCELLED = (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)


class Progress:
    """The observer of a run that is followed from another process."""

    def __init__(self) -> None:
        self._moved: dict[str, tuple[str, int, int | None]] = {}

    def __call__(self, table: str, phase: str, done: int, total: int | None) -> None:
        """Remember how far a table is; called by the thread of the sync."""
        self._moved[table] = (phase, done, total)

    def taken(self) -> str | None:
        """Return as JSON the tables that moved since the last call; None if none did."""
        moved, self._moved = self._moved, {}
        return json.dumps(dict(moved)) if moved else None


def watch(
    context: OpExecutionContext, work: Cancellable, progress: Progress | None = None
) -> threading.Event:
    """Start the watcher of `work`; set the returned event to stop it."""
    ended = threading.Event()
    threading.Thread(
        target=_watch, args=(context.instance, context.run_id, work, progress, ended), daemon=True
    ).start()
    return ended


def _watch(
    instance: DagsterInstance,
    run_id: str,
    work: Cancellable,
    progress: Progress | None,
    ended: threading.Event,
) -> None:
    recorded = -_ALIVE_SECONDS
    while not ended.wait(_LOOK_SECONDS):
        with contextlib.suppress(Exception):  # the store may be reachable again the next time
            tags = {}
            if time.monotonic() - recorded >= _ALIVE_SECONDS:
                recorded = time.monotonic()
                tags[ALIVE_TAG] = datetime.now(UTC).isoformat()
            if progress and (moved := progress.taken()):
                tags[PROGRESS_TAG] = moved
            if tags:
                instance.add_run_tags(run_id, tags)
            run = instance.get_run_by_id(run_id)
            if run is not None and run.status in _CANCELLED:
                work.cancel()
