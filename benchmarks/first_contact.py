"""Ten minutes for the first person with a real SQL Server: what only such a server can show.

    python benchmarks/first_contact.py --url "mssql://user:password@host/master"

The URL needs the right to create databases: two are created and dropped. Each line begins with `ok`
or `LOOK`; a LOOK is a finding to report, with the line itself and the two lines about the server.
Nothing of the server's name, address or login is printed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from mssql import Trips, administer

from dbsync_pipeline.dialects.digests import CANONICAL, Form
from dbsync_pipeline.dialects.mssql.watched import WatchedConnection
from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger, Publish
from dbsync_pipeline.mirror.model import Model, load_model
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.settings import Settings

MODEL = load_model("dbsync_pipeline.models")
SETTINGS = Settings(lock_seconds=10)
MESSAGES = 20_000


class Places:
    """A SQLite primary with sample rows, and two databases on the server."""

    def __init__(self, server: sa.URL, folder: str) -> None:
        self.server = server
        self.names = [f"dbsync_contact_{os.getpid()}_{number}" for number in (1, 2)]
        self.first, self.second = (
            Database(place, server.set(database=name))
            for place, name in zip(("linux", "azure"), self.names, strict=True)
        )
        self.primary = Database("windows", sa.make_url(f"sqlite:///{Path(folder) / 'primary.db'}"))

    def create(self) -> None:
        """Create the databases, allow snapshots, and fill the primary."""
        for name in self.names:
            administer(self.server, f"CREATE DATABASE {name}")
            administer(
                self.server,
                "IF serverproperty('Babelfish') IS NULL "
                f"EXEC('ALTER DATABASE {name} SET ALLOW_SNAPSHOT_ISOLATION ON')",
            )
        schema.ensure(self.primary, MODEL)
        run(self.primary, *sample())

    def drop(self) -> None:
        """Drop the databases, whoever is connected."""
        for name in self.names:
            administer(
                self.server,
                "IF serverproperty('Babelfish') IS NULL "
                f"EXEC('ALTER DATABASE {name} SET SINGLE_USER WITH ROLLBACK IMMEDIATE')",
            )
            administer(self.server, f"DROP DATABASE {name}")


def sample() -> Iterator[Any]:
    """Yield the INSERTs of 500 users with a chat each, and 20,000 messages."""
    now = dt.datetime.now(dt.UTC)
    user, chat, message = (MODEL.table(name).sa for name in ("users", "chats", "messages"))
    yield user.insert(), [person(number, now) for number in range(1, 501)]
    chats = [uuid.UUID(int=number) for number in range(1, 501)]
    yield (
        chat.insert(),
        [
            {"id": key, "user_id": number, "title": f"chat {number}", "created_at": now}
            for number, key in enumerate(chats, 1)
        ],
    )
    yield (
        message.insert(),
        [
            {
                "id": number,
                "chat_id": chats[number % 500],
                "role": "user",
                "content": "né漢🙂" * (number % 50),
                "created_at": now,
            }
            for number in range(1, MESSAGES + 1)
        ],
    )


def person(number: int, now: dt.datetime) -> dict[str, Any]:
    """Return one row of users."""
    return {
        "id": number,
        "email": f"u{number}@example.org",
        "name": "né漢🙂",
        "password_hash": "x",
        "created_at": now,
    }


def run(database: Database, *statements: Any) -> None:
    """Run statements in one transaction, as an application would."""
    with database.engine().begin() as connection:
        for statement in statements:
            if isinstance(statement, tuple):
                connection.execute(*statement)
            else:
                connection.execute(sa.text(statement))


def sync(
    source: Database,
    target: Database,
    model: Model = MODEL,
    meanwhile: Callable[[], object] = lambda: None,
) -> Publish:
    """Sync all tables; call `meanwhile` once the source's snapshot is open."""
    run_id = f"contact-{time.time_ns()}"
    with Session(source, target, model, run_id=run_id, settings=SETTINGS) as session:
        session.ensure_schema()
        meanwhile()
        for name in model.names:
            session.copy(name)
        return session.publish()


def same(one: Database, other: Database) -> bool:
    """Return whether two databases have the same digests in every table."""
    sums = []
    for database in (one, other):
        with database.connect() as dialect:
            dialect.snapshot()
            forms = [(table, Form(CANONICAL, 127)) for table in MODEL.tables]
            sums.append([str(dialect.digests(table, form)) for table, form in forms])
    return sums[0] == sums[1]


def say(good: bool, text: str) -> None:
    """Print one result."""
    print(f"{'ok  ' if good else 'LOOK'}  {text}", flush=True)


@contextmanager
def asking(database: Database, query: str) -> Iterator[list[float]]:
    """Repeat a query beside what runs within; collect the seconds that each took."""
    seconds: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        with database.engine().connect() as connection:
            while not ended.is_set():
                started = time.perf_counter()
                with suppress(sa.exc.DBAPIError):
                    connection.exec_driver_sql(query).all()
                connection.rollback()
                seconds.append(time.perf_counter() - started)
                time.sleep(0.01)

    reader = threading.Thread(target=ask, daemon=True)
    reader.start()
    time.sleep(0.3)
    try:
        yield seconds
    finally:
        ended.set()
        reader.join(60)


# -- the questions


def the_server(places: Places) -> None:
    """What is this server, and how are connections to it made?"""
    with places.first.engine().connect() as connection:
        version = connection.exec_driver_sql("SELECT @@VERSION").scalar_one()
        server = connection.info["server"]
        say(
            not server.is_too_old,
            f"version {'.'.join(map(str, server.version))}, edition "
            f"{server.edition}, Babelfish {server.babelfish}",
        )
        say(True, " ".join(str(version).split())[:120])
        with suppress(sa.exc.DBAPIError):
            scheme = connection.exec_driver_sql(
                "SELECT auth_scheme, encrypt_option FROM sys.dm_exec_connections "
                "WHERE session_id = @@spid"
            ).one()
            if scheme[0] is not None:  # Babelfish does not know
                say(scheme[1] == "TRUE", f"signed in by {scheme[0]}, encrypted {scheme[1]}")


def both_drivers(places: Places) -> None:
    """Do both drivers connect?"""
    for driver in ("mssql", "mssql+pyodbc"):
        url = places.first.url.set(drivername=driver)
        with Database("azure", url).engine().connect() as connection:
            say(connection.exec_driver_sql("SELECT 1").scalar() == 1, f"{driver} connects")


def first_sync(places: Places) -> None:
    """Does the native bulk load carry every value?"""
    started = time.perf_counter()
    done = sync(places.primary, places.first)
    seconds = time.perf_counter() - started
    say(same(places.primary, places.first), f"first sync: {done.changed} rows in {seconds:.1f} s")
    with Trips() as trips:
        sync(places.primary, places.first)
    say(
        len(trips.statements) < 50,
        f"nothing to do: {len(trips.statements)} statements, "
        f"{trips.ends} commits and rollbacks, {trips.logins} logins",
    )


def a_fill_beside_a_change(places: Places) -> None:
    """Does the bulk load of an empty table wait for the sync's own transaction?"""
    now = dt.datetime.now(dt.UTC)
    run(
        places.primary,
        "UPDATE users SET name = 'changed' WHERE id = 1",
        (
            MODEL.table("user_memory").sa.insert(),
            [{"user_id": 1, "key": "k", "value": "v", "importance": 1.5, "updated_at": now}],
        ),
    )
    started = time.perf_counter()
    sync(places.primary, places.first)
    seconds = time.perf_counter() - started
    say(seconds < 30, f"a fill beside a change took {seconds:.1f} s")
    say(same(places.primary, places.first), "and both sides are equal")


def readers_beside_a_publish(places: Places) -> None:
    """How long does a reader of a standby wait while a sync publishes?"""
    run(places.primary, "UPDATE chats SET title = 'changed' WHERE user_id % 2 = 0")
    tables = "SELECT count(*) FROM sys.tables"
    rows = "SELECT TOP (1) id FROM messages ORDER BY id"
    with asking(places.first, tables) as catalog, asking(places.first, rows) as messages:
        sync(places.primary, places.first)
    say(max(catalog) < 2, f"a reader of sys.tables waited {max(catalog):.2f} s at most")
    say(max(messages) < 2, f"a reader of messages waited {max(messages):.2f} s at most")


def an_index_rebuild_during_a_sync(places: Places) -> None:
    """Does DDL on the source end a sync that reads a snapshot of it (error 3961)?"""

    def rebuild() -> None:
        with suppress(sa.exc.DBAPIError):  # Babelfish has no ALTER INDEX
            run(places.first, "ALTER INDEX ALL ON users REBUILD")

    sync(places.first, places.second, meanwhile=rebuild)
    say(same(places.first, places.second), "an index rebuild of the source during a sync")


def nocount(places: Places) -> None:
    """Are publishes numbered where the server's option switches NOCOUNT on?"""

    def switch_on(connection: Any, _record: object) -> None:
        if isinstance(connection, WatchedConnection):
            connection.cursor().execute("SET NOCOUNT ON")

    sa.event.listen(sa.Pool, "connect", switch_on)
    try:
        for name in ("one", "two"):
            run(places.first, f"UPDATE users SET name = '{name}' WHERE id = 2")
            sync(places.first, places.second)
    finally:
        sa.event.remove(sa.Pool, "connect", switch_on)
    with places.second.connect() as dialect:
        numbers = [publish.number for publish in Ledger(dialect).publishes()]
    say(len(numbers) == len(set(numbers)), f"NOCOUNT: publishes have the numbers {numbers}")


def a_filtered_index(places: Places) -> None:
    """May a deleted row have the e-mail of another?"""
    model = Model(sa.MetaData())
    table = sa.Table(
        "contact_accounts",
        model.metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("email", sa.Unicode(50)),
        sa.Column("deleted", sa.Boolean),
    )
    live = table.c.deleted == sa.false()
    sa.Index("ux_contact", table.c.email, unique=True, mssql_where=live, sqlite_where=live)
    schema.ensure(places.primary, model)
    rows = [{"id": number, "email": "one@example.org", "deleted": number > 1} for number in (1, 2)]
    run(places.primary, (table.insert(), rows))
    try:
        sync(places.primary, places.first, model)
    except DbsyncError as error:
        say(False, f"a filtered unique index: {error.cause}")
    else:
        say(True, "a filtered unique index")


QUESTIONS = (
    the_server,
    both_drivers,
    first_sync,
    a_fill_beside_a_change,
    readers_beside_a_publish,
    an_index_rebuild_during_a_sync,
    nocount,
    a_filtered_index,
)


def main() -> None:
    """Try each question; the exit status is 1 where one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True)
    server = sa.make_url(parser.parse_args().url)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="dbsync-contact-") as folder:
        places = Places(server, folder)
        try:
            places.create()
            for question in QUESTIONS:
                try:
                    question(places)
                except Exception as error:
                    failed += 1
                    cause = error.cause if isinstance(error, DbsyncError) else type(error).__name__
                    say(False, f"{question.__name__}: {cause}")
        finally:
            places.drop()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
