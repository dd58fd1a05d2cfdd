"""A publish on SQL Server keeps foreign keys on, so that readers of the target hardly wait for it.

Each test records the statements of the publish. Babelfish has no locks that make readers wait, so
how long they wait on Microsoft's server is for `benchmarks/first_contact.py`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.mssql import drivers
from dbsync_pipeline.errors import NotProved
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.policy import Policy
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.worlds import MODEL, content, execute, prepare, small_world, sync, user

pytestmark = pytest.mark.parametrize("engine", [name for name in ENGINES if name == "mssql"])

OFF = re.compile("NOCHECK CONSTRAINT|DISABLE TRIGGER (?!.dbsync_hold)|set_config")
"""What switches foreign keys or triggers off."""
DEFINES = re.compile(r"^(CREATE|ALTER|DROP|SELECT .+ INTO) ")
LIVE = re.compile(r"(INSERT INTO|UPDATE t SET|DELETE t FROM) ?.*\[(users|chats|messages)\]")


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement of the dialect's own sessions, as they are sent."""
    sent: list[str] = []
    execute_plainly = drivers.execute

    def execute_recorded(cursor: Any, statement: str, texts: Sequence[str]) -> None:
        sent.append(statement)
        execute_plainly(cursor, statement, texts)

    monkeypatch.setattr(drivers, "execute", execute_recorded)
    return sent


def _model(**options: Any) -> Model:
    """Parents with a unique name, and children that refer to them."""
    metadata = sa.MetaData()
    sa.Table(
        "parents",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Unicode(20), nullable=False),
        sa.UniqueConstraint("name", name="uq_parents_name"),
    )
    sa.Table(
        "children",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("parent_id", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["parent_id"], ["parents.id"], name="fk_children", **options),
    )
    return Model(metadata)


CHANGES = {
    "a child moves to a new parent, and the old one goes": [
        "INSERT INTO parents VALUES (3, 'c')",
        "UPDATE children SET parent_id = 3 WHERE parent_id = 1",
        "DELETE FROM parents WHERE id = 1",
    ],
    "a unique value moves to a new row": [
        "DELETE FROM children WHERE parent_id = 1",
        "DELETE FROM parents WHERE id = 1",
        "INSERT INTO parents VALUES (3, 'a')",
        "INSERT INTO children VALUES (30, 3)",
    ],
    "parents and children go": ["DELETE FROM children", "DELETE FROM parents"],
    "a whole family goes and another comes": [
        "DELETE FROM children WHERE parent_id = 2",
        "DELETE FROM parents WHERE id = 2",
        "INSERT INTO parents VALUES (4, 'd')",
        "INSERT INTO children VALUES (40, 4)",
        "UPDATE parents SET name = 'e' WHERE id = 1",
    ],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("ondelete", [None, "CASCADE"])
def test_changes_are_written_in_an_order_that_the_foreign_keys_allow(
    engine: str, change: str, ondelete: str | None, new_database: NewDatabase, statements: list[str]
) -> None:
    model = _model(ondelete=ondelete)
    source, target = _equal(new_database, engine, model)
    execute(source, *map(sa.text, CHANGES[change]))
    statements.clear()
    sync(source, target, model=model, policy=Policy(max_change_fraction=1))
    assert content(target, model) == content(source, model)
    assert not list(filter(OFF.search, statements))


SWAPS = [
    "UPDATE parents SET name = 'x' WHERE id = 1",
    "UPDATE parents SET name = 'a' WHERE id = 2",
    "UPDATE parents SET name = 'b' WHERE id = 1",
]


def test_a_swap_of_unique_values_and_of_the_rows_around_it(
    engine: str, new_database: NewDatabase, statements: list[str]
) -> None:
    """SQL Server checks a unique constraint when the UPDATE ends; Babelfish at each row, where the
    changed rows are deleted and inserted again.
    """
    model = _model()
    source, target = _equal(new_database, engine, model)
    execute(
        source,
        *map(sa.text, SWAPS),
        sa.text("INSERT INTO parents VALUES (3, 'c')"),
        sa.text("UPDATE children SET parent_id = 3 WHERE id = 10"),
    )
    sync(source, target, model=model)
    assert content(target, model) == content(source, model)


def test_rows_of_a_table_outside_the_models_are_not_deleted_by_a_cascade(
    engine: str, new_database: NewDatabase
) -> None:
    model = _model()
    source, target = _equal(new_database, engine, model)
    execute(
        target,
        sa.text(
            "CREATE TABLE outside (id int PRIMARY KEY, parent_id int NOT NULL "
            "CONSTRAINT fk_outside REFERENCES parents (id) ON DELETE CASCADE)"
        ),
        sa.text("INSERT INTO outside VALUES (1, 1)"),
    )
    execute(source, *map(sa.text, CHANGES["parents and children go"]))
    before = content(target, model)
    with pytest.raises(NotProved, match="fk_outside"):
        sync(source, target, model=model, policy=Policy(max_change_fraction=1))
    assert content(target, model) == before
    with target.engine().connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM outside")) == 1


def test_a_trigger_does_not_fire(engine: str, new_database: NewDatabase) -> None:
    model = _model()
    source, target = _equal(new_database, engine, model)
    execute(
        target,
        sa.text("CREATE TABLE fired (id int)"),
        sa.text(
            "CREATE TRIGGER on_children ON children AFTER UPDATE, INSERT, DELETE AS "
            "INSERT INTO fired VALUES (1)"
        ),
    )
    execute(source, *map(sa.text, CHANGES["a child moves to a new parent, and the old one goes"]))
    sync(source, target, model=model)
    assert content(target, model) == content(source, model)
    with target.engine().connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM fired")) == 0


def _equal(new_database: NewDatabase, engine: str, model: Model) -> tuple[Database, Database]:
    source, target = new_database("sqlite", "windows"), new_database(engine, "linux")
    prepare(source, {}, model=model)
    execute(
        source,
        sa.text("INSERT INTO parents VALUES (1, 'a'), (2, 'b')"),
        sa.text("INSERT INTO children VALUES (10, 1), (11, 1), (20, 2)"),
    )
    sync(source, target, model=model)
    return source, target


def test_what_readers_wait_for_is_the_few_statements_at_the_end(
    engine: str, new_database: NewDatabase, statements: list[str]
) -> None:
    """Rows have travelled, before-images are kept and the result is proved before the first write;
    nothing after it defines a table or switches a key off.
    """
    source, target = new_database("sqlite", "windows"), new_database(engine, "linux")
    prepare(source, small_world())
    sync(source, target)
    users = MODEL.table("users").sa
    execute(
        source,
        users.insert().values(user(900)),
        users.update().where(users.c.id < 5).values(name="new"),
    )
    statements.clear()
    with _reader(target) as waits:
        assert sync(source, target).changed == 5
    first = next(n for n, sql in enumerate(statements) if LIVE.search(sql))
    before, window = statements[:first], statements[first:]
    assert any("UNION ALL" in sql and "GROUP BY b" in sql for sql in before), "proved before"
    assert not [sql for sql in window if OFF.search(sql) or DEFINES.search(sql)]
    scans = [sql for sql in window if "GROUP BY b" in sql]
    assert len(scans) == 2 and all("#dbsync_new_" in sql for sql in scans), "of the rows written"
    assert len(window) < 20
    print(
        f"{len(window)} of {len(statements)} statements after the first write; "
        f"a reader's longest wait was {max(waits):.3f} s of {len(waits)} reads"
    )


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_sync_of_nothing_sends_few_statements(
    engine: str, side: str, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a round trip: at 30 ms, 50 of them are a second and a half."""
    import mssql_python

    pair = new_database("sqlite", "windows"), new_database(engine, "linux")
    source, target = pair if side == "target" else pair[::-1]
    prepare(source, small_world())
    sync(source, target)
    sent: list[str] = []
    execute_plainly = mssql_python.Cursor.execute

    def execute_counted(cursor: Any, statement: str, *given: Any, **options: Any) -> Any:
        sent.append(statement)
        return execute_plainly(cursor, statement, *given, **options)

    monkeypatch.setattr(mssql_python.Cursor, "execute", execute_counted)
    assert sync(source, target).changed == 0
    print(f"{len(sent)} statements")
    assert len(sent) < 50, "\n".join(sent)


class _reader:
    """Counts the users of a database in a loop, and notes how long each count took."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ended = threading.Event()
        self._waits: list[float] = []
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> list[float]:
        self._thread.start()
        return self._waits

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        with self._database.engine().connect() as connection:
            while not self._ended.is_set():
                started = time.monotonic()
                connection.exec_driver_sql("SELECT count(*) FROM users").scalar()
                connection.commit()
                self._waits.append(time.monotonic() - started)
                time.sleep(0.02)
