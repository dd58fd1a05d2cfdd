"""Run several pieces of work at the same time, and wait for all of them no longer than one
deadline.

A server that accepts a connection and never replies blocks its thread for good. The threads are
therefore daemons and nobody joins them; a thread pool would wait for them when it closes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Result = TypeVar("Result")


def run_until(
    work: Mapping[str, Callable[[], Result]], seconds: float, *, label: str = "dbsync"
) -> dict[str, Result | BaseException]:
    """Run every piece of `work` in a thread of its own; return by name what it returned or raised
    within `seconds`.

    A name that is missing from the result did not finish in time. Its work may continue in the
    background.
    """
    finished: queue.SimpleQueue[tuple[str, Result | BaseException]] = queue.SimpleQueue()

    def run(name: str, piece: Callable[[], Result]) -> None:
        try:
            finished.put((name, piece()))
        except BaseException as error:
            finished.put((name, error))

    for name, piece in work.items():
        threading.Thread(
            target=run, args=(name, piece), name=f"{label}-{name}", daemon=True
        ).start()
    return _collect(finished, len(work), time.monotonic() + seconds)


def _collect(
    finished: queue.SimpleQueue[tuple[str, Result | BaseException]], expected: int, deadline: float
) -> dict[str, Result | BaseException]:
    results: dict[str, Result | BaseException] = {}
    while len(results) < expected:
        try:
            name, result = finished.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        results[name] = result
    return results
