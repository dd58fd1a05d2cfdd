"""What a publish takes away can be had back: rescued in its transaction, undone exactly, last in first out."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from dbsync_pipeline.errors import DbsyncError, Refused, SettingsError
from dbsync_pipeline.mirror import rescue
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger, Publication
from dbsync_pipeline.settings import Settings
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    SETTINGS,
    chat,
    content,
    execute,
    insert,
    message,
    prepare,
    small_world,
    sync,
    user,
)

Pair = tuple[Database, Database]
users, chats, messages = (MODEL.table(name).sa for name in ("users", "chats", "messages"))


def undo(target: Database, run: Publication, by: str | None = None, overwrite: bool = False) -> Publication:
    return rescue.undo(target, MODEL, run.run_id, by=by or f"undo-of-{run.run_id}", settings=SETTINGS, overwrite=overwrite)


def change(source: Database) -> None:
    execute(
        source,
        messages.update().where(messages.c.id <= 3).values(content="changed", metadata={"a": 1}),
        messages.delete().where(messages.c.id > 190),
        (users.insert(), [user(900)]),
        (chats.insert(), [chat(900, 900)]),
        (messages.insert(), [message(901, 900)]),
    )


def test_an_undo_restores_the_state_and_is_undone_in_turn(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    before = content(target)
    change(source)
    second = sync(source, target)
    after = content(target)
    undone = undo(target, second)
    assert content(target) == before
    assert undone.undoes == second.number
    undo(target, undone)
    assert content(target) == after == content(source)
    assert sync(source, target).changed == 0


def test_after_an_undo_the_next_sync_brings_the_same_again(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    change(source)
    second = sync(source, target)
    undo(target, second)
    assert sync(source, target).changed == second.changed
    assert content(target) == content(source)


def test_undos_go_last_in_first_out_down_to_the_empty_target(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    first = sync(source, target)
    change(source)
    second = sync(source, target)
    with pytest.raises(Refused, match="other publishes stand on top"):
        undo(target, first)
    undo(target, second)
    undo(target, first)
    assert not any(content(target).values())
    sync(source, target)
    assert content(target) == content(source)


def rename(source: Database, name: str) -> None:
    execute(source, users.update().where(users.c.id == 1).values(name=name))


def refusal(target: Database, run: Publication) -> DbsyncError:
    before = content(target)
    with pytest.raises(Refused) as caught:
        undo(target, run, by="refused")
    assert content(target) == before
    return caught.value


def test_an_undo_out_of_turn_names_the_next_one_on_the_way(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    runs, states = [], []
    for run_id in ("c_first", "b_second", "a_third"):
        rename(source, run_id)
        runs.append(sync(source, target, run_id=run_id))
        states.append(content(target))
    first, second, third = runs
    for below in (first, second):
        assert refusal(target, below).remedy == "undo them first, the newest first: `dbsync undo a_third`"
    undone = undo(target, third, by="undo_third")
    again = refusal(target, third)
    assert again.cause.startswith("run a_third is undone already, by run undo_third at ")
    assert again.remedy == "to take that back: `dbsync undo undo_third`"
    assert refusal(target, first).remedy == "undo them first, the newest first: `dbsync undo b_second`"

    rename(source, "fourth")
    fourth = sync(source, target, run_id="fourth")
    assert (refusal(target, third).remedy or "").endswith(
        "undo first what stands on top of it, the newest first: `dbsync undo fourth`"
    )
    assert refusal(target, undone).remedy == "undo them first, the newest first: `dbsync undo fourth`"
    undo(target, fourth, by="undo_fourth")
    assert refusal(target, third).remedy == "to take that back: `dbsync undo undo_third`"
    undo(target, undone, by="third_again")
    assert content(target) == states[2]
    assert "by run third_again at" in refusal(target, undone).cause
    for run, state in ((third, states[1]), (second, states[0])):
        undo(target, run, by=f"at_last_{run.run_id}")
        assert content(target) == state


def test_foreign_rows_that_were_overwritten_come_back_and_are_foreign_again(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    execute(
        target,
        users.update().where(users.c.id == 4).values(name="written on the standby"),
        (users.insert(), [user(777, name="precious")]),
    )
    before = content(target)
    with pytest.raises(Refused, match="somebody has written"):
        sync(source, target)
    overwriting = sync(source, target, policy=ANYTHING)
    assert content(target) == content(source)
    undo(target, overwriting)
    assert content(target) == before
    with pytest.raises(Refused, match="somebody has written"):
        sync(source, target)


def test_an_undo_is_refused_when_the_target_was_written_to_since(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    sync(source, target)
    change(source)
    second = sync(source, target)
    execute(target, users.update().where(users.c.id == 900).values(name="since"))
    with pytest.raises(Refused, match="somebody has written"):
        undo(target, second)


def test_a_run_that_published_nothing_here_cannot_be_undone(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    run = sync(source, target)
    with pytest.raises(SettingsError, match="no publish of run"):
        rescue.undo(target, MODEL, "unknown", by="x", settings=SETTINGS)
    assert undo(target, run).undoes == run.number


def test_a_run_is_found_by_its_beginning_and_by_its_database_where_it_published_to_several(
    twins: Pair, new_database: NewDatabase
) -> None:
    source, target = twins
    azure = new_database("sqlite", "azure")
    prepare(source, small_world())
    for standby in (target, azure):
        sync(source, standby, run_id="one_run")
    sync(source, azure, run_id="oneXrun")  # no pattern: the underscore is itself
    assert rescue.find([azure], "one_")[0].name == "azure"
    with pytest.raises(SettingsError, match="published to linux and azure") as caught:
        rescue.find([target, azure], "one_")
    assert caught.value.remedy == "name one of them: `--database linux`"
    with pytest.raises(SettingsError, match="2 runs begin with 'one'"):
        rescue.find([azure], "one")
    with pytest.raises(SettingsError, match="no database that answers"):
        rescue.find([target, azure], "two")


def test_an_undo_holds_the_target_until_it_is_released(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    run = sync(source, target)
    undo(target, run)
    with target.connect() as dialect:
        assert run.run_id in (Ledger(dialect).fact(rescue.HELD) or "")
    assert rescue.hold(target, None) is not None
    assert rescue.hold(target, None) is None


def test_rescued_rows_are_shown_exported_and_merged(pair: Pair, tmp_path: Path) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    insert(target, {"users": [user(777, name="precious ñ", preferences={"k": [1.5, None]})], "chats": [chat(777, 777)]})
    execute(target, users.update().where(users.c.id == 5).values(name="replaced"))
    run = sync(source, target, policy=ANYTHING)
    frames = dict(rescue.rescued_rows(target, MODEL, run.run_id))
    assert sorted(frames["users"]["dbsync_change"]) == ["deleted", "replaced"]
    assert "precious ñ" in set(frames["users"]["name"])
    files = rescue.export(target, MODEL, run.run_id, tmp_path / "rescued")
    assert sorted(file.name for file in files) == ["chats.parquet", "users.parquet"]
    assert set(pq.read_table(tmp_path / "rescued" / "users.parquet")["name"].to_pylist()) == {"precious ñ", "replaced"}
    put, rest = rescue.merge(target, MODEL, run.run_id)
    assert put == {"users": 1, "chats": 1}
    assert rest == {"users": [(5,)]}
    assert {row[0] for row in content(target)["users"]} >= {777}
    put, rest = rescue.merge(target, MODEL, run.run_id)
    assert not any(put.values()) and len(rest["users"]) == 2


def test_rescued_rows_are_forgotten_by_size_and_their_undo_is_refused(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    sync(source, target)
    change(source)
    second = sync(source, target, settings=Settings(lock_seconds=1, rescue_mb=0))
    with target.connect() as dialect:
        assert Ledger(dialect).rescues() == []
    with pytest.raises(DbsyncError, match="no longer kept"):
        undo(target, second)


def test_a_source_restored_from_an_old_backup_is_refused_as_older(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    backup = _facts(source)
    change(source)
    sync(source, target)
    execute(source, messages.update().where(messages.c.id == 5).values(content="as in the backup"))
    _restore_facts(source, backup)
    with pytest.raises(Refused, match="restored from a backup"):
        sync(source, target)
    sync(source, target, policy=ANYTHING)
    assert content(target) == content(source)


def _facts_table(database: Database) -> str:
    return "dbsync.facts" if database.engine_name != "sqlite" else "dbsync_facts"


def _facts(database: Database) -> str:
    with database.engine().connect() as connection:
        return str(connection.scalar(sa.text(f"SELECT value FROM {_facts_table(database)} WHERE name = 'number'")))


def _restore_facts(database: Database, number: str) -> None:
    execute(database, f"UPDATE {_facts_table(database)} SET value = '{number}' WHERE name = 'number'")
