"""Without models: the structure of a database is read, written as models, kept, and read again."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import sqlalchemy as sa

from dbsync_pipeline import models as sample
from dbsync_pipeline.columns import Key
from dbsync_pipeline.errors import (
    DatabaseError,
    SettingsError,
    StructureError,
    Transient,
    Unrepresentable,
)
from dbsync_pipeline.mirror import ready, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import SAMPLE, Model, configured_model, load_model
from dbsync_pipeline.mirror.reflect import keep
from dbsync_pipeline.mirror.reflect.read import Structure, load, read
from dbsync_pipeline.mirror.selection import TableFilter
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline.settings import Settings
from dbsync_pipeline.settings import load as load_settings
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.test_cli import Dbsync, dbsync  # noqa: F401
from dbsync_pipeline_tests.test_postgresql import run as fetched
from dbsync_pipeline_tests.versions import as_of, postgresql, since
from dbsync_pipeline_tests.worlds import ANYTHING, execute, sync

_POSTGRESQL = as_of((Path(__file__).parent / "reflected.sql").read_text(encoding="utf-8"))
_SQLITE = """
CREATE TABLE customer (id INTEGER PRIMARY KEY AUTOINCREMENT, email NVARCHAR(80) NOT NULL UNIQUE,
  made DATETIME DEFAULT CURRENT_TIMESTAMP, worth NUMERIC(10, 2) DEFAULT 1.5, anything, n INT CHECK (n < 9),
  doubled INT GENERATED ALWAYS AS (n * 2) STORED, code TEXT DEFAULT 'it''s 100% :of it');
CREATE INDEX customer_lower ON customer (lower(email));
CREATE INDEX customer_part ON customer (n DESC) WHERE n > 5;
CREATE INDEX customer_plain ON customer (worth, n);
CREATE TABLE purchase (customer_id INTEGER NOT NULL REFERENCES customer (id) ON DELETE CASCADE, line INT,
  PRIMARY KEY (customer_id, line)) WITHOUT ROWID;
CREATE TABLE django_migrations (id INTEGER PRIMARY KEY);
CREATE VIEW v AS SELECT * FROM customer;
INSERT INTO customer (email, anything, n) VALUES ('ada@x.org', x'00ff', 4), ('b@x.org', 'text', NULL);
INSERT INTO purchase VALUES (1, 7);
"""


def run(database: Database, script: str) -> None:
    """A script of several statements, as `psql` or `sqlite3` would run it."""
    with database.connect(create=True) as dialect:
        raw = dialect.connection.connection.dbapi_connection
        if database.engine_name == "sqlite":
            raw.executescript(script)
        else:
            dialect.connection.exec_driver_sql(script.replace("%", "%%"))
            dialect.connection.commit()


def structure(database: Database, skip: str = "") -> Structure:
    with database.connect() as dialect:
        return read(dialect, (), TableFilter.of("", skip))


@pytest.mark.parametrize(
    ("engine", "script", "skip"), [("postgresql", _POSTGRESQL, "tools.*"), ("sqlite", _SQLITE, "")]
)
def test_a_structure_is_read_written_created_and_read_again_the_same(
    engine: str, script: str, skip: str, new_database: NewDatabase
) -> None:
    windows, linux = new_database(engine, "windows"), new_database(engine, "linux", server=1)
    run(windows, script)
    if engine == "postgresql":  # what the key leads to is not mirrored
        run(
            linux,
            "CREATE SCHEMA tools; CREATE TABLE tools.account (id int PRIMARY KEY);"
            "INSERT INTO tools.account VALUES (1)",
        )
    first = structure(windows, skip)
    model = Model(load(first.source, "first"))
    assert set(model.names) == set(first.tables)
    assert schema.check(windows, model) == {name: [] for name in model.names}
    schema.ensure(linux, model)
    assert schema.check(linux, model) == {name: [] for name in model.names}
    assert _without_notes(structure(linux, skip).source) == _without_notes(first.source)
    counts = sync(windows, linux, model=model).tables
    assert all(counts[name].inserted for name in model.names)
    assert all(table.equal and table.source_rows for table in verify(windows, linux, model))
    again = sync(windows, linux, model=model).tables.values()
    assert not any(table.inserted + table.updated + table.deleted for table in again)
    if engine == "postgresql":  # the next number of a sequence that only a function uses
        execute(linux, "INSERT INTO invoice DEFAULT VALUES")


def _without_notes(source: str) -> str:
    return source.split('"""', 2)[2]


def test_what_cannot_be_mirrored_is_listed_with_the_reason(new_database: NewDatabase) -> None:
    windows = new_database("sqlite", "windows")
    run(windows, _SQLITE + "CREATE TRIGGER t AFTER INSERT ON purchase BEGIN SELECT 1; END;")
    found = structure(windows)
    assert found.skipped == {"django_migrations": "a table of Django"}
    assert "the table django_migrations: a table of Django" in found.notes
    assert "the trigger t of purchase: triggers are not copied" in found.notes
    assert "the view v: it has no rows of its own to copy" in found.notes
    for note in found.notes:
        assert note[:60] in found.source


def test_portable_types_reach_another_engine_exactly(new_database: NewDatabase) -> None:
    windows, linux = new_database("postgresql", "windows"), new_database("sqlite", "linux")
    run(
        windows,
        """
      CREATE TYPE mood AS ENUM ('sad', 'ok');
      CREATE DOMAIN year AS integer CHECK (VALUE > 1900);
      CREATE TABLE film (id serial PRIMARY KEY, title text NOT NULL UNIQUE, code varchar(9) COLLATE "C",
        made timestamptz DEFAULT now(), at timestamp, day date DEFAULT CURRENT_DATE, clock time, felt mood DEFAULT 'ok',
        released year, rate numeric(5,2) DEFAULT 4.99, big double precision, small smallint, flag boolean DEFAULT true,
        uid uuid DEFAULT gen_random_uuid(), raw bytea, plain json, kept jsonb, tags text[], felts mood[], grid int[][],
        short varchar(9)[] NOT NULL DEFAULT '{}', CHECK (code <> 'x'::text));
      CREATE INDEX lower_title ON film (lower(title));
      INSERT INTO film (title, code, at, clock, released, big, small, raw, plain, kept, tags, felts, grid)
      VALUES ('Ünïcode', 'c', '2020-01-01 12:00:00.000001', '23:59:59.999999', 1994, 0.1, 7, '\\x00ff', '{"a": 1.10}',
        '{"b":1}', '{"a,b",NULL}', '{ok}', '{{1,2},{3,4}}');
    """,
    )
    model = Model(load(structure(windows).source, "film"))
    assert sync(windows, linux, model=model).tables["film"].inserted == 1
    assert all(table.equal for table in verify(windows, linux, model))
    back = sync(linux, windows, model=model, policy=ANYTHING).tables["film"]
    assert (back.rows, back.inserted, back.updated, back.deleted) == (1, 0, 0, 0)


DOMAINS = {
    "text": "'é'",
    "varchar(5)": "'abcde'",
    'text COLLATE "C"': "'x'",
    "citext": "'aB'",
    "jsonb": """'{"b": 1.10}'""",
    "json": """'{"b":  1}'""",
    "numeric(8,2)": "3.10",
    "bigint": "9007199254740993",
    "real": "0.1",
    "timestamptz": "'2024-05-05 12:00:00.123456+02'",
    "bytea": "'\\x00ff'",
    "uuid": "'12340000-0000-0000-0000-000000000000'",
}
"""Types with a value, of which a domain is carried to every engine."""
OWN_DOMAINS = {"int[]": "'{1,2}'", "char(3)": "'ab'", "timestamp(3)": "'2024-05-05 12:00:00.123'"}
"""Types of which a domain is PostgreSQL's own."""


@pytest.mark.parametrize("target", ["postgresql", "sqlite"])
def test_domains_of_any_type_are_kept_and_are_their_type_on_other_engines(
    target: str, new_database: NewDatabase
) -> None:
    windows, linux = new_database("postgresql", "windows"), new_database(target, "linux", server=1)
    domains = DOMAINS | (OWN_DOMAINS if target == "postgresql" else {})
    run(windows, "CREATE EXTENSION citext")
    for number, (type_, value) in enumerate(domains.items()):
        unique = "" if type_ == "json" else "UNIQUE"  # JSON as text has no equality
        run(
            windows,
            f"CREATE DOMAIN d{number} AS {type_}; CREATE DOMAIN n{number} AS d{number};"
            f"CREATE TABLE t{number} (id int PRIMARY KEY, v d{number} {unique}, n n{number});"
            f"INSERT INTO t{number} VALUES (1, {value}, {value}), (2, NULL, NULL)",
        )
    run(windows, 'CREATE TABLE t (id int PRIMARY KEY, v d0 COLLATE "POSIX")')
    source = structure(windows).source
    model = Model(load(source, "domains"))
    assert sync(windows, linux, model=model).changed == 2 * len(domains)
    assert all(table.equal for table in verify(windows, linux, model))
    if target == "postgresql":
        assert structure(linux).source == source
    else:
        back = sync(linux, windows, model=model, policy=ANYTHING)
        assert back.changed == 0


UNUSUAL = """
CREATE SCHEMA kinds; CREATE TYPE kinds.mood AS ENUM ('ok'); CREATE DOMAIN kinds.code AS varchar(9) NOT NULL;
CREATE SEQUENCE kinds.numbers;
CREATE FUNCTION kinds.one() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE TABLE "a.b" (id int PRIMARY KEY, "c.d" int UNIQUE, parent int REFERENCES "a.b", mood kinds.mood, code kinds.code,
  n int DEFAULT nextval('kinds.numbers'), one int DEFAULT kinds.one(), share text DEFAULT ('100' || '%'));
CREATE TABLE "it's %s {x} \\ $1 :p" (id int PRIMARY KEY, "c%s :x" int REFERENCES "a.b");
CREATE TABLE nothing ();
INSERT INTO "a.b" VALUES (1, 5, 1, 'ok', 'x'); INSERT INTO "it's %s {x} \\ $1 :p" VALUES (1, 1);
"""


@pytest.mark.parametrize("target", ["postgresql", "sqlite"])
def test_unusual_names_and_schemas_that_only_types_are_in(
    target: str, new_database: NewDatabase
) -> None:
    windows, linux = new_database("postgresql", "windows"), new_database(target, "linux", server=1)
    run(windows, UNUSUAL)
    found = structure(windows)
    assert "the table nothing: it has no columns" in found.notes
    model = Model(load(found.source, "unusual"))
    assert sync(windows, linux, model=model).changed == 2
    assert all(table.equal for table in verify(windows, linux, model))
    assert sync(windows, linux, model=model).changed == 0
    if target == "postgresql":
        assert _without_notes(structure(linux).source) in _without_notes(found.source)


@pytest.mark.parametrize(("source", "target"), [("postgresql", "sqlite"), ("sqlite", "postgresql")])
def test_rows_are_found_by_bytes_on_another_engine(
    source: str, target: str, new_database: NewDatabase
) -> None:
    windows, linux = new_database(source, "windows"), new_database(target, "linux")
    binary = {"postgresql": "bytea", "sqlite": "BLOB"}[source]
    run(
        windows, f"CREATE TABLE t (k {binary} NOT NULL, n int NOT NULL, v text, PRIMARY KEY (k, n))"
    )
    model = Model(load(structure(windows).source, "t"))
    rows = [{"k": b"\x00\xff", "n": n, "v": "a"} for n in range(5)]
    execute(windows, (model.table("t").sa.insert(), rows))
    sync(windows, linux, model=model)
    assert all(table.equal for table in verify(windows, linux, model))
    execute(windows, "UPDATE t SET v = 'b' WHERE n = 1", "DELETE FROM t WHERE n = 2")
    changed = sync(windows, linux, model=model, policy=ANYTHING).tables["t"]
    assert (changed.inserted, changed.updated, changed.deleted) == (0, 1, 1)


@pytest.mark.parametrize(
    ("script", "refused"),
    [
        (
            "CREATE SCHEMA other; CREATE TABLE other.t (id int PRIMARY KEY)",
            r"table other\.t: sqlite has no schemas such as other\nRemedy: leave the table out",
        ),
        pytest.param(
            "CREATE TABLE p (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE c (id int PRIMARY KEY, a int, b int,"
            "FOREIGN KEY (a, b) REFERENCES p ON DELETE SET NULL (b))",
            r"table c: sqlite cannot create it: Unexpected SQL phrase: 'SET NULL \(b\)'\nRemedy: correct",
            marks=since(15),
        ),
    ],
)
def test_a_table_that_another_engine_cannot_create_is_refused_by_name(
    script: str, refused: str, new_database: NewDatabase
) -> None:
    windows, linux = new_database("postgresql", "windows"), new_database("sqlite", "linux")
    run(windows, script)
    with pytest.raises(StructureError, match=refused):
        sync(windows, linux, model=Model(load(structure(windows).source, "refused")))


def test_a_range_type_keeps_what_it_is_made_of(new_database: NewDatabase) -> None:
    """Only the name of its multirange may lead to it."""
    windows, linux = new_database("postgresql", "windows"), new_database("postgresql", "linux")
    many = "many" if postgresql() >= 14 else "span"
    fetched(
        windows,
        'CREATE TYPE span AS RANGE (SUBTYPE = text, COLLATION = "C", SUBTYPE_OPCLASS = text_pattern_ops'
        + (", MULTIRANGE_TYPE_NAME = many)" if many == "many" else ")"),
        "CREATE TYPE reach AS RANGE (SUBTYPE = float8, SUBTYPE_DIFF = float8mi)",
        f"CREATE TABLE t (id int PRIMARY KEY, a {many}, b reach)",
        "INSERT INTO t VALUES (1, NULL, '[1,2)')",
    )
    model = Model(load(structure(windows).source, "ranges"))
    sync(windows, linux, model=model)
    assert structure(linux).source == structure(windows).source
    made = (
        "SELECT rngtypid::regtype, rngsubtype::regtype, rngcollation::regcollation, rngsubdiff, opcname "
        "FROM pg_range JOIN pg_opclass o ON o.oid = rngsubopc WHERE rngtypid >= 16384 ORDER BY 1::text"
    )
    assert fetched(linux, made) == fetched(windows, made) and len(fetched(linux, made)) == 2


def test_what_a_server_refuses_to_create_is_named_by_table_with_a_remedy(
    new_database: NewDatabase,
) -> None:
    windows, linux = new_database("postgresql", "windows"), new_database("postgresql", "linux")
    fetched(
        windows,
        "CREATE TEXT SEARCH CONFIGURATION ours (COPY = english)",
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (id int PRIMARY KEY, x text)",
        "CREATE INDEX ON b USING gin (to_tsvector('ours', x))",
    )
    model = Model(load(structure(windows).source, "searched"))
    with pytest.raises(
        DatabaseError, match='table b: text search configuration "ours" does not exist'
    ) as refused:
        sync(windows, linux, model=model)
    assert "create on linux what the statement lacks" in str(refused.value.remedy)
    run(linux, "CREATE TEXT SEARCH CONFIGURATION ours (COPY = english)")
    sync(windows, linux, model=model)


_AS_ENTITY_FRAMEWORK_WRITES = """
CREATE TABLE "__EFMigrationsHistory" ("MigrationId" TEXT NOT NULL CONSTRAINT "PK___EFMigrationsHistory" PRIMARY KEY,
  "ProductVersion" TEXT NOT NULL);
CREATE TABLE "People" ("Id" INTEGER NOT NULL CONSTRAINT "PK_People" PRIMARY KEY AUTOINCREMENT, "Mail" TEXT COLLATE NOCASE NOT NULL,
  "Rate" TEXT NOT NULL DEFAULT '0.0', "On" INTEGER NOT NULL CONSTRAINT "CK On" CHECK ("On" IN (0, 1)));
CREATE UNIQUE INDEX "IX_People_Mail" ON "People" ("Mail") WHERE "On" = 1;
CREATE TABLE "Courses" ("Id" INTEGER NOT NULL CONSTRAINT "PK_Courses" PRIMARY KEY AUTOINCREMENT, "By" INTEGER NOT NULL,
  "Of" INTEGER CONSTRAINT "UQ Of" UNIQUE CONSTRAINT "FK Of" REFERENCES "Courses", "In" INTEGER CONSTRAINT "CK In" CHECK ("In" > 0) REFERENCES "Courses",
  "Both" TEXT AS ("Id" || '-' || "By") STORED, CONSTRAINT "UQ_Courses" UNIQUE ("By", "In"),
  CONSTRAINT "FK_Courses_People_By" FOREIGN KEY ("By") REFERENCES "People" ("Id") ON DELETE RESTRICT);
CREATE TABLE "CoursePerson" ("CoursesId" INTEGER NOT NULL, "PeopleId" INTEGER NOT NULL,
  CONSTRAINT "PK_CoursePerson" PRIMARY KEY ("CoursesId", "PeopleId"),
  CONSTRAINT "FK_CoursePerson_Courses_CoursesId" FOREIGN KEY ("CoursesId") REFERENCES "Courses" ("Id") ON DELETE CASCADE);
INSERT INTO "People" VALUES (1, 'Ada@x', '1.50', 1); INSERT INTO "Courses" ("Id", "By", "Of") VALUES (1, 1, 1);
INSERT INTO "CoursePerson" VALUES (1, 1);
CREATE VIRTUAL TABLE search USING fts5(mail);
INSERT INTO search VALUES ('ada');
"""
_NAMES_THERE = {
    "People": {"PK_People", "CK On"},
    "Courses": {
        "PK_Courses",
        "FK Of",
        "CK In",
        "UQ_Courses",
        "FK_Courses_People_By",
        None,
    },
    "CoursePerson": {"PK_CoursePerson", "FK_CoursePerson_Courses_CoursesId"},
}


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_constraints_of_sqlite_have_their_own_names(new_database: NewDatabase, engine: str) -> None:
    """SQLAlchemy takes all from the first constraint's name to a key for the key's name."""
    windows, linux = new_database("sqlite", "windows"), new_database(engine, "linux")
    run(windows, _AS_ENTITY_FRAMEWORK_WRITES)
    read_there = structure(windows)
    model = Model(load(read_there.source, "courses"))
    named = {
        name: {constraint.name for constraint in table.constraints}
        for name, table in model.metadata.tables.items()
    }
    assert named == _NAMES_THERE
    sync(windows, linux, model=model)
    assert all(table.equal and table.source_rows for table in verify(windows, linux, model))
    assert "the virtual table search: its rows are its module's" in " ".join(
        read_there.source.split()
    )
    if engine == "sqlite":
        execute(linux, """INSERT INTO "People" VALUES (2, 'other', '1', 0)""")
        with linux.engine().connect() as connection:
            mail = sa.text("""SELECT "Id" FROM "People" WHERE "Mail" = 'ADA@X'""")
            assert connection.scalars(mail).all() == [1]
        with pytest.raises(sa.exc.IntegrityError):
            execute(linux, """INSERT INTO "People" VALUES (3, 'ADA@X', '1', 1)""")


_AS_DJANGO_WRITES = """
CREATE TABLE "shop_user" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "name" varchar(80) NOT NULL);
CREATE TABLE "shop_thing" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "uid" char(32) NOT NULL UNIQUE,
  "ratio" real NOT NULL, "flag" bool NOT NULL, "day" date NOT NULL, "at" datetime NOT NULL, "clock" time NOT NULL,
  "on" boolean DEFAULT 1 NOT NULL, "off" bool DEFAULT false, "span" bigint NOT NULL, "blob" BLOB NOT NULL, "data" text NULL CHECK ((JSON_VALID("data") OR "data" IS NULL)),
  "ip" char(39) NOT NULL, "small" smallint NOT NULL, "positive" integer unsigned NOT NULL CHECK ("positive" >= 0),
  "least" integer NOT NULL CHECK ("least" > 1), "owner_id" integer NOT NULL REFERENCES "shop_user" ("id")
  DEFERRABLE INITIALLY DEFERRED, "other_id" integer REFERENCES "shop_user" ("id") NOT DEFERRABLE);
CREATE INDEX "shop_thing_owner_id" ON "shop_thing" ("owner_id");
INSERT INTO shop_user (name) VALUES ('Ünï');
INSERT INTO shop_thing VALUES (1, '0123456789abcdef0123456789abcdef', 0.14285714285714285, 1, '2026-01-01',
  '2026-01-01 00:00:01.000001', '12:00:07', 1, 0, 86400000000, x'00', '{"a": 2.50}', '::1', 7, 8, 9, 1, NULL);
"""


def test_a_database_that_django_made_in_sqlite_reaches_postgresql(
    new_database: NewDatabase,
) -> None:
    windows, linux = new_database("sqlite", "windows"), new_database("postgresql", "linux")
    run(windows, _AS_DJANGO_WRITES)
    found = structure(windows)
    assert found.notes == (
        "shop_thing to another engine than sqlite: without its CHECK constraints",
    )
    model = Model(load(found.source, "django"))
    assert {
        key.column_keys[0]: (key.deferrable, key.initially)
        for key in model.table("shop_thing").sa.foreign_key_constraints
    } == {"owner_id": (True, "DEFERRED"), "other_id": (None, None)}
    assert sync(windows, linux, model=model).tables["shop_thing"].inserted == 1
    assert all(table.equal for table in verify(windows, linux, model))


_SQL_SERVER = """
CREATE TABLE customer (id INT IDENTITY(1, 1) PRIMARY KEY, email NVARCHAR(80) NOT NULL UNIQUE,
  made DATETIME2(6) DEFAULT sysdatetime(), worth DECIMAL(10, 2) DEFAULT 1.5, flag BIT NOT NULL DEFAULT 1,
  raw VARBINARY(MAX), uid UNIQUEIDENTIFIER, many BIGINT, note NVARCHAR(MAX), code VARCHAR(10), day DATE,
  ratio FLOAT, CONSTRAINT positive CHECK (many > 0));
CREATE TABLE purchase (customer_id INT NOT NULL REFERENCES customer (id), line SMALLINT NOT NULL,
  PRIMARY KEY (customer_id, line));
CREATE INDEX purchase_line ON purchase (line);
INSERT INTO customer (email, raw, uid, many, note, code, day, ratio) VALUES
  (N'ada@x.org', 0x00ff, '6F9619FF-8B86-D011-B42D-00C04FC964FF', 7, N'Ünï', 'c', '2026-01-31', 0.1);
INSERT INTO purchase VALUES (1, 7);
"""


@pytest.mark.parametrize("source", [engine for engine in ENGINES if engine == "mssql"])
@pytest.mark.parametrize("target", ENGINES)
def test_a_structure_of_sql_server_reaches_every_engine(
    new_database: NewDatabase, source: str, target: str
) -> None:
    windows, linux = new_database(source, "windows"), new_database(target, "linux", server=1)
    execute(windows, *_SQL_SERVER.split(";")[:-1])
    found = structure(windows)
    model = Model(load(found.source, "shop"))
    assert schema.check(windows, model) == {"customer": [], "purchase": []}
    assert sync(windows, linux, model=model).tables["customer"].inserted == 1
    assert all(table.equal for table in verify(windows, linux, model))
    with linux.connect() as dialect:
        assert ready.judge(ready.read(dialect, model), 3600).reasons == {}
    execute(
        linux,
        "INSERT INTO customer (email, flag) VALUES ('of the standby', 1)".replace(
            ", 1)", ", true)" if target == "postgresql" else ", 1)"
        ),
    )
    with linux.connect() as dialect:
        assert dialect.connection.exec_driver_sql("SELECT max(id) FROM customer").scalar() > 1


def test_a_float_that_32_bits_do_not_hold_is_refused_by_its_key(new_database: NewDatabase) -> None:
    windows, linux = new_database("sqlite", "windows"), new_database("postgresql", "linux")
    run(windows, "CREATE TABLE t (id INTEGER PRIMARY KEY, v REAL)")
    run(windows, "INSERT INTO t VALUES (1, 0.5), (2, 0.1)")
    metadata = sa.MetaData()
    sa.Table("t", metadata, sa.Column("id", Key, primary_key=True), sa.Column("v", sa.REAL()))
    with pytest.raises(Unrepresentable, match=r"column v of the row with key \(2\).*REAL"):
        sync(windows, linux, model=Model(metadata))


def test_one_structure_has_one_text_in_every_process(new_database: NewDatabase) -> None:
    windows = new_database("sqlite", "windows")
    run(windows, _AS_DJANGO_WRITES)
    script = (
        "import sys, sqlalchemy as sa\n"
        "from dbsync_pipeline.mirror.database import Database\n"
        "from dbsync_pipeline.mirror.reflect.read import read\n"
        "from dbsync_pipeline.mirror.selection import TableFilter\n"
        "gaps = [object() for _ in range(int(sys.argv[2]))]\n"
        "with Database('windows', sa.make_url(sys.argv[1])).connect() as dialect:\n"
        "    print(read(dialect, (), TableFilter()).source)\n"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", script, str(windows.url), str(number)],
            capture_output=True,
            check=True,
        ).stdout
        for number in (0, 1_000)
    }
    assert len(texts) == 1


@pytest.mark.parametrize("numbering", ["PRIMARY KEY", "PRIMARY KEY AUTOINCREMENT"])
@pytest.mark.parametrize("engine", ["postgresql", "sqlite"])
def test_a_standby_numbers_the_rows_that_a_sqlite_primary_numbers(
    new_database: NewDatabase, numbering: str, engine: str
) -> None:
    windows, linux = new_database("sqlite", "windows"), new_database(engine, "linux")
    run(
        windows,
        f"CREATE TABLE pet (id INTEGER {numbering}, name TEXT NOT NULL);"
        "INSERT INTO pet VALUES (1, 'a'), (4000000000, 'b')",
    )
    model = Model(load(structure(windows).source, "pet"))
    sync(windows, linux, model=model)
    with linux.connect() as dialect:
        assert ready.judge(ready.read(dialect, model), 3600).reasons == {}
    run(linux, "INSERT INTO pet (name) VALUES ('of the standby')")
    with linux.connect() as dialect:
        number = dialect.connection.exec_driver_sql("SELECT max(id) FROM pet").scalar()
    follows = engine == "sqlite" and numbering == "PRIMARY KEY"
    assert number >= (4_000_000_001 if follows else 4_000_100_001)


# What is kept -----------------------------------------------------------------------------------


class Three:
    """Three SQLite files, named by URLs; `windows` is the primary."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.setenv("DAGSTER_HOME", str(folder / "dagster"))
        for name in ("windows", "linux", "azure"):
            self.set(**{f"DBSYNC_{name.upper()}_URL": f"sqlite:///{folder / name}.db"})

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def named(self, name: str) -> Database:
        return Database(name, sa.make_url(f"sqlite:///{self.folder / name}.db"))

    @property
    def settings(self) -> Settings:
        return load_settings()

    @property
    def file(self) -> Path:
        return keep.file_of(self.settings)

    def new_process(self) -> None:
        keep._loaded.clear()


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Three:
    return Three(tmp_path, monkeypatch)


_SHOP = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE alembic_version (version_num TEXT PRIMARY KEY);
INSERT INTO customer VALUES (1, 'Ada');
"""


def test_without_a_setting_a_primary_with_tables_of_its_own_is_read_and_that_is_said(
    three: Three, caplog: pytest.LogCaptureFixture
) -> None:
    run(three.named("windows"), _SHOP)
    model = configured_model(three.settings)
    assert model.names == ("customer",) and model.skipped == {
        "alembic_version": "a table of Alembic"
    }
    assert f"windows: read the structure of 1 table, kept in {three.file}" in caplog.text


def test_a_table_with_only_the_name_of_a_sample_table_is_not_the_sample(three: Three) -> None:
    run(three.named("windows"), "CREATE TABLE users (id INTEGER PRIMARY KEY, nick TEXT);")
    model = configured_model(three.settings)
    assert [column.name for column in model.table("users").columns] == ["id", "nick"]


def test_reflect_reads_what_was_taken_for_the_sample_before(three: Three) -> None:
    schema.ensure(three.named("windows"), load_model(SAMPLE))
    run(three.named("windows"), "CREATE TABLE more (id INTEGER PRIMARY KEY);")
    assert configured_model(three.settings).names == load_model(SAMPLE).names
    reflecting = three.settings.model_copy(update={"models": "reflect"})
    assert "more" in configured_model(reflecting).names


@pytest.mark.parametrize("primary", ["has no file", "is empty", "has the sample's tables"])
def test_without_a_setting_the_sample_is_meant_where_nothing_else_is(
    primary: str, three: Three
) -> None:
    sample = load_model(SAMPLE)
    if primary == "is empty":
        run(three.named("windows"), "")
    elif primary != "has no file":
        schema.ensure(three.named("windows"), sample)
    assert configured_model(three.settings).names == sample.names
    assert configured_model(three.settings).revisions == sample.revisions
    assert three.file.exists() == (primary == "has the sample's tables")


def test_embedded_databases_have_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    settings = load_settings()
    windows = Database("windows", sa.make_url(settings.database("windows").url.get_secret_value()))
    run(windows, _SHOP)
    assert settings.embedded and configured_model(settings).names == load_model(SAMPLE).names


def test_a_failover_needs_no_primary(three: Three, dbsync: Dbsync) -> None:  # noqa: F811
    three.set(DBSYNC_MODELS="reflect")
    run(three.named("windows"), _SHOP)
    model = configured_model(three.settings)
    for name in ("linux", "azure"):
        sync(three.named("windows"), three.named(name), model=model)
    (three.folder / "windows.db").unlink()
    three.new_process()
    status = {each["name"]: each for each in dbsync("status", "--json").json}
    assert not status["windows"]["available"] and status["linux"]["rows"] == {"customer": 1}
    assert dbsync("promote", "linux", "--yes").status == 0
    assert dbsync("plan", "--source", "linux", "--target", "azure").status == 0
    assert dbsync("undo", "--help").status == 0


def test_a_primary_that_never_answered_is_named(three: Three, dbsync: Dbsync) -> None:  # noqa: F811
    three.set(DBSYNC_MODELS="reflect")
    done = dbsync("status")
    assert done.status == 1 and "start windows once" in done.err and "DBSYNC_MODELS" in done.err


def test_a_changed_structure_is_read_again_and_said(
    three: Three,
    dbsync: Dbsync,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(three.named("windows"), _SHOP)
    run(three.named("linux"), "CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT)")
    configured_model(three.settings)
    run(three.named("windows"), "CREATE TABLE purchase (id INTEGER PRIMARY KEY)")
    assert configured_model(three.settings).names == ("customer",), "nothing is read unasked"
    tables = dbsync("tables", "create", "--database", "linux", "--json").json[0]["created"]
    assert (
        tables == ["purchase"]
        and "the structure changed, and is kept: new: purchase" in caplog.text
    )
    run(three.named("windows"), "ALTER TABLE customer ADD COLUMN age INT; DROP TABLE purchase")
    caplog.clear()
    assert configured_model(three.settings, fresh=True).names == ("customer",)
    assert "gone: purchase; changed: customer" in caplog.text
    caplog.clear()
    three.new_process()
    assert [c.name for c in configured_model(three.settings, fresh=True).tables[0].columns] == [
        "id",
        "name",
        "age",
    ]
    assert caplog.text == ""


def test_a_sync_that_began_with_the_former_structure_ends_and_the_next_has_the_new(
    three: Three,
) -> None:
    run(three.named("windows"), _SHOP)
    configured_model(three.settings)
    keep.require_current(three.settings)
    run(three.named("windows"), "CREATE TABLE purchase (id INTEGER PRIMARY KEY)")
    with pytest.raises(Transient, match="the structure of its tables changed") as changed:
        keep.require_current(three.settings)
    assert changed.value.database == "windows"
    assert configured_model(three.settings).names == ("customer",), "this process keeps its own"
    three.new_process()
    assert configured_model(three.settings).names == ("customer", "purchase")


def test_a_primary_that_was_replaced_is_not_read(three: Three, dbsync: Dbsync) -> None:  # noqa: F811
    three.set(DBSYNC_MODELS="reflect")
    run(three.named("windows"), _SHOP)
    model = configured_model(three.settings)
    for name in ("linux", "azure"):
        sync(three.named("windows"), three.named(name), model=model)
    assert dbsync("promote", "linux", "--yes").status == 0
    run(three.named("windows"), "DROP TABLE customer; CREATE TABLE other (id INTEGER PRIMARY KEY)")
    assert configured_model(three.settings, fresh=True).names == ("customer",)


@pytest.mark.parametrize(
    "variables",
    [{"DBSYNC_SKIP_TABLES": "customer"}, {"DBSYNC_PRIMARY": "linux"}, {"DBSYNC_TABLES": "note"}],
)
def test_other_settings_need_another_structure(variables: Mapping[str, str], three: Three) -> None:
    three.set(DBSYNC_MODELS="reflect")
    run(three.named("windows"), _SHOP + "CREATE TABLE note (id INTEGER PRIMARY KEY);")
    run(three.named("linux"), "CREATE TABLE note (id INTEGER PRIMARY KEY);")
    assert configured_model(three.settings).names == ("customer", "note")
    before = three.settings
    three.set(**variables)
    assert configured_model(three.settings).names == ("note",)
    three.new_process()
    (three.folder / "windows.db").unlink()
    assert configured_model(before).names == ("customer", "note"), "it is still kept"


def test_another_place_of_the_primary_has_another_structure(three: Three) -> None:
    three.set(DBSYNC_MODELS="reflect", DBSYNC_WINDOWS_URL="sqlite:///relative.db")
    run(three.named("windows"), _SHOP)
    run(three.named("relative"), "CREATE TABLE note (id INTEGER PRIMARY KEY);")
    assert configured_model(three.settings).names == ("note",)
    three.set(DBSYNC_WINDOWS_URL=f"sqlite:///{three.folder / 'windows.db'}")
    assert configured_model(three.settings).names == ("customer",)
    assert len(list((three.folder / "dagster").glob("dbsync_models_*.py"))) == 2


def test_another_password_is_no_other_place(three: Three) -> None:
    files = set()
    for user in ("dbsync:old", "dbsync:new", "admin:x"):
        three.set(DBSYNC_WINDOWS_URL=f"postgresql://{user}@db:5432/shop")
        files.add(three.file)
    three.set(DBSYNC_WINDOWS_URL="postgresql://dbsync:old@other:5432/shop")
    assert len(files) == 1 and three.file not in files


def test_no_sample_is_created_while_nobody_can_say_which_tables_are_meant(
    three: Three,
    dbsync: Dbsync,  # noqa: F811
) -> None:
    with socket.socket() as taken:  # nothing listens there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        three.set(DBSYNC_WINDOWS_URL=f"postgresql://u:p@127.0.0.1:{port}/shop")
        for words in (
            ["tables", "create", "--database", "linux"],
            ["tables", "recreate", "--database", "linux", "--yes-destroy", "linux"],
            ["migrate", "--database", "linux", "--yes"],
            ["sync", "--source", "azure", "--target", "linux", "--yes"],
        ):
            run(three.named("azure"), "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY);")
            run(three.named("linux"), "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY);")
            done = dbsync(*words)
            assert done.status != 0, words
            with three.named("linux").connect() as dialect:
                assert sa.inspect(dialect.connection).get_table_names() == ["note"], words
        refused = dbsync("tables", "create", "--database", "linux")
        assert "DBSYNC_MODELS is not set" in refused.out + refused.err
        assert "windows cannot be asked" in refused.out + refused.err
        for words in (["status"], ["tables", "check", "--database", "linux"]):
            shown = dbsync(*words)
            text = " ".join((shown.out + shown.err).split())
            assert "linux: which tables are meant is unknown" in text, text
            assert "users" not in text and "tables create" not in text
        with three.named("linux").connect(create=True) as dialect, dialect.connection.begin():
            dialect.connection.execute(sa.text("DROP TABLE note"))
            sample.Base.metadata.create_all(dialect.connection)
        shown = dbsync("status")
        assert "users" in shown.out and "linux: which tables" not in shown.out + shown.err
    assert not three.file.exists()


def test_a_kept_structure_that_cannot_be_used_is_named(three: Three) -> None:
    three.set(DBSYNC_MODELS="reflect")
    run(three.named("windows"), _SHOP)
    configured_model(three.settings)
    three.file.write_text(three.file.read_text() + "\nraise ValueError('broken')\n")
    three.new_process()
    with pytest.raises(SettingsError, match="ValueError: broken") as refused:
        configured_model(three.settings)
    assert str(three.file) in refused.value.cause and "remove the file" in str(refused.value)
    three.file.unlink()
    three.file.parent.rmdir()
    three.file.parent.write_text("a file in the place of the folder")
    three.new_process()
    with pytest.raises(SettingsError, match="cannot be kept in") as refused:
        configured_model(three.settings)
    assert "models from-database" in (refused.value.remedy or "")


# The command --------------------------------------------------------------------------------------


def test_models_from_database_writes_a_module_once(
    three: Three,
    dbsync: Dbsync,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(three.named("windows"), _SQLITE)
    written = dbsync("models", "from-database", "shop_models.py", "--json").json
    assert written["tables"] == ["customer", "purchase"] and written["database"] == "windows"
    assert written["skipped"] == {"django_migrations": "a table of Django"} and written["notes"]
    monkeypatch.syspath_prepend(str(three.folder))
    model = load_model("shop_models")
    assert schema.check(three.named("windows"), model) == {"customer": [], "purchase": []}
    again = dbsync("models", "from-database", "shop_models.py")
    assert again.status == 2 and "exists" in again.err and "name another file" in again.err
    shown = dbsync("models", "from-database", "other.py", "--database", "windows").out
    assert "wrote other.py: 2 tables of windows" in shown and "Not mirrored:" in shown
    assert "DBSYNC_MODELS=other" in shown and f"PYTHONPATH={three.folder}" in shown
    assert dbsync("models", "from-database", "none.py", "--schema", "nowhere").status == 2
    assert not (three.folder / "none.py").exists()
