"""Every pair of engines: the standby becomes equal to the source, whatever it contained before."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest
import sqlalchemy as sa

from dbsync_pipeline.errors import Busy, DbsyncError, NotProved, Refused, SettingsError, Unavailable
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.sync.publishing import Publishing
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    SETTINGS,
    chat,
    content,
    document,
    execute,
    hard_world,
    insert,
    key,
    memory,
    message,
    prepare,
    sequence_gives,
    session,
    small_world,
    sync,
    user,
)

Pair = tuple[Database, Database]

users, chats, messages, documents = (
    MODEL.table(name).sa for name in ("users", "chats", "messages", "documents")
)


def test_a_first_sync_copies_everything_and_a_second_finds_nothing(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    first = sync(source, target)
    assert content(target) == content(source)
    assert {name: result.inserted for name, result in first.tables.items()} == {
        name: len(rows) for name, rows in content(source).items()
    }
    second = sync(source, target)
    assert second.changed == 0
    assert sum(result.bytes for result in second.tables.values()) == 0
    assert (second.number, second.confirmations) == (first.number, 1)


def test_only_what_differs_is_moved_and_written(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    execute(
        source,
        messages.update().where(messages.c.id == 7).values(content="changed"),
        messages.delete().where(messages.c.id == 200),
        (messages.insert(), [message(9001, 1)]),
    )
    result = sync(source, target).tables["messages"]
    assert (result.inserted, result.updated, result.deleted) == (1, 1, 1)
    assert 0 < result.bytes < 1000
    assert content(target) == content(source)


def test_unique_values_that_swap(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    execute(
        source,
        users.update().where(users.c.id == 1).values(email="free@example.org"),
        users.update().where(users.c.id == 2).values(email="u1@example.org"),
        users.update().where(users.c.id == 1).values(email="u2@example.org"),
    )
    assert sync(source, target).tables["users"].updated == 2
    assert content(target) == content(source)


def test_parents_replaced_together_with_their_children(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    execute(source, *[MODEL.table(name).sa.delete() for name in reversed(MODEL.names)])
    insert(
        source,
        {
            "users": [user(500)],
            "chats": [chat(900, 500)],
            "messages": [message(77, 900), message(78, 900, parent_id=77)],
            "documents": [document(3, 500, chat_id=key(900))],
            "user_memory": [memory(500, "k")],
        },
    )
    sync(source, target, policy=ANYTHING)
    assert content(target) == content(source)


def test_hard_values_arrive_exactly(pair: Pair) -> None:
    source, target = pair
    prepare(source, hard_world())
    sync(source, target)
    assert content(target) == content(source)
    assert sync(source, target).changed == 0


def test_json_is_the_text_that_the_application_wrote(pair: Pair) -> None:
    source, target = pair
    prepare(source, {"users": [user(1), user(2)]})
    text = '{"b": 1.10,  "a":1e2, "a": null, "\\u00e9": "\\/"}'
    execute(
        source,
        sa.text("UPDATE users SET preferences = :text WHERE id = 1").bindparams(text=text)
        if source.engine_name != "postgresql"
        else sa.text("UPDATE users SET preferences = CAST(:text AS json) WHERE id = 1").bindparams(
            text=text
        ),
    )
    execute(source, "UPDATE users SET preferences = 'null' WHERE id = 2")
    sync(source, target)
    stored = [row[5] for row in content(target)["users"]]
    assert stored == [text, "null"]


def test_every_kind_of_change_in_a_larger_table_of_every_kind_of_key(pair: Pair) -> None:
    source, target = pair
    prepare(
        source,
        {
            "users": [user(n) for n in range(1, 3000)],
            "chats": [chat(n, n) for n in range(1, 2000)],
            "user_memory": [memory(n, f"k{n % 7}") for n in range(1, 2000)],
        },
    )
    sync(source, target)
    memories = MODEL.table("user_memory").sa
    execute(
        source,
        users.update().where(users.c.id % 97 == 0).values(name="né"),
        chats.update().where(chats.c.user_id % 101 == 0).values(title="T"),
        chats.delete().where(chats.c.user_id % 103 == 0),
        memories.delete().where(memories.c.user_id % 53 == 1),
        (memories.insert(), [memory(n, "new") for n in range(1, 2000, 49)]),
    )
    sync(source, target)
    assert content(target) == content(source)


def test_counters_stand_past_the_sources_with_a_gap(pair: Pair) -> None:
    source, target = pair
    prepare(source, {})
    execute(source, users.insert().values({k: v for k, v in user(1).items() if k != "id"}))
    sync(source, target)
    fresh = {k: v for k, v in user(2).items() if k != "id"}
    first = sequence_gives(target, fresh)
    assert first > SETTINGS.key_gap
    execute(target, users.delete().where(users.c.id == first))
    sync(source, target)
    assert sequence_gives(target, fresh) == first + 1, (
        "a second sync with nothing new leaves the counter alone"
    )


def test_killed_before_the_commit_leaves_the_old_state(
    twins: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_publishing: Publishing) -> None:
        raise KeyboardInterrupt

    source, target = twins
    prepare(source, small_world())
    sync(source, target)
    before = content(target)
    execute(source, messages.update().values(content="new"), (users.insert(), [user(999)]))
    with session(source, target, policy=ANYTHING) as one:
        one.ensure_schema()
        for name in MODEL.names:
            one.copy(name)
        monkeypatch.setattr(Publishing, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            one.publish()
    assert content(target) == before
    with target.connect() as dialect:
        last = Ledger(dialect).last()
        assert last is not None and last.number == 1
    monkeypatch.undo()
    assert sync(source, target, policy=ANYTHING).changed > 0


def test_writes_to_the_source_during_a_sync_never_make_a_mixture(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    before = content(source)
    with session(source, target) as one:
        one.ensure_schema()
        one.copy("users")
        execute(
            source,
            (users.insert(), [user(999)]),
            (chats.insert(), [chat(999, 999)]),
            messages.delete().where(messages.c.id > 150),
        )
        for name in MODEL.names:
            one.copy(name)
        one.publish()
    assert content(target) == before
    sync(source, target)
    assert content(target) == content(source)


def test_a_second_sync_of_the_same_target_is_refused_and_names_the_first(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    with session(source, target, run_id="the-first") as one:
        one.ensure_schema()
        with session(source, target) as two, pytest.raises(Busy) as refusal:
            two.ensure_schema()
        if target.engine_name == "postgresql":
            assert "the-first" in str(refusal.value)
    assert sync(source, target).changed > 0


def test_an_application_that_writes_to_the_standby_waits_for_the_commit(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    sync(source, target)
    execute(source, users.update().where(users.c.id == 1).values(name="new"))
    done = threading.Event()

    def application() -> None:
        execute(target, users.update().where(users.c.id == 2).values(name="foreign"))
        done.set()

    with session(source, target) as one:
        one.ensure_schema()
        writer = threading.Thread(target=application)
        writer.start()
        for name in MODEL.names:
            one.copy(name)
        assert not done.wait(0.3)
        one.publish()
    writer.join(60)
    assert done.is_set()
    with pytest.raises(Refused, match="were written since"):
        sync(source, target)


def test_a_selection_of_tables_must_leave_foreign_keys_whole(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    execute(source, (users.insert(), [user(999)]), (chats.insert(), [chat(999, 999)]))
    before = content(target)
    with pytest.raises(NotProved, match="foreign key"):
        sync(source, target, ["chats"])
    assert content(target) == before
    assert sync(source, target, ["users"]).partial
    assert content(target)["users"] == content(source)["users"]
    assert content(target)["chats"] == before["chats"]


def test_source_and_target_the_same(twins: Pair) -> None:
    source, _ = twins
    with pytest.raises(SettingsError, match="same database"):
        session(source, source)
    prepare(source, small_world())
    with pytest.raises(Refused, match="the same database"):
        plan_under_another_name(source)


def plan_under_another_name(database: Database) -> None:
    sync(database, Database("linux", database.url), policy=ANYTHING, settings=SETTINGS)


def test_an_unknown_target_with_other_rows_is_refused_until_it_is_allowed(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    prepare(target, {"users": [user(5000, name="precious")]})
    before = content(target)
    with pytest.raises(Refused, match="never published"):
        sync(source, target)
    assert content(target) == before
    sync(source, target, policy=ANYTHING)
    assert content(target) == content(source)


def test_a_local_write_that_the_source_has_too_is_no_risk(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    for database in pair:
        execute(database, users.update().where(users.c.id == 2).values(name="both"))
    execute(source, chats.update().where(chats.c.user_id == 3).values(title="new"))
    assert sync(source, target).tables["users"].updated == 0
    execute(source, users.update().where(users.c.id == 2).values(name="later"))
    assert sync(source, target).tables["users"].updated == 1


def test_plan_shows_what_a_sync_would_do_and_changes_nothing(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    with (
        pytest.raises(Unavailable) if target.engine_name == "sqlite" else _nothing(),
        session(source, target) as one,
    ):
        plan, findings = one.plan()
        assert plan.tables["users"].insert == 20 and not findings
        assert not sa.inspect(target.engine()).get_table_names()
    sync(source, target)
    execute(source, users.update().where(users.c.id == 1).values(name="new"), documents.delete())
    before = content(target)
    with session(source, target) as one:
        plan, findings = one.plan()
    assert (plan.tables["users"].update, plan.tables["documents"].delete) == (1, 20)
    assert [finding.guard for finding in findings] == ["mass change"]
    assert content(target) == before


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_a_structure_that_differs_is_refused_by_name(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    schema.ensure(target, MODEL)
    execute(target, "ALTER TABLE users DROP COLUMN name")
    with pytest.raises(DbsyncError, match="column name is missing"):
        sync(source, target)
    assert schema.check(target, MODEL)["users"] == ["column name is missing"]


def test_columns_may_be_named_as_the_mirrors_own_statements_name_theirs(pair: Pair) -> None:
    source, target = pair
    names = ["b", "r", "t", "x", "h", "k0", "found", "old", "new", "gone"]
    metadata = sa.MetaData()
    key, number = (
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("value", sa.Integer),
    )
    table = sa.Table(
        "item", metadata, key, number, *(sa.Column(name, sa.Integer) for name in names)
    )
    model = Model(metadata)
    prepare(
        source,
        {"item": [{"id": n, "value": n, "b": 7 if n == 1 else None} for n in range(300)]},
        model,
    )
    sync(source, target, model=model)
    execute(source, (table.update().where(table.c.id == 200).values(value=-1)))
    assert sync(source, target, model=model).changed == 1
    assert content(target, model) == content(source, model)
    execute(target, (table.update().where(table.c.id == 100).values(value=-1)))
    with pytest.raises(Refused, match="local writes"):
        sync(source, target, model=model)
    (verdict,) = verify(source, target, model)
    assert verdict.keys == ((100,),)


def test_a_table_outside_the_models_that_refers_to_rows_that_go_is_named(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    execute(source, (users.insert(), [user(901), user(902)]))
    sync(source, target)
    execute(target, "CREATE TABLE audit (id int PRIMARY KEY, user_id bigint REFERENCES users (id))")
    execute(
        target,
        "INSERT INTO audit VALUES (1, 901)",
        "INSERT INTO audit VALUES (2, 902)",
        "INSERT INTO audit VALUES (3, NULL)",
    )
    execute(source, users.update().where(users.c.id == 901).values(name="stays"))
    sync(source, target)
    before = content(target)
    execute(source, users.delete().where(users.c.id == 902))
    with pytest.raises(
        NotProved, match=r"(?s)table .*audit.*would not hold.*take the table into the models"
    ):
        sync(source, target)
    assert content(target) == before
    execute(target, "DELETE FROM audit WHERE id = 2")
    sync(source, target)
    assert content(target) == content(source)


def test_what_a_table_outside_the_models_had_lost_before_is_not_the_syncs_fault(
    new_database: NewDatabase,
) -> None:
    """SQLite enforces foreign keys only if a connection asks for it, so rows may violate them."""
    source, target = new_database("sqlite", "windows"), new_database("sqlite", "linux")
    prepare(source, small_world())
    insert(source, {"users": [user(950)]})
    sync(source, target)
    with closing(sqlite3.connect(str(target.url.database))) as raw:
        raw.execute(
            "CREATE TABLE audit (id int PRIMARY KEY, user_id bigint REFERENCES Users (id), "
            "other REFERENCES nowhere (id))"
        )
        raw.execute("INSERT INTO audit VALUES (1, 901, NULL), (2, NULL, 7), (3, 950, NULL)")
        raw.commit()
    execute(source, users.update().where(users.c.id == 6).values(name="new"))
    sync(source, target)
    assert content(target) == content(source)
    execute(source, users.delete().where(users.c.id == 950))
    with pytest.raises(
        NotProved, match=r"(?s)table audit: the foreign key to Users would not hold"
    ):
        sync(source, target)


def test_a_table_may_be_named_as_a_query_of_the_mirrors_own(new_database: NewDatabase) -> None:
    source, target = new_database("sqlite", "windows"), new_database("sqlite", "linux")
    metadata = sa.MetaData()
    table = sa.Table(
        "found",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("value", sa.Integer),
    )
    model = Model(metadata)
    prepare(source, {"found": [{"id": n, "value": n} for n in range(300)]}, model)
    sync(source, target, model=model)
    execute(source, (table.update().where(table.c.id == 200).values(value=-1)))
    assert sync(source, target, model=model).changed == 1
    assert content(target, model) == content(source, model)
