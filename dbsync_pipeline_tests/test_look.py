"""The digests of a table without reading its rows: each test compares them with digests of all rows.

The last test is an adversary: applications write at random while looks follow each other, and a look
that misses one change fails it. `PROVE_ROUNDS` sets the number of its looks.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import Digests, Form
from dbsync_pipeline.dialects.table import Row, Table
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.look import (
    DIGESTS,
    HEADERS,
    SNAPSHOT,
    Known,
    Look,
    Vantage,
    Written,
)
from dbsync_pipeline.mirror.written import WrittenChanges
from dbsync_pipeline_tests.conftest import NewDatabase, databases_in
from dbsync_pipeline_tests.servers import Servers

ROUNDS = int(os.environ.get("PROVE_ROUNDS", "1000"))
ROWS = 3000
WEEK = dt.timedelta(days=7)
NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)

ITEMS = Table(
    sa.Table(
        "items",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("value", sa.Unicode(500)),
        sa.Column("number", sa.Integer),
        sa.Column("mood", sa.Enum("calm", "angry", "other", name="mood")),
    )
)

CREATE = f"""
CREATE TYPE mood AS ENUM ('calm', 'angry', 'other');
CREATE TABLE items (id int PRIMARY KEY, value varchar(500), number int, mood mood);
INSERT INTO items SELECT n, 'value ' || n, n, 'calm' FROM generate_series(1, {ROWS}) n"""


@dataclass
class Watch:
    """Looks at one table again and again, as syncs do, and checks each look."""

    database: Database
    known: Known | None = None
    now: dt.datetime = NOON
    proofs: Counter[str] = field(default_factory=Counter)

    @cached_property
    def dialect(self) -> Dialect:
        """One connection for all looks; the database is dropped under it."""
        return self.database.open("look")

    def run(self, *statements: str) -> None:
        """Run statements as the application, each in a transaction of its own."""
        connection = connect(self.database)
        for statement in statements:
            connection.cursor().execute(statement)
        connection.close()

    def look(self) -> Look:
        """Look, compare with digests of all rows in the same snapshot, remember it for the next."""
        dialect = self.dialect
        dialect.snapshot()
        form = Form(dialect.digest_format(), 61, ITEMS.signatures)
        view = replace(Vantage.of(dialect, [ITEMS], WEEK), now=self.now)
        found = view.look(ITEMS, form, self.known)
        missed = found.digests.differing(dialect.digests(ITEMS, form))
        assert not missed.size, f"{found.proof} missed a change in buckets {missed}"
        dialect.connection.rollback()
        self.known = Known(found.digests, found.stamp) if found.stamp else None
        self.proofs[found.proof] += 1
        return found


def connect(database: Database) -> psycopg2.extensions.connection:
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """A server of this file's own: transactions of other tests would keep rows young."""
    own = Servers.in_a_new_folder()
    yield own
    own.stop()


@pytest.fixture
def new_database(tmp_path: Path, servers: Servers) -> Iterator[NewDatabase]:
    """As everywhere, on the server of this file."""
    with databases_in(tmp_path, servers) as make:
        yield make


@pytest.fixture
def watch(new_database: NewDatabase) -> Watch:
    database = new_database("postgresql", "windows")
    watch = Watch(database)
    watch.run(CREATE)
    return watch


def test_the_first_look_digests_every_row(watch: Watch) -> None:
    found = watch.look()
    assert (found.proof, found.digested) == (DIGESTS, 61)
    assert found.why == "nothing is known of an earlier state"


def test_where_no_transaction_ended_the_snapshot_proves_it(watch: Watch) -> None:
    """Other tests use the server at the same time, so it may take a few looks to meet a quiet one."""
    watch.look()
    assert any(watch.look().proof == SNAPSHOT for _ in range(200))


def test_where_others_wrote_elsewhere_the_row_headers_prove_it(watch: Watch) -> None:
    watch.look()
    watch.run("CREATE TABLE other (id int)", "INSERT INTO other VALUES (1)")
    found = watch.look()
    assert (found.proof, found.digested) == (HEADERS, 0)


@pytest.mark.parametrize(
    ("change", "buckets"),
    [
        ("UPDATE items SET value = 'x' WHERE id = 5", 1),
        ("INSERT INTO items VALUES (0, 'x')", 1),
        ("DELETE FROM items WHERE id = 5", 1),
        ("DELETE FROM items WHERE id = 5; INSERT INTO items VALUES (5, 'x')", 1),
        (
            "DELETE FROM items WHERE id = 5; INSERT INTO items VALUES (2900, 'x') ON CONFLICT DO NOTHING",
            1,
        ),
        ("UPDATE items SET id = id + 1280 WHERE id = 3000", 2),
        ("BEGIN; SAVEPOINT a; DELETE FROM items WHERE id = 5; ROLLBACK TO a; COMMIT", 0),
        ("BEGIN; SAVEPOINT a; DELETE FROM items WHERE id = 5; RELEASE a; COMMIT", 1),
        ("BEGIN; UPDATE items SET value = 'x'; ROLLBACK", 0),
        ("VACUUM FULL items", 0),
        ("VACUUM (FREEZE) items", 0),
        ("CLUSTER items USING items_pkey", 0),
        ("ANALYZE items", 0),
        ("TRUNCATE items", 24),
        ("CREATE INDEX ON items (value)", 0),
    ],
)
def test_only_the_buckets_that_changed_are_digested(
    watch: Watch, change: str, buckets: int
) -> None:
    watch.look()
    watch.run(change)
    found = watch.look()
    assert found.proof != DIGESTS and found.digested == buckets
    assert watch.look().proof in (SNAPSHOT, HEADERS)


@pytest.mark.parametrize(
    "change",
    [
        (
            "ALTER TABLE items DROP COLUMN number",
            "ALTER TABLE items ADD COLUMN number int DEFAULT 7",
        ),
        (
            "ALTER TYPE mood RENAME VALUE 'calm' TO 'tense'",
            "ALTER TYPE mood RENAME VALUE 'angry' TO 'calm'",
        ),
        (
            "CREATE TABLE replaced (LIKE items INCLUDING ALL)",
            "INSERT INTO replaced SELECT id, 'y', number, mood FROM items",
            "ALTER TABLE items RENAME TO former",
            "ALTER TABLE replaced RENAME TO items",
        ),
        ("CREATE TABLE child () INHERITS (items)", "INSERT INTO child VALUES (9000, 'child')"),
        ("ALTER TABLE pair ADD COLUMN third int",),
        ("ALTER TYPE point_of ADD ATTRIBUTE z int",),
        ("ALTER TYPE point_of DROP ATTRIBUTE y",),
        ("ALTER TABLE items ALTER COLUMN value TYPE text",),
        ("ALTER TABLE items ALTER COLUMN value TYPE varchar(900)",),
        ("CREATE TABLE far (LIKE items)", "ALTER TABLE far INHERIT items"),
    ],
)
def test_a_change_of_values_that_touches_no_row_is_seen(
    watch: Watch, change: tuple[str, ...]
) -> None:
    watch.run(
        "CREATE TABLE pair (first int, second int)",
        "CREATE TYPE point_of AS (x int, y int)",
        "ALTER TABLE items ADD COLUMN pairs pair[], ADD COLUMN point point_of",
    )
    watch.look()
    watch.run(*change)
    found = watch.look()
    assert (found.proof, found.why) == (DIGESTS, "the structure has changed")


def test_partitions_that_change_places_are_seen(new_database: NewDatabase) -> None:
    """Both hold as many old rows in the same buckets; only their membership changes."""
    watch = Watch(new_database("postgresql", "windows"))
    rows = "(id int, value varchar(500), number int, mood mood)"
    watch.run(
        "CREATE TYPE mood AS ENUM ('calm', 'angry', 'other')",
        f"CREATE TABLE items {rows} PARTITION BY RANGE (id)",
        "CREATE TABLE a PARTITION OF items FOR VALUES FROM (0) TO (1000)",
        f"CREATE TABLE b {rows}",
        "INSERT INTO a SELECT n, 'a' FROM generate_series(1, 999) n",
        "INSERT INTO b SELECT n, 'b' FROM generate_series(1, 999) n",
    )
    watch.look()
    watch.run("INSERT INTO a VALUES (0, 'a')", "DELETE FROM a WHERE id = 0")
    assert watch.look().proof == HEADERS
    watch.run(
        "ALTER TABLE items DETACH PARTITION a",
        "ALTER TABLE items ATTACH PARTITION b FOR VALUES FROM (0) TO (1000)",
    )
    assert watch.look().why == "the structure has changed"


def test_a_transaction_that_was_open_at_a_look_is_seen_when_it_ends(watch: Watch) -> None:
    connection = connect(watch.database)
    connection.autocommit = False
    connection.cursor().execute("SAVEPOINT a")
    connection.cursor().execute("UPDATE items SET value = 'late' WHERE id = 7")
    watch.look()
    watch.run("UPDATE items SET value = 'meanwhile' WHERE id = 2000")
    assert watch.look().digested == 1
    connection.commit()
    connection.close()
    assert watch.look().digested >= 1


def test_a_prepared_transaction_is_seen_when_it_is_committed(watch: Watch) -> None:
    name = f"prepared {uuid.uuid4()}"
    connection = connect(watch.database)
    connection.cursor().execute(
        f"BEGIN; DELETE FROM items WHERE id = 9; PREPARE TRANSACTION '{name}'"
    )
    connection.close()
    watch.look()
    watch.look()
    watch.run(f"COMMIT PREPARED '{name}'")
    assert watch.look().digested == 1


def test_rows_that_a_long_transaction_keeps_young_are_digested_each_time(watch: Watch) -> None:
    """Their transaction ended, and another with a lower number may still write."""
    open_one = connect(watch.database)
    open_one.autocommit = False
    open_one.cursor().execute("SELECT pg_current_xact_id()")
    watch.run("UPDATE items SET value = 'x' WHERE id = 5")
    watch.look()
    watch.run("CREATE TABLE other (id int)")
    assert watch.look().digested == 1
    open_one.cursor().execute("UPDATE items SET value = 'y' WHERE id = 5")
    open_one.commit()
    open_one.close()
    assert watch.look().digested == 1
    watch.run("DROP TABLE other")
    assert watch.look().digested == 0


def test_a_full_pass_is_due_after_its_time(watch: Watch) -> None:
    watch.look()
    watch.now += WEEK
    assert watch.look().why == "a full pass is due"
    assert watch.look().proof != DIGESTS


def test_a_stamp_of_another_database_is_not_used(watch: Watch, new_database: NewDatabase) -> None:
    watch.look()
    other = Watch(new_database("postgresql", "linux"), known=watch.known)
    other.run(CREATE)
    found = other.look()
    assert found.proof == DIGESTS and found.why in (
        "the structure has changed",
        "the earlier state is of another database, or too many transactions ago",
    )


@pytest.mark.parametrize("distance", [-1, 2**30, 2**32])
def test_a_stamp_out_of_reach_is_not_used(watch: Watch, distance: int) -> None:
    watch.look()
    assert watch.known is not None
    stamp = watch.known.stamp
    earlier = replace(stamp.moment, horizon=stamp.moment.horizon - distance, snapshot="none")
    if distance < 0:
        earlier = replace(earlier, horizon=stamp.moment.horizon + 10**6)
    watch.known = replace(watch.known, stamp=replace(stamp, moment=earlier))
    assert watch.look().proof == DIGESTS


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE items SET UNLOGGED",
        "ALTER TABLE items ALTER COLUMN number TYPE regtype USING NULL",
        "ALTER TABLE items ADD COLUMN kinds regtype[]",
        "CREATE DOMAIN kind AS regtype; ALTER TABLE items ADD COLUMN kind kind",
        "CREATE DOMAIN kind AS regtype; ALTER TABLE items ADD COLUMN kinds kind[]",
        "CREATE TYPE kind AS (of regclass); ALTER TABLE items ADD COLUMN kind kind",
        "CREATE TABLE other (kind regrole); ALTER TABLE items ADD COLUMN kind other",
        "ALTER TABLE items ADD COLUMN rights aclitem",
    ],
)
def test_a_table_without_stamps_is_digested(watch: Watch, change: str) -> None:
    watch.run(change)
    assert [watch.look().proof for _ in range(2)] == [DIGESTS, DIGESTS]
    assert watch.look().why.startswith("the table is unlogged, not a heap, or stores names of")


def test_a_full_pass_is_due_if_a_wrong_clock_wrote_the_time_of_the_last(watch: Watch) -> None:
    watch.look()
    watch.now -= dt.timedelta(minutes=30)
    assert watch.look().proof != DIGESTS
    watch.now -= dt.timedelta(hours=2)
    assert watch.look().why == "a full pass is due"
    assert watch.look().proof != DIGESTS


def test_a_partition_that_is_emptied_and_loaded_again_is_seen(new_database: NewDatabase) -> None:
    """As many rows, with the same keys in the same buckets; the values are others."""
    watch = Watch(new_database("postgresql", "windows"))
    watch.run(
        "CREATE TYPE mood AS ENUM ('calm', 'angry', 'other')",
        "CREATE TABLE items (id int, value varchar(500), number int, mood mood)"
        " PARTITION BY RANGE (id)",
        "CREATE TABLE a PARTITION OF items FOR VALUES FROM (0) TO (1000)",
        "CREATE TABLE b PARTITION OF items FOR VALUES FROM (1000) TO (2000)",
        "INSERT INTO items SELECT n, 'a' FROM generate_series(1, 1999) n",
    )
    watch.look()
    watch.run("TRUNCATE a", "INSERT INTO a SELECT n, 'b' FROM generate_series(1, 999) n")
    found = watch.look()
    assert found.proof == HEADERS and 0 < found.digested < 61


def test_rows_that_are_loaded_frozen_are_seen(watch: Watch) -> None:
    """COPY FREEZE writes rows that look as old as any, in the table that its transaction emptied."""
    watch.look()
    connection = connect(watch.database)
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE items")
        lines = "".join(f"{n}\tother\t{n}\tcalm\n" for n in range(1, ROWS + 1))
        cursor.copy_expert("COPY items FROM STDIN (FREEZE)", io.StringIO(lines))
    connection.commit()
    connection.close()
    assert watch.look().digested > 0


def test_rows_in_transactions_prepared_before_two_looks_are_seen(watch: Watch) -> None:
    """Held long: the transactions of later rows have ended, and theirs has not."""
    name = f"prepared {uuid.uuid4()}"
    connection = connect(watch.database)
    connection.cursor().execute(
        f"BEGIN; SAVEPOINT a; UPDATE items SET value = 'late' WHERE id < 4; RELEASE a;"
        f" PREPARE TRANSACTION '{name}'"
    )
    connection.close()
    for number in range(3):
        watch.run(f"UPDATE items SET number = {number} WHERE id = 2000")
        watch.look()
    watch.run(f"COMMIT PREPARED '{name}'")
    assert watch.look().digested >= 1


def _write(database: Database, seed: int, stop: threading.Event) -> None:
    """An application: a few changes in a transaction, some in savepoints, some rolled back."""
    chance = random.Random(seed)
    connection = connect(database)
    while not stop.is_set():
        with connection.cursor() as cursor:
            try:
                cursor.execute("BEGIN")
                for _ in range(chance.randint(1, 5)):
                    _change(cursor, chance)
                _end(cursor, chance)
            except psycopg2.Error:
                cursor.execute("ROLLBACK")
        time.sleep(chance.random() * 0.02)
    connection.close()


def _change(cursor: psycopg2.extensions.cursor, chance: random.Random) -> None:
    key = chance.randint(1, ROWS + 500)
    saved = chance.random() < 0.3
    if saved:
        cursor.execute("SAVEPOINT s")
    cursor.execute(chance.choice(_CHANGES), {"key": key})
    if saved:
        cursor.execute(chance.choice(("ROLLBACK TO s", "RELEASE s")))
    if chance.random() < 0.1:
        time.sleep(chance.random() * 0.05)


def _end(cursor: psycopg2.extensions.cursor, chance: random.Random) -> None:
    how = chance.choices(("COMMIT", "ROLLBACK", "PREPARED"), (15, 4, 1))[0]
    if how != "PREPARED":
        return cursor.execute(how)
    name = uuid.uuid4()
    cursor.execute(f"PREPARE TRANSACTION '{name}'")
    time.sleep(chance.random() * 0.05)
    cursor.execute(f"{chance.choice(('COMMIT', 'ROLLBACK'))} PREPARED '{name}'")


_CHANGES = (
    "UPDATE items SET value = left(value || 'y', 400) WHERE id = %(key)s",
    "UPDATE items SET number = number + 1 WHERE id BETWEEN %(key)s AND %(key)s + 3",
    "DELETE FROM items WHERE id = %(key)s",
    "INSERT INTO items VALUES (%(key)s, 'new') ON CONFLICT (id) DO UPDATE SET value = 'again'",
    "UPDATE items SET id = id + 100000 WHERE id = %(key)s",
    "UPDATE items SET id = id - 100000 WHERE id = %(key)s + 100000",
)

_MAINTENANCE = (
    "VACUUM FULL items",
    "VACUUM (FREEZE) items",
    "CLUSTER items USING items_pkey",
    "ANALYZE items",
    "ALTER TABLE items DROP COLUMN number; ALTER TABLE items ADD COLUMN number int DEFAULT 3",
    "ALTER TYPE mood RENAME VALUE 'calm' TO 'calmer'; ALTER TYPE mood RENAME VALUE 'calmer' TO 'calm'",
    "ALTER TABLE items ALTER COLUMN value TYPE varchar(500) USING value",
    "ALTER TABLE items ALTER COLUMN number TYPE bigint; ALTER TABLE items ALTER COLUMN number TYPE int",
    "TRUNCATE items",
)


@pytest.fixture
def applications(watch: Watch) -> Iterator[Callable[[int], None]]:
    """Starts applications that write until the test ends."""
    stop, threads = threading.Event(), list[threading.Thread]()

    def start(number: int) -> None:
        for seed in range(number):
            thread = threading.Thread(target=_write, args=(watch.database, seed, stop))
            thread.start()
            threads.append(thread)

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def test_no_look_misses_what_applications_and_maintenance_do(
    watch: Watch, applications: Callable[[int], None]
) -> None:
    chance, connection = random.Random(1), connect(watch.database)
    applications(3)
    for _ in range(ROUNDS):
        if chance.random() < 0.1:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '1s'")
                with contextlib.suppress(psycopg2.errors.LockNotAvailable):
                    cursor.execute(chance.choice(_MAINTENANCE))
        watch.look()
    connection.close()
    assert watch.proofs[HEADERS] > ROUNDS // 20


@dataclass
class Standby:
    """A copy of the table on another server, which follows it by the rows written since."""

    watch: Watch
    database: Database
    followed: int = 0
    compared: int = 0

    @cached_property
    def dialect(self) -> Dialect:
        """One connection for all rounds."""
        return self.database.open("look")

    def follow(self) -> None:
        """Bring the copy to the state that the source has now, and compare all rows of both."""
        source, target, known = self.watch.dialect, self.dialect, self.watch.known
        source.snapshot()
        form = Form(source.digest_format(), 61, ITEMS.signatures)
        view = replace(Vantage.of(source, [ITEMS], WEEK), now=self.watch.now)
        survey = view.survey(ITEMS, form, known)
        digests, stamp = survey.look.digests, survey.look.stamp
        target.connection.begin()
        if known and survey.written and survey.written.young is not None:
            digests = self._apply_written(known.digests, survey.written)
        elif survey.written or survey.look.proof == DIGESTS:
            digests = view.complete(ITEMS, survey).digests
            self._copy_all()
        missed = digests.differing(source.digests(ITEMS, form))
        assert not missed.size, f"buckets {missed} have other digests"
        differing = digests.differing(target.digests(ITEMS, form))
        assert not differing.size, f"the standby differs in buckets {differing}"
        target.connection.commit()
        source.connection.rollback()
        self.watch.known = Known(digests, stamp) if stamp else None

    def _apply_written(self, published: Digests, written: Written) -> Digests:
        source, target = self.watch.dialect, self.dialect
        stamps = target.stamps()
        assert stamps is not None
        found = WrittenChanges(source, target, stamps, ITEMS, published, written)
        changes = list(found)
        put = [key for bucket in changes for key in bucket.new + bucket.changed]
        gone = [key for bucket in changes for key in bucket.gone + bucket.changed]
        rows = [row for batch in source.read(ITEMS, put, published.form) for row in batch]
        self._write(rows, "id = ANY(%s)", [[int(key) for (key,) in gone]])
        self.followed += 1
        self.compared += bool(found.compared)
        return found.digests

    def _copy_all(self) -> None:
        rows = [row for batch in self.watch.dialect.read(ITEMS) for row in batch]
        self._write(rows, "true", [])

    def _write(self, rows: list[Row], condition: str, arguments: list[object]) -> None:
        run = self.dialect.connection.exec_driver_sql
        run(f"DELETE FROM items WHERE {condition}", tuple(arguments))
        if rows:
            run("INSERT INTO items VALUES (%s, %s, %s, %s)", [tuple(row) for row in rows])


def test_a_standby_that_follows_the_rows_written_since_is_equal_to_the_source(
    watch: Watch, new_database: NewDatabase, applications: Callable[[int], None]
) -> None:
    standby = Standby(watch, new_database("postgresql", "linux", server=1))
    Watch(standby.database).run(CREATE)
    chance, connection = random.Random(2), connect(watch.database)
    applications(3)
    for _ in range(ROUNDS // 2):
        if chance.random() < 0.05:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '1s'")
                with contextlib.suppress(psycopg2.errors.LockNotAvailable):
                    cursor.execute(chance.choice(_MAINTENANCE))
        standby.follow()
    connection.close()
    # in many rounds the applications have ended no transaction since the one before
    assert standby.followed > min(ROUNDS // 8, 500)
    assert standby.followed > standby.compared > 0
