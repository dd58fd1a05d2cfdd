"""What a publish takes away can be had back: rescued in its transaction, undone exactly, last in first out."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import uuid
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from dbsync_pipeline.cli.render import rescue as shown_rescue
from dbsync_pipeline.columns import Instant
from dbsync_pipeline.errors import DbsyncError, Refused, SettingsError
from dbsync_pipeline.mirror import pausing
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger, Publish
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.export import export
from dbsync_pipeline.mirror.rescue.merge import merge
from dbsync_pipeline.mirror.rescue.read import find, rescued_rows
from dbsync_pipeline.mirror.rescue.undo import require_undoable, undo
from dbsync_pipeline.output.rescue import RescuedRows, rows_json
from dbsync_pipeline.settings import Settings
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    NOON,
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


def undo_run(
    target: Database, run: Publish, by: str | None = None, overwrite: bool = False
) -> Publish:
    return undo(
        target,
        MODEL,
        run.run_id,
        by=by or f"undo-of-{run.run_id}",
        settings=SETTINGS,
        overwrite=overwrite,
    )


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
    undone = undo_run(target, second)
    assert content(target) == before
    assert undone.undoes == second.number
    undo_run(target, undone)
    assert content(target) == after == content(source)
    assert sync(source, target).changed == 0


def test_after_an_undo_the_next_sync_brings_the_same_again(pair: Pair) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    change(source)
    second = sync(source, target)
    undo_run(target, second)
    assert sync(source, target).changed == second.changed
    assert content(target) == content(source)


def test_undos_go_last_in_first_out_down_to_the_empty_target(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    first = sync(source, target)
    change(source)
    second = sync(source, target)
    with pytest.raises(Refused, match="other publishes stand on top"):
        undo_run(target, first)
    undo_run(target, second)
    undo_run(target, first)
    assert not any(content(target).values())
    sync(source, target)
    assert content(target) == content(source)


def rename(source: Database, name: str) -> None:
    execute(source, users.update().where(users.c.id == 1).values(name=name))


def refusal(target: Database, run: Publish) -> DbsyncError:
    before = content(target)
    with pytest.raises(Refused) as caught:
        undo_run(target, run, by="refused")
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
        assert (
            refusal(target, below).remedy == "undo them first, newest first: `dbsync undo a_third`"
        )
    undone = undo_run(target, third, by="undo_third")
    again = refusal(target, third)
    assert again.cause.startswith("run a_third is already undone, by run undo_third at ")
    assert again.remedy == "to reverse that undo: `dbsync undo undo_third`"
    assert refusal(target, first).remedy == "undo them first, newest first: `dbsync undo b_second`"

    rename(source, "fourth")
    fourth = sync(source, target, run_id="fourth")
    assert (refusal(target, third).remedy or "").endswith(
        "first undo what stands on top of it, newest first: `dbsync undo fourth`"
    )
    assert refusal(target, undone).remedy == "undo them first, newest first: `dbsync undo fourth`"
    undo_run(target, fourth, by="undo_fourth")
    assert refusal(target, third).remedy == "to reverse that undo: `dbsync undo undo_third`"
    undo_run(target, undone, by="third_again")
    assert content(target) == states[2]
    assert "by run third_again at" in refusal(target, undone).cause
    for run, state in ((third, states[1]), (second, states[0])):
        undo_run(target, run, by=f"at_last_{run.run_id}")
        assert content(target) == state


def test_local_writes_that_were_overwritten_come_back_and_are_local_writes_again(
    pair: Pair,
) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    execute(
        target,
        users.update().where(users.c.id == 4).values(name="written on the standby"),
        (users.insert(), [user(777, name="precious")]),
    )
    before = content(target)
    with pytest.raises(Refused, match="were written since"):
        sync(source, target)
    overwriting = sync(source, target, policy=ANYTHING)
    assert content(target) == content(source)
    undo_run(target, overwriting)
    assert content(target) == before
    with pytest.raises(Refused, match="were written since"):
        sync(source, target)


def test_an_undo_is_refused_when_the_target_was_written_to_since(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    sync(source, target)
    change(source)
    second = sync(source, target)
    execute(target, users.update().where(users.c.id == 900).values(name="since"))
    with pytest.raises(Refused, match="has local writes since"):
        require_undoable(target, MODEL, second.run_id)
    require_undoable(target, MODEL, second.run_id, overwrite=True)
    with pytest.raises(Refused, match="has local writes since"):
        undo_run(target, second)


def test_a_run_that_published_nothing_here_cannot_be_undone(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    run = sync(source, target)
    with pytest.raises(SettingsError, match="no publish of run"):
        undo(target, MODEL, "unknown", by="x", settings=SETTINGS)
    assert undo_run(target, run).undoes == run.number


def test_a_run_that_found_nothing_is_said_to_have_nothing_to_undo(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    sync(source, target)
    sync(source, target, run_id="quiet-1")
    with pytest.raises(SettingsError, match=r"run quiet-1 found nothing to do on linux.*undo"):
        find([target], "quiet")


def test_a_run_is_found_by_its_beginning_and_by_its_database_where_it_published_to_several(
    twins: Pair, new_database: NewDatabase
) -> None:
    source, target = twins
    azure = new_database("sqlite", "azure")
    prepare(source, small_world())
    for standby in (target, azure):
        sync(source, standby, run_id="one_run")
    change(source)  # a sync of nothing publishes nothing
    sync(source, azure, run_id="oneXrun")  # no pattern: the underscore is itself
    assert find([azure], "one_")[0].name == "azure"
    with pytest.raises(SettingsError, match="published to linux and azure") as caught:
        find([target, azure], "one_")
    assert caught.value.remedy == "choose one of them: `--database linux`"
    with pytest.raises(SettingsError, match="2 runs begin with 'one'"):
        find([azure], "one")
    with pytest.raises(SettingsError, match="no database that answers"):
        find([target, azure], "two")


def test_an_undo_holds_the_target_until_it_is_released(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    run = sync(source, target)
    undo_run(target, run)
    with target.connect() as dialect:
        assert run.run_id in (Ledger(dialect).fact(pausing.FACT) or "")
    assert pausing.resume(target) is not None
    assert pausing.resume(target) is None


def test_each_table_has_a_file_of_its_own(new_database: NewDatabase, tmp_path: Path) -> None:
    source, target = new_database("sqlite", "windows"), new_database("sqlite", "linux")
    model = Model(sa.MetaData())
    for name in ("a b", "a_b", "ä b"):
        sa.Table(name, model.metadata, sa.Column("id", sa.Uuid, primary_key=True))
    prepare(source, {name: [{"id": uuid.UUID(int=1)}] for name in model.names}, model)
    sync(source, target, model=model)
    for name in model.names:
        execute(target, f"INSERT INTO \"{name}\" VALUES ('{uuid.UUID(int=2).hex}')")
    files = export(
        target, model, sync(source, target, model=model, policy=ANYTHING).run_id, tmp_path
    )
    assert {file.name for file in files} == {"a%20b.parquet", "a_b.parquet", "%C3%A4%20b.parquet"}


def test_rescued_rows_are_shown_exported_and_merged(pair: Pair, tmp_path: Path) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    insert(
        target,
        {
            "users": [user(777, name="precious ñ", preferences={"k": [1.5, None]})],
            "chats": [chat(777, 777)],
        },
    )
    execute(target, users.update().where(users.c.id == 5).values(name="replaced"))
    run = sync(source, target, policy=ANYTHING)
    rows = dict(rescued_rows(target, MODEL, run.run_id))
    assert sorted(row["dbsync_change"] for row in rows["users"]) == ["deleted", "replaced"]
    assert "precious ñ" in {row["name"] for row in rows["users"]}
    files = export(target, MODEL, run.run_id, tmp_path / "rescued")
    assert sorted(file.name for file in files) == ["chats.parquet", "users.parquet"]
    first = {file: file.read_bytes() for file in (tmp_path / "rescued").iterdir()}
    with pytest.raises(SettingsError, match=r"already has \w+.parquet, \w+.parquet"):
        export(target, MODEL, run.run_id, tmp_path / "rescued")
    assert {file: file.read_bytes() for file in (tmp_path / "rescued").iterdir()} == first
    assert set(pq.read_table(tmp_path / "rescued" / "users.parquet")["name"].to_pylist()) == {
        "precious ñ",
        "replaced",
    }
    put, rest = merge(target, MODEL, run.run_id)
    assert put == {"users": 1, "chats": 1}
    assert rest == {"users": [(5,)]}
    assert {row[0] for row in content(target)["users"]} >= {777}
    put, rest = merge(target, MODEL, run.run_id)
    assert not any(put.values()) and len(rest["users"]) == 2


def test_a_merge_puts_back_what_no_constraint_refuses(pair: Pair) -> None:
    """Row by row, once one of them is refused: another row has its e-mail address, or its parent is not there."""
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    alone = [user(n, email=f"u{n}@alone.example.org") for n in range(700, 720)]
    insert(target, {"users": alone, "chats": [chat(700, 700), chat(701, 701)]})
    run = sync(source, target, policy=ANYTHING)
    insert(target, {"users": [user(800, email="u700@alone.example.org")]})
    put, rest = merge(target, MODEL, run.run_id)
    assert put == {"users": 19, "chats": 1}
    assert rest["users"] == [(700,)] and len(rest["chats"]) == 1
    assert {row[0] for row in content(target)["users"]} >= {800, *range(701, 720)}


ODD = Model(sa.MetaData())
odd = sa.Table(
    "user",
    ODD.metadata,
    sa.Column("select..", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("from", sa.BigInteger),
    sa.Column("where", sa.JSON(none_as_null=True)),
    sa.Column("f", sa.Float(53)),
    sa.Column("amount", sa.Numeric(12, 6)),
    sa.Column("moment", Instant),
    sa.Column("day", sa.Date),
    sa.Column("hour", sa.Time),
    sa.Column("bytes", sa.LargeBinary),
    sa.Column("role", sa.Enum("one", "two", name="odd_role")),
)


def _lost(source: Database, target: Database) -> str:
    """The run that took two rows away: one full of values that are easily lost, and one of NULL."""
    prepare(source, {"user": [_odd_row(3)]}, ODD)
    sync(source, target, model=ODD)
    full = {
        "from": 2**53 + 1,
        "where": sa.JSON.NULL,
        "f": 0.1,
        "amount": decimal.Decimal("0.000001"),
        "bytes": b"\0\xff",
        "role": "two",
    }
    insert(
        target,
        {
            "user": [
                _odd_row(1, **full, moment=NOON, day=NOON.date(), hour=dt.time(1, 2, 3)),
                _odd_row(2),
            ]
        },
        ODD,
    )
    return sync(source, target, model=ODD, policy=ANYTHING).run_id


def _odd_row(key: int, **given: Any) -> dict[str, Any]:
    return {**{column.name: None for column in odd.columns}, **given, "select..": key}


def test_rescued_values_are_exact_in_json_and_parquet(pair: Pair, tmp_path: Path) -> None:
    source, target = pair
    run = _lost(source, target)
    ((_, rows),) = rescued_rows(target, ODD, run)
    full, nothing = sorted(rows_json(rows), key=lambda row: row["select.."])
    assert nothing == {"dbsync_change": "deleted", **_odd_row(2)}
    assert full == {
        "dbsync_change": "deleted",
        "select..": 1,
        "from": 9007199254740993,
        "where": "null",
        "f": 0.1,
        "amount": "0.000001",
        "moment": "2026-01-31T12:00:00.000001+00:00",
        "day": "2026-01-31",
        "hour": "01:02:03",
        "bytes": "00ff",
        "role": "two",
    }
    (file,) = export(target, ODD, run, tmp_path)
    kept = {row["select.."]: row for row in pq.read_table(file).to_pylist()}
    assert kept[2] == nothing
    exact = {
        "amount": decimal.Decimal("0.000001"),
        "moment": NOON,
        "day": NOON.date(),
        "hour": dt.time(1, 2, 3),
        "bytes": b"\0\xff",
    }
    assert kept[1] == {**full, **exact}


def test_a_value_without_a_form_in_python_is_shown_as_postgresql_writes_it(
    new_database: NewDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = new_database("postgresql", "windows"), new_database("postgresql", "linux")
    prepare(source, {"user": [_odd_row(3)]}, ODD)
    sync(source, target, model=ODD)
    execute(
        target,
        """INSERT INTO "user" ("select..", "from", "where", f, amount, moment, day, hour) VALUES
        (1, 9007199254740993, '{"a": 1.10}', 'NaN', 'NaN', 'infinity', '20000-01-01', '24:00'),
        (2, NULL, NULL, '-Infinity', 1, '2026-01-31 12:00+00', '0044-03-15 BC', '12:00')""",
    )
    run = sync(source, target, model=ODD, policy=ANYTHING).run_id
    ((_, rows),) = rescued_rows(target, ODD, run)
    told = [
        list(row.values())[2:9] for row in sorted(rows_json(rows), key=lambda row: row["select.."])
    ]
    assert told == [
        [
            9007199254740993,
            '{"a": 1.10}',
            "NaN",
            "NaN",
            "infinity",
            "20000-01-01",
            "24:00:00.000000",
        ],
        [
            None,
            None,
            "-Infinity",
            "1.000000",
            "2026-01-31T12:00:00+00:00",
            "0044-03-15 BC",
            "12:00:00",
        ],
    ]
    (file,) = export(target, ODD, run, tmp_path)
    kept = sorted(pq.read_table(file).to_pylist(), key=lambda row: row["select.."])
    assert [list(row.values())[2] for row in kept] == [9007199254740993, None]
    assert [list(row.values())[5:9] for row in kept] == [row[3:] for row in told]
    assert math.isnan(kept[0]["f"]) and kept[1]["f"] == -math.inf
    shown = [{"id": 1, "text": "a\nb" + "x" * 50}, {"id": 2, "text": None}]
    shown_rescue.rescued_rows(RescuedRows([("user", shown)]))
    head, first, second = capsys.readouterr().out.splitlines()[1:4]
    assert (head.split(), first, second.rstrip()) == (
        ["id", "text"],
        "1   a\\nb" + "x" * 36 + "…",
        "2   NULL",
    )


def test_rescued_rows_are_forgotten_by_size_and_their_undo_is_refused(twins: Pair) -> None:
    source, target = twins
    prepare(source, small_world())
    sync(source, target)
    change(source)
    second = sync(source, target, settings=Settings(lock_seconds=1, rescue_mb=0))
    with target.connect() as dialect:
        assert Ledger(dialect).rescues() == []
    with pytest.raises(DbsyncError, match="no longer kept"):
        undo_run(target, second)


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
        return str(
            connection.scalar(
                sa.text(f"SELECT value FROM {_facts_table(database)} WHERE name = 'number'")
            )
        )


def _restore_facts(database: Database, number: str) -> None:
    execute(
        database, f"UPDATE {_facts_table(database)} SET value = '{number}' WHERE name = 'number'"
    )
