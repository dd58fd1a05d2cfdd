"""`kill -9` of every verb that commits, at moments spread over all that it sends: the state is old or new, and the next call works.

A moment is a piece of what the verb sends to the database that it changes, and the verb is killed before that piece is forwarded or
right after it. COMMIT is one of the pieces, so some verbs are killed with their COMMIT on the way. The moments are chosen at random,
the same in every run.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.migrate.autogenerate import ColumnChanges
from dbsync_pipeline.mirror.migrate.write import write
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline_tests import killed
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.killed import Call
from dbsync_pipeline_tests.proxy import TO_SERVER, Connection, Piece, proxy_to
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

MOMENTS = int(os.environ.get("KILL_MOMENTS", "3"))
"""How often each verb is killed; more by KILL_MOMENTS in the environment."""

users = MODEL.table("users").sa
context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
context.set_forkserver_preload([killed.__name__])


class Bench:
    """Three databases, of which one is reached through a proxy by the verb that is killed."""

    def __init__(self, new_database: NewDatabase, behind: str = "linux") -> None:
        self.windows, self.linux, self.azure = (
            new_database("postgresql", name, server=n)
            for n, name in enumerate(("windows", "linux", "azure"))
        )
        self.behind = behind
        self._changes = 0

    @property
    def all(self) -> tuple[Database, ...]:
        return self.windows, self.linux, self.azure

    def call(self, **given: str) -> Call:
        urls = {one.name: one.url.render_as_string(hide_password=False) for one in self.all}
        return Call(urls, **given)

    def mirrored(self) -> Bench:
        prepare(self.windows, small_world())
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

    def count_pieces(self, verb: str, call: Call) -> int:
        """Run the verb to its end; how many pieces it sends to the database behind the proxy."""
        return self._run(verb, call, None, before=False)

    def kill(self, verb: str, call: Call, piece: int, *, before: bool) -> None:
        self._run(verb, call, piece, before=before)

    def _run(self, verb: str, call: Call, piece: int | None, *, before: bool) -> int:
        (real,) = (one for one in self.all if one.name == self.behind)
        with proxy_to(real.url) as proxy:
            url = proxy.url.render_as_string(hide_password=False)
            through = replace(call, urls={**call.urls, self.behind: url})
            process = context.Process(target=killed.run, args=(verb, through))

            def kill(connection: Connection) -> None:
                process.kill()
                connection.cut()

            if piece is not None:
                (proxy.before if before else proxy.after)(Piece(piece), TO_SERVER, kill)
            process.start()
            process.join(120)
            assert process.exitcode in ((0,) if piece is None else (0, -9))
            return proxy.pieces


def moments(verb: str, pieces: int) -> Iterator[tuple[int, bool]]:
    """Moments at random, and as many more among the last pieces, where the COMMIT is."""
    rng = random.Random(verb)
    for n in range(MOMENTS):
        first = max(1, pieces - 8) if n % 2 else 1
        yield rng.randint(first, pieces), rng.random() < 0.5


def is_one_of(read: Callable[[], object], states: dict[str, object]) -> str:
    """Which state it is, within ten seconds, in which the server notices that the client is gone."""
    deadline = time.monotonic() + 10
    while True:
        now = read()
        for name, state in states.items():
            if now == state:
                return name
        assert time.monotonic() < deadline, "neither the old nor the new state"
        time.sleep(0.1)


def test_sync(new_database: NewDatabase) -> None:
    bench = Bench(new_database).mirrored()
    bench.change_the_source()
    pieces = bench.count_pieces("sync", bench.call())
    for piece, before in moments("sync", pieces):
        bench.change_the_source()
        states = {"old": content(bench.linux), "new": content(bench.windows)}
        bench.kill("sync", bench.call(), piece, before=before)
        is_one_of(lambda: content(bench.linux), states)
        sync(bench.windows, bench.linux)
        assert content(bench.linux) == states["new"]


def test_undo(new_database: NewDatabase) -> None:
    bench = Bench(new_database).mirrored()
    pieces = 0
    for piece, before in [(0, False), *moments("undo", 60)]:
        bench.change_the_source()
        old = content(bench.linux)
        run_id = sync(bench.windows, bench.linux, policy=ANYTHING).run_id
        states = {"undone": old, "not undone": content(bench.linux)}
        call = bench.call(run_id=run_id)
        if not piece:
            pieces = bench.count_pieces("undo", call)
        else:
            bench.kill("undo", call, 1 + piece * pieces // 60, before=before)
        if is_one_of(lambda: content(bench.linux), states) == "not undone":
            killed.run("undo", call)
        assert content(bench.linux) == old


def test_merge(new_database: NewDatabase) -> None:
    bench = Bench(new_database).mirrored()
    pieces = 0
    for piece, before in [(0, False), *moments("merge", 60)]:
        execute(bench.linux, users.insert().values(bench.new_user()))
        old = content(bench.linux)
        run_id = sync(bench.windows, bench.linux, policy=ANYTHING).run_id
        call = bench.call(run_id=run_id)
        states = {"merged": old, "not merged": content(bench.linux)}
        if not piece:
            pieces = bench.count_pieces("merge", call)
        else:
            bench.kill("merge", call, 1 + piece * pieces // 60, before=before)
        is_one_of(lambda: content(bench.linux), states)
        killed.run("merge", call)
        assert content(bench.linux) == old


def primary(bench: Bench) -> str:
    settings = bench.call().settings
    return term.standing(databases(settings), settings).primary


def terms(bench: Bench) -> set[object]:
    return {term.read_term(one) for one in bench.all}


def test_promote_and_failback(new_database: NewDatabase) -> None:
    """Each is killed, then called again; a failback is what makes the next promotion possible."""
    bench = Bench(new_database).mirrored()
    pieces: dict[str, int] = {}
    steps = [(0, False), *moments("promote and failback", 60)]
    for verb, piece, before in [
        (verb, *step) for step in steps for verb in ("promote", "failback")
    ]:
        former, chosen = ("windows", "linux") if verb == "promote" else ("linux", "windows")
        bench.behind = chosen
        assert primary(bench) == former
        if verb == "failback":
            execute(bench.linux, users.insert().values(bench.new_user()))
        if not piece:
            pieces[verb] = bench.count_pieces(verb, bench.call())
        else:
            bench.kill(verb, bench.call(), 1 + piece * pieces[verb] // 60, before=before)
        is_one_of(lambda: primary(bench), {"old": former, "new": chosen})
        again(verb, bench)
        assert primary(bench) == chosen
        if verb == "failback":
            assert content(bench.windows) == content(bench.linux)
            sync(
                bench.windows, bench.azure
            )  # which records the term there, if the failback did not
        assert len(terms(bench)) == 1


def again(verb: str, bench: Bench) -> None:
    """The next call, which has nothing to do where the killed one was complete."""
    try:
        killed.run(verb, bench.call())
    except SettingsError as error:
        assert "already the primary" in str(error)


def differences(database: Database, model: Model) -> list[str]:
    return schema.check(database, model)["users"]


def test_migrate(new_database: NewDatabase, tmp_path: Path) -> None:
    model = Model(MODEL.metadata, tmp_path / "revisions")
    pieces = 0
    for piece, before in [(0, False), *moments("migrate", 60)]:
        bench = Bench(new_database)
        prepare(bench.linux, small_world(5))
        execute(bench.linux, "ALTER TABLE users DROP COLUMN preferences")
        if not pieces:
            write(bench.linux, model, "preferences", ColumnChanges())
        call = bench.call(revisions=str(tmp_path / "revisions"))
        if not piece:
            pieces = bench.count_pieces("migrate", call)
        else:
            bench.kill("migrate", call, 1 + piece * pieces // 60, before=before)
        is_one_of(
            partial(differences, bench.linux, model),
            {"new": [], "old": ["column preferences is missing"]},
        )
        killed.run("migrate", call)
        assert not any(schema.check(bench.linux, model).values())
        assert len(content(bench.linux)["users"]) == 5


def test_recreate(new_database: NewDatabase) -> None:
    """Its drops and its creation are transactions of their own; a second call completes them."""
    bench = Bench(new_database).mirrored()
    pieces = 0
    for piece, before in [(0, False), *moments("recreate", 60)]:
        if not piece:
            pieces = bench.count_pieces("recreate", bench.call())
        else:
            bench.kill("recreate", bench.call(), 1 + piece * pieces // 60, before=before)
        killed.run("recreate", bench.call())
        assert not any(content(bench.linux).values())
        sync(bench.windows, bench.linux)
        assert content(bench.linux) == content(bench.windows)
