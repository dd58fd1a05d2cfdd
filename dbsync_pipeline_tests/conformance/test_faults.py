"""What the scripts that this project replaces did wrong, each as a test that it must pass. How fast it is now is measured in benchmarks/."""

from __future__ import annotations

from typing import Any

import psycopg2.extensions
import pytest
import sqlalchemy as sa

from dbsync_pipeline.errors import DbsyncError, Refused, Unavailable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.rescue.read import rescued_rows
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    SETTINGS,
    content,
    execute,
    prepare,
    sequence_gives,
    session,
    small_world,
    sync,
    user,
)

Pair = tuple[Database, Database]
users, messages = (MODEL.table(name).sa for name in ("users", "messages"))


@pytest.fixture
def synced(pair: Pair) -> Pair:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    return pair


def test_fault_every_later_sync_failed_on_the_parents_and_left_old_names_in_place(
    synced: Pair,
) -> None:
    source, target = synced
    for name in ("second", "third"):
        execute(source, users.update().where(users.c.id < 5).values(name=name))
        assert sync(source, target).tables["users"].updated == 4
        assert content(target) == content(source)


def test_fault_an_empty_source_wiped_the_target_and_reported_success(synced: Pair) -> None:
    source, target = synced
    before = content(target)
    execute(source, *[MODEL.table(name).sa.delete() for name in reversed(MODEL.names)])
    with pytest.raises(Refused, match="the source's table is empty"):
        sync(source, target)
    assert content(target) == before


def test_fault_a_row_written_on_the_standby_during_an_outage_was_deleted(synced: Pair) -> None:
    source, target = synced
    execute(target, (users.insert(), [user(777, name="written during the outage")]))
    with pytest.raises(Refused, match="777"):
        sync(source, target)
    assert 777 in {row[0] for row in content(target)["users"]}
    overwriting = sync(source, target, policy=ANYTHING)
    ((table, rows),) = rescued_rows(target, MODEL, overwriting.run_id)
    assert (table, [row["name"] for row in rows]) == ("users", ["written during the outage"])


def test_fault_after_a_failover_the_first_insert_had_a_duplicate_key(synced: Pair) -> None:
    _, target = synced
    taken = {row[0] for row in content(target)["users"]}
    row: dict[str, Any] = {name: value for name, value in user(9999).items() if name != "id"}
    assert sequence_gives(target, row) not in taken


def test_fault_a_failure_in_the_middle_left_the_table_without_rows(synced: Pair) -> None:
    source, target = synced
    before = content(target)
    execute(target, "CREATE UNIQUE INDEX in_the_way ON messages (created_at)")
    execute(
        source,
        messages.update().where(messages.c.id.in_([5, 6])).values(created_at=_moment(source)),
    )
    with pytest.raises(DbsyncError) as failure:
        sync(source, target)
    assert failure.value.table == "messages"
    assert content(target) == before


def _moment(database: Database) -> Any:
    with database.engine().connect() as connection:
        return connection.scalar(sa.select(users.c.created_at).limit(1))


def test_fault_with_no_target_reachable_it_reported_success(synced: Pair) -> None:
    source, _ = synced
    nowhere = Database(
        "azure", sa.make_url("postgresql://app:secret@127.0.0.1:1/app"), connect_seconds=2
    )
    with pytest.raises(Unavailable, match="nothing answers"):
        sync(source, nowhere)


class _Counting(psycopg2.extensions.cursor):
    """Counts what is sent to the server, statements and COPYs."""

    sent = 0

    def execute(self, *given: Any) -> None:
        _Counting.sent += 1
        super().execute(*given)

    def copy_expert(self, *given: Any, **more: Any) -> None:
        _Counting.sent += 1
        super().copy_expert(*given, **more)


def test_fault_rows_were_copied_one_insert_at_a_time(new_database: NewDatabase) -> None:
    source = new_database("postgresql", "windows")
    prepare(source, small_world(10))
    few, many = new_database("postgresql", "linux", 1), new_database("postgresql", "azure", 1)
    filled, changed = [], []
    for target, more in ((few, 10), (many, 400)):
        execute(source, (users.insert(), [user(1000 * more + n) for n in range(more)]))
        filled.append(_statements(source, target))
        execute(
            source,
            users.update().values(name=f"new {more}"),
            (users.insert(), [user(1000 * more + 500)]),
        )
        changed.append(_statements(source, target))
    assert 0 < filled[0] == filled[1], "a table is filled by as many statements, whatever its rows"
    assert 0 < changed[0] == changed[1], "and so is what has changed in it"


def _statements(source: Database, target: Database) -> int:
    """How many a sync sends to the target, if it hashes all rows: else other transactions of the
    server decide whether it reads row headers."""
    _Counting.sent = 0
    every = SETTINGS.model_copy(update={"full_every": 0})
    with session(source, target, policy=ANYTHING, settings=every) as one:
        one.ensure_schema()
        one.opened.target.connection.connection.driver_connection.cursor_factory = _Counting  # type: ignore[union-attr]
        for table in MODEL.names:
            one.copy(table)
        one.publish()
    return _Counting.sent
