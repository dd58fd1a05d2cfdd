"""Ask several databases at the same time, each with a deadline that holds whatever the database does.

A server that takes a connection and never answers hangs its thread, so the threads are daemons and nobody waits for them: a pool
would, at its exit.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from dbsync_pipeline.errors import DbsyncError, Unavailable
from dbsync_pipeline.mirror.database import Database

Answer = TypeVar("Answer")


def ask(
    databases: Sequence[Database], question: Callable[[Database], Answer], seconds: float
) -> dict[str, Answer | DbsyncError]:
    """By name, in their order, what the question returns for each database, or the DbsyncError that it raised.

    Unavailable stands for those that have not answered within `seconds`, and for those that are starting. Their question may go on in
    the background, so it should change nothing that a late answer would spoil. An exception that is no DbsyncError is raised here.
    """
    answers: queue.SimpleQueue[tuple[str, Answer | BaseException]] = queue.SimpleQueue()

    def run(database: Database) -> None:
        try:
            answers.put((database.name, question(database.at_once)))
        except BaseException as error:
            answers.put((database.name, error))

    for database in databases:
        threading.Thread(
            target=run, args=(database,), name=f"dbsync-ask-{database.name}", daemon=True
        ).start()
    got = _gather(answers, len(databases), time.monotonic() + seconds)
    return {database.name: _answer(database, got, seconds) for database in databases}


def _gather(
    answers: queue.SimpleQueue[tuple[str, Answer]], wanted: int, deadline: float
) -> dict[str, Answer]:
    got: dict[str, Answer] = {}
    while len(got) < wanted:
        try:
            name, answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        got[name] = answer
    return got


def _answer(
    database: Database, got: dict[str, Answer | BaseException], seconds: float
) -> Answer | DbsyncError:
    if database.name not in got:
        return Unavailable(
            f"no answer within {seconds:g} seconds",
            operation="probe",
            database=database.name,
            remedy=f"see that the server of {database.name} runs and is not overloaded",
        )
    answer = got[database.name]
    if isinstance(answer, BaseException) and not isinstance(answer, DbsyncError):
        raise answer
    return answer
