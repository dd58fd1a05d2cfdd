"""The reply to COMMIT is lost, for every verb that commits: it says committed, not committed or unknown.

Each verb reaches one of its databases through a proxy that acts on the COMMIT after a chosen statement. Unknown is settled
by the next call.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dbsync_pipeline.errors import DbsyncError, OutcomeUnknown, Unavailable
from dbsync_pipeline.mirror import differences, pausing, schema
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.failover.failback import failback
from dbsync_pipeline.mirror.failover.promote import promote
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.migrate.apply import migrate
from dbsync_pipeline.mirror.migrate.autogenerate import ColumnChanges
from dbsync_pipeline.mirror.migrate.write import write
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.merge import merge
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.settings import DatabaseSetting, Settings
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.proxy import (
    TO_SERVER,
    Action,
    Connection,
    Proxy,
    cut,
    cut_and_refuse,
    proxy_to,
)
from dbsync_pipeline_tests.test_outcome import lose_client
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

SILENCE = 3
"""Seconds, in place of the usual 60."""

users = MODEL.table("users").sa


@dataclass(frozen=True)
class World:
    """Three databases, of which windows is the primary, as one caller reaches them."""

    windows: Database
    linux: Database
    azure: Database
    folder: Path

    @property
    def settings(self) -> Settings:
        places = tuple(
            DatabaseSetting(
                name=one.name, url=SecretStr(one.url.render_as_string(hide_password=False))
            )
            for one in (self.windows, self.linux, self.azure)
        )
        return Settings(
            lock_seconds=10, silence_seconds=SILENCE, connect_seconds=10, databases=places
        )

    def named(self, name: str) -> Database:
        return next(one for one in databases(self.settings) if one.name == name)

    def through(self, proxy: Proxy, name: str) -> World:
        there: Database = getattr(self, name)
        return replace(self, **{name: replace(there, url=proxy.url, silence_seconds=SILENCE)})


@pytest.fixture
def world(new_database: NewDatabase, tmp_path: Path) -> World:
    made = (
        new_database("postgresql", name, server=n % 2)
        for n, name in enumerate(("windows", "linux", "azure"))
    )
    whole = World(*made, tmp_path)
    prepare(whole.windows, small_world(5))
    for standby in (whole.linux, whole.azure):
        sync(whole.windows, standby, round_id="first")
    return whole


@dataclass(frozen=True)
class Verb:
    """A verb: the database that the proxy is in front of, the statement before the COMMIT that is lost, what comes
    before the verb, itself, and whether it happened.
    """

    behind: str
    statement: bytes
    prepare: Callable[[World], object]
    run: Callable[[World], object]
    happened: Callable[[World], bool]
    done_says: str = ""
    """What a second call says where the first one happened, if it is an error."""


def nothing(world: World) -> None:
    """Nothing comes before the verb."""


def published(name: str, run_id: str) -> Callable[[World], bool]:
    def is_recorded(world: World) -> bool:
        with world.named(name).connect() as dialect:
            return Ledger(dialect).of_run(run_id) is not None

    return is_recorded


def confirmed(name: str, run_id: str) -> Callable[[World], bool]:
    def is_recorded(world: World) -> bool:
        with world.named(name).connect() as dialect:
            return Ledger(dialect).is_confirmed_by(run_id)

    return is_recorded


def change(world: World) -> None:
    execute(world.windows, users.update().where(users.c.id == 1).values(name="new"))


def changed_and_synced(world: World) -> None:
    change(world)
    sync(world.windows, world.linux, run_id="first")


def only_here(world: World) -> None:
    """A row that only the standby has goes into its rescue tables."""
    execute(world.linux, users.insert().values(user(900)))
    sync(world.windows, world.linux, run_id="first", policy=ANYTHING)


def is_merged(world: World) -> bool:
    return len(content(world.linux)["users"]) == 6


def linux_leads(world: World) -> None:
    promote(world.settings, "linux")
    execute(world.linux, users.insert().values(user(901)))


def has_term(name: str) -> Callable[[World], bool]:
    return lambda world: term.read_term(world.named(name)) is not None


def fail_back(world: World) -> None:
    failback(world.settings, MODEL, uuid.uuid4().hex, policy=ANYTHING)


def windows_leads(world: World) -> bool:
    return term.standing(databases(world.settings), world.settings).primary == "windows"


def windows_has_row(world: World) -> bool:
    return len(content(world.windows)["users"]) == 6


def model_with(world: World) -> Model:
    return Model(MODEL.metadata, world.folder)


def without_column(world: World) -> None:
    schema.recreate(world.linux, MODEL)  # its ledger says nothing of the column
    execute(world.linux, "ALTER TABLE users DROP COLUMN preferences")
    write(world.linux, model_with(world), "preferences", ColumnChanges())


def is_migrated(world: World) -> bool:
    with world.named("linux").connect() as dialect:
        columns = {column["name"] for column in sa.inspect(dialect.connection).get_columns("users")}
        assert ("preferences" in columns) is (revisions.noted(dialect) == "0001")
    return "preferences" in columns


def tables_of_linux(world: World) -> set[str]:
    with world.named("linux").connect() as dialect:
        return set(MODEL.names) - set(differences.missing(dialect, MODEL))


VERBS = {
    "sync": Verb(
        "linux",
        b"INSERT INTO dbsync.publishes",
        change,
        lambda world: sync(world.named("windows"), world.named("linux"), run_id="lost"),
        published("linux", "lost"),
        "run_id",
    ),
    "sync that confirms": Verb(
        "linux",
        b'"run_id": "lost"',
        nothing,
        lambda world: sync(world.named("windows"), world.named("linux"), run_id="lost"),
        confirmed("linux", "lost"),
    ),
    "undo": Verb(
        "linux",
        b"INSERT INTO dbsync.publishes",
        changed_and_synced,
        lambda world: undo(
            world.named("linux"), MODEL, "first", by="lost", settings=world.settings
        ),
        published("linux", "lost"),
        "already undone",
    ),
    "merge": Verb(
        "linux",
        b"INSERT INTO users",
        only_here,
        lambda world: merge(world.named("linux"), MODEL, "first"),
        is_merged,
    ),
    "promote, the primary's own record": Verb(
        "linux",
        b"INSERT INTO dbsync.facts",
        nothing,
        lambda world: promote(world.settings, "linux"),
        has_term("linux"),
    ),
    "failback, the publish": Verb(
        "windows",
        b"INSERT INTO dbsync.publishes",
        linux_leads,
        fail_back,
        windows_has_row,
    ),
    "failback, the handing over": Verb(
        "linux",
        b"INSERT INTO dbsync.publishes",
        linux_leads,
        fail_back,
        windows_leads,
        "already the primary",
    ),
    "migrate": Verb(
        "linux",
        b"ALTER TABLE",
        without_column,
        lambda world: migrate(world.named("linux"), model_with(world), wait_seconds=10),
        is_migrated,
    ),
    "recreate, the drop": Verb(
        "linux",
        b"DROP TABLE",
        nothing,
        lambda world: schema.recreate(world.named("linux"), MODEL),
        lambda world: len(content(world.linux)["users"]) == 0 if tables_of_linux(world) else True,
    ),
    "recreate, the creation": Verb(
        "linux",
        b"CREATE TABLE users",
        nothing,
        lambda world: schema.recreate(world.named("linux"), MODEL),
        lambda world: bool(tables_of_linux(world)),
    ),
    "pause": Verb(
        "linux",
        b"INSERT INTO dbsync.facts",
        nothing,
        lambda world: pausing.pause(world.named("linux"), "lost"),
        lambda world: pausing.paused(world.linux) == "lost",
    ),
}


def lose_reply(proxy: Proxy, verb: Verb, action: Action, *, made: bool) -> None:
    """Act on the COMMIT that follows the verb's statement: after it was forwarded if it is to be made."""

    def arm(_connection: Connection) -> None:
        if made:
            proxy.after(b"COMMIT", TO_SERVER, action)
        else:
            proxy.before(b"COMMIT", TO_SERVER, action)

    proxy.after(verb.statement, TO_SERVER, arm)


def again(world: World, verb: Verb, happened: bool) -> None:
    """The next call, straight to the servers, which settles what was unknown."""
    try:
        verb.run(world)
    except (DbsyncError, sa.exc.IntegrityError) as error:
        assert happened and verb.done_says and verb.done_says in str(error)
    assert verb.happened(world)


@pytest.mark.parametrize("name", VERBS)
def test_the_verb_waits_for_its_server_and_says_that_it_was_committed(
    world: World, name: str
) -> None:
    verb = VERBS[name]
    verb.prepare(world)
    with proxy_to(getattr(world, verb.behind).url) as proxy:
        lose_reply(proxy, verb, cut_and_refuse(1.5), made=True)
        verb.run(world.through(proxy, verb.behind))
    assert verb.happened(world)


@pytest.mark.parametrize("name", VERBS)
def test_the_verb_says_that_it_was_not_committed_and_stays_so(world: World, name: str) -> None:
    """Its COMMIT was on its way, and would have arrived two seconds later."""
    verb = VERBS[name]
    verb.prepare(world)
    with proxy_to(getattr(world, verb.behind).url) as proxy:
        lose_reply(proxy, verb, lose_client, made=False)
        with pytest.raises(Unavailable) as failed:
            verb.run(world.through(proxy, verb.behind))
        assert not isinstance(failed.value, OutcomeUnknown)
        time.sleep(3)
    assert not verb.happened(world)
    again(world, verb, happened=False)


@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
@pytest.mark.parametrize("name", VERBS)
def test_the_verb_says_that_its_outcome_is_unknown_and_the_next_call_settles_it(
    world: World, name: str, made: bool
) -> None:
    verb = VERBS[name]
    verb.prepare(world)
    with proxy_to(getattr(world, verb.behind).url) as proxy:
        lose_reply(proxy, verb, cut_and_refuse(60), made=made)
        with pytest.raises(OutcomeUnknown, match=f"database {verb.behind}.*unknown"):
            verb.run(world.through(proxy, verb.behind))
    assert verb.happened(world) is made
    again(world, verb, happened=made)


# The number of a publish, which the source records before the target has it -----------------------

NUMBER = Verb(
    "windows",
    b"UPDATE dbsync.facts",
    change,
    VERBS["sync"].run,
    published("linux", "lost"),
)


def number_of(world: World) -> int:
    """The highest number that the source has recorded; the standbys' first publishes are 1 and 2."""
    with world.windows.connect() as dialect:
        return Ledger(dialect).number()


def test_a_number_that_was_recorded_is_used_and_not_reserved_again(world: World) -> None:
    change(world)
    with proxy_to(world.windows.url) as proxy:
        lose_reply(proxy, NUMBER, cut, made=True)
        through = world.through(proxy, "windows")
        publish = sync(through.named("windows"), through.named("linux"), run_id="lost")
    assert publish.numbered and publish.number == number_of(world) == 3
    assert NUMBER.happened(world)


def test_a_number_that_was_not_recorded_publishes_nothing(world: World) -> None:
    change(world)
    before = content(world.linux)
    with proxy_to(world.windows.url) as proxy:
        lose_reply(proxy, NUMBER, lose_client, made=False)
        with pytest.raises(Unavailable):
            NUMBER.run(world.through(proxy, "windows"))
        time.sleep(3)
    assert number_of(world) == 2 and content(world.linux) == before
    again(world, NUMBER, happened=False)


@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
def test_a_number_of_which_nobody_knows_publishes_nothing_and_says_so(
    world: World, made: bool
) -> None:
    change(world)
    before = content(world.linux)
    with proxy_to(world.windows.url) as proxy:
        lose_reply(proxy, NUMBER, cut_and_refuse(60), made=made)
        with pytest.raises(Unavailable, match=r"windows.*nothing was published") as failed:
            NUMBER.run(world.through(proxy, "windows"))
        assert not isinstance(failed.value, OutcomeUnknown), "that nothing was published is known"
    assert content(world.linux) == before
    assert number_of(world) == (3 if made else 2)
    again(world, NUMBER, happened=False)
    assert number_of(world) == (4 if made else 3)
    assert content(world.linux) == content(world.windows)


# A vote --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
def test_a_vote_of_which_nobody_knows_is_missing_and_is_recorded_by_the_next_call(
    world: World, made: bool
) -> None:
    """The other two are a majority; the next call lets the third record the term, if it has not."""
    with proxy_to(world.windows.url) as proxy:
        vote = replace(VERBS["promote, the primary's own record"], behind="windows")
        lose_reply(proxy, vote, cut_and_refuse(60), made=made)
        promotion = promote(world.through(proxy, "windows").settings, "linux")
    assert set(promotion.missing) == {"windows"} and "unknown" in promotion.missing["windows"]
    assert has_term("windows")(world) is made
    assert promote(world.settings, "linux").missing == {}
    assert {term.read_term(one) for one in (world.windows, world.linux, world.azure)} == {
        promotion.term
    }
