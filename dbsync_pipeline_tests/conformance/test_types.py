"""Every type that both sides hold arrives exactly, at its extremes.

What one side cannot hold is refused by table, key and column.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql
from sqlalchemy.dialects.postgresql import JSONB

from dbsync_pipeline.columns import Instant
from dbsync_pipeline.errors import Unrepresentable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import PAIRS, NewDatabase
from dbsync_pipeline_tests.worlds import MODEL, content, execute, memory, prepare, sync, user

Pair = tuple[Database, Database]
INTO_MSSQL = [
    pair for pair in PAIRS if str(pair.id).endswith("-mssql") and pair.id != "mssql-mssql"
]
"""What only SQL Server cannot hold; without such a server this is empty, and pytest says so."""

KINDS = Model(sa.MetaData())
sa.Table(
    "kinds",
    KINDS.metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("small", sa.SmallInteger),
    sa.Column("whole", sa.Integer),
    sa.Column("big", sa.BigInteger),
    sa.Column("yes", sa.Boolean),
    sa.Column("double", sa.Float(53)),
    sa.Column("amount", sa.Numeric(38, 10)),
    sa.Column("digits", sa.Numeric(15, 0)),
    sa.Column("day", sa.Date),
    sa.Column("hour", sa.Time),
    sa.Column("moment", Instant),
    sa.Column("local", sa.DateTime().with_variant(mssql.DATETIME2(6), "mssql")),
    sa.Column("short", sa.Unicode(4)),
    sa.Column("long", sa.UnicodeText),
    sa.Column("role", sa.Enum("plain", "of two words", name="kinds_role")),
    sa.Column("bytes", sa.LargeBinary),
    sa.Column("json", sa.JSON(none_as_null=True)),
)


def _row(number: int, **given: Any) -> dict[str, Any]:
    nothing = {column.name: None for column in KINDS.tables[0].columns}
    return {
        **nothing,
        "id": uuid.UUID(int=number * 0x0101_0000_0000_0000_0000_0000_0000_0103 % 2**128),
        **given,
    }


UTC = dt.UTC
ROWS = [
    _row(
        1,
        small=-(2**15),
        whole=-(2**31),
        big=-(2**63),
        yes=False,
        double=-1.7976931348623157e308,
        day=dt.date.min,
        hour=dt.time.min,
    ),
    _row(
        2,
        small=2**15 - 1,
        whole=2**31 - 1,
        big=2**63 - 1,
        yes=True,
        double=2.2250738585072014e-308,
        day=dt.date.max,
        hour=dt.time.max,
    ),
    _row(
        3,
        amount=decimal.Decimal("12345.0000000001"),
        digits=decimal.Decimal(10**15 - 1),
        moment=dt.datetime.min.replace(tzinfo=UTC),
    ),
    _row(
        4,
        amount=decimal.Decimal("-0.5"),
        digits=decimal.Decimal(1 - 10**15),
        moment=dt.datetime.max.replace(tzinfo=UTC),
    ),
    _row(5, local=dt.datetime.min, short="", long="", bytes=b"", json={}),
    _row(
        6,
        local=dt.datetime.max,
        short="a🙂b",
        long="🙂" * 1000 + "  ",
        role="of two words",
        bytes=bytes(range(256)),
        json=["é", None],
    ),
    _row(
        7,
        local=dt.datetime(2026, 1, 31, 1, 2, 3, 456789),
        short="    ",
        long="x" * 9000,
        bytes=b"\0" * 9000,
        json="  ",
    ),
    _row(
        8,
        moment=dt.datetime(1999, 12, 31, 23, 59, 59, 999999, UTC),
        day=dt.date(1999, 12, 31),
        double=-0.1,
        hour=dt.time(12, 0, 0, 1),
    ),
    _row(9),
    *(_row(10 + number, whole=number) for number in range(300)),
]


def test_every_type_arrives_at_its_extremes(pair: Pair) -> None:
    source, target = pair
    prepare(source, {"kinds": ROWS}, KINDS)
    assert sync(source, target, model=KINDS).changed == len(ROWS)
    assert content(target, KINDS) == content(source, KINDS)
    assert sync(source, target, model=KINDS).changed == 0


def test_changes_of_every_type_are_seen(pair: Pair) -> None:
    """Into a table that has rows, which goes through staging."""
    source, target = pair
    prepare(source, {"kinds": ROWS[8:]}, KINDS)
    sync(source, target, model=KINDS)
    table = KINDS.tables[0].sa
    with source.engine().begin() as connection:
        for row in ROWS[:8]:
            connection.execute(table.insert(), [row])
        given = {
            name: value for name, value in ROWS[5].items() if name != "id" and value is not None
        }
        connection.execute(table.update().where(table.c.id == ROWS[8]["id"]).values(given))
    done = sync(source, target, model=KINDS).tables["kinds"]
    assert (done.inserted, done.updated, done.deleted) == (8, 1, 0)
    assert content(target, KINDS) == content(source, KINDS)


@pytest.mark.parametrize(
    "pair", [pair for pair in PAIRS if "sqlite" not in str(pair.id)], indirect=True
)
def test_decimals_of_38_digits(pair: Pair) -> None:
    source, target = pair
    most = decimal.Decimal("9" * 28 + "." + "9" * 10)
    numbers = [
        most,
        most.copy_negate(),
        decimal.Decimal("0.0000000001"),
        decimal.Decimal("-1E-10"),
        decimal.Decimal("1E27"),
    ]
    prepare(source, {}, KINDS)
    table = KINDS.table(
        "kinds"
    ).sa  # one by one: mssql-python gives all rows of a statement the precision of one
    execute(
        source,
        *[table.insert().values(_row(n, amount=number)) for n, number in enumerate(numbers, 1)],
    )
    sync(source, target, model=KINDS)
    assert content(target, KINDS) == content(source, KINDS)


def test_denormal_floats_arrive_or_are_refused_by_key(pair: Pair) -> None:
    """SQL Server counts them as damage: it cannot be a source of any, and holds none."""
    source, target = pair
    if source.engine_name == "mssql":
        pytest.skip("an application cannot write them there")
    prepare(source, {"kinds": [_row(1, double=5e-324), _row(2, double=-1e-310)]}, KINDS)
    if target.engine_name == "mssql":
        with pytest.raises(Unrepresentable, match=r"column double of the row with key .*0 and 2"):
            sync(source, target, model=KINDS)
        return
    sync(source, target, model=KINDS)
    assert content(target, KINDS) == content(source, KINDS)


def test_texts_and_bytes_of_ten_megabytes(pair: Pair) -> None:
    source, target = pair
    text, data = "ä🙂漢 b" * 1_000_000, bytes(range(250)) * 40_000
    assert len(text.encode()) > 10_000_000 and len(data) == 10_000_000
    prepare(source, {"kinds": [_row(1, long=text, bytes=data), _row(2, long=text[1:])]}, KINDS)
    sync(source, target, model=KINDS)
    assert content(target, KINDS) == content(source, KINDS)


def test_decimals_of_more_digits_than_sqlite_keeps_are_refused_by_key_and_column(
    new_database: NewDatabase,
) -> None:
    source, target = new_database("postgresql", "windows"), new_database("sqlite", "linux")
    prepare(
        source,
        {
            "kinds": [
                _row(1, amount=decimal.Decimal("1.5")),
                _row(2, amount=decimal.Decimal("9" * 28 + ".5")),
            ]
        },
        KINDS,
    )
    with pytest.raises(Unrepresentable, match="column amount of the row with key") as refusal:
        sync(source, target, model=KINDS)
    assert refusal.value.table == "kinds" and "0202" in str(refusal.value)
    assert content(target, KINDS)["kinds"] == []


@pytest.mark.parametrize(
    ("engine", "column", "stored", "why"),
    [
        ("sqlite", "long", "CAST(x'736563726574ff' AS TEXT)", "its text is not UTF-8"),
        (
            "postgresql",
            "long",
            "CAST(x'6c6f636b656420736563726574ff' AS TEXT)",
            "its text is not UTF-8",
        ),
        ("postgresql", "json", "'{\"a\": secret'", "invalid input syntax for type json"),
        ("postgresql", "role", "'secret'", "invalid input value for enum kinds_role"),
    ],
)
def test_what_sqlite_stores_against_the_models_is_refused_by_key_and_column_without_the_value(
    new_database: NewDatabase, engine: str, column: str, stored: str, why: str
) -> None:
    source, target = new_database("sqlite", "windows"), new_database(engine, "linux")
    prepare(
        source, {"kinds": [_row(n, long="x", json={}, role="plain") for n in range(1, 300)]}, KINDS
    )
    sync(source, target, model=KINDS)
    execute(
        source,
        f"UPDATE kinds SET {column} = {stored} "
        "WHERE id IN (SELECT id FROM kinds LIMIT 1 OFFSET 222)",
    )
    with source.connect() as dialect:
        id_ = dialect.connection.scalar(sa.text("SELECT id FROM kinds LIMIT 1 OFFSET 222"))
    for fresh in (target, new_database(engine, "azure")):
        with pytest.raises(
            Unrepresentable, match=f"column {column} of the row with key .*{why}"
        ) as refused:
            sync(source, fresh, model=KINDS)
        said = str(refused.value)
        assert (
            id_ in said.replace("-", "")
            and "table kinds" in said
            and "Remedy: " in said
            and "secret" not in said
        )
    if why == "its text is not UTF-8":
        with pytest.raises(Unrepresentable, match=f"column {column} of the row with key"):
            verify(source, target, KINDS)


@pytest.mark.parametrize("pair", INTO_MSSQL, indirect=True)
def test_a_text_too_long_for_the_target_is_refused_and_changes_nothing(pair: Pair) -> None:
    """SQL Server counts a character beyond U+FFFF as two."""
    source, target = pair
    prepare(source, {"kinds": [_row(1, short="abcd"), _row(2, short="🙂🙂🙂")]}, KINDS)
    with pytest.raises(
        Unrepresentable, match=r"column short of the row with key .*counts as two"
    ) as refusal:
        sync(source, target, model=KINDS)
    assert refusal.value.table == "kinds" and "0202" in str(refusal.value)
    assert content(target, KINDS)["kinds"] == []


@pytest.mark.parametrize("pair", INTO_MSSQL, indirect=True)
def test_keys_that_the_target_takes_as_equal_are_refused_and_change_nothing(pair: Pair) -> None:
    """SQL Server ignores trailing spaces when it compares."""
    source, target = pair
    prepare(source, {"users": [user(1)], "user_memory": [memory(1, "key"), memory(1, "key ")]})
    with pytest.raises(
        Unrepresentable, match=r"user_id, key must be unique.*'key'.*'key '.*trailing spaces"
    ):
        sync(source, target)
    assert content(target)["user_memory"] == []
    assert MODEL.names


@pytest.mark.parametrize("width", [60, 300])
def test_a_wide_table_is_carried(pair: Pair, width: int) -> None:
    model = Model(sa.MetaData())
    columns = [sa.Column(f"c{n}", sa.Unicode(10) if n % 2 else sa.Integer) for n in range(width)]
    wide = sa.Table("wide", model.metadata, sa.Column("id", sa.Integer, primary_key=True), *columns)
    source, target = pair
    values = {f"c{n}": f"é{n}" if n % 2 else n for n in range(width)}
    prepare(source, {"wide": [{"id": n, **values} for n in range(5)]}, model)
    sync(source, target, model=model)
    execute(source, wide.update().where(wide.c.id == 3).values({f"c{width - 1}": "last"}))
    publish = sync(source, target, model=model)
    assert publish.tables["wide"].updated == 1
    assert content(target, model) == content(source, model)
    assert all(one.equal for one in verify(source, target, model))


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("moment", "2026-01-31 12:00:00.123456789+00:00"),
        ("local", "2026-01-31 12:00:00.1234567"),
        ("hour", "12:00:00.000000001"),
    ],
)
def test_nanoseconds_in_sqlite_are_refused_by_key(
    new_database: NewDatabase, column: str, text: str
) -> None:
    source, target = new_database("sqlite", "windows"), new_database("postgresql", "linux")
    prepare(source, {"kinds": ROWS[:1]}, KINDS)
    execute(source, f"UPDATE kinds SET {column} = '{text}'")
    with pytest.raises(Unrepresentable, match=f"column {column} .*more than 6 digits of a second"):
        sync(source, target, model=KINDS)
    execute(source, f"UPDATE kinds SET {column} = '{text[:26] if column != 'hour' else text[:15]}'")
    sync(source, target, model=KINDS)


BY_VALUE = Model(sa.MetaData())
sa.Table(
    "docs",
    BY_VALUE.metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("body", sa.JSON().with_variant(JSONB(), "postgresql")),
)


def test_json_that_one_side_keeps_by_value_is_compared_by_value(pair: Pair) -> None:
    source, target = pair
    docs = BY_VALUE.table("docs").sa
    prepare(source, {"docs": [{"id": 1, "body": {"name": "Zoë", "age": 3}}]}, BY_VALUE)
    if source.engine_name == "mssql" != target.engine_name:
        with pytest.raises(Unrepresentable, match=r"column body .*key \(1\).*jsonb would not keep"):
            sync(source, target, model=BY_VALUE)
        execute(source, docs.update().values(body={"age": 3, "name": 1}))
        execute(source, 'UPDATE docs SET body = N\'{"age": 3, "name": "Zoë"}\'')
    sync(source, target, model=BY_VALUE)
    assert sync(source, target, model=BY_VALUE).tables["docs"].updated == 0
    with target.engine().connect() as connection:
        assert connection.scalar(sa.select(docs.c.body)) == {"age": 3, "name": "Zoë"}
    assert all(one.equal for one in verify(source, target, BY_VALUE))
