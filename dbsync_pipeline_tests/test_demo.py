"""The demo's dataset: the same everywhere, hard enough, written once, stored as the application
would store it."""

from __future__ import annotations

import dataclasses
import decimal
import functools
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import sqlalchemy.orm

from dbsync_pipeline import models
from dbsync_pipeline.demo import dataset, values
from dbsync_pipeline.demo.fill import DemoReport, check_models, fill
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model, load_model
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase

FINGERPRINT = "219f9bc60f6438d88374fd0e6234833638a8423e37b1755705f824ac09fc73cb"
"""SHA-256 of the dataset's rows. It changes only if the dataset is changed on purpose."""

OTHER_MODELS = """
import sqlalchemy as sa
metadata = sa.MetaData()
sa.Table("planets", metadata, sa.Column("id", sa.Integer, primary_key=True))
"""


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("dbsync_pipeline.models")


Filled = tuple[Database, DemoReport]
OnSQLite = tuple[Database, Path, DemoReport]


@pytest.fixture(scope="module")
def filled_on(shared_database: NewDatabase, model: Model) -> Callable[[str], Filled]:
    """Return the demo's database on an engine and the report of filling it. No test changes it."""

    @functools.cache
    def on(engine: str) -> Filled:
        windows = shared_database(engine, "windows")
        return windows, fill(windows, model)

    return on


@pytest.fixture
def filled(filled_on: Callable[[str], Filled]) -> OnSQLite:
    windows, report = filled_on("sqlite")
    return windows, Path(str(windows.url.database)), report


def _windows(file: Path) -> Database:
    return Database("windows", sa.make_url(f"sqlite:///{file}"))


@functools.cache
def _rows(name: str) -> list[dataset.Row]:
    return list(dataset.DATASET[name]())


def test_the_dataset_is_the_same_on_every_machine() -> None:
    digest = hashlib.sha256()
    for name, rows in dataset.DATASET.items():
        for row in rows():
            # ASCII only: which characters repr() escapes depends on the Python version.
            digest.update(f"{name} {sorted(row.items())!a}\n".encode())
    assert digest.hexdigest() == FINGERPRINT


def test_every_call_starts_from_the_first_row() -> None:
    assert list(islice(dataset.messages(), 50)) == list(islice(dataset.messages(), 50))


@pytest.mark.parametrize("name", dataset.COUNTS)
def test_counts_and_keys(name: str, model: Model) -> None:
    rows = _rows(name)
    assert len(rows) == dataset.COUNTS[name]
    keys = [column.name for column in model.table(name).sa.primary_key]
    assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows)


def test_references_hold_and_replies_follow_in_one_chat() -> None:
    people = {row["id"] for row in _rows("users")}
    rooms = {row["id"] for row in _rows("chats")}
    assert all(row["user_id"] in people for row in _rows("chats"))
    assert all(
        row["user_id"] in people and (row["chat_id"] is None or row["chat_id"] in rooms)
        for row in _rows("documents")
    )
    assert all(row["user_id"] in people for row in _rows("user_memory"))
    depth: dict[int, int] = {}
    chat: dict[int, Any] = {}
    for row in _rows("messages"):
        assert row["chat_id"] in rooms
        parent = row["parent_id"]
        assert parent is None or (parent < row["id"] and chat[parent] == row["chat_id"])
        depth[row["id"]], chat[row["id"]] = depth.get(parent, 0) + 1, row["chat_id"]
    assert max(depth.values()) > 50


def test_the_dataset_has_the_hard_texts() -> None:
    content = {row["content"] for row in _rows("messages")}
    assert set(values.HARD_TEXTS) <= content
    assert {"", "NULL", "\\N", "~"} <= content
    assert max(map(len, content)) > 100_000
    assert {"", None} <= {row["name"] for row in _rows("users")}
    emails = [row["email"] for row in _rows("users")]
    assert len({email.lower() for email in emails}) < len(set(emails)) == len(emails)


def test_hard_numbers_instants_and_json_are_there() -> None:
    messages = _rows("messages")
    assert {None, *values.HARD_COSTS} <= {row["cost"] for row in messages}
    assert {None, *values.JSON_TEXTS} <= {row["metadata"] for row in messages}
    assert set(values.HARD_INSTANTS) <= {row["created_at"] for row in messages}
    assert any(row["created_at"].microsecond % 1000 for row in messages)
    assert {2**31 - 1, None} <= {row["tokens"] for row in messages}
    assert any(row["id"] > 2**32 for row in messages)
    memory = _rows("user_memory")
    assert set(values.HARD_FLOATS) <= {row["importance"] for row in memory}
    assert not any(
        row["importance"] == 0 and str(row["importance"]).startswith("-") for row in memory
    )
    assert {
        row["embedding"] if row["embedding"] is None else len(row["embedding"]) for row in memory
    } == {None, 0, 512}


def test_documents_are_of_many_sizes() -> None:
    sizes = [None if row["content"] is None else len(row["content"]) for row in _rows("documents")]
    assert {None, 0, 1, 255, 256, 65_535, 65_536, 1_048_576} <= set(sizes)
    assert 20_000_000 < sum(size or 0 for size in sizes) < 35_000_000
    for row in _rows("documents"):
        if row["content"] is not None:
            assert row["sha256"] == hashlib.sha256(row["content"]).hexdigest()
            assert row["size_bytes"] == len(row["content"])


@pytest.mark.parametrize("name", dataset.COUNTS)
def test_every_value_fits_its_column(name: str, model: Model) -> None:
    for row in dataset.DATASET[name]():
        for column in model.table(name).sa.columns:
            value = row[column.name]
            assert value is not None or column.nullable
            if isinstance(value, str):
                assert "\x00" not in value
                if isinstance(column.type, sa.String) and column.type.length:
                    assert len(value.encode("utf-16-le")) // 2 <= column.type.length
            if isinstance(value, decimal.Decimal):
                assert (
                    value == value.quantize(decimal.Decimal("0.000001")) and abs(value) < 1_000_000
                )


def test_the_first_call_writes_everything(filled: OnSQLite) -> None:
    _, file, report = filled
    assert report.created
    assert report.rows == dataset.COUNTS
    assert 25_000_000 < report.bytes < 50_000_000
    with sqlite3.connect(file) as connection:
        assert {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for name in dataset.COUNTS
        } == dataset.COUNTS
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_what_goes_in_comes_out(engine: str, filled_on: Callable[[str], Filled]) -> None:
    """Read through the application's types; compare JSON as text."""
    windows, report = filled_on(engine)
    assert report.created
    with windows.engine().connect() as connection:
        for name, rows in dataset.DATASET.items():
            columns = models.Base.metadata.tables[name].columns
            read = [
                sa.cast(column, sa.UnicodeText) if isinstance(column.type, sa.JSON) else column
                for column in columns
            ]
            stored = {
                tuple(_fetched(engine, value) for value in row)
                for row in connection.execute(sa.select(*read))
            }
            assert stored == {
                tuple(_fetched(engine, row[column.name]) for column in columns) for row in rows()
            }


def _fetched(engine: str, value: Any) -> Any:
    """Return the value as the application's driver reads it: mssql-python drops a U+FEFF at the
    start of a long text; the mirror's reads keep it."""
    return value.removeprefix("\ufeff") if engine == "mssql" and isinstance(value, str) else value


@pytest.mark.parametrize("engine", ENGINES)
def test_the_application_can_write_afterwards(
    engine: str, filled_on: Callable[[str], Filled]
) -> None:
    windows, _ = filled_on(engine)
    user = models.User(email="new", password_hash="", created_at=values.HARD_INSTANTS[0])
    with sa.orm.Session(windows.engine()) as session:
        session.add(user)
        session.flush()
        assert user.id > max(row["id"] for row in _rows("users"))
        session.rollback()


def test_the_application_reads_the_json(filled: OnSQLite) -> None:
    table = models.Base.metadata.tables["messages"]
    engine = sa.create_engine(f"sqlite:///{filled[1]}")
    with engine.connect() as connection:
        stored = {
            row.id: row.metadata
            for row in connection.execute(sa.select(table.c.id, table.c.metadata))
        }
        nothing = set(
            connection.execute(
                sa.select(table.c.id).where(table.c.metadata.is_(sa.null()))
            ).scalars()
        )
    engine.dispose()
    for row in _rows("messages"):
        text = row["metadata"]
        assert (text is None) == (row["id"] in nothing)
        assert stored[row["id"]] == (None if text is None else json.loads(text))


def test_a_second_call_changes_nothing(filled: OnSQLite, model: Model) -> None:
    windows, file, report = filled
    before = hashlib.sha256(file.read_bytes()).digest()
    assert fill(windows, model) == dataclasses.replace(report, created=False, bytes=0)
    assert hashlib.sha256(file.read_bytes()).digest() == before


def test_a_database_with_a_row_is_left_alone(tmp_path: Path, model: Model) -> None:
    windows = _windows(tmp_path / "windows.db")
    schema.ensure(windows, model)
    with sqlite3.connect(tmp_path / "windows.db") as connection:
        connection.execute(
            "INSERT INTO users (email, password_hash, is_active, created_at) VALUES ('a@b', '', 1, '2026-01-01')"
        )
    connection.close()
    report = fill(windows, model)
    assert report == DemoReport(False, {**dict.fromkeys(dataset.COUNTS, 0), "users": 1}, 0)


def test_a_failure_midway_leaves_no_rows(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = _windows(tmp_path / "windows.db")

    def broken() -> Iterator[dataset.Row]:
        yield from islice(dataset.documents(), 300)
        raise KeyboardInterrupt

    monkeypatch.setitem(dataset.DATASET, "documents", broken)
    with pytest.raises(KeyboardInterrupt):
        fill(windows, model)
    with sqlite3.connect(tmp_path / "windows.db") as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)
    connection.close()


def test_other_models_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other_models_of_the_demo_test.py").write_text(OTHER_MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SettingsError, match="no table users"):
        fill(_windows(tmp_path / "windows.db"), load_model("other_models_of_the_demo_test"))
    assert not (tmp_path / "windows.db").exists()


def test_models_that_need_another_column_are_refused(model: Model) -> None:
    metadata = sa.MetaData()
    for table in model.tables:
        table.sa.to_metadata(metadata)
    metadata.tables["chats"].append_column(sa.Column("owner", sa.Integer, nullable=False))
    metadata.tables["users"].append_column(sa.Column("nickname", sa.Unicode(20)))
    with pytest.raises(SettingsError, match=r"table chats.*requires owner"):
        check_models(Model(metadata))
