"""`kill -9` of every verb that commits, at moments spread over all that it does: the state is old or new, and the next call completes it.

With a server, a moment is a piece of what the verb sends to any of its databases: the verb is killed before that piece is forwarded, or
right after it. COMMIT is one of the pieces, so some verbs are killed with their COMMIT on the way. With SQLite, a moment is a
part of the seconds that the verb takes without a kill. The moments are chosen at random, the same in every run; half of them are among
the last, where the commits are.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from dbsync_pipeline.errors import Busy, SettingsError
from dbsync_pipeline.mirror import differences, schema
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.migrate.autogenerate import ColumnChanges
from dbsync_pipeline.mirror.migrate.write import write
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline_tests import killed
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.killed import Call
from dbsync_pipeline_tests.proxy import TO_SERVER, Connection, Piece, Pieces, proxy_to
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    content,
    execute,
    prepare,
    small_world,
    sync,
    user,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")

MOMENTS = int(os.environ.get("KILL_MOMENTS", "4"))
"""How often each verb is killed; more by KILL_MOMENTS in the environment."""
LAST = 8
"""So many pieces are the last ones."""

users = MODEL.table("users").sa
context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
context.set_forkserver_preload([killed.__name__])


@dataclass(frozen=True)
class Moment:
    """When a verb is killed: after this share of all that it does, or of the last of it."""

    share: float
    late: bool
    before: bool

    def piece(self, pieces: int) -> int:
        first = max(1, pieces - LAST) if self.late else 1
        return first + int(self.share * (pieces - first + 1))

    def seconds(self, usual: float) -> float:
        return usual * (0.8 + 0.2 * self.share if self.late else self.share)


def moments(verb: str) -> Iterator[Moment | None]:
    """None first, for a call that is not killed, and measures what the verb does."""
    yield None
    rng = random.Random(verb)
    for n in range(MOMENTS):
        yield Moment(rng.random(), n % 2 == 1, rng.random() < 0.5)


def _run(verb: str, call: Call, ready: Event, go: Event) -> None:
    ready.set()
    go.wait()
    killed.run(verb, call)


class Bench:
    """The databases of one engine, and the processes that work on them."""

    def __init__(self, new_database: NewDatabase, engine: str, *names: str) -> None:
        self.all = {
            name: new_database(engine, name, server=n)
            for n, name in enumerate(names or ("windows", "linux", "azure"))
        }
        self.linux = self.all["linux"]
        self.by_piece = engine != "sqlite"
        self._measured: dict[str, float] = {}
        self._changes = 0

    @property
    def windows(self) -> Database:
        return self.all["windows"]

    @property
    def azure(self) -> Database:
        return self.all["azure"]

    def call(self, **given: str) -> Call:
        urls = {
            name: one.url.render_as_string(hide_password=False) for name, one in self.all.items()
        }
        return Call(urls, **given)

    def mirrored(self) -> Bench:
        prepare(self.windows, small_world() if self.by_piece else small_world(100))
        for target in (self.linux, self.azure):
            sync(self.windows, target)
        return self

    def change_the_source(self) -> None:
        self._changes += 1
        number = 5000 + self._changes
        execute(
            self.windows,
            users.insert().values(user(number)),
            users.update().where(users.c.id < 5).values(name=f"version {number}"),
            users.delete().where(users.c.id == number - 1),
        )

    def new_user(self) -> dict[str, Any]:
        self._changes += 1
        return user(8000 + self._changes)

    def kill(self, verb: str, call: Call, moment: Moment | None) -> None:
        """Run the verb in a process of its own, and kill it at that moment; let it end if there is none."""
        if self.by_piece:
            self._kill_at_piece(verb, call, moment)
        else:
            self._kill_after_seconds(verb, call, moment)

    def _kill_at_piece(self, verb: str, call: Call, moment: Moment | None) -> None:
        pieces = Pieces()
        with ExitStack() as opened:
            proxies = {
                name: opened.enter_context(proxy_to(one.url, pieces=pieces))
                for name, one in self.all.items()
            }
            urls = {
                name: one.url.render_as_string(hide_password=False) for name, one in proxies.items()
            }
            process = context.Process(target=killed.run, args=(verb, replace(call, urls=urls)))

            def kill(connection: Connection) -> None:
                process.kill()
                connection.cut()

            if moment:
                at = Piece(moment.piece(int(self._measured[verb])))
                for proxy in proxies.values():
                    (proxy.before if moment.before else proxy.after)(at, TO_SERVER, kill)
            process.start()
            process.join(120)
        assert process.exitcode in ((0, -9) if moment else (0,))
        self._measured.setdefault(verb, pieces.number)

    def _kill_after_seconds(self, verb: str, call: Call, moment: Moment | None) -> None:
        ready, go = context.Event(), context.Event()
        process = context.Process(target=_run, args=(verb, call, ready, go))
        process.start()
        assert ready.wait(120)
        started = time.monotonic()
        go.set()
        process.join(moment.seconds(self._measured[verb]) if moment else 120)
        if moment:
            process.kill()
            process.join()
        assert process.exitcode in ((0, -9) if moment else (0,))
        self._measured.setdefault(verb, time.monotonic() - started)


@pytest.fixture(params=ENGINES)
def bench(request: pytest.FixtureRequest, new_database: NewDatabase) -> Bench:
    """windows is the primary, linux and azure are equal to it."""
    return Bench(new_database, request.param).mirrored()


def is_one_of(read: Callable[[], object], states: dict[str, object]) -> str:
    """Which state it is, within ten seconds, in which a server notices that the client is gone."""
    deadline = time.monotonic() + 10
    while True:
        now = read()
        for name, state in states.items():
            if now == state:
                return name
        assert time.monotonic() < deadline, "neither the old nor the new state"
        time.sleep(0.1)


def completed(verb: str, call: Call) -> None:
    """The next call, once the server has noticed that the killed one is gone."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return killed.run(verb, call)
        except Busy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_sync(bench: Bench) -> None:
    for moment in moments("sync"):
        bench.change_the_source()
        states = {"old": content(bench.linux), "new": content(bench.windows)}
        bench.kill("sync", bench.call(), moment)
        is_one_of(lambda: content(bench.linux), states)
        completed("sync", bench.call())
        assert content(bench.linux) == states["new"]


def test_undo(bench: Bench) -> None:
    for moment in moments("undo"):
        bench.change_the_source()
        old = content(bench.linux)
        run_id = sync(bench.windows, bench.linux, policy=ANYTHING).run_id
        states = {"undone": old, "not undone": content(bench.linux)}
        call = bench.call(run_id=run_id)
        bench.kill("undo", call, moment)
        if is_one_of(lambda: content(bench.linux), states) == "not undone":
            completed("undo", call)
        assert content(bench.linux) == old


def test_merge(bench: Bench) -> None:
    for moment in moments("merge"):
        execute(bench.linux, (users.insert(), [bench.new_user() for _ in range(20)]))
        old = content(bench.linux)
        run_id = sync(bench.windows, bench.linux, policy=ANYTHING).run_id
        call = bench.call(run_id=run_id)
        states = {"merged": old, "not merged": content(bench.linux)}
        bench.kill("merge", call, moment)
        is_one_of(lambda: content(bench.linux), states)
        completed("merge", call)
        assert content(bench.linux) == old


def test_recreate(bench: Bench) -> None:
    """Its drops and its creation are transactions of their own; a second call completes them."""
    for moment in moments("recreate"):
        states = {
            "old": content(bench.linux),
            "dropped": None,
            "new": {name: [] for name in MODEL.names},
        }
        bench.kill("recreate", bench.call(), moment)
        is_one_of(partial(content_or_none, bench.linux), states)
        completed("recreate", bench.call())
        assert content(bench.linux) == states["new"]
        sync(bench.windows, bench.linux)
        assert content(bench.linux) == content(bench.windows)


def content_or_none(database: Database) -> object:
    """None where all tables are missing."""
    with database.connect() as dialect:
        if set(differences.missing(dialect, MODEL)) == set(MODEL.names):
            return None
    return content(database)


def test_promote_and_failback(bench: Bench) -> None:
    """Each is killed, then called again; a failback is what makes the next promotion possible."""
    for number, moment in enumerate(moments("promote and failback")):
        is_killed(bench, "promote", moment, "windows", "linux")
        added = {**bench.new_user(), "name": f"on linux, {number}"}
        execute(bench.linux, users.insert().values(added))
        is_killed(bench, "failback", moment, "linux", "windows")
        assert content(bench.windows) == content(bench.linux)
        sync(bench.windows, bench.azure)  # which records the term there, if the failback did not
        assert len({term.read_term(one) for one in bench.all.values()}) == 1


def is_killed(bench: Bench, verb: str, moment: Moment | None, former: str, chosen: str) -> None:
    assert primary(bench) == former
    before = content(bench.linux)
    bench.kill(verb, bench.call(), moment)
    is_one_of(lambda: primary(bench), {"old": former, "new": chosen})
    try:
        completed(verb, bench.call())
    except SettingsError as error:
        assert "already the primary" in str(error)
    assert primary(bench) == chosen
    assert content(bench.linux) == before


def primary(bench: Bench) -> str:
    settings = bench.call().settings
    return term.standing(databases(settings), settings).primary


@pytest.mark.parametrize("engine", ENGINES)
def test_migrate(engine: str, new_database: NewDatabase, tmp_path: Path) -> None:
    model = Model(MODEL.metadata, tmp_path / "revisions")
    bench = Bench(new_database, engine, "linux")
    for moment in moments("migrate"):
        without_tables(bench.linux)
        prepare(bench.linux, small_world(5))
        execute(bench.linux, "ALTER TABLE users DROP COLUMN updated_at")
        if not moment:
            write(bench.linux, model, "updated at", ColumnChanges())
        old = structure(bench.linux, model)
        call = bench.call(revisions=str(tmp_path / "revisions"))
        bench.kill("migrate", call, moment)
        states = {"new": ([], "0001"), "old": old}
        is_one_of(partial(structure, bench.linux, model), states)
        completed("migrate", call)
        assert structure(bench.linux, model) == states["new"]
        assert len(content(bench.linux)["users"]) == 5


def without_tables(database: Database) -> None:
    """An empty database, without a ledger."""
    with database.connect(create=True) as dialect, dialect.connection.begin():
        MODEL.metadata.drop_all(dialect.connection)
        Ledger(dialect).drop_tables()


def structure(database: Database, model: Model) -> tuple[list[str], str | None]:
    """What differs from the models, and the newest revision that the database recorded."""
    with database.connect() as dialect:
        recorded = revisions.noted(dialect)
    return schema.check(database, model)["users"], recorded
