"""Syncs between two PostgreSQL databases that need not read all rows, and those that must."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import Refused
from dbsync_pipeline.mirror import drift
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger, Publish
from dbsync_pipeline.mirror.look import Vantage
from dbsync_pipeline.mirror.sync import stamping
from dbsync_pipeline.mirror.sync.stamping import Settling
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.servers import administer
from dbsync_pipeline_tests.test_look import new_database, servers
from dbsync_pipeline_tests.versions import as_of
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
    user,
)

Pair = tuple[Database, Database]

CHEAP = {"snapshot", "row headers"}


__all__ = ["new_database", "servers"]  # transactions of other tests would keep rows young


@pytest.fixture
def pair(new_database: NewDatabase) -> Pair:
    """A source with rows and a target that was synced from it once."""
    source = new_database("postgresql", "windows", server=0)
    target = new_database("postgresql", "linux", server=1)
    prepare(source, small_world())
    first = sync(source, target)
    assert proofs(first) == {"digests: nothing is known of an earlier state (source)"}
    return source, target


@contextlib.contextmanager
def restored(database: Database) -> Iterator[Database]:
    """A copy of the database's files as they are now, under its name."""
    name = f"{database.url.database}_backup"
    administer(database.url.set(database="postgres"), _COPY.format(name, database.url.database))
    yield replace(database, url=database.url.set(database=name))
    administer(database.url, f"DROP DATABASE {name} WITH (FORCE)")


_COPY = as_of("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")


def proofs(publish: Publish) -> set[str]:
    return {table.proof for table in publish.tables.values()}


def rename(database: Database, key: int, name: str) -> None:
    users = MODEL.table("users").sa
    execute(database, users.update().where(users.c.id == key).values(name=name))


def test_the_second_sync_reads_no_rows_even_after_a_first_load(pair: Pair) -> None:
    assert proofs(sync(*pair)) <= CHEAP


def test_a_sync_of_nothing_is_proved_by_snapshots_on_a_quiet_server(pair: Pair) -> None:
    """Other tests use the servers too, so it may take a few syncs to meet quiet ones."""
    assert any(proofs(sync(*pair)) == {"snapshot"} for _ in range(60))


def test_a_source_that_was_written_elsewhere_claims_again_and_then_is_only_read(pair: Pair) -> None:
    source, target = pair
    execute(source, "CREATE TABLE other (id int)")
    first = sync(source, target)
    assert proofs(first) <= CHEAP and first.confirmations == 1
    with source.connect() as dialect:
        claims = "SELECT count(*) FROM dbsync.facts WHERE name LIKE 'claim %'"
        assert dialect.connection.scalar(sa.text(claims)) == 1
    assert any(proofs(sync(source, target)) == {"snapshot"} for _ in range(60))
    execute(source, "DELETE FROM dbsync.facts WHERE name LIKE 'claim %'")
    found = sync(source, target)
    assert proofs(found) == {"digests: nothing is known of an earlier state (source)"}
    assert (found.number, proofs(sync(source, target)) <= CHEAP) == (first.number, True)


def test_changes_of_every_kind_are_found_and_the_next_sync_is_cheap_again(pair: Pair) -> None:
    source, target = pair
    users, messages = MODEL.table("users").sa, MODEL.table("messages").sa
    execute(
        source,
        users.insert().values(user(900)),
        users.update().where(users.c.id == 3).values(name="changed"),
        messages.delete().where(messages.c.parent_id.is_not(None)),
    )
    done = sync(source, target)
    assert proofs(done) <= CHEAP
    changes = done.tables["users"]
    assert (changes.inserted, changes.updated) == (1, 1) and done.tables["messages"].deleted
    assert content(source) == content(target)
    assert proofs(sync(source, target)) <= CHEAP


def test_local_writes_on_the_standby_are_found_without_reading_all_rows(pair: Pair) -> None:
    source, target = pair
    sync(source, target)
    rename(target, 5, "local")
    with pytest.raises(Refused, match="local writes"):
        sync(source, target)
    with target.connect() as dialect:
        ledger, users = Ledger(dialect), MODEL.table("users")
        stamp = ledger.stamp("users", "target")
        found = drift.since_publish(dialect, users, ledger.digests("users"), stamp=stamp)
    assert isinstance(found, drift.Changed) and found.buckets.size == 1


def test_local_writes_right_after_the_commit_are_found(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the commit and the second look, the application writes to the standby."""
    source, target = pair
    settle = Settling.run

    def write_first(self: Settling) -> None:
        rename(target, 7, "local")
        settle(self)

    rename(source, 3, "changed")
    monkeypatch.setattr(Settling, "run", write_first)
    sync(source, target)
    monkeypatch.undo()
    with pytest.raises(Refused, match="local writes"):
        sync(source, target)


def test_a_plan_is_as_cheap_as_a_sync_and_stamps_nothing(pair: Pair) -> None:
    source, target = pair
    rename(source, 3, "changed")
    with session(source, target) as planned:
        plan, findings = planned.plan()
    assert plan.tables["users"].update == 1 and not findings
    assert proofs(sync(source, target)) <= CHEAP


def test_a_full_pass_is_made_when_it_is_due(pair: Pair) -> None:
    always = SETTINGS.model_copy(update={"full_every": 0})
    found = sync(*pair, settings=always)
    assert proofs(found) == {"digests: a full pass is due (source)"}
    assert [table.rows_read for table in found.tables.values()] == _rows(found)


def test_a_full_pass_is_made_whenever_that_is_set_also_after_one_by_a_clock_that_is_ahead(
    pair: Pair,
) -> None:
    execute(pair[1], "UPDATE dbsync.stamps SET digested_at = now() + interval '1 minute'")
    always = SETTINGS.model_copy(update={"full_every": 0})
    assert proofs(sync(*pair, settings=always)) == {"digests: a full pass is due (source)"}


@pytest.mark.parametrize(
    ("side", "days", "trusted"),
    [("source", 400, False), ("target", 400, False), ("source", 0.02, True), ("source", -6, True)],
)
def test_a_full_pass_that_a_wrong_clock_noted_in_the_future_counts_for_nothing(
    pair: Pair, side: str, days: float, trusted: bool
) -> None:
    """Else no full pass would be due until then. Half an hour is no wrong clock."""
    then = f"UPDATE dbsync.stamps SET digested_at = now() + interval '{days} days'"
    execute(pair[1], f"{then} WHERE side = '{side}'")
    assert (proofs(sync(*pair)) <= CHEAP) is trusted
    if not trusted:
        with pair[1].connect() as target:
            noted = [stamp.digested_at for stamp in Ledger(target).stamps().values()]
        assert max(noted) <= dt.datetime.now(dt.UTC), "the wrong time is gone"
    assert proofs(sync(*pair)) <= CHEAP


def test_local_writes_are_found_on_a_standby_whose_stamps_are_of_a_wrong_clock(pair: Pair) -> None:
    execute(pair[1], "UPDATE dbsync.stamps SET digested_at = now() + interval '400 days'")
    rename(pair[1], 3, "a local write")
    with pytest.raises(Refused, match="local writes"):
        sync(*pair)


def test_a_publish_says_what_its_comparison_cost_the_source(pair: Pair) -> None:
    source, target = pair
    execute(source, "CREATE TABLE other (id int)")
    with source.connect() as dialect:
        sizes = dialect.sizes(MODEL.tables)
    for name, table in sync(source, target).tables.items():
        passes = 0 if table.proof == "snapshot" else 1
        assert table.rows_read == passes * table.rows
        assert table.bytes_read == passes * sizes[name].rows
    rename(source, 3, "changed")
    users = sync(source, target).tables["users"]
    assert users.rows_read == 2 * users.rows
    assert users.bytes_read == 2 * sizes["users"].rows + sizes["users"].large // users.rows


def _rows(publish: Publish) -> list[int]:
    return [table.rows for table in publish.tables.values()]


def test_a_source_that_was_restored_is_digested(pair: Pair) -> None:
    """Its rows may have been written by transactions whose numbers were given before."""
    source, target = pair
    sync(source, target)
    execute(source, "DELETE FROM dbsync.facts WHERE name = 'number' OR name ~ '^(state|claim) '")
    found = proofs(sync(source, target, policy=ANYTHING))
    assert found == {"digests: nothing is known of an earlier state (source)"}


def test_a_source_restored_to_before_it_confirmed_what_it_had_earlier_is_refused(
    pair: Pair,
) -> None:
    """It turned back to rows that it had published, so it sent no number after the backup."""
    source, target = pair
    name = "UPDATE users SET name = '{}' WHERE id = 1"
    execute(source, "UPDATE users SET name = 'Ada' WHERE id = 1")
    published = sync(source, target)
    execute(source, name.format("Bea"))
    with restored(source) as backup:
        execute(source, name.format("Ada"))
        assert sync(source, target).number == published.number
        with pytest.raises(Refused, match="which windows does not know: windows was restored"):
            sync(backup, target)
        assert sync(target, backup, policy=ANYTHING).changed == 1
        execute(backup, name.format("Cy"))
        assert sync(backup, target).changed == 1


def test_a_source_that_took_a_standbys_state_is_not_refused_as_restored(pair: Pair) -> None:
    source, target = pair
    execute(source, "CREATE TABLE other (id int)")
    assert sync(source, target).confirmations == 1
    sync(target, source)
    rename(source, 1, "Bea")
    assert sync(source, target).changed == 1


def test_a_copy_of_the_source_that_lacks_its_claim_is_digested(pair: Pair) -> None:
    """A clone of its files has its identity and its ledger, and issues its transaction numbers."""
    source, target = pair
    sync(source, target)
    execute(source, "DELETE FROM dbsync.facts WHERE name LIKE 'state %' OR name LIKE 'claim %'")
    found = proofs(sync(source, target))
    assert found == {"digests: nothing is known of an earlier state (source)"}


def test_a_standby_that_passes_on_its_state_is_digested_each_time(
    pair: Pair, new_database: NewDatabase
) -> None:
    """It records no number, so a restore of its files would not show."""
    _, linux = pair
    azure = new_database("postgresql", "azure", server=0)
    for _ in range(3):
        found = proofs(sync(linux, azure))
    assert found == {"digests: nothing is known of an earlier state (source)"}


def test_ddl_right_after_the_commit_is_found(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the sync's lock, so it is carried out before the second look."""
    source, target = pair
    messages = MODEL.table("messages").sa
    settle = Settling.run

    def rename_first(self: Settling) -> None:
        for old, new in (("user", "x"), ("assistant", "user"), ("x", "assistant")):
            execute(target, f"ALTER TYPE message_role RENAME VALUE '{old}' TO '{new}'")
        settle(self)

    execute(source, messages.update().where(messages.c.id == 3).values(tokens=1))
    monkeypatch.setattr(Settling, "run", rename_first)
    sync(source, target)
    monkeypatch.undo()
    execute(source, messages.update().where(messages.c.id == 4).values(tokens=1))
    with pytest.raises(Refused, match="local writes"):
        sync(source, target)


def test_a_second_look_that_is_cut_off_fails_no_committed_sync(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    look = Vantage.of

    def cut(dialect: Dialect, *given: Any) -> Vantage:
        view = look(dialect, *given)
        pid = dialect.connection.scalar(sa.text("SELECT pg_backend_pid()"))
        execute(target, f"SELECT pg_terminate_backend({pid})")
        dialect.connection.scalar(sa.text("SELECT 1"))
        return view

    rename(source, 3, "changed")
    with session(source, target) as one:
        one.ensure_schema()
        for table in MODEL.names:
            one.copy(table)
        monkeypatch.setattr(stamping.Vantage, "of", cut)
        done = one.publish()
    monkeypatch.undo()
    assert done.tables["users"].updated == 1 and content(source) == content(target)
    assert sync(source, target).changed == 0


def test_nobody_truncates_a_table_between_the_snapshot_and_its_reading(pair: Pair) -> None:
    """PostgreSQL shows a table empty in a snapshot that is older than its TRUNCATE."""
    source, target = pair
    with session(source, target) as one:
        one.ensure_schema()
        engine = source.engine()
        with engine.begin() as connection, pytest.raises(sa.exc.OperationalError, match="lock"):
            connection.execute(sa.text("SET LOCAL lock_timeout = '200ms'"))
            connection.execute(sa.text("TRUNCATE user_memory"))


def test_after_an_undo_all_rows_are_digested_once(pair: Pair) -> None:
    from dbsync_pipeline.mirror.rescue.undo import undo

    source, target = pair
    rename(source, 3, "changed")
    done = sync(source, target)
    undo(target, MODEL, done.run_id, by="undo", settings=SETTINGS)
    again = sync(source, target)
    assert again.tables["users"].updated == 1
    assert again.tables["users"].proof.startswith("digests: nothing is known")
    assert content(source) == content(target)


def test_another_source_is_digested_and_found_equal(pair: Pair, new_database: NewDatabase) -> None:
    source, target = pair
    third = new_database("postgresql", "azure", server=0)
    sync(source, third)
    found = sync(third, target)
    assert found.changed == 0
    assert proofs(found) == {"digests: nothing is known of an earlier state (source)"}


def test_a_ledger_of_the_former_version_gets_stamps(pair: Pair) -> None:
    source, target = pair
    execute(
        target,
        "DROP TABLE dbsync.stamps",
        "UPDATE dbsync.facts SET value = '4' WHERE name = 'version'",
    )
    assert proofs(sync(source, target)) == {
        "digests: nothing is known of an earlier state (source)"
    }
    assert proofs(sync(source, target)) <= CHEAP


def test_sqlite_digests_all_rows_and_says_why(new_database: NewDatabase) -> None:
    source = new_database("postgresql", "windows")
    target = new_database("sqlite", "linux")
    prepare(source, small_world())
    sync(source, target)
    assert proofs(sync(source, target)) == {
        "digests: the engine does not show when a row was written (target)"
    }
    with target.engine().connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM dbsync_stamps"))
