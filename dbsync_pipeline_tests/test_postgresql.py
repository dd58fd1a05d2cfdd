"""Between two PostgreSQL databases all that PostgreSQL can hold is carried, and structure stays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.json_by_value import text_of_value
from dbsync_pipeline.dialects.postgresql import connection, readers
from dbsync_pipeline.dialects.values import Cannot
from dbsync_pipeline.errors import StructureError, Unrepresentable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.save import save
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.versions import as_of, postgresql
from dbsync_pipeline_tests.worlds import ANYTHING, SETTINGS, content, execute, prepare, sync

Pair = tuple[Database, Database]

TYPES = {
    "arr": ("int[]", "'{1,NULL}'", "'{}'"),
    "nested": ("text[][]", """'{{a,"b,\\"c"},{"NULL",NULL}}'""", "'[0:0]={x}'"),
    "range": ("int4range", "'[1,5)'", "'empty'"),
    **({"multirange": ("nummultirange", "'{[1,2),[5,6)}'", "'{}'")} if postgresql() >= 14 else {}),
    "jsonb": ("jsonb", """'{"b":1.10,"a":[null]}'""", "'\"x\"'"),
    "json": ("json", """'{"b": 1.10,  "a":[null]}'""", "'[1, 2]'"),
    "bits": ("bit(5)", "B'10101'", "B'00000'"),
    "varbits": ("bit varying", "B'1'", "B''"),
    "money": ("money", "'12.34'", "'-0.01'"),
    "interval": ("interval", "'1 year 2 mons -3 days 04:05:06.7'", "'30 days'"),
    "inet": ("inet", "'10.0.0.1/8'", "'::1'"),
    "cidr": ("cidr", "'10.0.0.0/8'", "'::/0'"),
    "mac": ("macaddr", "'08:00:2b:01:02:03'", "'ff:ff:ff:ff:ff:ff'"),
    "bytes": ("bytea", "'\\x00ff'", "''"),
    "email": ("email", "'a@b'", "'c@d'"),
    "pair": ("pair", """ROW(7, 'x,"y'::text)::pair""", "ROW(NULL, '')::pair"),
    "point": ("point", "'(1,2.5)'", "'(-0,NaN)'"),
    "polygon": ("polygon", "'((0,0),(1,1),(2,0))'", "'((1,1))'"),
    "words": ("tsvector", "'a:1 b:2A'", "''"),
    "query": ("tsquery", "'a & b'", "'!c'"),
    "number": ("numeric", "1.500", "'NaN'"),
    "large": ("numeric", "1e300", "'-Infinity'" if postgresql() >= 14 else "'NaN'"),
    "real": ("real", "'NaN'", "0.1"),
    "double": ("double precision", "'-0'", "'Infinity'"),
    "char": ("char(5)", "'ab'", "''"),
    "one": ('"char"', "'x'", "''"),
    "name": ("name", "'n'", "''"),
    "day": ("date", "'infinity'", "'4713-01-01 BC'"),
    "hour": ("time", "'24:00'", "'00:00:00.000001'"),
    "zoned_hour": ("timetz", "'12:00+05'", "'12:00-05'"),
    "moment": ("timestamptz", "'-infinity'", "'294276-01-01'"),
    "local": ("timestamp", "'4713-01-01 BC'", "'infinity'"),
    "mood": ("s1.mood", "'ok'", "'sad'"),
    "other_mood": ("s2.mood", "'up'", "'down'"),
    "moods": ("s1.mood[]", "'{sad,ok}'", "'{}'"),
    "path": ("jsonpath", "'$.a'", "'$[*]'"),
    "hstore": ("hstore", "'a=>1,b=>NULL'", "''"),
    "citext": ("citext", "'Hi'", "'HI'"),
    "generated": ("int GENERATED ALWAYS AS (length(name)) STORED", None, None),
    "computed": (as_of("int GENERATED ALWAYS AS (length(name) + 1) VIRTUAL"), None, None),
}
"""A column of every type, with a value and another one."""

KEYS = {
    "text": ('text COLLATE "C"', "'a@x'"),
    "citext": ("citext", "'Abc'"),
    "enum": ("s1.mood", "'sad'"),
    "domain": ("email", "'a@b'"),
    "array": ("int[]", "'{1,2}'"),
    "range": ("int4range", "'[1,5)'"),
    "composite": ("pair", "ROW(1, 'x')::pair"),
    "inet": ("inet", "'10.0.0.1/8'"),
    "char": ("char(5)", "'ab'"),
    "bit": ("bit(5)", "B'10101'"),
    "interval": ("interval", "'1 mon'"),
    "double": ("float8", "0.1"),
    "numeric": ("numeric", "1.50"),
    "moment": ("timestamptz", "'infinity'"),
}

PREPARE = """
CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION btree_gist;
CREATE SCHEMA s1; CREATE SCHEMA s2;
CREATE TYPE s1.mood AS ENUM ('sad', 'ok'); CREATE TYPE s2.mood AS ENUM ('up', 'down');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
"""


class Other(sa.types.UserDefinedType[Any]):
    """A type that SQLAlchemy has no class for."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


def run(database: Database, *statements: str) -> list[Any]:
    """Run SQL as it stands, each statement committed; return the rows of the last one."""
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with contextlib.closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


Ready = Callable[..., tuple[Database, Database, Model]]


@pytest.fixture
def two(new_database: NewDatabase) -> Iterator[Ready]:
    """Two databases with these tables; the model is reflected from the first."""

    def ready(*statements: str) -> tuple[Database, Database, Model]:
        source, target = (
            new_database("postgresql", "windows"),
            new_database("postgresql", "linux", server=1),
        )
        for database in (source, target):
            run(database, PREPARE, *statements)
        metadata = sa.MetaData()
        with source.engine().connect() as connection:
            sa.event.listen(metadata, "column_reflect", _with_other_types)
            metadata.reflect(connection, only=lambda name, _: not name.startswith("part_"))
        return source, target, Model(metadata)

    yield ready


def _with_other_types(_inspector: Any, _table: Any, column: Any) -> None:
    if isinstance(column["type"], sa.types.NullType):
        column["type"] = Other(column["name"])


def rows(database: Database, table: str) -> list[str]:
    return [
        text for (text,) in run(database, f'SELECT t::text COLLATE "C" FROM {table} t ORDER BY 1')
    ]


def test_every_type_is_carried_in_a_first_load_and_in_a_change(two: Ready) -> None:
    columns = ", ".join(f"{name} {type_}" for name, (type_, *_) in TYPES.items())
    table = f"CREATE TABLE every (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {columns})"
    source, target, model = two(table)
    copied = {name: values for name, (_, *values) in TYPES.items() if values[0] is not None}
    names = ", ".join(copied)
    for n in (0, 1):
        values = ", ".join(values[n] for values in copied.values())
        run(source, f"INSERT INTO every ({names}) VALUES ({values})")
    run(source, "INSERT INTO every (name) VALUES (NULL), ('gone')")
    sync(source, target, model=model)
    assert rows(target, "every") == rows(source, "every")
    swapped = ", ".join(f"{name} = {values[0]}" for name, values in copied.items())
    run(source, f"UPDATE every SET {swapped} WHERE id > 1", "DELETE FROM every WHERE id = 4")
    publish = sync(source, target, model=model, policy=ANYTHING)
    assert (publish.tables["every"].updated, publish.tables["every"].deleted) == (2, 1)
    assert rows(target, "every") == rows(source, "every")
    assert all(one.equal for one in verify(source, target, model))


@pytest.mark.parametrize("key", KEYS)
def test_rows_are_found_by_a_key_of_any_type(two: Ready, key: str) -> None:
    type_, value = KEYS[key]
    source, target, model = two(
        f"CREATE TABLE plain (k {type_} PRIMARY KEY, v int)",
        f"CREATE TABLE joined (k {type_}, n int, v int, PRIMARY KEY (k, n))",
    )
    run(
        source,
        f"INSERT INTO plain VALUES ({value}, 1)",
        f"INSERT INTO joined VALUES ({value}, 1, 1)",
    )
    sync(source, target, model=model)
    run(source, "UPDATE plain SET v = 2", "UPDATE joined SET v = 2")
    sync(source, target, model=model, policy=ANYTHING)
    for table in ("plain", "joined"):
        assert rows(target, table) == rows(source, table) != []


STRUCTURE = """
SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid::text,
       indisclustered::text, obj_description(indexrelid, 'pg_class'),
       (SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'constraint', conname, pg_get_constraintdef(oid), conislocal::text, coninhcount::text,
       obj_description(oid, 'pg_constraint'), conrelid::regclass::text
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
ORDER BY 1, 2"""


def test_a_first_load_leaves_every_index_and_constraint_as_it_was(two: Ready) -> None:
    source, target, model = two(
        "CREATE TABLE part (id int, day date, v text, PRIMARY KEY (id, day)) "
        "PARTITION BY RANGE (day)",
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')",
        "CREATE TABLE part_2 PARTITION OF part DEFAULT",
        "CREATE INDEX part_v ON part (v); CREATE INDEX part_1_own ON part_1 (v, id)",
        "CREATE UNIQUE INDEX part_u ON part (v, day)",
        "CREATE TABLE rooms (id int PRIMARY KEY, room int, during tstzrange, "
        "EXCLUDE USING gist (room WITH =, during WITH &&))",
        "CREATE TABLE places (id int PRIMARY KEY, place int UNIQUE DEFERRABLE, a text, b jsonb, "
        "room int REFERENCES rooms, "
        + as_of("CONSTRAINT apart UNIQUE NULLS NOT DISTINCT (a, id) INCLUDE (b))"),
        "CREATE INDEX ON places USING gin (b); CREATE INDEX ON places (lower(a)) WHERE a <> ''",
        "CREATE INDEX described ON places (a); COMMENT ON INDEX described IS 'for the report'",
        "CREATE INDEX clustered ON places (a, id); ALTER TABLE places CLUSTER ON clustered",
        "COMMENT ON CONSTRAINT places_place_key ON places IS 'one each'",
    )
    before = run(target, STRUCTURE)
    run(
        source,
        "INSERT INTO part VALUES (1, '2020-05-05', 'a'), (2, '2022-05-05', 'b')",
        "INSERT INTO rooms VALUES (1, 1, '[2020-01-01,2020-01-02)')",
        "INSERT INTO rooms VALUES (2, 1, '[2020-01-02,2020-01-03)')",
        "INSERT INTO places VALUES (1, 1, 'a', '{}', 1), (2, 2, 'b', '[]', 2)",
    )
    sync(source, target, model=model)
    assert run(target, STRUCTURE) == before
    for table in ("part", "rooms", "places"):
        assert rows(target, table) == rows(source, table) != []


def test_rows_that_exclude_or_displace_each_other_are_swapped(two: Ready) -> None:
    source, target, model = two(
        "CREATE TABLE rooms (id int PRIMARY KEY, room int, during tstzrange, "
        "EXCLUDE USING gist (room WITH =, during WITH &&))",
        "CREATE TABLE places (id int PRIMARY KEY, place int UNIQUE DEFERRABLE)",
        "CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE part_2 PARTITION OF part DEFAULT",
    )
    run(
        source,
        "INSERT INTO rooms VALUES (1, 1, '[2020-01-01,2020-01-02)')",
        "INSERT INTO rooms VALUES (2, 1, '[2020-01-02,2020-01-03)')",
        "INSERT INTO places VALUES (1, 1), (2, 2)",
        "INSERT INTO part VALUES (1, 'a'), (20, 'b')",
    )
    sync(source, target, model=model)
    run(
        source,
        "UPDATE rooms SET room = 2 WHERE id = 1",
        "UPDATE rooms SET during = '[2020-01-01,2020-01-02)' WHERE id = 2",
        "UPDATE rooms SET room = 1, during = '[2020-01-02,2020-01-03)' WHERE id = 1",
        "UPDATE places SET place = 3 - place",
        "UPDATE part SET id = 30 - id, v = v || '!'",
    )
    sync(source, target, model=model, policy=ANYTHING)
    for table in ("rooms", "places", "part"):
        assert rows(target, table) == rows(source, table) != []


def test_columns_whose_collation_takes_different_texts_as_equal(two: Ready) -> None:
    """Equal to the collation is not equal: `Ada` and `ADA` are two values, and one key."""
    try:
        source, target, model = two(
            "CREATE COLLATION s1.nocase (provider = icu, locale = 'und-u-ks-level2', "
            "deterministic = false)",
            "CREATE TABLE plain (id int PRIMARY KEY, v text COLLATE s1.nocase UNIQUE)",
            "CREATE TABLE keyed (k text COLLATE s1.nocase PRIMARY KEY, v int)",
            "CREATE TABLE child (id int PRIMARY KEY, k text COLLATE s1.nocase REFERENCES keyed)",
            "CREATE TABLE loose (v text COLLATE s1.nocase, n int)",
        )
    except psycopg2.errors.FeatureNotSupported:
        pytest.skip("the servers are built without ICU: DBSYNC_TEST_URLS may name others")
    run(
        source,
        "INSERT INTO plain VALUES (1, 'Ada'), (2, 'bea')",
        "INSERT INTO keyed VALUES ('Ada', 1), ('bea', 2), ('cy', 3)",
        "INSERT INTO child VALUES (1, 'ADA'), (2, 'Bea')",
        "INSERT INTO loose VALUES ('x', 1), ('X', 1), ('x', 1)",
    )
    sync(source, target, model=model)
    run(
        source,
        "UPDATE plain SET v = 'ADA' WHERE id = 1",
        "UPDATE keyed SET k = 'BEA', v = 5 WHERE k = 'bea'",
        "DELETE FROM keyed WHERE k = 'CY'",
        "UPDATE child SET k = 'ada' WHERE id = 1",
        "UPDATE loose SET v = 'x' WHERE v = 'X'",
    )
    sync(source, target, model=model, policy=ANYTHING)
    for table in ("plain", "keyed", "child", "loose"):
        assert rows(target, table) == rows(source, table) != []
    assert all(one.equal for one in verify(source, target, model))


INHERITANCE = (
    "CREATE TABLE base (id int PRIMARY KEY, v text)",
    "CREATE TABLE child (extra int, PRIMARY KEY (id)) INHERITS (base)",
)


KEYLESS_CHILD = "CREATE TABLE loose_child (n int) INHERITS (loose)"


def test_a_table_and_those_that_inherit_from_it_have_their_own_rows(two: Ready) -> None:
    source, target, model = two(*INHERITANCE)
    run(source, "INSERT INTO base VALUES (1, 'b')", "INSERT INTO child VALUES (2, 'c', 9)")
    sync(source, target, model=model)
    run(source, "UPDATE base SET v = 'x'", "DELETE FROM child")
    sync(source, target, model=model, policy=ANYTHING)
    for table in ("ONLY base", "child"):
        assert rows(target, table) == rows(source, table)


def test_before_images_of_a_table_have_no_rows_of_those_that_inherit_from_it(two: Ready) -> None:
    """PostgreSQL lets both have a row of one key."""
    source, target, model = two(*INHERITANCE, "CREATE TABLE loose (v text)", KEYLESS_CHILD)
    run(
        source,
        "INSERT INTO base VALUES (1, 'b')",
        "INSERT INTO child VALUES (1, 'c', 9)",
        "INSERT INTO loose VALUES ('l')",
        "INSERT INTO loose_child VALUES ('l', 1)",
    )
    sync(source, target, model=model)
    tables = ("ONLY base", "child", "ONLY loose", "loose_child")
    before = [rows(target, table) for table in tables]
    run(source, "UPDATE ONLY base SET v = 'x'", "DELETE FROM child", "DELETE FROM ONLY loose")
    changed = sync(source, target, model=model, policy=ANYTHING)
    assert [len(rows(target, table)) for table in tables] == [1, 0, 0, 1]
    assert undo(target, model, changed.run_id, by="undo", settings=SETTINGS).changed == 3
    assert [rows(target, table) for table in tables] == before


def test_a_table_that_inherits_and_is_not_in_the_models_is_refused(two: Ready) -> None:
    source, target, model = two(*INHERITANCE)
    model.metadata.remove(model.metadata.tables["child"])
    run(source, "INSERT INTO base VALUES (1, 'b')", "INSERT INTO child VALUES (2, 'c', 9)")
    with pytest.raises(StructureError, match=r"public\.child inherits from it"):
        sync(source, target, model=Model(model.metadata))
    assert rows(target, "base") == []


def test_a_partition_beside_its_table_is_refused(two: Ready) -> None:
    source, target, model = two(
        "CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE part_1 PARTITION OF part DEFAULT",
    )
    with source.engine().connect() as connection:
        model.metadata.reflect(connection)
    run(source, "INSERT INTO part VALUES (1)")
    with pytest.raises(StructureError, match=r"table part_1: it is a partition of public\.part"):
        sync(source, target, model=Model(model.metadata))
    assert rows(target, "part") == []


ENCODINGS = Model(sa.MetaData())
sa.Table(
    "people",
    ENCODINGS.metadata,
    sa.Column("name", sa.Unicode(20), primary_key=True),
    sa.Column("notes", sa.UnicodeText),
)


@pytest.fixture
def win1252(new_database: NewDatabase) -> Iterator[Database]:
    """A database as older PostgreSQL on Windows makes it."""
    server = new_database("postgresql", "windows", server=0)
    options = "ENCODING 'WIN1252' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    run(server, f"CREATE DATABASE {server.url.database}_1252 {options}")
    yield replace(server, url=server.url.set(database=f"{server.url.database}_1252"))
    run(server, f"DROP DATABASE {server.url.database}_1252 WITH (FORCE)")


@pytest.mark.parametrize("target", ["postgresql", "sqlite"])
def test_a_database_in_another_encoding_is_carried(
    win1252: Database, target: str, new_database: NewDatabase
) -> None:
    standby = new_database(target, "linux", server=1)
    people = ENCODINGS.table("people").sa
    prepare(win1252, {"people": [{"name": "Zoë €", "notes": "é"}]}, ENCODINGS)
    sync(win1252, standby, model=ENCODINGS)
    execute(win1252, people.update().values(notes="ü€"))
    sync(win1252, standby, model=ENCODINGS, policy=ANYTHING)
    assert content(standby, ENCODINGS) == content(win1252, ENCODINGS)
    assert all(one.equal for one in verify(win1252, standby, ENCODINGS))


@pytest.mark.parametrize("source", ["postgresql", "sqlite"])
def test_a_character_that_the_encoding_lacks_is_refused_by_key(
    win1252: Database, source: str, new_database: NewDatabase
) -> None:
    primary, standby = new_database(source, "linux", server=1), win1252
    prepare(primary, {"people": [{"name": "a", "notes": "é"}]}, ENCODINGS)
    sync(primary, standby, model=ENCODINGS)
    execute(primary, ENCODINGS.table("people").sa.update().values(notes="漢"))
    with pytest.raises(
        Unrepresentable, match=r"column notes .*key \('a'\).*encoding WIN1252 lacks"
    ):
        sync(primary, standby, model=ENCODINGS, policy=ANYTHING)
    assert content(standby, ENCODINGS)["people"] == [("a", "é")]


def test_a_value_of_100_megabytes_is_carried(two: Ready) -> None:
    source, target, model = two("CREATE TABLE files (id int PRIMARY KEY, content bytea)")
    run(source, "INSERT INTO files SELECT 1, convert_to(repeat('0123456789', 10000000), 'UTF8')")
    sync(source, target, model=model)
    sizes = "SELECT octet_length(content), md5(content) FROM files"
    assert run(target, sizes) == run(source, sizes)


def _json(random: Random, depth: int = 0) -> str:
    """A JSON text as anybody may write it."""
    numbers = [
        "0",
        "-0",
        "1",
        "-1.10",
        "1e5",
        "1.5E+3",
        "1.0e1",
        "-0.0",
        "0e5",
        "0.00e1",
        "1E-7",
        "5e-324",
        "1.7e308",
        "10.00E-2",
    ]
    texts = [
        '""',
        '"a"',
        '"\\u00e9é"',
        '"\\ud83d\\ude42"',
        '"\\n\\/\\\\\\""',
        '"\\u0001\x7f"',
        '"漢"',
    ]
    keys = ['"a"', '"b"', '"aa"', '"é"', '"漢"', '""', '"B"', '"\\u0061"']
    match random.randrange(4 if depth < 4 else 2):
        case 0:
            return random.choice([*numbers, "null", "true", "false", "1234567890" * 5 + ".10"])
        case 1:
            return random.choice(texts)
        case 2:
            return (
                "[" + " , ".join(_json(random, depth + 1) for _ in range(random.randrange(4))) + "]"
            )
        case _:
            pairs = (
                f"{random.choice(keys)} :{_json(random, depth + 1)}"
                for _ in range(random.randrange(5))
            )
            return "{ " + ",\n".join(pairs) + "}"


def test_the_text_of_a_json_value_is_that_of_jsonb(new_database: NewDatabase) -> None:
    random = Random(1)
    texts = [_json(random) for _ in range(5_000)]
    database = new_database("postgresql", "windows")
    with database.engine().connect() as connection:
        query = sa.text("SELECT t::jsonb::text FROM unnest(CAST(:texts AS text[])) t")
        expected = connection.execute(query, {"texts": texts}).scalars().all()
    assert list(map(text_of_value, texts)) == expected


@pytest.mark.parametrize(
    "text", ['"\\u0000"', '"\\ud800"', "NaN", "{", "1e200000", "[1,]", "[" * 9**5]
)
def test_what_jsonb_cannot_hold_has_no_text(text: str) -> None:
    with pytest.raises(Cannot):
        text_of_value(text)


@pytest.mark.parametrize("enabled", ["", "ENABLE ALWAYS"])
def test_a_trigger_of_a_partition_does_not_fire_or_is_refused(two: Ready, enabled: str) -> None:
    source, target, model = two(
        "CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE part_1 PARTITION OF part DEFAULT",
        "CREATE FUNCTION damage() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.v := 'damaged'; RETURN NEW; END $$",
    )
    run(
        target,
        "CREATE TRIGGER damage BEFORE INSERT ON part_1 FOR EACH ROW EXECUTE FUNCTION damage()",
        *([f"ALTER TABLE part_1 {enabled} TRIGGER damage"] if enabled else []),
    )
    run(source, "INSERT INTO part VALUES (1, 'a')")
    if enabled:
        with pytest.raises(
            StructureError, match="the trigger damage of part_1 cannot be suspended"
        ):
            sync(source, target, model=model)
    else:
        sync(source, target, model=model)
        assert rows(target, "part") == rows(source, "part") == ["(1,a)"]


def test_a_row_that_is_deleted_is_noticed_beside_one_that_inherits(two: Ready) -> None:
    """Rows of a table that inherits must not stand in for the table's own."""
    source, target, model = two(*INHERITANCE)
    run(source, "INSERT INTO base VALUES (1, 'b')", "INSERT INTO child VALUES (2, 'c', 9)")
    for _ in range(2):
        sync(source, target, model=model)
    run(source, "DELETE FROM ONLY base")
    sync(source, target, model=model, policy=ANYTHING)
    assert rows(target, "ONLY base") == []
    assert rows(target, "child") == rows(source, "child") != []


def test_before_images_of_many_rows_are_joined_and_not_looked_up_one_by_one(two: Ready) -> None:
    """A subquery for every row would take a time that grows with the square of their number."""
    source, target, model = two("CREATE TABLE t (id int PRIMARY KEY, v text)")
    sync(source, target, model=model)
    table = model.table("t")
    plans: list[str] = []

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if statement.startswith("INSERT"):
            cursor.execute(f"EXPLAIN {statement}", parameters)
            plans.extend(line for (line,) in cursor.fetchall())

    with target.connect() as dialect:
        dialect.begin([table], wait_seconds=5)
        dialect.create_staging(table)
        sa.event.listen(dialect.connection, "before_cursor_execute", explain)
        save(dialect, 1, table)
    assert any("rescued" in line for line in plans)
    assert not any("SubPlan" in line for line in plans)


def test_a_session_leaves_out_the_settings_that_its_server_does_not_have(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.PINS, "no_such_setting", "1")
    with new_database("postgresql", "windows").connect() as dialect:
        rows = dialect.connection.execute(sa.text("SELECT name, setting FROM pg_settings"))
        shown = {name: setting for name, setting in rows}
    assert "no_such_setting" not in shown
    assert (
        shown["lock_timeout"] == "30000"
        and shown.get("client_connection_check_interval", "5000") == "5000"
    )


def test_a_sequence_that_the_standby_lacks_is_named(
    two: Ready, caplog: pytest.LogCaptureFixture
) -> None:
    source, target, model = two("CREATE TABLE t (id serial PRIMARY KEY)")
    run(source, "CREATE SEQUENCE loose", "SELECT nextval('loose')")
    sync(source, target, model=model)
    assert "linux lacks counters that windows has: sequence loose;" in caplog.text
    run(target, "CREATE SEQUENCE loose")
    caplog.clear()
    sync(source, target, model=model)
    assert "lacks counters" not in caplog.text
    assert run(target, "SELECT nextval('loose')")[0][0] > 1


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("aclitem", "=r/postgres"),
        ("aclitem[]", "{=r/postgres}"),
        ("rights", "(=r/postgres)"),
    ],
)
def test_a_type_without_a_binary_form_is_carried(
    two: Ready, column: str, value: str, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Types of extensions may have none; aclitem is the server's own."""
    monkeypatch.setattr(readers, "SHARED_BYTES", 0)
    source, target, model = two(
        "CREATE TYPE rights AS (item aclitem)",
        f"CREATE TABLE t (id int PRIMARY KEY, r {column})",
    )
    run(source, f"INSERT INTO t VALUES (1, '{value}'), (2, NULL)")
    several = SETTINGS.model_copy(update={"connections": connections})
    sync(source, target, model=model, settings=several)
    run(source, f"UPDATE t SET r = '{value}' WHERE id = 2")
    assert sync(source, target, model=model, settings=several).tables["t"].updated == 1
    assert rows(target, "t") == rows(source, "t")
    assert all(table.equal for table in verify(source, target, model))
