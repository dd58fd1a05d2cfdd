"""A thread beside each sync: it records that the run is alive, and cancels the work with the run.

Dagster interrupts the run's process, but a process that is blocked in a database call sees the
interrupt only when the call returns. The watcher therefore looks up the run's status and cancels
the statement in the database.
"""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import UTC, datetime
from typing import Protocol

from dagster import DagsterInstance, DagsterRunStatus, OpExecutionContext

from dbsync_pipeline.defs.run_tags import ALIVE_TAG

_LOOK_SECONDS = 2.0
_ALIVE_SECONDS = 30.0
_CANCELLED = (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)


class Cancellable(Protocol):
    """Work whose running statement another thread can cancel."""

    def cancel(self) -> None:
        """Cancel the statement that runs now."""


def watch(context: OpExecutionContext, work: Cancellable) -> threading.Event:
    """Start the watcher of `work`; set the returned event to stop it."""
    ended = threading.Event()
    threading.Thread(
        target=_watch, args=(context.instance, context.run_id, work, ended), daemon=True
    ).start()
    return ended


def _watch(
    instance: DagsterInstance, run_id: str, work: Cancellable, ended: threading.Event
) -> None:
    recorded = -_ALIVE_SECONDS
    while not ended.wait(_LOOK_SECONDS):
        with contextlib.suppress(Exception):  # the store may be reachable again the next time
            if time.monotonic() - recorded >= _ALIVE_SECONDS:
                recorded = time.monotonic()
                instance.add_run_tags(run_id, {ALIVE_TAG: datetime.now(UTC).isoformat()})
            run = instance.get_run_by_id(run_id)
            if run is not None and run.status in _CANCELLED:
                work.cancel()
