"""Syncs run with the rights that docs/security.md lists for SQL Server, and fail without them.

The statements are read from the page. Babelfish has neither rights on a whole database nor
`db_ddladmin`: there a standby needs the database's owner, and its rights cannot be tested.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbsync_pipeline.errors import DatabaseError, DbsyncError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.roles import administer
from dbsync_pipeline_tests.worlds import (
    MODEL,
    content,
    execute,
    is_babelfish,
    prepare,
    small_world,
    sync,
    user,
)

PAGE = (
    (Path(__file__).parent.parent / "docs" / "security.md")
    .read_text()
    .split("\n## SQL Server", 1)[1]
    .split("\n## ", 1)[0]
)
PASSWORD = "Only-for-1-test"
ONLY_MICROSOFT = re.compile("VIEW DEFINITION|db_ddladmin|ALLOW_SNAPSHOT_ISOLATION")
MISSING = r"docs/security\.md|the table is missing"
"""Babelfish hides a table from a user without a right on it; SQL Server does not where VIEW
DEFINITION is granted."""
_numbers = itertools.count(1)
users = MODEL.table("users").sa

pytestmark = pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine == "mssql"])


def listed(title: str) -> list[str]:
    """Return the statements under this title; those for `users` repeated for every table."""
    block = re.search(rf"### {title}\n.*?```sql\n(.*?)```", PAGE, re.S)
    assert block
    lines = [line.split(" --")[0].strip().rstrip(";") for line in block[1].splitlines()]
    return [
        line.replace("dbo.users", f"dbo.{table}")
        for line in lines
        for table in (MODEL.names if "dbo.users" in line else [""])
    ]


class Logins:
    """Runs the page's statements for logins with names of their own, and drops these at the end."""

    def __init__(self) -> None:
        self._created: list[tuple[Database, str]] = []

    def new(self, database: Database, statements: list[str]) -> Database:
        login = f"l{os.getpid()}_{next(_numbers)}"
        self._created.append((database, login))
        self.run(
            database,
            *(
                re.sub("dbsync_(standby|source)", login, one).replace("...", PASSWORD)
                for one in statements
            ),
        )
        return Database(
            database.name,
            database.url.set(username=login, password=PASSWORD),
            database.connect_seconds,
        )

    def run(self, database: Database, *statements: str) -> None:
        supported = [
            one for one in statements if not (is_babelfish(database) and ONLY_MICROSOFT.search(one))
        ]
        administer(database, *supported)

    def drop(self) -> None:
        for database, login in self._created:
            administer(
                Database("server", database.url.set(database="master")), f"DROP LOGIN {login}"
            )


@pytest.fixture
def logins() -> Iterator[Logins]:
    """Take this before `new_database`: a login can go once the databases that know it are gone."""
    logins = Logins()
    yield logins
    logins.drop()


@pytest.fixture
def places(engine: str, logins: Logins, new_database: NewDatabase) -> tuple[Database, Database]:
    source, target = new_database(engine, "windows"), new_database("sqlite", "linux")
    prepare(source, small_world())
    return source, target


def rights(statements: list[str]) -> list[str]:
    """Return the statements that grant rights on a table, one right each."""
    grants = [
        re.fullmatch(r"GRANT ([A-Z, ]+) ON (\S+) TO (\w+)", statement) for statement in statements
    ]
    return [
        f"GRANT {right} ON {grant[2]} TO {grant[3]}"
        for grant in grants
        if grant
        for right in grant[1].split(", ")
    ]


def revoked(right: str, login: Database) -> str:
    return re.sub("TO dbsync_source", f"FROM {login.url.username}", right).replace(
        "GRANT", "REVOKE"
    )


def granted(right: str, login: Database) -> str:
    return right.replace("dbsync_source", str(login.url.username))


def test_a_source_that_records_numbers_runs_with_the_rights_of_the_page(
    logins: Logins, places: tuple[Database, Database]
) -> None:
    source, target = places
    statements = listed("A source that notes the numbers of its publishes")
    primary = logins.new(source, statements)
    assert sync(primary, target).numbered
    assert content(target) == content(source)
    for number, right in enumerate(rights(statements)):
        execute(source, (users.insert(), [user(5000 + number)]))
        logins.run(source, revoked(right, primary))
        if "SELECT" in right:
            with pytest.raises(DbsyncError, match=MISSING) as refused:
                sync(primary, target)
            assert "database windows" in str(refused.value)
        else:
            assert not sync(primary, target).numbered, "the number is then the target's own"
        logins.run(source, granted(right, primary))
    assert sync(primary, target).numbered
    assert content(target) == content(source)


def test_a_read_only_source_runs_with_the_rights_of_the_page(
    logins: Logins, places: tuple[Database, Database]
) -> None:
    source, target = places
    statements = [
        one
        for one in listed("A source that notes the numbers of its publishes")
        if "dbsync." not in one
    ]
    administer(
        source,
        *(
            f"DROP TABLE dbsync.{table}"
            for table in ("facts", "publishes", "digests", "rescues", "stamps")
        ),
        "DROP SCHEMA dbsync",
    )
    reader = logins.new(source, statements)
    assert not sync(reader, target).numbered
    assert content(target) == content(source)


def test_a_standby_runs_with_the_rights_of_the_page(
    engine: str, logins: Logins, new_database: NewDatabase
) -> None:
    source, target = new_database("sqlite", "windows"), new_database(engine, "linux")
    prepare(source, small_world())
    schema.ensure(target, MODEL)
    before = content(target)
    statements = [
        one for one in listed("A standby") if one != "CREATE SCHEMA dbsync"
    ]  # made with the tables
    standby = logins.new(target, statements)
    if is_babelfish(target):
        with pytest.raises(DatabaseError, match=r"docs/security\.md"):
            sync(source, standby)
        assert content(target) == before
    else:
        sync(source, standby)
        assert content(target) == content(source)
