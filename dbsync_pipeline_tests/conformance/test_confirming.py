"""A sync that finds nothing to do confirms the last publish: no ledger grows, and ages are right."""

from __future__ import annotations

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.mirror import ready
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.failover.promote import unknown_states
from dbsync_pipeline.mirror.ledger import Ledger, Publish
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    SETTINGS,
    content,
    execute,
    prepare,
    session,
    small_world,
    sync,
)

Pair = tuple[Database, Database]

users = MODEL.table("users").sa


def rename(database: Database, name: str) -> None:
    execute(database, users.update().where(users.c.id == 3).values(name=name))


def last(database: Database) -> Publish:
    with database.connect() as dialect:
        publish = Ledger(dialect).last()
    assert publish is not None
    return publish


def sizes(database: Database) -> tuple[int, int]:
    """How many facts and publishes the ledger has."""

    def rows(dialect: Dialect, table: sa.Table) -> int:
        return int(dialect.connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)

    with database.connect() as dialect:
        tables = Ledger(dialect)._t
        return rows(dialect, tables.facts), rows(dialect, tables.publishes)


def test_syncs_of_nothing_fill_no_ledger_and_renew_the_age(pair: Pair) -> None:
    """While transactions of others end between the syncs, each of which renews the source's claim."""
    source, target = pair
    prepare(source, small_world())
    first = sync(source, target)
    execute(source, "CREATE TABLE elsewhere (id int)")
    sync(source, target)
    before = sizes(source), sizes(target)
    for count in (2, 3):
        execute(source, f"INSERT INTO elsewhere VALUES ({count})")
        run = sync(source, target, round_id=f"round {count}")
        assert (run.number, run.confirmations) == (first.number, count)
    assert (sizes(source), sizes(target)) == before
    held = last(target)
    assert (held.run_id, held.snapshot_at, held.round) == (
        first.run_id,
        first.snapshot_at,
        "round 3",
    )
    assert held.confirmed_at == run.confirmed_at and held.as_of > first.snapshot_at
    with target.connect() as dialect:
        assert Ledger(dialect).is_confirmed_by(run.run_id)
        age = ready.read(dialect, MODEL).age_seconds
    assert age is not None and age < (run.published_at - first.published_at).total_seconds() + 60
    assert unknown_states({"windows": source, "linux": target}, "windows", 20) == {}


def test_a_change_is_published_and_the_next_confirmation_is_of_that_publish(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    first = sync(source, target)
    sync(source, target)
    rename(source, "changed")
    second = sync(source, target)
    assert second.number > first.number and last(target).confirmations == 0
    assert sync(source, target).confirmations == 1
    assert last(target).number == second.number and content(source) == content(target)


def test_after_an_undo_a_sync_publishes_again(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    rename(source, "changed")
    done = sync(source, target)
    sync(source, target)
    undo(target, MODEL, done.run_id, by="undo", settings=SETTINGS)
    assert last(target).confirmations == 0
    again = sync(source, target)
    assert again.number > done.number and again.confirmations == 0


def test_a_sync_of_some_tables_is_a_publish(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    first = sync(source, target)
    some = sync(source, target, ["users"], policy=ANYTHING)
    assert some.number > first.number and last(target).partial
    whole = sync(source, target)
    assert whole.number > some.number and not last(target).partial


def test_a_state_that_the_source_does_not_know_is_not_confirmed(pair: Pair) -> None:
    """The source was restored from a backup; the rows are equal by chance."""
    source, target = pair
    prepare(source, small_world())
    first = sync(source, target)
    with source.connect() as dialect, dialect.connection.begin():
        facts = Ledger(dialect)._t.facts
        given = facts.c.name.startswith("state ")
        dialect.connection.execute(facts.update().where(given).values(value="2000-01-01T00:00:00"))
    assert sync(source, target, policy=ANYTHING).number > first.number


def test_a_sync_that_ends_before_its_commit_confirms_nothing(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    before = last(target)
    with session(source, target) as killed:
        killed.ensure_schema()
        for name in MODEL.names:
            killed.copy(name)
    assert last(target) == before


def test_the_age_of_a_standbys_standby_is_that_of_the_primarys_state(
    pair: Pair,
) -> None:
    """A standby that passes on what it received passes on when that was confirmed, too."""
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    sync(source, target)
    held = last(target)
    passed_on = sync(target, source, policy=ANYTHING)
    assert passed_on.state == held.state
    assert last(source).as_of == held.as_of
