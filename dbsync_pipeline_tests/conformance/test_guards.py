"""Each guard that a person can let through: it trips, `plan` foretells it, nothing has changed, it is let through, and an undo takes that back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from dbsync_pipeline.errors import Refused
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.failover.observe import local_writes
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.policy import Policy
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.worlds import (
    MODEL,
    SETTINGS,
    content,
    execute,
    prepare,
    session,
    small_world,
    sync,
    user,
)

Pair = tuple[Database, Database]
users, documents = (MODEL.table(name).sa for name in ("users", "documents"))


@pytest.fixture(params=ENGINES)
def pair(request: pytest.FixtureRequest, new_database: NewDatabase) -> Pair:
    """A source with a small world, and an empty target, on one engine."""
    source, target = (
        new_database(request.param, name, server=n) for n, name in enumerate(("windows", "linux"))
    )
    prepare(source, small_world())
    return source, target


def _unknown_target(source: Database, target: Database) -> None:
    prepare(target, {"users": [user(5000, name="precious")]})


def _local_writes(source: Database, target: Database) -> None:
    sync(source, target)
    execute(target, users.update().where(users.c.id == 4).values(name="precious"))


def _older_source(source: Database, target: Database) -> None:
    """A backup from before the second publish: its rows are of then, and so is what its ledger knows."""
    sync(source, target)
    execute(source, users.update().where(users.c.id == 4).values(name="later"))
    sync(source, target)
    _restore(source, 1)


def _restore(source: Database, number: int) -> None:
    """As a backup from before user 4 changed has it, and before any number above this one was given."""
    execute(source, users.update().where(users.c.id == 4).values(name="User 4"))
    with source.connect() as dialect, dialect.connection.begin():
        ledger = Ledger(dialect)
        for later in range(number + 1, ledger.number() + 1):
            ledger.note(f"state {later}", None)
        ledger.note("number", str(number))


def _mass_change(source: Database, target: Database) -> None:
    sync(source, target)
    execute(source, documents.delete())


def _partial(source: Database, target: Database) -> None:
    sync(source, target)
    execute(source, users.update().where(users.c.id == 4).values(name="new"))


@dataclass(frozen=True)
class Case:
    """How a guard is tripped, what it says, under which policy it does, and what lets it through."""

    trip: Callable[[Database, Database], None]
    says: str
    through: Policy
    option: str
    policy: Policy | None = None
    tables: tuple[str, ...] = ()


CASES = {
    "unknown target": Case(
        _unknown_target, r"linux was never published to", Policy(overwrite=True), "--overwrite"
    ),
    "local writes": Case(
        _local_writes,
        r"rows of linux were written .* with keys .*4",
        Policy(overwrite=True),
        "--overwrite",
    ),
    "older source": Case(
        _older_source,
        "linux has state 2, which windows does not know",
        Policy(overwrite=True),
        "--overwrite",
    ),
    "mass change": Case(
        _mass_change,
        "the source's table is empty",
        Policy(max_change_fraction=1),
        "--max-change-fraction 1",
    ),
    "partial": Case(
        _partial,
        "without chats, .* linux would not be consistent",
        Policy(partial=True),
        "--partial",
        Policy(partial=False),
        ("users",),
    ),
}


@pytest.mark.parametrize("guard", CASES)
def test_a_guard_trips_is_let_through_and_that_is_undone(pair: Pair, guard: str) -> None:
    case = CASES[guard]
    source, target = pair
    case.trip(source, target)
    before = content(target)
    with session(source, target, case.tables, policy=case.policy) as planning:
        _, findings = planning.plan()
    assert [finding.guard for finding in findings] == [guard]
    with pytest.raises(Refused, match=case.says) as refused:
        sync(source, target, case.tables, policy=case.policy)
    chosen = "".join(f"--table {table} " for table in case.tables)
    assert f"dbsync sync --source windows --target linux {chosen}{case.option}`" in str(
        refused.value
    )
    assert content(target) == before
    publication = sync(source, target, case.tables, policy=case.through)
    assert content(target) == content(source)
    undo(target, MODEL, publication.run_id, by="undo", settings=SETTINGS)
    assert content(target) == before
    with pytest.raises(Refused, match=case.says):
        sync(source, target, case.tables, policy=case.policy)


def test_a_source_restored_from_a_backup_is_older_to_every_standby_until_each_was_overwritten(
    pair: Pair, new_database: NewDatabase
) -> None:
    source, linux = pair
    azure = new_database(source.engine_name, "azure", server=1)
    sync(source, azure)
    _older_source(source, linux)
    with session(source, azure) as planning:
        assert not planning.plan()[1], "azure has not been through what the backup lacks"
    execute(source, users.update().where(users.c.id == 5).values(name="since the backup"))
    sync(source, linux, policy=Policy(overwrite=True))
    sync(linux, azure)
    execute(source, users.update().where(users.c.id == 5).values(name="later"))
    assert sync(source, linux).changed == 1
    assert sync(source, azure).changed == 1


def test_overwriting_one_standby_from_a_backup_is_no_permission_for_the_next_one(
    pair: Pair, new_database: NewDatabase
) -> None:
    source, linux = pair
    azure = new_database(source.engine_name, "azure", server=1)
    _older_source(source, linux)
    sync(linux, azure)
    with session(source, azure) as planning:
        assert [finding.guard for finding in planning.plan()[1]] == ["older source"]
    execute(source, users.update().where(users.c.id == 4).values(name="other than on azure"))
    sync(source, linux, policy=Policy(overwrite=True))
    for older in (source, linux):
        with pytest.raises(Refused, match=f"azure has state .*, which {older.name} does not know"):
            sync(older, azure)
    sync(source, azure, policy=Policy(overwrite=True))
    execute(source, users.update().where(users.c.id == 4).values(name="new"))
    sync(source, azure)


@pytest.mark.parametrize("rounds", [1, 2], ids=["linux was behind", "linux was overwritten"])
def test_a_number_given_twice_does_not_make_a_lost_state_a_known_one(
    pair: Pair, new_database: NewDatabase, rounds: int
) -> None:
    source, linux = pair
    azure = new_database(source.engine_name, "azure", server=1)
    sync(source, linux)
    execute(source, users.update().where(users.c.id == 4).values(name="later"))
    for standby in (linux, azure)[-rounds:]:
        lost = sync(source, standby)
    _restore(source, 1)
    execute(source, users.update().where(users.c.id == 5).values(name="since the backup"))
    given = sync(source, linux, policy=Policy(overwrite=True))
    while given.state < lost.state:
        execute(source, users.update().where(users.c.id == 5).values(name=f"after {given.state}"))
        given = sync(source, linux)
    assert given.state == lost.state
    for older in (source, linux):
        with pytest.raises(
            Refused, match=f"azure has state {lost.state}, which {older.name} does not know"
        ):
            sync(older, azure)
    sync(source, azure, policy=Policy(overwrite=True))
    execute(source, users.update().where(users.c.id == 5).values(name="new"))
    assert sync(source, linux).changed == sync(source, azure).changed == 1


def test_a_standby_that_passes_on_what_it_received_makes_no_new_state_and_one_that_was_written_to_does(
    pair: Pair, new_database: NewDatabase
) -> None:
    source, linux = pair
    azure = new_database(source.engine_name, "azure", server=1)
    received = sync(source, linux)
    passed_on = sync(linux, azure)
    assert (passed_on.state, passed_on.snapshot_at) == (received.state, received.snapshot_at)
    execute(source, users.update().where(users.c.id == 5).values(name="new"))
    assert sync(source, azure).changed == 1, (
        "the primary knows the state that it sent, whoever passed it on"
    )
    execute(linux, users.update().where(users.c.id == 6).values(name="written on linux"))
    sync(source, linux, policy=Policy(overwrite=True))
    execute(linux, users.update().where(users.c.id == 6).values(name="written on linux"))
    assert sync(linux, azure).state > received.state
    with pytest.raises(Refused, match="older source"):
        sync(source, azure)


@pytest.mark.parametrize("version", ["1", "2", "3", "4"])
def test_a_ledger_of_a_former_version_is_brought_up(pair: Pair, version: str) -> None:
    source, target = pair
    first = sync(source, target)
    with target.connect() as dialect, dialect.connection.begin():
        schema = f"{dialect.ledger_schema}." if dialect.ledger_schema else "dbsync_"
        dialect.connection.execute(sa.text(f"DROP TABLE {schema}stamps"))
        if version < "4":
            dialect.connection.execute(sa.text(f"ALTER TABLE {schema}publishes DROP COLUMN round"))
        if version < "3":
            dialect.connection.execute(sa.text(f"ALTER TABLE {schema}digests DROP COLUMN columns"))
        if version < "2":
            dialect.connection.execute(sa.text(f"ALTER TABLE {schema}publishes DROP COLUMN state"))
        Ledger(dialect).note("version", version)
    execute(target, users.update().where(users.c.id == 4).values(name="precious"))
    with pytest.raises(Refused, match=r"keys 4 \(local writes\)"):
        sync(source, target)
    execute(target, users.update().where(users.c.id == 4).values(name="User 4"))
    execute(source, users.update().where(users.c.id == 5).values(name="new"))
    second = sync(source, target)
    with target.connect() as dialect:
        entries = Ledger(dialect).publishes()
    assert [entry.state for entry in entries] == [second.number, first.number]
    assert [entry.round for entry in entries] == [
        second.run_id,
        first.round if version == "4" else None,
    ]


def test_a_ledger_of_a_former_version_is_read_without_an_upgrade(pair: Pair) -> None:
    source, target = pair
    sync(source, target)
    with target.connect() as dialect, dialect.connection.begin():
        schema = f"{dialect.ledger_schema}." if dialect.ledger_schema else "dbsync_"
        dialect.connection.execute(sa.text(f"ALTER TABLE {schema}publishes DROP COLUMN round"))
        Ledger(dialect).note("version", "3")
    with target.connect() as dialect:
        last = Ledger(dialect).last()
    assert last is not None and last.round is None
    assert local_writes(target, MODEL) == (), "the digests still have their columns"
