"""What each database remembers of the mirror: the publishes that it received, and its digests as last published.

Lives in schema `dbsync` (tables with the prefix `dbsync_` on SQLite) and is written in the publishing transaction, so it is the truth
about what was published, whatever became of the process that published.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.base import Dialect, Digests, Form
from dbsync_pipeline.errors import StructureError
from dbsync_pipeline.types import Instant

VERSION = 1


@dataclass(frozen=True)
class TableResult:
    """What a publish did to one table. `bytes` were moved between the databases; `seconds` are of compare, staging and publishing."""

    rows: int
    inserted: int
    updated: int
    deleted: int
    bytes: int
    digest: str
    seconds: float


@dataclass(frozen=True)
class Publication:
    """A publish as the ledger has it. `number` counts the publishes of one standby; instants are UTC; `partial` is a selection of tables."""

    number: int
    run_id: str
    source: str
    target: str
    snapshot_at: dt.datetime
    published_at: dt.datetime
    tables: Mapping[str, TableResult]
    seconds: Mapping[str, float]
    partial: bool = False

    @property
    def changed(self) -> int:
        """Rows inserted, updated and deleted."""
        return sum(table.inserted + table.updated + table.deleted for table in self.tables.values())


@dataclass(frozen=True)
class _Tables:
    metadata: sa.MetaData
    facts: sa.Table
    publishes: sa.Table
    digests: sa.Table


@cache
def _tables(schema: str | None) -> _Tables:
    metadata, prefix = sa.MetaData(schema=schema), "" if schema else "dbsync_"
    long = sa.UnicodeText
    return _Tables(
        metadata,
        sa.Table(
            f"{prefix}facts",
            metadata,
            sa.Column("name", sa.Unicode(63), primary_key=True),
            sa.Column("value", long, nullable=False),
        ),
        sa.Table(
            f"{prefix}publishes",
            metadata,
            sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("run_id", sa.Unicode(255), nullable=False, unique=True),
            sa.Column("source", sa.Unicode(63), nullable=False),
            sa.Column("source_identity", sa.Unicode(36), nullable=False),
            sa.Column("snapshot_at", Instant, nullable=False),
            sa.Column("published_at", Instant, nullable=False),
            sa.Column("partial", sa.Boolean, nullable=False),
            sa.Column("tables", long, nullable=False),
            sa.Column("seconds", long, nullable=False),
        ),
        sa.Table(
            f"{prefix}digests",
            metadata,
            sa.Column("table_name", sa.Unicode(255), primary_key=True),
            sa.Column("family", sa.Unicode(63), nullable=False),
            sa.Column("buckets", sa.Integer, nullable=False),
            sa.Column("data", sa.LargeBinary, nullable=False),
        ),
    )


class Ledger:
    """The ledger of one open connection. Reads and writes belong to the connection's transaction."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._connection = dialect.connection
        self._t = _tables(dialect.ledger_schema)

    def exists(self) -> bool:
        with self._dialect.doing("read the ledger"):
            return sa.inspect(self._connection).has_table(self._t.facts.name, schema=self._dialect.ledger_schema)

    def create(self) -> None:
        """Make the ledger's tables in a transaction of their own, where they are missing; a second call does nothing."""
        if self.exists():
            return self._check_version()
        self._connection.rollback()
        with self._dialect.doing("create the ledger"), self._connection.begin():
            schema = self._dialect.ledger_schema
            # inspected first: CREATE SCHEMA IF NOT EXISTS needs the right to create even where it exists
            if schema and not sa.inspect(self._connection).has_schema(schema):
                self._connection.execute(sa.schema.CreateSchema(schema))
            self._t.metadata.create_all(self._connection)
            facts = {"version": str(VERSION), "identity": str(uuid.uuid4())}
            self._connection.execute(self._t.facts.insert(), [{"name": name, "value": value} for name, value in facts.items()])

    def drop(self) -> None:
        """Forget everything, in a transaction of its own."""
        with self._dialect.doing("drop the ledger"), self._connection.begin():
            self._t.metadata.drop_all(self._connection)

    def _check_version(self) -> None:
        version = self._fact("version")
        self._connection.rollback()
        if version != str(VERSION):
            raise StructureError(
                f"its ledger is of version {version}, this program knows version {VERSION}",
                database=self._dialect.name,
                remedy="use the version of dbsync-pipeline that wrote it",
            )

    def _fact(self, name: str) -> str:
        with self._dialect.doing("read the ledger"):
            facts = self._t.facts
            return str(self._connection.execute(sa.select(facts.c.value).where(facts.c.name == name)).scalar_one())

    def identity(self) -> str:
        """A random name that the database was given when its ledger was made; empty where it has none."""
        return self._fact("identity") if self.exists() else ""

    def last(self) -> Publication | None:
        """The publish with the highest number."""
        return self._one(sa.select(self._t.publishes).order_by(self._t.publishes.c.number.desc()).limit(1))

    def of_run(self, run_id: str) -> Publication | None:
        """The publish of that run, if it was committed."""
        return self._one(sa.select(self._t.publishes).where(self._t.publishes.c.run_id == run_id))

    def publishes(self, limit: int) -> list[Publication]:
        """The newest publishes, newest first."""
        with self._dialect.doing("read the ledger"):
            rows = self._connection.execute(
                sa.select(self._t.publishes).order_by(self._t.publishes.c.number.desc()).limit(limit)
            ).all()
        return [self._publication(row) for row in rows]

    def _one(self, query: sa.Select[Any]) -> Publication | None:
        with self._dialect.doing("read the ledger"):
            row = self._connection.execute(query).one_or_none()
        return None if row is None else self._publication(row)

    def _publication(self, row: sa.Row[Any]) -> Publication:
        tables = {name: TableResult(**result) for name, result in json.loads(row.tables).items()}
        return Publication(
            row.number,
            row.run_id,
            row.source,
            self._dialect.name,
            _utc(row.snapshot_at),
            _utc(row.published_at),
            tables,
            json.loads(row.seconds),
            row.partial,
        )

    def record(self, publication: Publication, source_identity: str) -> Publication:
        """Write a publish under the next number; returns it with that number."""
        numbered = replace(publication, number=(last.number if (last := self.last()) else 0) + 1)
        with self._dialect.doing("write the ledger"):
            self._connection.execute(
                self._t.publishes.insert().values(
                    number=numbered.number,
                    run_id=numbered.run_id,
                    source=numbered.source,
                    source_identity=source_identity,
                    snapshot_at=numbered.snapshot_at,
                    published_at=numbered.published_at,
                    partial=numbered.partial,
                    tables=json.dumps({name: asdict(result) for name, result in numbered.tables.items()}),
                    seconds=json.dumps(dict(numbered.seconds)),
                )
            )
        return numbered

    def digests(self, table: str) -> Digests | None:
        """The digests of a table as last published; None where it never was."""
        digests = self._t.digests
        with self._dialect.doing("read the ledger"):
            row = self._connection.execute(sa.select(digests).where(digests.c.table_name == table)).one_or_none()
        return None if row is None else Digests.from_bytes(Form(row.family, row.buckets), row.data)

    def keep_digests(self, table: str, value: Digests) -> None:
        """Replace the digests of a table."""
        digests = self._t.digests
        with self._dialect.doing("write the ledger"):
            self._connection.execute(digests.delete().where(digests.c.table_name == table))
            self._connection.execute(
                digests.insert().values(
                    table_name=table, family=value.form.family, buckets=value.form.buckets, data=value.to_bytes()
                )
            )


def _utc(moment: dt.datetime) -> dt.datetime:
    return moment.astimezone(dt.timezone.utc)
