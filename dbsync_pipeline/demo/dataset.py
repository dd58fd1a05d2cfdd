"""The demo's rows: what a chat application might have written in three years.

The dataset is the same, byte for byte, on every machine and Python version: all random choices come
from `random.Random` with fixed seeds, by methods whose results are the same in every version.
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
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from dbsync_pipeline.demo.values import (
    FILE_KINDS,
    FILE_SIZES,
    FILE_STEMS,
    HARD_COSTS,
    HARD_EMAILS,
    HARD_FLOATS,
    HARD_INSTANTS,
    HARD_TEXTS,
    JSON_TEXTS,
    MEMORY_KEYS,
    NAMES,
    SENTENCES,
    UTC,
)

Row = dict[str, Any]

COUNTS = {"users": 500, "chats": 1_500, "messages": 20_000, "documents": 800, "user_memory": 2_500}
"""Rows per table, parents first."""

_START = dt.datetime(2023, 1, 1, tzinfo=UTC)
_SPAN = 3 * 365 * 86_400 * 1_000_000  # microseconds


def _instant(chance: random.Random) -> dt.datetime:
    """Return a time between 2023 and 2025; one in fifty is a hard one."""
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
    """Return the values in turn, over and over, at one row in `every`; None at the other rows."""
    turn, rest = divmod(number, every)
    return values[turn % len(values)] if rest == 0 else None


def _json(chance: random.Random, number: int) -> str | None:
    """Return JSON as text: a hard shape at one row in ten, an application's at most others, else
    None."""
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


@functools.cache
def _user_ids() -> tuple[int, ...]:
    """Return ids with gaps, as after deletions."""
    return tuple(islice((number for number in range(1, 10_000) if number % 7), COUNTS["users"]))


@functools.cache
def _uuids(seed: int, count: int) -> tuple[uuid.UUID, ...]:
    chance = random.Random(seed)
    return tuple(uuid.UUID(int=chance.getrandbits(128), version=4) for _ in range(count))


def _chat_ids() -> tuple[uuid.UUID, ...]:
    return _uuids(21, COUNTS["chats"])


def users() -> Iterator[Row]:
    """Yield people: emails that differ only in case or Unicode form, names in many scripts, empty
    names and absent ones."""
    chance = random.Random(1)
    for number, key in enumerate(_user_ids()):
        created = _instant(chance)
        yield {
            "id": key,
            "email": HARD_EMAILS[number]
            if number < len(HARD_EMAILS)
            else f"user{number}@example.org",
            "name": NAMES[number % len(NAMES)],
            "password_hash": _password_hash(chance),
            "is_active": chance.randrange(10) > 0,
            "preferences": _json(chance, number),
            "created_at": created,
            "updated_at": _maybe_later(chance, created),
        }


def _password_hash(chance: random.Random) -> str:
    salt, digest = f"{chance.getrandbits(128):032x}", f"{chance.getrandbits(256):064x}"
    return f"$argon2id$v=19$m=65536,t=3,p=4${salt}${digest}"


def chats() -> Iterator[Row]:
    """Yield conversations: many for a few users and none for some."""
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
    """Yield messages: replies in long chains and branches, keys beyond 32 bits, texts of 0 to 200
    kB."""
    chance = random.Random(3)
    by_chat: dict[uuid.UUID, list[int]] = {}
    for number in range(COUNTS["messages"]):
        key = number + 1 + number // 100 * 3
        if number >= COUNTS["messages"] * 9 // 10:
            key += 2**32
        chat = _chat_ids()[int(chance.random() ** 2 * COUNTS["chats"])]
        earlier = by_chat.setdefault(chat, [])
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
    """Return mostly the last message, sometimes an older one, occasionally none."""
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
    """Yield files of 0 bytes to a megabyte: absent, empty, repeated, or one byte repeated."""
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
    """Yield what the application remembers of each user: a key of two columns, and vectors as
    packed 32-bit floats."""
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
"""The rows of each table, by column, parents first; each call starts from the first row."""
