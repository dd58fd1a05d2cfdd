"""The least rights of docs/security.md: a sync runs under exactly these, and without any single one of them it says what is missing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from dbsync_pipeline.errors import Busy, DatabaseError, DbsyncError, Unavailable
from dbsync_pipeline.mirror import pausing, schema, verify
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.rescue.read import rescued_rows
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.roles import Roles, administer, name, one
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    SETTINGS,
    content,
    execute,
    prepare,
    session,
    small_world,
    sync,
    user,
)

ROOT = Path(__file__).parent.parent
TABLES = ", ".join(MODEL.names)
SEQUENCES = "users_id_seq, messages_id_seq"
users, messages = (MODEL.table(table).sa for table in ("users", "messages"))

STANDBY = (
    ("CONNECT", "DATABASE {database}"),
    ("TEMPORARY", "DATABASE {database}"),
    ("USAGE", "SCHEMA public"),
    ("SELECT", f"TABLE {TABLES}"),
    ("INSERT", f"TABLE {TABLES}"),
    ("DELETE", f"TABLE {TABLES}"),
    ("SELECT", f"SEQUENCE {SEQUENCES}"),
    ("UPDATE", f"SEQUENCE {SEQUENCES}"),
    ("USAGE", "SCHEMA dbsync"),
    ("CREATE", "SCHEMA dbsync"),
)
"""A standby's role that is not the owner of the tables; the ledger it makes, and owns, itself."""

LEDGER = (
    (
        "SELECT",
        "TABLE dbsync.facts, dbsync.publishes, dbsync.digests, dbsync.rescues, dbsync.stamps",
    ),
    (
        "INSERT",
        "TABLE dbsync.facts, dbsync.publishes, dbsync.digests, dbsync.rescues, dbsync.stamps",
    ),
    ("DELETE", "TABLE dbsync.facts, dbsync.digests, dbsync.rescues, dbsync.stamps"),
)
"""And where an administrator made the ledger."""

READ_ONLY = (
    ("CONNECT", "DATABASE {database}"),
    ("USAGE", "SCHEMA public"),
    ("SELECT", f"TABLE {TABLES}"),
    ("SELECT", f"SEQUENCE {SEQUENCES}"),
)
"""A source that has no ledger."""

READ_ONLY_LEDGER = (("USAGE", "SCHEMA dbsync"), ("SELECT", "TABLE dbsync.facts, dbsync.publishes"))
"""And where it has one."""

NUMBERING = (("INSERT", "TABLE dbsync.facts"), ("UPDATE", "TABLE dbsync.facts"))
"""And where it notes the numbers of its publishes."""

Grant = tuple[str, str]


def give(database: Database, role: Database, grants: Sequence[Grant]) -> None:
    for right, thing in grants:
        administer(
            database,
            f"GRANT {right} ON {thing.format(database=database.url.database)} TO {name(role)}",
        )


def take(database: Database, role: Database, grant: Grant) -> None:
    right, thing = grant
    administer(
        database,
        f"REVOKE {right} ON {thing.format(database=database.url.database)} FROM {name(role)}",
    )


def bare(database: Database, roles: Roles) -> Database:
    """A new role, in a database that gives nothing to everybody."""
    administer(
        database,
        f"REVOKE ALL ON DATABASE {database.url.database} FROM PUBLIC",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
    )
    return roles.new(database)


@pytest.fixture
def places(new_database: NewDatabase) -> tuple[Database, Database]:
    """A source with a small world and a ledger; a standby whose tables an administrator made, and a schema `dbsync` with nothing in it."""
    source, target = (
        new_database("postgresql", "windows", server=0),
        new_database("postgresql", "linux", server=1),
    )
    prepare(source, small_world())
    schema.ensure(target, MODEL)
    administer(target, "DROP SCHEMA dbsync CASCADE", "CREATE SCHEMA dbsync")
    return source, target


_versions = iter(range(10**6))


def change(source: Database) -> None:
    """Rows to insert, update and delete, and a counter that has moved on."""
    number = 5000 + next(_versions)
    execute(
        source,
        users.update().where(users.c.id == 1).values(name=f"version {number}"),
        users.delete().where(users.c.id >= 5000),
        (users.insert(), [user(number)]),
        f"SELECT setval('users_id_seq', {number})",
    )


def says(error: DbsyncError, database: str) -> None:
    """The refusal names the database and the right, and where to look."""
    text = str(error)
    assert f"database {database}" in text and "docs/security.md" in text
    assert "permission denied" in text or "may not connect" in text or "must be owner" in text


# Standbys -----------------------------------------------------------------------------------------------------------------


def test_a_standby_is_synced_undone_and_verified_under_its_least_rights(
    places: tuple[Database, Database],
    roles: Roles,
) -> None:
    source, target = places
    standby = bare(target, roles)
    give(target, standby, STANDBY)
    sync(source, standby)
    assert content(target) == content(source)
    before = content(target)
    change(source)
    second = sync(source, standby)
    assert content(target) == content(source)
    undo(standby, MODEL, second.run_id, by="back", settings=SETTINGS)
    assert content(target) == before
    assert len(dict(rescued_rows(standby, MODEL, second.run_id))["users"]) == 1
    assert pausing.resume(standby)
    sync(source, standby)
    assert all(verdict.equal for verdict in verify.verify(source, standby, MODEL))
    with session(source, standby) as planning:
        assert planning.plan()[1] == ()


def test_a_standby_without_one_of_its_rights_is_refused_and_the_right_named(
    places: tuple[Database, Database],
    roles: Roles,
) -> None:
    source, target = places
    standby = bare(target, roles)
    give(target, standby, STANDBY)
    sync(source, standby)
    for grant in reversed(STANDBY):  # CREATE first, before there is any rescue table
        change(source)
        before = content(target)
        take(target, standby, grant)
        with pytest.raises((DatabaseError, Unavailable)) as refused:
            sync(source, standby)
        says(refused.value, "linux")
        assert content(target) == before, grant
        give(target, standby, [grant])
    sync(source, standby)
    assert content(target) == content(source)


def test_a_ledger_that_an_administrator_made_needs_these_rights_each(
    places: tuple[Database, Database],
    roles: Roles,
) -> None:
    source, target = places
    schema.ensure(target, MODEL)
    standby = bare(target, roles)
    give(target, standby, [*STANDBY, *LEDGER])
    sync(source, standby)
    change(source)
    run = sync(source, standby)
    undo(standby, MODEL, run.run_id, by="back", settings=SETTINGS)
    pausing.resume(standby)
    sync(source, standby)
    for grant in LEDGER:
        change(source)
        take(target, standby, grant)
        with pytest.raises(DatabaseError) as refused:
            if grant[0] == "DELETE":  # of what is too old to be kept
                sync(source, standby, settings=SETTINGS.model_copy(update={"rescue_mb": 0}))
            else:
                sync(source, standby)
        says(refused.value, "linux")
        give(target, standby, [grant])
    sync(source, standby)


def test_an_owner_creates_its_tables_and_needs_no_right_to_create_schemas(
    new_database: NewDatabase,
    roles: Roles,
) -> None:
    source, target = (
        new_database("postgresql", "windows", server=0),
        new_database("postgresql", "linux", server=1),
    )
    prepare(source, small_world())
    owner = bare(target, roles)
    give(
        target,
        owner,
        [
            ("CONNECT", "DATABASE {database}"),
            ("TEMPORARY", "DATABASE {database}"),
            ("USAGE, CREATE", "SCHEMA public"),
        ],
    )
    with pytest.raises(DatabaseError, match="permission denied for database") as refused:
        sync(source, owner)
    says(refused.value, "linux")
    administer(target, f"CREATE SCHEMA dbsync AUTHORIZATION {name(owner)}")
    sync(source, owner)
    change(source)
    run = sync(source, owner)
    assert content(target) == content(source)
    undo(owner, MODEL, run.run_id, by="back", settings=SETTINGS)
    schema.recreate(owner, MODEL)
    assert not any(content(target).values())


def test_triggers_are_held_off_by_a_role_that_may_set_session_replication_role(
    places: tuple[Database, Database],
    roles: Roles,
) -> None:
    source, target = places
    standby = bare(target, roles)
    give(target, standby, STANDBY)
    sync(source, standby)
    administer(
        target,
        "CREATE TABLE audit (what TEXT)",
        "CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES ('x'); RETURN NEW; END $$",
        "CREATE TRIGGER note_it BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION note_it()",
    )
    change(source)
    with pytest.raises(
        DbsyncError, match=r"the trigger note_it of users .*\n?.*GRANT SET ON PARAMETER"
    ):
        sync(source, standby)
    if int(str(one(target, "SHOW server_version_num"))) >= 150_000:
        administer(target, f"GRANT SET ON PARAMETER session_replication_role TO {name(standby)}")
        sync(source, standby)
        assert content(target) == content(source) and one(target, "SELECT count(*) FROM audit") == 0


def test_a_holder_of_the_lock_under_another_role_is_named(
    places: tuple[Database, Database],
    roles: Roles,
) -> None:
    source, target = places
    standby = bare(target, roles)
    give(target, standby, STANDBY)
    sync(source, standby)
    with session(source, target, run_id="the-administrators") as holding:
        holding.ensure_schema()
        with pytest.raises(Busy, match="the-administrators"):
            sync(source, standby)


# Sources ------------------------------------------------------------------------------------------------------------------


def test_a_source_that_notes_its_numbers_runs_under_its_least_rights(
    places: tuple[Database, Database],
    roles: Roles,
) -> None:
    source, target = places
    primary = bare(source, roles)
    rights = [*READ_ONLY, *READ_ONLY_LEDGER]
    give(source, primary, [*rights, *NUMBERING])
    for grant in NUMBERING:
        take(source, primary, grant)
        change(source)
        assert not sync(primary, target).numbered, "the number is then the target's own"
        give(source, primary, [grant])
    change(source)
    assert sync(primary, target).numbered
    assert content(target) == content(source)
    for grant in rights:
        change(source)
        take(source, primary, grant)
        with pytest.raises((DatabaseError, Unavailable)) as refused:
            sync(primary, target)
        says(refused.value, "windows")
        give(source, primary, [grant])
    assert sync(primary, target, policy=ANYTHING).numbered


def test_a_read_only_source_runs_under_its_least_rights_and_its_guard_is_off(
    places: tuple[Database, Database],
    roles: Roles,
) -> None:
    source, target = places
    administer(source, "DROP SCHEMA dbsync CASCADE")
    reader = bare(source, roles)
    give(source, reader, READ_ONLY)
    assert not sync(reader, target).numbered
    for grant in READ_ONLY:
        change(source)
        take(source, reader, grant)
        with pytest.raises((DatabaseError, Unavailable)) as refused:
            sync(reader, target)
        says(refused.value, "windows")
        give(source, reader, [grant])
    administer(source, f"ALTER ROLE {name(reader)} SET default_transaction_read_only = on")
    assert sync(reader, target).tables["users"].updated == 1
    assert content(target) == content(source)


# The page -----------------------------------------------------------------------------------------------------------------


def test_the_page_on_security_lists_exactly_these_grants() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    for grants in (STANDBY, LEDGER, READ_ONLY, READ_ONLY_LEDGER, NUMBERING):
        for right, thing in grants:
            kind, _, names = thing.partition(" ")
            assert any(
                line.startswith("GRANT ")
                and right in line
                and f" ON {kind} " in line
                and names.split(",")[0].strip() in line
                for line in page.replace("application", "{database}").splitlines()
            ), f"{right} on {thing} is not in docs/security.md"


# SQLite -------------------------------------------------------------------------------------------------------------------


_AS_NOBODY = """
import os, sys
from alembic.autogenerate import compare_metadata  # what is imported late may lie where only root reads
from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline_tests.test_privileges import Database, Path, sa, sync
files = [Path(name) for name in sys.argv[1:]]
databases = [Database(name, sa.make_url(f"sqlite:///{file}")) for name, file in zip(("windows", "linux"), files)]
os.setgid(65534)
os.setuid(65534)
def told(what=None, mode=None):
    if what:
        former = what.stat().st_mode
        what.chmod(mode)
    try:
        print("changed", sync(*databases).changed)
    except DbsyncError as error:
        print(str(error).replace(chr(10), " "))
    if what:
        what.chmod(former)
        for beside in what.parent.glob(what.name + "-*"):  # SQLite gave them the mode of the file
            beside.chmod(former)
told()
told(files[1].parent, 0o500)
told(files[1], 0o400)
told(files[0], 0o000)
told()
"""


@pytest.mark.system
@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can become another user"
)
def test_sqlite_files_need_these_permissions(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    files = [tmp_path / name / "file.db" for name in ("windows", "linux")]
    for file in files:
        file.parent.mkdir()
        prepare(
            Database("any", sa.make_url(f"sqlite:///{file}")),
            small_world() if file is files[0] else {},
        )
        for path, mode in ((file.parent, 0o700), (file, 0o600)):
            os.chown(path, 65534, 65534)
            path.chmod(mode)
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, no_folder, read_only, unreadable, last = done.stdout.splitlines()
    assert (first, last) == ("changed 300", "changed 0")
    assert (
        "database linux: this user may not write to the file" in read_only
        and "docs/security.md" in read_only
    )
    assert "database linux" in no_folder and "database windows" in unreadable
