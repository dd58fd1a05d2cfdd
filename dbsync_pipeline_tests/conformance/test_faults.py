"""What the scripts that this project replaces did wrong, each as a test that it must pass. Their slowness is measured in benchmarks/."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.errors import DbsyncError, Refused, Unavailable
from dbsync_pipeline.mirror import rescue
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.worlds import ANYTHING, MODEL, content, execute, prepare, sequence_gives, small_world, sync, user

Pair = tuple[Database, Database]
users, messages = (MODEL.table(name).sa for name in ("users", "messages"))


@pytest.fixture
def synced(pair: Pair) -> Pair:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    return pair


def test_fault_every_later_sync_failed_on_the_parents_and_left_old_names_in_place(synced: Pair) -> None:
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
    ((table, rows),) = rescue.rescued_rows(target, MODEL, overwriting.run_id)
    assert (table, list(rows["name"])) == ("users", ["written during the outage"])


def test_fault_after_a_failover_the_first_insert_had_a_duplicate_key(synced: Pair) -> None:
    _, target = synced
    taken = {row[0] for row in content(target)["users"]}
    row: dict[str, Any] = {name: value for name, value in user(9999).items() if name != "id"}
    assert sequence_gives(target, row) not in taken


def test_fault_a_failure_in_the_middle_left_the_table_without_rows(synced: Pair) -> None:
    source, target = synced
    before = content(target)
    execute(target, "CREATE UNIQUE INDEX in_the_way ON messages (created_at)")
    execute(source, messages.update().where(messages.c.id.in_([5, 6])).values(created_at=_moment(source)))
    with pytest.raises(DbsyncError):
        sync(source, target)
    assert content(target) == before


def _moment(database: Database) -> Any:
    with database.engine().connect() as connection:
        return connection.scalar(sa.select(users.c.created_at).limit(1))


def test_fault_with_no_target_reachable_it_reported_success(synced: Pair) -> None:
    source, _ = synced
    nowhere = Database("azure", sa.make_url("postgresql://app:secret@127.0.0.1:1/app"), connect_seconds=2)
    with pytest.raises(Unavailable, match="nothing answers"):
        sync(source, nowhere)
