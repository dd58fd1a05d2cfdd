"""An application and an operator that do anything, beside a reader of both databases that is not the mirror's own.

Tables with keys of many types are written to at random, by transactions that stay open over a sync, roll back to savepoints or are
prepared; the standby gets local writes, syncs are undone, and the source is restored from a copy of its files. After each sync the
standby has the rows that another session reads in the snapshot of the sync. `PROVE_ROUNDS` sets the number of syncs, to a
50th of it; another number is another walk.
"""

from __future__ import annotations

import contextlib
import os
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psycopg2
import pytest

from dbsync_pipeline.dialects.postgresql import readers
from dbsync_pipeline.dialects.postgresql.source import PostgreSQLSource
from dbsync_pipeline.errors import Refused
from dbsync_pipeline.mirror import look
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Publish
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.policy import Policy
from dbsync_pipeline.settings import Settings
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.servers import administer
from dbsync_pipeline_tests.test_look import connect, new_database, servers  # noqa: F401
from dbsync_pipeline_tests.test_owners import reflected
from dbsync_pipeline_tests.test_postgresql import run
from dbsync_pipeline_tests.versions import as_of
from dbsync_pipeline_tests.worlds import ANYTHING, session

ROUNDS = int(os.environ.get("PROVE_ROUNDS", "1000")) // 50
MANY = Policy(max_change_fraction=1)
SETTINGS = Settings(lock_seconds=1, connections=3)
Session = psycopg2.extensions.connection
Value = Callable[[random.Random], object]
Rows = dict[str, Counter[str]]


def _word(r: random.Random) -> str:
    word = f"{r.choice(('a', 'Ab', 'é', 'ß', '日', 'x y'))}{r.randrange(120)}"
    return r.choice((word, word.upper(), word.lower(), word + " "))


def _number(r: random.Random) -> str:
    return r.choice(
        ("0", "0.0", "1", "1.00", "NaN", f"{r.randrange(200)}.5", f"{r.randrange(200)}.50")
    )


def _float(r: random.Random) -> str:
    return r.choice(("-0", "0", "NaN", "-Infinity", "1e-320", str(r.randrange(200) / 7)))


def _real(r: random.Random) -> str:
    return r.choice(("-0", "0", "NaN", "0.1"))


def _text(r: random.Random) -> object:
    return r.choice((None, "", "\\N", "a\tb\n'", _word(r), "x" * 3000, str(r.random())))


@dataclass(frozen=True)
class Written:
    """A table, and what makes the values of its columns; `key` are the first of them."""

    create: str
    key: int
    columns: dict[str, Value]


TABLES = {
    "wide": Written(
        "id int PRIMARY KEY, v text, n numeric",
        1,
        {"id": lambda r: r.randrange(900), "v": _text, "n": _number},
    ),
    "small": Written(
        "id bigint PRIMARY KEY, v text", 1, {"id": lambda r: r.randrange(-20, 70), "v": _text}
    ),
    "uuids": Written(
        "k uuid PRIMARY KEY, f real",
        1,
        {"k": lambda r: str(uuid.UUID(int=r.randrange(300))), "f": _real},
    ),
    "numbers": Written("k numeric PRIMARY KEY, v text", 1, {"k": _number, "v": _text}),
    "floats": Written("k float8 PRIMARY KEY, v text", 1, {"k": _float, "v": _text}),
    "words": Written("k citext PRIMARY KEY, v citext", 1, {"k": _word, "v": _word}),
    "composite": Written(
        "a int, b char(6), c timestamptz, v char(9), PRIMARY KEY (a, b, c)",
        3,
        {
            "a": lambda r: r.randrange(5),
            "b": lambda r: r.choice(("", "a", "a ", "b")),
            "c": lambda r: r.choice(("infinity", "0044-03-15 BC", f"2026-01-0{r.randrange(1, 9)}")),
            "v": lambda r: r.choice(("x", "x  ", None)),
        },
    ),
    "pairs": Written(
        "k int[] PRIMARY KEY, p pair",
        1,
        {"k": lambda r: f"{{{r.randrange(99)},NULL}}", "p": lambda r: f"({r.randrange(9)},)"},
    ),
    "keyless": Written(
        "a text, b float8", 0, {"a": lambda r: r.choice((None, "x", "y")), "b": _float}
    ),
    "parts": Written(
        "id int, p int, v text, PRIMARY KEY (id, p)) PARTITION BY RANGE (p",
        2,
        {"id": lambda r: r.randrange(90), "p": lambda r: r.choice((0, 9, 10, 19)), "v": _text},
    ),
}
STRUCTURE = (
    "CREATE EXTENSION citext",
    "CREATE TYPE pair AS (x int, y int)",
    *(f"CREATE TABLE {name} ({table.create})" for name, table in TABLES.items()),
    *(
        f"CREATE TABLE parts_{n} PARTITION OF parts FOR VALUES FROM ({n}) TO ({n + 10})"
        for n in (0, 10)
    ),
)


@dataclass
class Adversary:
    """`left_open` are transactions of the source; `published` is what the standby had after the last sync, None if that is not known."""

    r: random.Random
    source: Database
    standby: Database
    model: Model
    left_open: list[Session] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    published: Rows | None = None
    seen: Counter[str] = field(default_factory=Counter)

    # -- the application

    def write(self, database: Database, *, may_stay_open: bool) -> None:
        """One transaction of a few changes, some of them in savepoints. What a constraint or a lock refuses is left."""
        connection = connect(database)
        connection.autocommit = False
        execute = connection.cursor().execute
        execute("SET lock_timeout = '100ms'")
        for _ in range(self.r.choice((1, 2, 4))):
            execute("SAVEPOINT a")
            try:
                self.change(connection, self.r.choice(tuple(TABLES)))
                execute("ROLLBACK TO a" if self.r.random() < 0.2 else "RELEASE a")
            except (psycopg2.IntegrityError, psycopg2.errors.LockNotAvailable):
                execute("ROLLBACK TO a")
        end = self.r.random()
        if may_stay_open and end < 0.15 and len(self.left_open) < 2:
            return self.left_open.append(connection)
        if may_stay_open and end < 0.25 and not self.prepared:
            self.prepared.append(uuid.uuid4().hex)
            execute(f"PREPARE TRANSACTION '{self.prepared[0]}'")
        elif end < 0.85:
            connection.commit()
        connection.close()

    def change(self, connection: Session, name: str) -> None:
        """Insert, update, delete, or write rows again under the same or each other's keys."""
        table, r = TABLES[name], self.r
        names = list(table.columns)
        execute, some = connection.cursor().execute, r.choice((1, 1, 3, 30))
        chosen = (
            f"WHERE (tableoid, ctid::text) IN (SELECT tableoid, ctid::text FROM {name} "
            f"ORDER BY md5(ctid::text || '{r.random()}') LIMIT {some})"
        )
        column = r.choice(names[table.key :])
        match r.randrange(8):
            case 0 | 1 | 2:
                values = [[make(r) for make in table.columns.values()] for _ in range(some)]
                places = ", ".join(["%s"] * len(names))
                connection.cursor().executemany(
                    f"INSERT INTO {name} VALUES ({places}) ON CONFLICT DO NOTHING", values
                )
            case 3:
                execute(f"UPDATE {name} SET {column} = %s {chosen}", (table.columns[column](r),))
            case 4:
                execute(f"UPDATE {name} SET {column} = {column} {chosen}")
            case 5:
                execute(f"DELETE FROM {name} {chosen}")
            case 6 if table.key:
                part = r.choice(names[: table.key])
                only = chosen.replace(f"LIMIT {some}", "LIMIT 1")
                execute(f"UPDATE {name} SET {part} = %s {only}", (table.columns[part](r),))
            case _:
                self.again(connection, name, chosen)

    def again(self, connection: Session, name: str, chosen: str) -> None:
        """Delete rows, and insert them in the same transaction, two of them under exchanged keys."""
        table, cursor = TABLES[name], connection.cursor()
        names = list(table.columns)
        texts = ", ".join(f"{column}::text" for column in names)
        cursor.execute(f"DELETE FROM {name} {chosen} RETURNING {texts}")
        rows = [list(row) for row in cursor.fetchall()]
        if len(rows) > 1:
            first, second = rows[:2]
            first[: table.key], second[: table.key] = second[: table.key], first[: table.key]
        for row in rows:
            cursor.execute(f"INSERT INTO {name} VALUES ({', '.join(['%s'] * len(names))})", row)

    def end_transactions(self) -> None:
        for connection in self.left_open:
            connection.commit() if self.r.random() < 0.7 else connection.rollback()
            connection.close()
        for name in self.prepared:
            run(self.source, f"{self.r.choice(('COMMIT', 'ROLLBACK'))} PREPARED '{name}'")
        self.left_open, self.prepared = [], []

    # -- the operator

    def round(self) -> None:
        """What happens between two syncs, the sync, and perhaps its undo."""
        r = self.r
        if r.random() < 0.5:
            self.end_transactions()
        for _ in range(r.choice((0, 1, 3))):
            self.write(self.source, may_stay_open=True)
        if r.random() < 0.2:
            self.maintain(r.choice((self.source, self.standby)))
        if r.random() < 0.2:
            self.write(self.standby, may_stay_open=False)
        self.compare_plans()
        before = self.rows(self.standby)
        done = self.sync(before)
        if done.changed and not done.confirmations and r.random() < 0.2:
            undo(self.standby, self.model, done.run_id, by=uuid.uuid4().hex, settings=SETTINGS)
            assert self.rows(self.standby) == before
            self.published = None
            self.seen["undo"] += 1

    def maintain(self, database: Database) -> None:
        name = self.r.choice(tuple(TABLES))
        with contextlib.suppress(psycopg2.errors.LockNotAvailable):
            how = self.r.choice(("VACUUM FULL", "VACUUM FREEZE", "ANALYZE", "TRUNCATE"))
            if how == "TRUNCATE" and database is self.standby:
                return
            run(database, "SET lock_timeout = '100ms'", f"{how} {name}")

    def compare_plans(self) -> None:
        """The plan by row headers is the one that the digests of all rows give."""
        plans = []
        for settings in (SETTINGS, SETTINGS.model_copy(update={"full_every": 0})):
            with session(self.source, self.standby, model=self.model, settings=settings) as one:
                plans.append(one.plan()[0].tables)
        assert plans[0] == plans[1]

    def sync(self, before: Rows) -> Publish:
        """Sync without `overwrite`, and with it where local writes are in the way."""
        last = self.published
        try:
            done = self.publish(MANY)
        except Refused as refused:
            assert before != last, refused
            self.seen["refused"] += 1
            return self.publish(ANYTHING)
        for name, rows in before.items() if last else ():
            lost = rows - last[name] - self.published[name]
            assert not lost, f"local writes are lost in {name}: {lost}"
        return done

    def publish(self, policy: Policy) -> Publish:
        settings = SETTINGS.model_copy(update={"connections": self.r.choice((1, 3))})
        with session(
            self.source, self.standby, model=self.model, policy=policy, settings=settings
        ) as one:
            one.ensure_schema()
            source = one.opened.source
            assert isinstance(source, PostgreSQLSource)
            expected = self.rows(self.source, source.export_snapshot())
            self.write(self.source, may_stay_open=False)
            for name in self.model.names:
                one.copy(name)
            done = one.publish()
        self.published = self.rows(self.standby)
        assert self.published == expected
        self.seen.update(table.proof.partition(":")[0] for table in done.tables.values())
        return done

    def rows(self, database: Database, snapshot: str = "") -> Rows:
        """Every row of every table as text, in a snapshot or as it is now."""
        with contextlib.closing(connect(database)) as connection:
            cursor = connection.cursor()
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            if snapshot:
                cursor.execute("SET TRANSACTION SNAPSHOT %s", (snapshot,))
            found = {}
            for name in TABLES:
                cursor.execute(f"SELECT t::text FROM {name} t")
                found[name] = Counter(text for (text,) in cursor.fetchall())
            return found


@contextlib.contextmanager
def a_copy_of(database: Database) -> Iterator[Callable[[], None]]:
    """Copy the database's files; yields what brings them back under its name."""
    name, url = database.url.database, database.url.set(database="postgres")
    administer(
        url, as_of(f"CREATE DATABASE {name}_copy TEMPLATE {name} STRATEGY file_copy"), tries=5
    )

    def restore() -> None:
        administer(url, f"DROP DATABASE {name} WITH (FORCE)")
        administer(url, f"ALTER DATABASE {name}_copy RENAME TO {name}", tries=5)

    yield restore
    administer(url, f"DROP DATABASE IF EXISTS {name}_copy WITH (FORCE)")


def test_a_standby_equals_its_source_whatever_was_done_to_both(
    new_database: NewDatabase,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readers, "SHARED_BYTES", 1)  # these tables are small
    monkeypatch.setattr(look, "_YOUNG_SHARE", 2)
    source, standby = (
        new_database("postgresql", "windows"),
        new_database("postgresql", "linux", server=1),
    )
    for database in (source, standby):
        run(database, *STRUCTURE)
    adversary = Adversary(random.Random(ROUNDS), source, standby, reflected(source))
    for _ in range(120):
        adversary.write(source, may_stay_open=False)
    for _ in range(max(ROUNDS // 10, 1)):
        adversary.end_transactions()
        with a_copy_of(source) as restore:
            for _ in range(10):
                adversary.round()
            adversary.end_transactions()
            if adversary.r.random() < 0.5:
                restore()
                adversary.published = None
    assert adversary.seen["row headers"] and adversary.seen["digests"]
