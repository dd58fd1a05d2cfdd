"""Without models: a change of the primary's structure is brought to the standbys, and none of their rows is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.model import configured_model
from dbsync_pipeline.mirror.reflect import keep
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.test_cli import Dbsync, dbsync  # noqa: F401
from dbsync_pipeline_tests.test_postgresql import rows, run
from dbsync_pipeline_tests.worlds import ANYTHING, sync

SHOP = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE TABLE customer (id bigserial PRIMARY KEY, name varchar(20), felt mood, n int)",
    "CREATE TABLE purchase (id int PRIMARY KEY, customer_id bigint REFERENCES customer)",
    "INSERT INTO customer (name, felt, n) VALUES ('Ada', 'ok', 1), ('Bea', 'sad', 2)",
    "INSERT INTO purchase VALUES (1, 1)",
)


class Reflected:
    """Two PostgreSQL servers without models, synced once, and the commands of a person."""

    def __init__(self, dbsync: Dbsync, windows: Database, linux: Database) -> None:  # noqa: F811
        self.dbsync, self.windows, self.linux = dbsync, windows, linux

    def change(self, *statements: str) -> None:
        run(self.windows, *statements)
        keep._loaded.clear()

    def plan(self) -> str:
        """What a plan objects to."""
        planned = self.dbsync("plan")
        assert planned.status != 0, planned.out
        return planned.out + planned.err

    def bring_along(self, *options: str) -> None:
        """The commands that the plan's remedy names, and the sync after them."""
        remedy = self.plan()
        assert "`dbsync migrate new TITLE --database linux`" in remedy
        assert "`dbsync migrate`" in remedy
        written = self.dbsync("migrate", "new", "a change", "--database", "linux", *options)
        assert written.status == 0, written.err
        migrated = self.dbsync("migrate", "--yes")
        assert migrated.status == 0, migrated.out + migrated.err
        self.sync()

    def sync(self) -> None:
        model = configured_model(load(), fresh=True)
        sync(self.windows, self.linux, model=model, policy=ANYTHING)
        for table in ("customer", "purchase"):
            assert rows(self.linux, table) == rows(self.windows, table)
        assert self.dbsync("verify").status == 0


@pytest.fixture
def shop(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_database: NewDatabase,
    dbsync: Dbsync,  # noqa: F811
) -> Reflected:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("DBSYNC_MODELS", "reflect")
    monkeypatch.setenv("DBSYNC_PRIMARY", "windows")
    pair = [
        new_database("postgresql", name, server=n) for n, name in enumerate(("windows", "linux"))
    ]
    for database in pair:
        url = database.url.set(drivername="postgresql+psycopg2")
        monkeypatch.setenv(
            f"DBSYNC_{database.name.upper()}_URL", url.render_as_string(hide_password=False)
        )
    run(pair[0], *SHOP)
    keep._loaded.clear()
    ready = Reflected(dbsync, *pair)
    ready.sync()
    return ready


def test_a_new_column_reaches_the_standby(shop: Reflected) -> None:
    shop.change(
        "ALTER TABLE customer ADD COLUMN age int", "UPDATE customer SET age = 30 WHERE id = 1"
    )
    shop.bring_along()
    shop.change("ALTER TABLE purchase ADD COLUMN at timestamptz DEFAULT now()")
    shop.bring_along()


def test_a_new_column_of_a_new_type_reaches_the_standby(shop: Reflected) -> None:
    shop.change(
        "CREATE TYPE colour AS ENUM ('red', '100%')",
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
        "ALTER TABLE customer ADD COLUMN likes colour DEFAULT 'red', ADD COLUMN p positive, "
        "ADD COLUMN tags text[] DEFAULT '{}', ADD COLUMN net cidr, "
        "ADD COLUMN twice int GENERATED ALWAYS AS (n * 2) STORED",
        "UPDATE customer SET likes = '100%', p = id, tags = '{a,b}', net = '10.0.0.0/8'",
    )
    shop.bring_along()


def test_a_new_table_reaches_the_standby_with_the_next_sync(shop: Reflected) -> None:
    shop.change(
        "CREATE TABLE note (id int PRIMARY KEY, customer_id bigint REFERENCES customer, v text)",
        "INSERT INTO note VALUES (1, 1, 'x')",
    )
    shop.sync()
    assert rows(shop.linux, "note") == ["(1,1,x)"]


def test_a_dropped_column_is_dropped_on_the_standby_only_if_a_person_names_it(
    shop: Reflected,
) -> None:
    shop.change("ALTER TABLE customer DROP COLUMN n")
    refused = shop.dbsync("migrate", "new", "drop n", "--database", "linux")
    assert refused.status == 1 and "`--drop customer.n`" in refused.err
    shop.bring_along("--drop", "customer.n")


def test_a_renamed_column_keeps_its_values_on_the_standby(shop: Reflected) -> None:
    shop.change("ALTER TABLE customer RENAME COLUMN n TO number")
    shop.bring_along("--rename", "customer.n=number")


def test_a_dropped_table_is_left_on_the_standby(shop: Reflected) -> None:
    shop.change("CREATE TABLE note (id int PRIMARY KEY)")
    shop.sync()
    shop.change("DROP TABLE note")
    shop.sync()
    assert rows(shop.linux, "note") == []


@pytest.mark.parametrize(
    ("column", "type_"), [("name", "text"), ("n", "bigint"), ("name", "varchar(200)")]
)
def test_a_wider_type_reaches_the_standby(shop: Reflected, column: str, type_: str) -> None:
    shop.change(f"ALTER TABLE customer ALTER COLUMN {column} TYPE {type_}")
    shop.bring_along()


def test_a_type_that_cannot_be_converted_names_a_command_that_works(shop: Reflected) -> None:
    shop.change("ALTER TABLE customer ALTER COLUMN n TYPE text")
    refused = shop.dbsync("migrate", "new", "text", "--database", "linux")
    remedy = "dbsync tables recreate --database linux --yes-destroy linux"
    assert refused.status == 1 and f"`{remedy}`" in refused.err
    assert shop.dbsync(*remedy.split()[1:]).status == 0
    shop.sync()


def test_a_column_that_must_have_a_value_reaches_the_standby(shop: Reflected) -> None:
    shop.change(
        "ALTER TABLE customer ADD COLUMN age int NOT NULL DEFAULT 7, "
        "ADD COLUMN nick text NOT NULL DEFAULT '', ADD COLUMN good boolean NOT NULL DEFAULT true",
        "ALTER TABLE customer ALTER COLUMN age DROP DEFAULT, ALTER COLUMN nick DROP DEFAULT, "
        "ALTER COLUMN good DROP DEFAULT",
    )
    shop.bring_along()


def test_a_new_enum_value_reaches_the_standby(shop: Reflected) -> None:
    shop.change(
        "ALTER TYPE mood ADD VALUE 'glad'", "UPDATE customer SET felt = 'glad' WHERE id = 1"
    )
    shop.bring_along()


def test_there_is_nothing_to_write_for_the_primary_and_that_is_reported(shop: Reflected) -> None:
    shop.change("ALTER TABLE customer ADD COLUMN age int")
    refused = shop.dbsync("migrate", "new", "age")
    assert refused.status == 1 and "the models were read from it" in refused.err
    assert "--database NAME" in refused.err


def test_other_tables_and_another_primary_go_on_with_the_same_revisions(
    shop: Reflected, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.change("ALTER TABLE customer ADD COLUMN age int")
    shop.bring_along()
    monkeypatch.setenv("DBSYNC_SKIP_TABLES", "purchase")
    shop.change("ALTER TABLE customer ADD COLUMN height int")
    shop.bring_along()
    model = configured_model(load())
    assert [one.number for one in revisions.line(model)] == ["0001", "0002"]
    monkeypatch.setenv("DBSYNC_PRIMARY", "linux")
    assert configured_model(load()).revisions == model.revisions


def test_other_databases_have_revisions_of_their_own(
    shop: Reflected, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.change("ALTER TABLE customer ADD COLUMN age int")
    shop.bring_along()
    for n, name in enumerate(("windows", "linux")):
        other = new_database("postgresql", f"other_{name}", server=n)
        run(other, *SHOP[:3])
        url = other.url.set(drivername="postgresql+psycopg2")
        monkeypatch.setenv(f"DBSYNC_{name.upper()}_URL", url.render_as_string(hide_password=False))
    assert revisions.line(configured_model(load())) == ()
    assert "customer.age" not in shop.dbsync("tables", "check").out
    assert shop.dbsync("migrate", "--yes").status == 0
    assert shop.dbsync("tables", "check").status == 0
