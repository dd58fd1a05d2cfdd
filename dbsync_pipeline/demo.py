"""The demo's data: what a chat application might have written in some years, with every value that a mirror tends to get wrong.

It owns the dataset and its way into a database. The rows go through the models' own types, so that each is stored as the application
would store it; JSON goes in as the very text that the application wrote. The dataset is the same, byte for byte, on every machine and
Python: all chance comes from `random.Random` with fixed seeds, by methods whose results are the same in every version.

Left out on purpose is what not every engine can hold: U+0000 in text, NaN and infinities, -0.0, bare numbers as a whole JSON value
(SQLite stores those as numbers), keys that differ only in trailing blanks.
"""

from __future__ import annotations

import datetime as dt
import decimal
import functools
import hashlib
import json
import random
import struct
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model

Row = dict[str, Any]

COUNTS = {"users": 500, "chats": 1_500, "messages": 20_000, "documents": 800, "user_memory": 2_500}
"""Rows per table, parents first."""

_BATCH = 200  # rows a statement: documents are held in memory by this many, some 7 MB

UTC = dt.UTC


@dataclass(frozen=True)
class DemoReport:
    """What `fill` did: whether it wrote, the rows that each table holds now, and the bytes of text and binary values it wrote."""

    created: bool
    rows: dict[str, int]
    bytes: int


def fill(database: Database, model: Model) -> DemoReport:
    """Writes the dataset into `database` in one transaction, after creating the tables that are missing.

    When any of the tables holds a row, nothing is written and the report says `created=False`; so a second call changes nothing.
    Raises SettingsError when the models have no place for the dataset, Busy when somebody is writing, and what `schema.ensure` raises.
    """
    check_models(model)
    schema.ensure(database, model)
    tables = [model.table(name) for name in COUNTS]
    with database.connect("dbsync demo") as dialect, dialect.doing("make the demo's data"):
        present = {table.name: dialect.count(table) for table in tables}
        dialect.connection.rollback()
        if any(present.values()):
            return DemoReport(False, present, 0)
        dialect.begin(tables, wait_seconds=database.connect_seconds)
        present = {
            table.name: dialect.count(table) for table in tables
        }  # once more, now that nobody else can write
        if any(present.values()):
            return DemoReport(False, present, 0)
        size = _write(dialect.connection, tables)
        for table in tables:
            if (last := dialect.counter(table)) is not None:
                dialect.move_counter(table, last)
        dialect.commit()
    return DemoReport(True, dict(COUNTS), size)


def check_models(model: Model) -> None:
    """Raises SettingsError unless the models hold the five tables with the dataset's columns, and need no others."""
    remedy = (
        "unset DBSYNC_MODELS to see the demo; `dbsync sync` works with your own models and data"
    )
    for name, rows in DATASET.items():
        if name not in model.names:
            raise SettingsError(
                f"the demo's data are for the project's own tables, and the models have no table {name}",
                remedy=remedy,
            )
        written = set(next(rows()))
        columns = {column.name: column for column in model.table(name).sa.columns}
        lacking = sorted(written - set(columns))
        needed = sorted(
            key
            for key, column in columns.items()
            if key not in written and not _may_be_left_out(column)
        )
        if lacking or needed:
            found = (
                f"no column {', '.join(lacking)}"
                if lacking
                else f"the column {', '.join(needed)}, which the data lack"
            )
            raise SettingsError(
                f"the demo's data are for the project's own tables, and here is {found}",
                table=name,
                remedy=remedy,
            )


def _may_be_left_out(column: sa.Column[Any]) -> bool:
    return bool(column.nullable) or column.default is not None or column.server_default is not None


def _write(connection: sa.Connection, tables: Sequence[Table]) -> int:
    """Inserts the whole dataset on the caller's transaction, parents first; returns the bytes of text and binary values."""
    size = 0
    with warnings.catch_warnings():
        # SQLite holds decimals as floats, which is exact for the 12 digits of these.
        warnings.filterwarnings(
            "ignore", "Dialect sqlite.* does .not. support Decimal", sa.exc.SAWarning
        )
        for table in tables:
            insert = _insert(table.sa)
            source = DATASET[table.name]()
            while batch := list(islice(source, _BATCH)):
                connection.execute(insert, [_renamed(table.sa, row) for row in batch])
                size += sum(map(_size, batch))
    return size


def _json_text(column: sa.Column[Any]) -> str | None:
    return f"{column.name}_text" if isinstance(column.type, sa.JSON) else None


def _insert(table: sa.Table) -> sa.Insert:
    """The table's INSERT, with JSON columns bound as text: their type would serialise the text once more."""
    texts = {
        column.name: sa.bindparam(name, type_=sa.UnicodeText())
        for column in table.columns
        if (name := _json_text(column))
    }
    return table.insert().values(texts) if texts else table.insert()


def _renamed(table: sa.Table, row: Row) -> Row:
    return {_json_text(table.columns[name]) or name: value for name, value in row.items()}


def _size(row: Row) -> int:
    return sum(
        len(value.encode()) if isinstance(value, str) else len(value)
        for value in row.values()
        if isinstance(value, str | bytes)
    )


# --- the values -----------------------------------------------------------------------------------------------------------------

SENTENCES = (
    "Could you summarise the attached contract, please?",
    "The migration finished at 03:14 and nothing was lost.",
    "¿Puedes explicarme por qué falló la sincronización de anoche?",
    "Die Größe der Übertragung überrascht mich: fünf Zähler stehen höher.",
    "Où est passé l'élève naïf ? Là-bas, près du château.",
    "Não há diferença entre as duas versões do relatório.",
    "Почему таблица пуста после второго запуска?",
    "Η βάση δεδομένων απαντά ξανά.",
    "データベースの同期は完了しました。差分は四十行です。",
    "数据库已经同步，没有发现任何差异。",
    "데이터베이스가 다시 응답합니다.",
    "הגיבוי הושלם, אבל הקובץ README.md חסר.",
    "تمت المزامنة بنجاح، ولا توجد فروق (٣٫٥ ثانية).",
    "डेटाबेस अब बराबर है, धन्यवाद।",
    "ฐานข้อมูลตรงกันแล้ว",
    "தரவுத்தளம் சரியாக உள்ளது.",
    "Cơ sở dữ liệu đã được đồng bộ hoàn toàn.",
    "İstanbul'da ısı ölçümü değişti, iyi mi?",
    "მონაცემები ემთხვევა ერთმანეთს.",
    "Shipped it 🚀 — thanks, team 👩🏽\u200d💻👨\u200d👩\u200d👧\u200d👦!",
    "Use `SELECT count(*) FROM messages WHERE cost > 0.05;` and compare.",
    "```python\nprint('C:\\\\temp\\\\new', end='\\n')\n```",
    "Take 15 % off, round to 2 decimals, and tell me the total.",
    'I don\'t know; the "real" figure was never written down.',
)

HARD_TEXTS = (
    "",
    " ",
    "trailing blanks   ",
    "   leading blanks",
    "trailing newline\n",
    "\n\n\n",
    "tab\tseparated\tvalues\t",
    "Windows\r\nline\r\nends\r\n",
    "old Mac\rline\rends",
    "NULL",
    "null",
    "None",
    "\\N",
    "\\.",
    "~",
    "3:abc|",
    "0",
    "-0",
    "1e2",
    "0012",
    "true",
    "back\\slash \\\\ two \\t no tab \\x41 \\u0041 \\",
    "it's 'quoted' and \"doubly\" and `back`",
    "''';--",
    "Robert'); DROP TABLE users;--",
    "100% %s %(name)s %% :name ?1 $1 {braces} ${dollar}",
    "a,b;c|d\te",
    "<b>&amp;&#39;</b>",
    "e\u0301 is not \u00e9; A\u030a is not \u00c5; \ufb01 is not fi",
    "o\u0302\u0323\u0301\u0338 combining marks in a heap",
    "\u202eright to left override\u202c and back",
    "\u05e9\u05dc\u05d5\u05dd abc \u0645\u0631\u062d\u0628\u0627 123",
    "\u200bzero\u200cwidth\u200djoiners\ufeff",
    "\ufeffa byte order mark first",
    "non\u00a0breaking\u3000ideographic\u2028line\u2029paragraph\u0085next",
    "control \x01\x07\x08\x0b\x0c\x1b[31m\x7f characters",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1ea\U0001f1f8\u2764\ufe0f",
    "\U00020000\U0002a6d6 \U0001d54f \U00010348 beyond the first plane",
    "\ue000\U0010fffd private use, \ufffd replacement, \ufffe and \uffff no characters",
    "\u0130\u0131 \u00df\u1e9e \u03c3\u03c2 \u01c5 awkward in upper and lower case",
    "z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319a\u0324\u031e\u0349\u035al\u036d\u0322\u031eg\u0348o",
)

JSON_TEXTS = (
    "{}",
    "[]",
    "null",
    "true",
    '""',
    '"a bare string"',
    '{"a": null}',
    '{"theme":"dark","language":"pt-BR","font_scale":1.10}',
    '{"price": 1.10, "same": 1.1, "big": 1e2, "BIG": 1E+2, "small": 1e-7, "zero": 0.0, "minus": -0}',
    '{"integer": 12345678901234567890, "long": 3.14159265358979323846264338327950288}',
    '{ "spaces" :  [ 1 ,2,  3 ] ,\n\t"newline": true }',
    '{"b":1,"a":2,"b":3}',
    '{"escaped": "\\u00e9\\ud83d\\ude00\\n\\t\\"\\\\\\/", "raw": "\u00e9\U0001f600/"}',
    '{"": "empty key", " ": "blank key", "\u952e": "\u503c"}',
    '{"deep":{"deep":{"deep":{"deep":{"deep":{"deep":{"deep":[[[[[[{"end":[]}]]]]]]}}}}}}}',
    '[1, "two", null, {"three": [3.0, 3.00]}, false, [[]]]',
    '{"tool": "search", "arguments": "{\\"query\\": \\"it\'s 100%\\"}", "ok": true}',
    '{"text": "NULL", "other": "\\\\N", "tilde": "~"}',
)

HARD_COSTS = tuple(
    map(
        decimal.Decimal,
        (
            "0",
            "0.000001",
            "-0.000001",
            "999999.999999",
            "-999999.999999",
            "1.10",
            "100",
            "0.1",
            "123456.789012",
        ),
    )
)

HARD_FLOATS = (
    0.1 + 0.2,
    1 / 3,
    1.7976931348623157e308,
    -1.7976931348623157e308,
    2.2250738585072014e-308,
    1e22,
    9007199254740991.0,
    0.0,
    1.0,
    -1.5,
    5e-7,
    123456789.123456789,
    1 - 2.0**-53,
    1 + 2.0**-52,
)

HARD_INSTANTS = (
    dt.datetime(1970, 1, 1, tzinfo=UTC),
    dt.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    dt.datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    dt.datetime(2000, 2, 29, 12, 0, 0, 500_000, tzinfo=UTC),
    dt.datetime(2016, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.timezone(dt.timedelta(hours=-12))),
    dt.datetime(2025, 3, 30, 2, 30, 0, 3_000, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    dt.datetime(2025, 10, 26, 2, 30, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=45))),
    dt.datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
    dt.datetime(2100, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.timezone(dt.timedelta(hours=14))),
)

HARD_EMAILS = (
    "ada@example.org",
    "Ada@example.org",
    "jos\u00e9@example.org",
    "jose\u0301@example.org",
    "用户@例子.测试",
    "o'brien+tag%1@example.org",
    "a" * 308 + "@example.org",
)

NAMES = (
    "",
    None,
    "Ada Lovelace",
    "Jos\u00e9 \u00d1and\u00fa",
    "Jose\u0301 N\u0303andu\u0301",
    "山田太郎",
    "محمد عبد الله",
    "Ægir Þórsson",
    "O'Brien",
    "👩🏽\u200d💻",
    "名" * 200,
    "NULL",
)

MEMORY_KEYS = (
    "language",
    "Language",
    "tone",
    "project:アルファ",
    "caf\u00e9",
    "cafe\u0301",
    "timezone",
    "ключ",
    "it's\\100%",
    "~",
    "🔑",
    "NULL",
    "k" * 200,
)

FILE_STEMS = (
    "report",
    "Résumé – naïve",
    "報告書",
    "..\\..\\boot",
    'it\'s 100% "final"',
    "تقرير",
    "🧾",
    "n" * 251,
)

FILE_SIZES = (
    None,
    0,
    1,
    2,
    255,
    256,
    257,
    4_095,
    4_096,
    8_191,
    8_192,
    8_193,
    65_535,
    65_536,
    65_537,
    1_000_000,
    1_048_576,
)

FILE_KINDS = (
    ("pdf", "application/pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
    ("png", "image/png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"),
    ("txt", "text/plain; charset=utf-8", b""),
    ("csv", "text/csv", b"\xef\xbb\xbfid;name\r\n"),
    ("bin", "application/octet-stream", b"\x00\\x'"),
)

_START = dt.datetime(2023, 1, 1, tzinfo=UTC)
_SPAN = 3 * 365 * 86_400 * 1_000_000  # microseconds


def _instant(chance: random.Random) -> dt.datetime:
    """Mostly a moment of 2023 to 2025; one in fifty is a hard one."""
    if chance.randrange(50) == 0:
        return chance.choice(HARD_INSTANTS)
    return _START + dt.timedelta(microseconds=chance.randrange(_SPAN))


def _maybe_later(chance: random.Random, moment: dt.datetime) -> dt.datetime | None:
    return (
        moment + dt.timedelta(microseconds=chance.randrange(30 * 86_400 * 1_000_000))
        if chance.randrange(3)
        else None
    )


def _prose(chance: random.Random, most: int) -> str:
    return " ".join(chance.choice(SENTENCES) for _ in range(1 + chance.randrange(most)))


def _nth(values: Sequence[Any], number: int, every: int) -> Any | None:
    """Each value in its turn, at one row in `every`, over and over; None at the other rows."""
    turn, rest = divmod(number, every)
    return values[turn % len(values)] if rest == 0 else None


def _json(chance: random.Random, number: int) -> str | None:
    """JSON as text: a hard shape at one row in ten, what an application would write at most others, else NULL."""
    hard = _nth(JSON_TEXTS, number, 10)
    if hard is not None:
        return str(hard)
    if chance.randrange(4) == 0:
        return None
    value = {
        "model": chance.choice(("small", "large")),
        "latency_ms": chance.randrange(9_000),
        "stop": chance.choice((None, "end", "length")),
        "tags": [
            chance.choice(("código", "日本", "ops", "🧪")) for _ in range(chance.randrange(4))
        ],
    }
    return json.dumps(value, ensure_ascii=bool(chance.randrange(2)))


# --- the tables -----------------------------------------------------------------------------------------------------------------


@functools.cache
def _user_ids() -> tuple[int, ...]:
    """Ids with gaps, as after deletions."""
    return tuple(islice((number for number in range(1, 10_000) if number % 7), COUNTS["users"]))


@functools.cache
def _uuids(seed: int, count: int) -> tuple[uuid.UUID, ...]:
    chance = random.Random(seed)
    return tuple(uuid.UUID(int=chance.getrandbits(128), version=4) for _ in range(count))


def _chat_ids() -> tuple[uuid.UUID, ...]:
    return _uuids(21, COUNTS["chats"])


def users() -> Iterator[Row]:
    """People: emails that differ only in case or in form, names in many scripts, empty names beside absent ones."""
    chance = random.Random(1)
    for number, key in enumerate(_user_ids()):
        created = _instant(chance)
        yield {
            "id": key,
            "email": HARD_EMAILS[number]
            if number < len(HARD_EMAILS)
            else f"user{number}@example.org",
            "name": NAMES[number % len(NAMES)],
            "password_hash": f"$argon2id$v=19$m=65536,t=3,p=4${chance.getrandbits(128):032x}${chance.getrandbits(256):064x}",
            "is_active": chance.randrange(10) > 0,
            "preferences": _json(chance, number),
            "created_at": created,
            "updated_at": _maybe_later(chance, created),
        }


def chats() -> Iterator[Row]:
    """Conversations, many for few users and none for some."""
    chance = random.Random(2)
    for number, key in enumerate(_chat_ids()):
        created = _instant(chance)
        hard = _nth((*HARD_TEXTS, "題" * 500), number, 12)
        yield {
            "id": key,
            "user_id": _user_ids()[int(chance.random() ** 2 * COUNTS["users"])],
            "title": _prose(chance, 2) if hard is None else hard,
            "is_archived": chance.randrange(5) == 0,
            "created_at": created,
            "updated_at": _maybe_later(chance, created),
        }


def messages() -> Iterator[Row]:
    """Conversations' content: replies in long chains and branches, keys beyond 32 bits, texts from nothing to 200 kB."""
    chance = random.Random(3)
    said: dict[uuid.UUID, list[int]] = {}
    for number in range(COUNTS["messages"]):
        key = number + 1 + number // 100 * 3
        if number >= COUNTS["messages"] * 9 // 10:
            key += 2**32
        chat = _chat_ids()[int(chance.random() ** 2 * COUNTS["chats"])]
        earlier = said.setdefault(chat, [])
        role = (
            "system"
            if not earlier
            else chance.choice(("user", "user", "assistant", "assistant", "assistant", "tool"))
        )
        yield {
            "id": key,
            "chat_id": chat,
            "parent_id": _parent(chance, earlier),
            "role": role,
            "content": _content(chance, number),
            "tokens": None
            if role == "system"
            else _nth((0, 2**31 - 1), number, 500) or chance.randrange(4_000),
            "cost": _cost(chance, number, role),
            "metadata": _json(chance, number + 3),
            "created_at": _instant(chance),
        }
        earlier.append(key)


def _parent(chance: random.Random, earlier: list[int]) -> int | None:
    """Mostly the message before, sometimes an older one, now and then none."""
    if not earlier or chance.randrange(20) == 0:
        return None
    return earlier[-1] if chance.randrange(10) else chance.choice(earlier)


def _content(chance: random.Random, number: int) -> str:
    hard = _nth(HARD_TEXTS, number, 25)
    if hard is not None:
        return str(hard)
    if number % 5_000 == 1_234:
        return "long 長い 🧵 'it''s' \\ \t\n" * 6_000
    return _prose(chance, 60 if number % 100 == 7 else 6)


def _cost(chance: random.Random, number: int, role: str) -> decimal.Decimal | None:
    hard: decimal.Decimal | None = _nth(HARD_COSTS, number, 200)
    if hard is not None:
        return hard
    return decimal.Decimal(chance.randrange(1, 250_000)).scaleb(-6) if role == "assistant" else None


def documents() -> Iterator[Row]:
    """Files of every size from nothing to a megabyte, contents absent, empty, repeated, and of single bytes over and over."""
    chance = random.Random(4)
    for number, key in enumerate(_uuids(41, COUNTS["documents"])):
        ending, mime, magic = FILE_KINDS[number % len(FILE_KINDS)]
        content = _file(chance, number, ending, magic)
        size = 123_456_789_012 if content is None else len(content)
        yield {
            "id": key,
            "user_id": chance.choice(_user_ids()),
            "chat_id": chance.choice(_chat_ids()) if chance.randrange(3) else None,
            "filename": f"{chance.choice(FILE_STEMS)}.{ending}",
            "mime_type": mime,
            "content": content,
            "size_bytes": size,
            "sha256": hashlib.sha256(content or b"").hexdigest(),
            "uploaded_at": _instant(chance),
        }


def _file(chance: random.Random, number: int, ending: str, magic: bytes) -> bytes | None:
    octave = 1 << chance.randrange(6, 18)
    size = FILE_SIZES[number] if number < len(FILE_SIZES) else octave + chance.randrange(octave)
    if size is None or number % 97 == 50:
        return None
    if number % 89 == 40:
        return bytes([chance.randrange(256)]) * size
    if ending in ("txt", "csv"):
        text = magic + "\r\n".join(chance.choice(SENTENCES) for _ in range(20)).encode()
        return (text * (size // len(text) + 1))[:size]
    return (magic + chance.getrandbits(8 * size + 8).to_bytes(size + 1, "big"))[:size]


def user_memory() -> Iterator[Row]:
    """What the application remembers of each user, under a key of two columns; vectors as packed 32-bit floats."""
    chance = random.Random(5)
    each = COUNTS["user_memory"] // COUNTS["users"]
    for number in range(COUNTS["user_memory"]):
        owner, turn = divmod(number, each)
        hard = _nth(HARD_TEXTS, number, 15)
        importance = _nth(HARD_FLOATS, number, 20)
        moment = _instant(chance)
        yield {
            "user_id": _user_ids()[owner],
            "key": MEMORY_KEYS[(owner + turn) % len(MEMORY_KEYS)],
            "value": _prose(chance, 3) if hard is None else hard,
            "importance": chance.random() if importance is None else importance,
            "embedding": _embedding(chance),
            "expires_at": _maybe_later(chance, moment),
            "updated_at": moment,
        }


def _embedding(chance: random.Random) -> bytes | None:
    kind = chance.randrange(10)
    if kind < 2:
        return None if kind == 0 else b""
    return struct.pack("<128f", *(chance.random() * 2 - 1 for _ in range(128)))


DATASET: dict[str, Callable[[], Iterator[Row]]] = {
    "users": users,
    "chats": chats,
    "messages": messages,
    "documents": documents,
    "user_memory": user_memory,
}
"""The rows of each table, by column, parents first; every call begins anew."""
