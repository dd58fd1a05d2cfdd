"""Every verb that commits is killed at random moments.

Afterwards all of it happened or nothing, and a second call completes it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dbsync_pipeline.errors import Refused, SettingsError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.failover.failback import failback
from dbsync_pipeline.mirror.failover.promote import promote
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.migrate.apply import migrate
from dbsync_pipeline.mirror.migrate.autogenerate import ColumnChanges
from dbsync_pipeline.mirror.migrate.write import write
from dbsync_pipeline.mirror.rescue.merge import merge
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.settings import DatabaseSetting, Settings
from dbsync_pipeline_tests.conformance.test_migrate import before as model_before
from dbsync_pipeline_tests.conformance.test_migrate import grown
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.processes import ROOT
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    SETTINGS,
    content,
    execute,
    prepare,
    small_world,
    sync,
    user,
)

KILLS = 3
"""Per verb and engine; their moments are spread over what the verb took without a kill."""

users = MODEL.table("users").sa


@dataclass(frozen=True)
class World:
    """Three databases: windows is the primary, linux and azure are equal to it."""

    windows: Database
    linux: Database
    azure: Database
    folder: Path

    @property
    def settings(self) -> Settings:
        urls = {
            database.name: SecretStr(database.url.render_as_string(hide_password=False))
            for database in (self.windows, self.linux, self.azure)
        }
        named = tuple(DatabaseSetting(name=name, url=url) for name, url in urls.items())
        return Settings(lock_seconds=20).model_copy(update={"databases": named})


@pytest.fixture(params=ENGINES)
def world(request: pytest.FixtureRequest, new_database: NewDatabase, tmp_path: Path) -> World:
    windows, linux, azure = (
        new_database(request.param, name, server=n)
        for n, name in enumerate(("windows", "linux", "azure"))
    )
    prepare(windows, small_world(100))
    for standby in (linux, azure):
        sync(windows, standby)
    return World(windows, linux, azure, tmp_path)


def published(world: World, run_id: str) -> bool:
    with world.linux.connect() as dialect:
        return Ledger(dialect).of_run(run_id) is not None


# The verbs: what comes before, the verb itself, and what must be true after a kill ----------------


def prepare_sync(world: World, attempt: int) -> None:
    execute(world.windows, users.update().where(users.c.id <= 50).values(name=f"n{attempt}"))


def run_sync(world: World, attempt: int) -> None:
    sync(world.windows, world.linux)


def check_sync(world: World, attempt: int, before: Any) -> None:
    """A COMMIT that is on its way may still arrive, so it is not asked whether it has."""
    assert content(world.linux) in (content(world.windows), before)


def prepare_undo(world: World, attempt: int) -> None:
    execute(world.windows, users.update().where(users.c.id <= 50).values(name=f"n{attempt}"))
    sync(world.windows, world.linux, run_id=f"first-{attempt}", policy=ANYTHING)


def run_undo(world: World, attempt: int) -> None:
    undo(world.linux, MODEL, f"first-{attempt}", by=f"undo-{attempt}", settings=SETTINGS)


def check_undo(world: World, attempt: int, before: Any) -> None:
    done = published(world, f"undo-{attempt}")
    assert (content(world.linux) != before) is done


def prepare_merge(world: World, attempt: int) -> None:
    sync(world.windows, world.linux, policy=ANYTHING)  # without the rows of the former attempt
    alone = [user(2000 + 100 * attempt + n) for n in range(50)]
    execute(world.linux, (users.insert(), alone))
    sync(world.windows, world.linux, run_id=f"first-{attempt}", policy=ANYTHING)


def run_merge(world: World, attempt: int) -> None:
    merge(world.linux, MODEL, f"first-{attempt}")


def check_merge(world: World, attempt: int, before: Any) -> None:
    merged = len(content(world.linux)["users"]) - len(before["users"])
    assert merged in (0, 50)


def prepare_recreate(world: World, attempt: int) -> None:
    schema.ensure(world.linux, MODEL)
    sync(world.windows, world.linux, policy=ANYTHING)


def run_recreate(world: World, attempt: int) -> None:
    schema.recreate(world.linux, MODEL)


def check_recreate(world: World, attempt: int, before: Any) -> None:
    """Dropping and creating are two transactions: the rows are as before, or gone."""
    with world.linux.connect() as dialect:
        missing = schema.missing(dialect, MODEL)
    assert missing == [] or set(missing) == set(MODEL.names)
    if not missing:
        assert content(world.linux) in (before, {name: [] for name in MODEL.names})


def prepare_promote(world: World, attempt: int) -> None:
    """Nothing: the first promotion counts, and the later ones are repeated calls."""


def run_promote(world: World, attempt: int) -> None:
    promote(world.settings, "linux", overwrite=True)


def check_promote(world: World, attempt: int, before: Any) -> None:
    assert content(world.linux) == before
    standing = term.standing(list(databases(world.settings)), world.settings)
    assert standing.primary in ("windows", "linux")


def prepare_failback(world: World, attempt: int) -> None:
    promote(world.settings, "linux", overwrite=True)
    execute(world.linux, users.update().where(users.c.id <= 50).values(name=f"n{attempt}"))


def run_failback(world: World, attempt: int) -> None:
    failback(world.settings, MODEL, f"failback-{uuid.uuid4()}")  # each call is a run of its own


def check_failback(world: World, attempt: int, before: Any) -> None:
    """The former primary never changes; the configured one is as before or equal to it."""
    assert content(world.linux) == before


def prepare_migrate(world: World, attempt: int) -> None:
    """An older database: the column and the record of the revision that adds it are not there."""
    model = model_before(world.folder / "none")
    with world.azure.connect(create=True) as dialect:
        with dialect.connection.begin():
            model.metadata.drop_all(dialect.connection)
        Ledger(dialect).drop()
    schema.ensure(world.azure, model)
    if attempt == 0:
        write(world.azure, grown(world.folder / "revisions"), "phone", ColumnChanges())


def run_migrate(world: World, attempt: int) -> None:
    migrate(world.azure, grown(world.folder / "revisions"), wait_seconds=20)


def check_migrate(world: World, attempt: int, before: Any) -> None:
    with world.azure.connect() as dialect:
        recorded = revisions.noted(dialect) == "0001"
        columns = sa.inspect(dialect.connection).get_columns("people")
    assert ("phone" in {column["name"] for column in columns}) is recorded


Step = Callable[[World, int], None]


@dataclass(frozen=True)
class Verb:
    """A verb: what comes before it, itself, what must be true after a kill, and the errors by which
    a second call says that it was done already.
    """

    prepare: Step
    run: Step
    check: Callable[[World, int, Any], None]
    done: tuple[type[Exception], ...] = ()


VERBS = {
    "sync": Verb(prepare_sync, run_sync, check_sync),
    "undo": Verb(prepare_undo, run_undo, check_undo, (Refused,)),
    "merge": Verb(prepare_merge, run_merge, check_merge),
    "recreate": Verb(prepare_recreate, run_recreate, check_recreate),
    "promote": Verb(prepare_promote, run_promote, check_promote),
    "failback": Verb(prepare_failback, run_failback, check_failback, (SettingsError,)),
    "migrate": Verb(prepare_migrate, run_migrate, check_migrate),
}


_PROGRAM = """
import sys
from pathlib import Path
from dbsync_pipeline_tests.test_verb_kills import VERBS, Database, World, sa
verb, attempt, folder, *urls = sys.argv[1:]
named = zip(("windows", "linux", "azure"), urls)
world = World(*(Database(name, sa.make_url(url)) for name, url in named), Path(folder))
print("ready", flush=True)
sys.stdin.readline()
VERBS[verb].run(world, int(attempt))
print("done", flush=True)
"""


@contextmanager
def process(world: World, verb: str, attempt: int) -> Iterator[subprocess.Popen[str]]:
    """A process that is about to execute the verb, and waits for a line."""
    urls = [
        database.url.render_as_string(hide_password=False)
        for database in (world.windows, world.linux, world.azure)
    ]
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, verb, str(attempt), str(world.folder), *urls],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ},
    ) as working:
        assert working.stdout is not None and working.stdout.readline() == "ready\n"
        yield working
        working.kill()


def go(working: subprocess.Popen[str]) -> None:
    assert working.stdin is not None
    working.stdin.write("go\n")
    working.stdin.flush()


def seconds_without_a_kill(world: World, verb: str) -> float:
    VERBS[verb].prepare(world, 0)
    with process(world, verb, 0) as working:
        started = time.monotonic()
        go(working)
        assert working.stdout is not None and working.stdout.readline() == "done\n"
        return time.monotonic() - started


def completed(world: World, verb: str, attempt: int) -> None:
    """A second call completes it, or says that it was done."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return VERBS[verb].run(world, attempt)
        except VERBS[verb].done:
            return
        except Exception as error:
            if "lock" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_killed_at_random_moments(world: World, verb: str) -> None:
    usual = seconds_without_a_kill(world, verb)
    for attempt in range(1, KILLS + 1):
        VERBS[verb].prepare(world, attempt)
        before = content(world.linux)
        delay = random.uniform(0, usual)
        with process(world, verb, attempt) as working:
            go(working)
            time.sleep(delay)
            working.send_signal(signal.SIGKILL)
            working.wait()
        print(f"{verb}: killed after {delay:.3f} of {usual:.3f} s")
        VERBS[verb].check(world, attempt, before)
        completed(world, verb, attempt)
    if verb in ("promote", "failback"):
        expected = "linux" if verb == "promote" else "windows"
        assert term.primary(world.settings) == expected
    else:
        sync(world.windows, world.linux, policy=ANYTHING)
    assert content(world.linux) == content(world.windows)
