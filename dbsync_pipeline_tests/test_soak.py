"""A writer, syncs, undos and kills without a pause: memory, threads, files, connections and the ledger do not grow.

Twenty seconds here; `make soak` does the same for ten minutes, or for SOAK_SECONDS.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import psutil
import pytest
import sqlalchemy as sa

from dbsync_pipeline.mirror import verify
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline_tests import killed
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.killed import Call
from dbsync_pipeline_tests.test_safety import free_after
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    SETTINGS,
    prepare,
    small_world,
    sync,
    user,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
KEEPING = SETTINGS.model_copy(update={"rescue_mb": 1, "lock_seconds": 20})
ROWS = 50
"""Rows that the writer adds and takes away again, so that the tables themselves do not grow."""

users = MODEL.table("users").sa
context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
context.set_forkserver_preload([killed.__name__])


@dataclass(frozen=True)
class Usage:
    """What may not grow. The ledger is counted without its publishes, all of which are kept by design."""

    memory_mb: float
    threads: int
    files: int
    connections: int
    ledger_mb: float

    def grown_beyond(self, before: Usage, allowed: Usage) -> dict[str, tuple[float, float]]:
        """What is more than before and what is allowed on top: by name before and after."""
        old, new, more = asdict(before), asdict(self), asdict(allowed)
        return {name: (old[name], new[name]) for name in new if new[name] > old[name] + more[name]}


def usage(source: Database, target: Database) -> Usage:
    gc.collect()
    process = psutil.Process()
    size = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relkind = 'r'"
    ledger = f"{size} AND relnamespace = 'dbsync'::regnamespace AND relname <> 'publishes'"
    return Usage(
        process.memory_info().rss / 1e6,
        process.num_threads(),
        process.num_fds(),
        sum(int(look(one, _CONNECTIONS)) for one in (source, target)),
        float(look(target, ledger)) / 1e6,
    )


_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"


def look(database: Database, question: str) -> str:
    with database.engine().connect() as connection:
        return str(connection.scalar(sa.text(question)))


@contextmanager
def writing(source: Database) -> Iterator[None]:
    """An application that inserts, updates and deletes in one transaction after the other."""
    ended = threading.Event()
    failures: list[BaseException] = []

    engine = source.engine()

    def write() -> None:
        number = 0
        try:
            while not ended.wait(0.02):
                number += 1
                key, changed = 10_000 + number % ROWS, 1 + number % 20
                with engine.begin() as connection:
                    connection.execute(users.delete().where(users.c.id == key))
                    connection.execute(users.insert().values(user(key, name=f"version {number}")))
                    update = users.update().where(users.c.id == changed)
                    connection.execute(update.values(name=f"v{number}"))
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()
    assert failures == []


def one_round(source: Database, target: Database, number: int, rng: random.Random) -> None:
    """A sync; now and then its undo, and a sync that is killed at any moment."""
    run_id = sync(source, target, policy=ANYTHING, settings=KEEPING).run_id
    if number % 3 == 0:
        undo(target, MODEL, run_id, by=uuid.uuid4().hex, settings=KEEPING)
    if number % 4 == 0:
        urls = {one.name: one.url.render_as_string(hide_password=False) for one in (source, target)}
        process = context.Process(target=killed.run, args=("sync", Call(urls)))
        process.start()
        process.join(rng.random())
        process.kill()
        process.join()
        free_after(source, target, 10)


def rounds(source: Database, target: Database, seconds: float, rng: random.Random) -> int:
    deadline = time.monotonic() + seconds
    number = 0
    while time.monotonic() < deadline or number < 4:
        number += 1
        one_round(source, target, number, rng)
    return number


def test_nothing_grows(new_database: NewDatabase) -> None:
    source, target = (
        new_database("postgresql", "windows", server=0),
        new_database("postgresql", "linux", server=1),
    )
    prepare(source, small_world())
    rng = random.Random("soak")
    with writing(source):
        warm = rounds(source, target, SECONDS / 3, rng)
        before = usage(source, target)
        number = rounds(source, target, SECONDS * 2 / 3, rng)
        after = usage(source, target)
    sys.stdout.write(f"{warm} rounds, then {number} more\nbefore {before}\nafter  {after}\n")
    allowed = Usage(memory_mb=15, threads=2, files=4, connections=2, ledger_mb=4)
    assert after.grown_beyond(before, allowed) == {}
    sync(source, target, policy=ANYTHING)
    assert all(verdict.equal for verdict in verify.verify(source, target, MODEL))
