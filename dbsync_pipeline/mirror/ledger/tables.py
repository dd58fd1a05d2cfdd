"""The ledger's tables, their version, and how a ledger of a former version is upgraded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.columns import Instant

VERSION = 5
FORMER = ("1", "2", "3", "4")
"""The versions that this program can upgrade, oldest first."""
ADDED: tuple[tuple[str, str | None], ...] = (
    ("publishes", "state"),
    ("digests", "columns"),
    ("publishes", "round"),
    ("stamps", None),
)
"""For each former version, the table and the column that the next version added; None for a table
that it added whole.
"""


@dataclass(frozen=True)
class Tables:
    """The ledger's tables in one schema."""

    metadata: sa.MetaData
    facts: sa.Table
    publishes: sa.Table
    digests: sa.Table
    rescues: sa.Table
    stamps: sa.Table


@cache
def tables(schema: str | None) -> Tables:
    """Return the tables in `schema`; without one their names have the prefix `dbsync_`."""
    metadata, prefix = sa.MetaData(schema=schema), "" if schema else "dbsync_"
    return Tables(
        metadata,
        facts=sa.Table(
            f"{prefix}facts", metadata, _text("name", 63, primary_key=True), _text("value")
        ),
        publishes=sa.Table(f"{prefix}publishes", metadata, *_publishes()),
        digests=sa.Table(f"{prefix}digests", metadata, *_digests()),
        rescues=sa.Table(f"{prefix}rescues", metadata, *_rescues()),
        stamps=sa.Table(f"{prefix}stamps", metadata, *_stamps()),
    )


def _publishes() -> list[sa.Column[Any]]:
    return [
        _number("number", primary_key=True),
        _text("run_id", 255, unique=True),
        _text("source", 63),
        _text("source_identity", 36),
        sa.Column("snapshot_at", Instant, nullable=False),
        sa.Column("published_at", Instant, nullable=False),
        sa.Column("partial", sa.Boolean, nullable=False),
        _number("undoes", nullable=True),
        sa.Column("numbered", sa.Boolean, nullable=False),
        _text("tables"),
        _text("seconds"),
        _number("state", nullable=True),
        _text("round", 255, nullable=True),
    ]


def _digests() -> list[sa.Column[Any]]:
    return [
        _text("table_name", 255, primary_key=True),
        _number("publish", primary_key=True),
        _text("family", 63),
        sa.Column("buckets", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary),
        _text("columns", nullable=True),
    ]


def _rescues() -> list[sa.Column[Any]]:
    return [
        _number("publish", primary_key=True),
        _text("table_name", 255, primary_key=True),
        _text("stored_in", 63),
        *(_number(name) for name in ("deleted", "replaced", "inserted", "bytes")),
    ]


def _stamps() -> list[sa.Column[Any]]:
    return [
        _text("table_name", 255, primary_key=True),
        _text("side", 6, primary_key=True),
        _text("identity", 63),
        _number("horizon"),
        _text("snapshot"),
        _text("fingerprint", 63),
        sa.Column("digested_at", Instant, nullable=False),
        _text("claim", 127),
    ]


def _number(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, **{"nullable": False, "autoincrement": False, **options})


def _text(name: str, length: int | None = None, **options: Any) -> sa.Column[Any]:
    type_ = sa.Unicode(length) if length else sa.UnicodeText
    return sa.Column(name, type_, **{"nullable": False, **options})
