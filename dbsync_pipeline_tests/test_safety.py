"""What keeps data safe when something goes wrong: rows that hide, triggers, killed processes, lost connections, endless locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.cli import app
from dbsync_pipeline.dialects.contract import Dialect, labelled
from dbsync_pipeline.errors import (
    Busy,
    DatabaseError,
    DbsyncError,
    Refused,
    StructureError,
    Unavailable,
)
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.settings import Settings
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.roles import Roles, administer, name, one
from dbsync_pipeline_tests.versions import since
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    SETTINGS,
    content,
    execute,
    message,
    prepare,
    session,
    small_world,
    sync,
    user,
)

ROOT = Path(__file__).parent.parent
PATIENCE = 60
"""Seconds that a sync may take besides those that it waits for locks: more than any needs, and less than for ever."""
Pair = tuple[Database, Database]
users, chats, messages, documents = (
    MODEL.table(table).sa for table in ("users", "chats", "messages", "documents")
)


@pytest.fixture(params=ENGINES)
def pair(request: pytest.FixtureRequest, new_database: NewDatabase) -> Pair:
    """A source with a small world, and a target that is equal to it."""
    return _synced(new_database, request.param)


@pytest.fixture(params=[engine for engine in ENGINES if engine != "sqlite"])
def any_servers(request: pytest.FixtureRequest, new_database: NewDatabase) -> Pair:
    """The same on servers, whatever they are."""
    return _synced(new_database, request.param)


@pytest.fixture
def postgresql_pair(new_database: NewDatabase) -> Pair:
    """The same on two PostgreSQL servers."""
    return _synced(new_database, "postgresql")


def _synced(new_database: NewDatabase, engine: str) -> Pair:
    source, target = (
        new_database(engine, "windows", server=0),
        new_database(engine, "linux", server=1),
    )
    prepare(source, small_world())
    sync(source, target)
    return source, target


@pytest.fixture
def files(new_database: NewDatabase) -> Pair:
    return _synced(new_database, "sqlite")


def run(one_session: Session) -> None:
    one_session.ensure_schema()
    for table in MODEL.names:
        one_session.copy(table)
    one_session.publish()


def free_after(source: Database, target: Database, seconds: float) -> float:
    """How long it takes until a sync gets the target's locks; fails when it is longer than `seconds`."""
    started = time.monotonic()
    while True:
        try:
            with session(source, target) as again:
                again.ensure_schema()
            return time.monotonic() - started
        except Busy:
            assert time.monotonic() - started < seconds, "the target's locks are held still"


# Rows that hide, triggers -----------------------------------------------------------------------------------------------


def _reader(source: Database, roles: Roles) -> Database:
    reader = roles.new(source)
    administer(
        source,
        f"GRANT USAGE ON SCHEMA public, dbsync TO {name(reader)}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public, dbsync TO {name(reader)}",
        f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {name(reader)}",
    )
    return reader


def _writer(target: Database, roles: Roles) -> Database:
    writer = roles.new(target)
    for schema in ("public", "dbsync"):
        administer(
            target,
            f"GRANT ALL ON SCHEMA {schema} TO {name(writer)}",
            f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {name(writer)}",
            f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {name(writer)}",
        )
    return writer


def test_row_security_that_may_hide_rows_of_the_source_is_refused_by_table(
    postgresql_pair: Pair, roles: Roles
) -> None:
    source, target = postgresql_pair
    reader = _reader(source, roles)
    before = content(target)
    administer(
        source,
        "ALTER TABLE chats ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY partly ON chats FOR SELECT USING (title <> 'Chat 7')",
        "UPDATE users SET name = 'new'",
    )
    with session(reader, target) as planning:
        _, findings = planning.plan()
    assert [(finding.guard, finding.table) for finding in findings] == [("hidden rows", "chats")]
    with pytest.raises(
        Refused, match=r"table chats: row-level security on windows may hide rows of chats"
    ):
        sync(reader, target, policy=ANYTHING)
    assert content(target) == before
    administer(source, f"ALTER ROLE {name(reader)} BYPASSRLS")
    assert sync(reader, target).tables["users"].updated == 20
    assert content(target) == content(source)


def test_row_security_of_the_target_is_refused_by_table(
    postgresql_pair: Pair, roles: Roles
) -> None:
    source, target = postgresql_pair
    writer = _writer(target, roles)
    administer(
        target,
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE users FORCE ROW LEVEL SECURITY",
    )
    with pytest.raises(
        Refused, match="table users: row-level security on linux may hide rows of users"
    ):
        sync(source, writer)
    assert sync(source, target).changed == 0, "a superuser sees and writes all rows"


def _trigger(database: Database, table: str = "users") -> None:
    """It would write to another table, which the application reads."""
    if database.engine_name == "sqlite":
        execute(
            database,
            "CREATE TABLE audit (what TEXT)",
            f"CREATE TRIGGER note_it AFTER INSERT ON {table} BEGIN INSERT INTO audit VALUES ('a row came'); END",
        )
        return
    if database.engine_name == "mssql":
        administer(
            database,
            "CREATE TABLE audit (what NVARCHAR(20))",
            f"CREATE TRIGGER note_it ON {table} AFTER INSERT, DELETE AS INSERT INTO audit VALUES ('a row came')",
        )
        return
    administer(
        database,
        "CREATE TABLE audit (what TEXT)",
        "CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN INSERT INTO audit VALUES ('a row came'); RETURN NULL; END $$",
        f"CREATE TRIGGER note_it AFTER INSERT OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION note_it()",
    )


def test_a_trigger_of_the_target_does_not_fire_during_a_sync_and_does_afterwards(
    any_servers: Pair,
) -> None:
    source, target = any_servers
    _trigger(target)
    execute(
        source,
        users.update().where(users.c.id < 5).values(name="new"),
        (users.insert(), [user(999)]),
    )
    assert sync(source, target).tables["users"].inserted == 1
    assert content(target) == content(source)
    assert one(target, "SELECT count(*) FROM audit") == 0
    execute(target, (users.insert(), [user(1000)]))
    assert one(target, "SELECT count(*) FROM audit") == 1


@pytest.mark.parametrize("fires", ["ALWAYS", "REPLICA"])
def test_a_trigger_that_fires_for_replicas_is_refused_by_name_or_does_not_fire(
    postgresql_pair: Pair, fires: str
) -> None:
    source, target = postgresql_pair
    _trigger(target)
    administer(
        target,
        f"ALTER TABLE users ENABLE {fires} TRIGGER note_it",
        "CREATE RULE also AS ON DELETE TO users DO ALSO INSERT INTO audit VALUES ('a row went')",
    )
    before = content(target)
    execute(source, users.update().where(users.c.id < 5).values(name="new"))
    with pytest.raises(StructureError, match="the trigger note_it of users cannot be suspended"):
        sync(source, target)
    assert content(target) == before
    administer(target, "DROP TRIGGER note_it ON users")
    sync(source, target)
    assert content(target) == content(source) and one(target, "SELECT count(*) FROM audit") == 0


def test_a_trigger_is_refused_by_name_where_the_role_cannot_hold_it_off(
    postgresql_pair: Pair, roles: Roles
) -> None:
    source, target = postgresql_pair
    writer = _writer(target, roles)
    _trigger(target)
    before = content(target)
    execute(source, users.update().where(users.c.id < 5).values(name="new"))
    with pytest.raises(StructureError, match="the trigger note_it of users cannot be suspended"):
        sync(source, writer)
    assert content(target) == before


@pytest.mark.parametrize("table", ["users", "USERS"])
def test_a_trigger_on_sqlite_is_refused_by_name(files: Pair, table: str) -> None:
    source, target = files
    _trigger(target, table)
    before = content(target)
    execute(source, users.update().where(users.c.id < 5).values(name="new"))
    with pytest.raises(StructureError, match=f"the trigger note_it of {table} cannot be suspended"):
        sync(source, target)
    assert content(target) == before


# What nobody has seen ---------------------------------------------------------------------------------------------------


def test_rows_in_a_table_that_no_publish_has_touched_are_not_overwritten_unseen(
    new_database: NewDatabase,
) -> None:
    source, target = new_database("sqlite", "windows"), new_database("sqlite", "linux")
    prepare(source, small_world())
    sync(source, target, ["users"])
    execute(target, (chats.insert(), [{**small_world()["chats"][0], "title": "precious"}]))
    with pytest.raises(Refused, match="rows of linux were written"):
        sync(source, target)
    sync(source, target, policy=ANYTHING)
    assert content(target) == content(source)


def test_the_undo_of_a_first_publish_can_itself_be_undone(pair: Pair) -> None:
    source, target = pair
    with target.connect() as dialect:
        first = Ledger(dialect).last()
    assert first is not None
    undo(target, MODEL, first.run_id, by="back", settings=SETTINGS)
    assert not any(content(target).values())
    undo(target, MODEL, "back", by="forth", settings=SETTINGS)
    assert content(target) == content(source)
    assert sync(source, target).changed == 0


def test_an_undo_that_overwrites_can_be_undone_to_what_it_overwrote(pair: Pair) -> None:
    source, target = pair
    execute(source, users.update().where(users.c.id < 5).values(name="new"))
    published = sync(source, target)
    execute(target, users.update().where(users.c.id == 2).values(name="precious"))
    before = content(target)
    undo(target, MODEL, published.run_id, by="back", settings=SETTINGS, overwrite=True)
    assert content(target) != before
    undo(target, MODEL, "back", by="forth", settings=SETTINGS)
    assert content(target) == before


# Killed, cut off, cancelled ---------------------------------------------------------------------------------------------

_PROGRAM = """
import sys, time
from dbsync_pipeline.mirror.sync.publishing import Publishing
from dbsync_pipeline_tests.test_safety import MODEL, Database, sa, session
source, target = (Database(name, sa.make_url(url)) for name, url in zip(("windows", "linux"), sys.argv[2:]))
one = session(source, target)
one.ensure_schema()
for table in MODEL.names:
    one.copy(table)
if sys.argv[1] == "published":
    Publishing.commit = lambda self: (print("ready", flush=True), time.sleep(600))
    one.publish()
print("ready", flush=True)
if sys.argv[1] == "computing":
    one.opened.target._run("SELECT pg_sleep(600)")
time.sleep(600)
"""


@contextmanager
def process(phase: str, source: Database, target: Database) -> Iterator[subprocess.Popen[str]]:
    """A process of its own in the middle of a sync, as far as `phase`."""
    urls = [database.url.render_as_string(hide_password=False) for database in (source, target)]
    started = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, phase, *urls],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ},
    )
    assert started.stdout is not None
    try:
        assert started.stdout.readline() == "ready\n"
        yield started
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


def test_killed_in_the_middle_of_a_publish_the_old_state_stays_and_the_locks_are_free(
    pair: Pair,
) -> None:
    source, target = pair
    before = content(target)
    execute(source, messages.update().values(content="new"), (users.insert(), [user(999)]))
    with process("published", source, target) as working:
        with pytest.raises(Busy), session(source, target) as second:
            second.ensure_schema()
        working.send_signal(signal.SIGKILL)
        working.wait()
        seconds = free_after(source, target, 10)
    print(f"{target.engine_name}, killed before its commit: free after {seconds:.2f} s")
    assert content(target) == before
    sync(source, target, policy=ANYTHING)
    assert content(target) == content(source)


@since(14)  # client_connection_check_interval
def test_killed_while_the_target_computes_the_locks_are_free_within_seconds(
    postgresql_pair: Pair,
) -> None:
    source, target = postgresql_pair
    with process("computing", source, target) as working:
        working.send_signal(signal.SIGKILL)
        working.wait()
        seconds = free_after(source, target, 20)
    print(f"killed while the target computed: free after {seconds:.2f} s")


LABEL = "application_name LIKE 'dbsync run %' AND datname = current_database()"


def _large(source: Database) -> None:
    administer(
        source,
        "INSERT INTO messages (id, chat_id, role, content, created_at) SELECT 100000 + n, (SELECT id FROM chats LIMIT 1), 'user', "
        "repeat(md5(n::text), 12), now() FROM generate_series(1, 120000) n",
    )


def _terminate_during_a_copy(database: Database, done: threading.Event) -> None:
    """Ends the server process of the mirror as soon as a COPY has moved some rows."""
    with database.engine().connect() as connection:
        while not done.is_set():
            ended = connection.scalar(
                sa.text(
                    f"SELECT pg_terminate_backend(pid) FROM pg_stat_progress_copy JOIN pg_stat_activity USING (pid, datname) "
                    f"WHERE {LABEL} AND bytes_processed > 1000000"
                )
            )
            connection.rollback()
            if ended:
                done.set()


@since(14)  # pg_stat_progress_copy
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_server_process_that_ends_during_a_copy_leaves_the_old_state_and_free_locks(
    postgresql_pair: Pair, side: str
) -> None:
    source, target = postgresql_pair
    before = content(target)
    _large(source)
    ended = threading.Event()
    watching = threading.Thread(
        target=_terminate_during_a_copy,
        args=(source if side == "source" else target, ended),
        daemon=True,
    )
    watching.start()
    database = "windows" if side == "source" else "linux"
    with (
        pytest.raises(Unavailable, match=f"database {database}"),
        session(source, target) as cut_off,
    ):
        run(cut_off)
    assert ended.wait(10)  # the thread that ended it may note it after the sync has failed
    seconds = free_after(source, target, 10)
    print(f"{side}'s server process ended during a copy: free after {seconds:.2f} s")
    assert content(target) == before


def test_a_cancelled_sync_ends_at_once_with_the_locks_free(postgresql_pair: Pair) -> None:
    source, target = postgresql_pair
    before = content(target)
    with session(source, target, settings=Settings(lock_seconds=60)) as waiting:
        waiting.ensure_schema()
        for table in MODEL.names:
            waiting.copy(table)
        blocker = target.engine().connect()
        blocker.execute(sa.text("LOCK TABLE dbsync.facts IN EXCLUSIVE MODE"))
        took = _cancelled(waiting, waiting.publish)
    blocker.close()
    print(
        f"postgresql: cancelled after {took:.2f} s, free after {free_after(source, target, 10):.2f} s"
    )
    assert took < 10 and content(target) == before


def test_a_cancelled_sync_of_sqlite_ends_at_once_with_the_locks_free(
    new_database: NewDatabase,
) -> None:
    source, target = new_database("sqlite", "windows"), new_database("sqlite", "linux")
    prepare(
        source, {**small_world(), "messages": [message(n, 1, tokens=1) for n in range(1, 60_000)]}
    )
    with session(source, target) as working:
        working.ensure_schema()
        for table in MODEL.names:
            working.copy(table)
        took = _cancelled(working, working.publish)
    print(
        f"sqlite: cancelled after {took:.2f} s, free after {free_after(source, target, 10):.2f} s"
    )
    assert took < 10 and not any(content(target).values())


def _cancelled(working: Session, step: Callable[[], Any]) -> float:
    """Seconds from the first call of cancel to the end of the step, which fails; as the watcher of a run calls it, again and again."""
    began: list[float] = []
    ended = threading.Event()

    def cancel() -> None:
        time.sleep(0.2)
        began.append(time.monotonic())
        while not ended.wait(0.02):
            working.cancel()

    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    try:
        with pytest.raises(DatabaseError):
            step()
        took = time.monotonic() - began[0]
    finally:
        ended.set()
        cancelling.join()
    return took


def test_cancelling_what_has_ended_does_nothing(pair: Pair) -> None:
    source, target = pair
    with session(source, target) as ended:
        run(ended)
        ended.cancel()
    ended.cancel()


# Writers and locks ------------------------------------------------------------------------------------------------------


def test_a_writer_that_hammers_the_source_never_yields_a_mixture(pair: Pair) -> None:
    """Each of its transactions moves tokens from a message to the size of a document: the sum of both tables stays."""
    source, target = pair
    total = _sum(source)
    stop = threading.Event()
    written = 0

    def hammer() -> None:
        nonlocal written
        engine = source.engine()
        while not stop.is_set():
            written += 1
            with engine.begin() as connection:
                number = 1 + written % 200
                connection.execute(
                    messages.update()
                    .where(messages.c.id == number)
                    .values(tokens=messages.c.tokens - 1)
                )
                connection.execute(
                    documents.update()
                    .where(documents.c.filename == f"{written % 20}.bin")
                    .values(size_bytes=documents.c.size_bytes + 1)
                )

    writer = threading.Thread(target=hammer)
    writer.start()
    changed = 0
    try:
        for _ in range(10):
            changed += sync(source, target).changed
            assert _sum(target) == total
    finally:
        stop.set()
        writer.join()
    print(
        f"{source.engine_name}: {written} transactions during ten syncs, which moved {changed} rows"
    )
    assert changed > 0
    sync(source, target)
    assert content(target) == content(source)


def _sum(database: Database) -> int:
    both = sa.select(
        sa.select(sa.func.sum(messages.c.tokens)).scalar_subquery()
        + sa.select(sa.func.sum(documents.c.size_bytes)).scalar_subquery()
    )
    with database.engine().connect() as connection:
        return int(connection.scalar(both) or 0)


def test_a_lock_holder_that_never_ends_is_named_within_the_time_that_a_sync_waits(
    postgresql_pair: Pair,
) -> None:
    source, target = postgresql_pair
    with labelled("the nightly report"):
        holder = target.engine().connect()
    holder.execute(users.update().where(users.c.id == 1).values(name="held"))
    started = time.monotonic()
    with pytest.raises(Busy, match="the nightly report"):
        sync(source, target)
    took = time.monotonic() - started
    holder.close()
    print(
        f"a lock holder was named after {took:.2f} s, of which {SETTINGS.lock_seconds} are for waiting"
    )
    assert took < SETTINGS.lock_seconds + PATIENCE
    sync(source, target)


def test_a_lock_on_the_source_that_never_ends_does_not_hold_the_target_forever(
    any_servers: Pair,
) -> None:
    source, target = any_servers
    holder = source.engine().connect()
    holder.execute(sa.text("ALTER TABLE messages ADD more INTEGER"))
    started = time.monotonic()
    with pytest.raises(Busy, match="database windows"):
        sync(source, target)
    assert time.monotonic() - started < SETTINGS.lock_seconds + PATIENCE
    holder.close()
    sync(source, target)


def test_a_lock_on_the_sources_ledger_does_not_hold_the_target_forever(any_servers: Pair) -> None:
    source, target = any_servers
    holder = source.engine().connect()
    holder.execute(sa.text("UPDATE dbsync.facts SET value = value"))
    execute(source, users.update().where(users.c.id == 1).values(name="new"))
    started = time.monotonic()
    publication = sync(source, target)
    assert time.monotonic() - started < SETTINGS.lock_seconds + PATIENCE
    assert not publication.numbered, (
        "the number is the target's own where the source cannot be written"
    )
    holder.close()
    execute(source, users.update().where(users.c.id == 1).values(name="newer"))
    assert sync(source, target).numbered, "and the source is not taken for an older one"


@pytest.mark.parametrize(
    "pair", [engine for engine in ENGINES if engine != "postgresql"], indirect=True
)  # which names the holder
def test_somebody_who_writes_to_the_target_and_never_ends(pair: Pair) -> None:
    source, target = pair
    holder = target.engine().connect()
    holder.execute(users.update().where(users.c.id == 1).values(name="held"))
    started = time.monotonic()
    with pytest.raises(Busy, match="database linux"):
        sync(source, target)
    assert time.monotonic() - started < SETTINGS.lock_seconds + PATIENCE
    holder.close()
    sync(source, target)


# A commit whose answer is lost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
def test_after_a_commit_whose_answer_is_lost_the_ledger_says_whether_it_was_made(
    pair: Pair, made: bool
) -> None:
    source, target = pair
    before = content(target)
    execute(source, users.update().where(users.c.id < 5).values(name="new"))
    with session(source, target) as cut_off:
        cut_off.ensure_schema()
        for table in MODEL.names:
            cut_off.copy(table)
        commit = cut_off.opened.target.commit

        def lost() -> None:
            if made:
                commit()
            cut_off.opened.target.connection.invalidate()
            raise Unavailable("the connection was lost", database="linux")

        cut_off.opened.target.commit = lost  # type: ignore[method-assign]
        if made:
            assert cut_off.publish().tables["users"].updated == 4
        else:
            with pytest.raises(Unavailable):
                cut_off.publish()
    assert content(target) == (content(source) if made else before)
    assert sync(source, target).changed == (0 if made else 4)


def test_a_server_process_that_ends_right_after_the_commit(any_servers: Pair) -> None:
    source, target = any_servers
    execute(source, users.update().where(users.c.id < 5).values(name="new"))
    with session(source, target) as cut_off:
        cut_off.ensure_schema()
        for table in MODEL.names:
            cut_off.copy(table)
        commit = cut_off.opened.target.commit

        def then_ended() -> None:
            number = _number(cut_off.opened.target)
            commit()
            administer(target, _END[target.engine_name].format(number))
            cut_off.opened.target._run("SELECT 1")  # type: ignore[attr-defined]

        cut_off.opened.target.commit = _translating(cut_off, then_ended)  # type: ignore[method-assign]
        assert cut_off.publish().tables["users"].updated == 4
    assert content(target) == content(source)


_END = {"postgresql": "SELECT pg_terminate_backend({})", "mssql": "KILL {}"}


def _number(dialect: Dialect) -> int:
    """By which the server knows this session."""
    asked = "SELECT @@spid" if dialect.engine_name == "mssql" else "SELECT pg_backend_pid()"
    return int(dialect.connection.exec_driver_sql(asked).scalar_one())


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_server_process_that_ends_between_two_copies_leaves_the_old_state_and_free_locks(
    any_servers: Pair, side: str
) -> None:
    source, target = any_servers
    before = content(target)
    execute(source, users.update().where(users.c.id < 5).values(name="new"))
    database = source if side == "source" else target
    with (
        pytest.raises(Unavailable, match=f"database {database.name}"),
        session(source, target) as cut_off,
    ):
        cut_off.ensure_schema()
        cut_off.copy("users")
        administer(
            database,
            _END[database.engine_name].format(
                _number(cut_off.opened.source if side == "source" else cut_off.opened.target)
            ),
        )
        for table in MODEL.names[1:]:  # nothing is asked about a table that nobody wrote to
            cut_off.copy(table)
        cut_off.publish()
    free_after(source, target, 10)
    assert content(target) == before
    assert sync(source, target).changed == 4


def _translating(cut_off: Session, act: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        with cut_off.opened.target.doing("commit"):
            act()

    return call


# The command line -------------------------------------------------------------------------------------------------------


def test_fault_with_no_target_reachable_the_command_line_reported_success(
    files: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, _ = files
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("DBSYNC_WINDOWS_URL", source.url.render_as_string(hide_password=False))
    for target in ("LINUX", "AZURE"):
        monkeypatch.setenv(f"DBSYNC_{target}_URL", f"postgresql://app@127.0.0.1:1/{target}")
    monkeypatch.setattr(sys, "argv", ["dbsync", "sync"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    for target in ("linux", "azure"):
        assert f"{target}: not published" in said
    assert (
        "nothing answers at that address" in said and "Remedy" in said and "Traceback" not in said
    )


def test_every_error_of_a_driver_comes_out_as_the_projects_own(any_servers: Pair) -> None:
    source, target = any_servers
    administer(target, "DROP TABLE dbsync.digests")
    with pytest.raises(DbsyncError, match="database linux") as refused:
        sync(source, target)
    assert refused.value.__cause__ is None
