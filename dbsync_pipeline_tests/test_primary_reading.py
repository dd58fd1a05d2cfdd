"""A run on the primary's own partition only counts, and can be cancelled while it waits."""

from __future__ import annotations

import threading
import time

import sqlalchemy as sa

from dbsync_pipeline.defs.work import PrimaryReading
from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import MODEL, prepare, small_world


def test_the_primary_is_counted(new_database: NewDatabase) -> None:
    primary = new_database("postgresql", "primary")
    prepare(primary, small_world())
    reading = PrimaryReading(primary, MODEL, MODEL.names, "run")
    assert reading.ensure_schema() == []
    assert reading.publish().tables["messages"].rows == 200


def test_a_count_that_waits_ends_when_the_run_is_cancelled(new_database: NewDatabase) -> None:
    primary = new_database("postgresql", "primary")
    prepare(primary, small_world())
    reading = PrimaryReading(primary, MODEL, MODEL.names, "run")
    failures: list[DbsyncError] = []

    def count() -> None:
        try:
            reading.ensure_schema()
        except DbsyncError as error:
            failures.append(error)

    with primary.connect() as blocker, blocker.connection.begin():
        blocker.connection.execute(sa.text("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE"))
        counting = threading.Thread(target=count)
        counting.start()
        deadline = time.monotonic() + 30
        while not _waits(blocker.connection) and time.monotonic() < deadline:
            time.sleep(0.05)
        started = time.monotonic()
        reading.cancel()
        counting.join(timeout=30)
        ended_after = time.monotonic() - started
    assert not counting.is_alive()
    assert len(failures) == 1
    assert ended_after < 10
    reading.cancel()  # nothing runs any more


def _waits(connection: sa.Connection) -> bool:
    """Whether a session of this database waits for a table."""
    here = "(SELECT oid FROM pg_database WHERE datname = current_database())"
    waiting = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND database = {here}"
    return bool(connection.scalar(sa.text(waiting)))
