"""What tests do to databases: write as an application would, sync, and read everything back."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Publish
from dbsync_pipeline.mirror.model import Model, load_model
from dbsync_pipeline.mirror.sync.rounds import Round
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.policy import Policy
from dbsync_pipeline.settings import Settings

MODEL = load_model("dbsync_pipeline.models")
ANYTHING = Policy(overwrite=True, max_change_fraction=1)
SETTINGS = Settings(lock_seconds=1)
UTC = dt.UTC
NOON = dt.datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC)

_runs = itertools.count(1)


def session(
    source: Database,
    target: Database,
    tables: Iterable[str] = (),
    *,
    model: Model = MODEL,
    policy: Policy | None = None,
    settings: Settings = SETTINGS,
    run_id: str | None = None,
    round_id: str | None = None,
    shared: Round | None = None,
) -> Session:
    run_id = run_id or f"run-{next(_runs)}-{uuid.uuid4().hex[:8]}"
    return Session(
        source,
        target,
        model,
        tuple(tables),
        run_id=run_id,
        settings=settings,
        policy=policy,
        round_id=round_id,
        shared=shared,
    )


def sync(
    source: Database,
    target: Database,
    tables: Iterable[str] = (),
    *,
    model: Model = MODEL,
    policy: Policy | None = None,
    settings: Settings = SETTINGS,
    run_id: str | None = None,
    round_id: str | None = None,
    shared: Round | None = None,
) -> Publish:
    """A whole sync, as the ops do it."""
    with session(
        source,
        target,
        tables,
        model=model,
        policy=policy,
        settings=settings,
        run_id=run_id,
        round_id=round_id,
        shared=shared,
    ) as one:
        one.ensure_schema()
        for table in model.select(tables):
            one.copy(table.name)
        return one.publish()


def synced_pair(new_database: Callable[..., Database]) -> tuple[Database, Database]:
    """A small world on one PostgreSQL server, and its standby on another one."""
    source, target = (
        new_database("postgresql", name, server=n) for n, name in enumerate(("windows", "linux"))
    )
    prepare(source, small_world())
    sync(source, target)
    return source, target


def execute(database: Database, *statements: Any) -> None:
    """SQLAlchemy statements, or pairs of a statement and its parameters, in one transaction, as the application's own."""
    engine = database.engine()
    with engine.begin() as connection:
        for statement in statements:
            if isinstance(statement, tuple):
                connection.execute(*statement)
            else:
                connection.execute(sa.text(statement) if isinstance(statement, str) else statement)


def insert(
    database: Database, rows: Mapping[str, list[dict[str, Any]]], model: Model = MODEL
) -> None:
    """Rows by table, parents first, through the models' types."""
    execute(
        database,
        *[(model.table(table).sa.insert(), given) for table, given in rows.items() if given],
    )


def is_babelfish(database: Database) -> bool:
    """Whether this is the test server for T-SQL that is not Microsoft's."""
    if database.engine_name != "mssql":
        return False
    with database.engine().connect() as connection:
        return connection.scalar(sa.text("SELECT serverproperty('Babelfish')")) is not None


def content(database: Database, model: Model = MODEL) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables as the application sees them, sorted; JSON as the text that is stored."""
    with database.engine().connect() as connection:
        return {table.name: _sorted(connection, table.sa) for table in model.tables}


def _sorted(connection: sa.Connection, table: sa.Table) -> list[tuple[Any, ...]]:
    columns = [
        sa.cast(column, sa.UnicodeText) if isinstance(column.type, sa.JSON) else column
        for column in table.columns
    ]
    return sorted((tuple(row) for row in connection.execute(sa.select(*columns))), key=repr)


def sequence_gives(database: Database, row: dict[str, Any], table: str = "users") -> int:
    """The key that the database gives to a row that the application inserts now."""
    engine = database.engine()
    with engine.begin() as connection:
        key = connection.execute(MODEL.table(table).sa.insert().values(row)).inserted_primary_key
        assert key is not None
        return int(key[0])


def open_dialect(database: Database) -> Dialect:
    return database.open("test")


def user(number: int, **given: Any) -> dict[str, Any]:
    row = {
        "id": number,
        "email": f"u{number}@example.org",
        "name": f"User {number}",
        "password_hash": "x" * 60,
        "is_active": True,
        "preferences": None,
        "created_at": NOON,
        "updated_at": None,
    }
    return {**row, **given}


def key(number: int) -> uuid.UUID:
    return uuid.UUID(int=0x1234_0000_0000_4000_8000_0000_0000_0000 + number)


def chat(number: int, user_id: int, **given: Any) -> dict[str, Any]:
    row = {
        "id": key(number),
        "user_id": user_id,
        "title": f"Chat {number}",
        "is_archived": False,
        "created_at": NOON,
        "updated_at": None,
    }
    return {**row, **given}


def message(number: int, chat_number: int, **given: Any) -> dict[str, Any]:
    row = {
        "id": number,
        "chat_id": key(chat_number),
        "parent_id": None,
        "role": "user",
        "content": f"Message {number}",
        "tokens": number,
        "cost": decimal.Decimal("0.000001") * number,
        "metadata": None,
        "created_at": NOON + dt.timedelta(microseconds=number),
    }
    return {**row, **given}


def document(number: int, user_id: int, **given: Any) -> dict[str, Any]:
    row = {
        "id": key(10_000 + number),
        "user_id": user_id,
        "chat_id": None,
        "filename": f"{number}.bin",
        "mime_type": "text/plain",
        "content": bytes([number % 256]) * number,
        "size_bytes": number,
        "sha256": "0" * 64,
        "uploaded_at": NOON,
    }
    return {**row, **given}


def memory(user_id: int, name: str, **given: Any) -> dict[str, Any]:
    row = {
        "user_id": user_id,
        "key": name,
        "value": name * 2,
        "importance": 0.1 * user_id,
        "embedding": None,
        "expires_at": None,
        "updated_at": NOON,
    }
    return {**row, **given}


def small_world(users: int = 20) -> dict[str, list[dict[str, Any]]]:
    """A consistent world of a few hundred rows."""
    chats = [chat(n, 1 + n % users) for n in range(1, 2 * users + 1)]
    messages = [
        message(n, 1 + n % len(chats), parent_id=n - len(chats) if n > len(chats) else None)
        for n in range(1, 10 * users + 1)
    ]
    return {
        "users": [user(n) for n in range(1, users + 1)],
        "chats": chats,
        "messages": messages,
        "documents": [
            document(n, 1 + n % users, chat_id=key(1 + n % len(chats))) for n in range(users)
        ],
        "user_memory": [memory(1 + n % users, f"key {n}") for n in range(users)],
    }


def hard_world() -> dict[str, list[dict[str, Any]]]:
    """Values that are easily damaged on their way."""
    texts = [
        "",
        " ",
        "trailing  ",
        "NULL",
        "\\N",
        "~",
        "tab\tnew\nline\rback\\slash",
        "'\"`%s%%{}",
        "añß漢字🙂👩‍👩‍👧",
        "e\u0301 é",
        "\u200fعربي",
        "\x01\x7f\u2028",
    ]
    moments = [
        dt.datetime(1, 1, 1, tzinfo=UTC),
        dt.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        NOON.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=45))),
    ]
    costs = [
        None,
        decimal.Decimal("999999.999999"),
        decimal.Decimal("-999999.999999"),
        decimal.Decimal("0.000001"),
        decimal.Decimal(0),
    ]
    floats = [
        0.1,
        2.2250738585072014e-308,
        1.7976931348623157e308,
        -1e-7,
        1 / 3,
        123456789.123456789,
    ]
    blobs = [None, b"", b"\0", bytes(range(256)), b"\\x41", b"x" * 3_000_000]
    world = small_world()
    world["users"] = [
        user(n, name=text, preferences={"t": text, "n": [1e2, None, {}]})
        for n, text in enumerate(texts, 1)
    ]
    world["users"] += [user(n, created_at=moment) for n, moment in enumerate(moments, 100)]
    world["chats"] = [chat(1, 1)]
    world["messages"] = [
        message(n, 1, id=n - 2**62, cost=cost, content="x" * n * 1000)
        for n, cost in enumerate(costs)
    ]
    world["messages"] += [message(1, 1, id=2**63 - 1 - 10**6, tokens=-(2**31))]
    world["documents"] = [
        document(n, 1, content=blob, size_bytes=2**40) for n, blob in enumerate(blobs)
    ]
    world["user_memory"] = [
        memory(1, text, importance=number) for number, text in zip(floats, texts[1:7], strict=True)
    ]
    return world


def prepare(
    database: Database, rows: Mapping[str, list[dict[str, Any]]], model: Model = MODEL
) -> None:
    """The tables, and these rows in them. What was created is not compared with the models: a sync does that."""
    with database.connect(create=True) as dialect:
        schema.create_missing(dialect, database, model)
        schema.create_ledger(dialect, database, model, equal=True)
    insert(database, rows, model)
