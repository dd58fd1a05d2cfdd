"""Named facts of a database, and whether it has a ledger at all."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import StructureError
from dbsync_pipeline.mirror.ledger.tables import ADDED, FORMER, VERSION, tables

GIVEN = "state "
"""Followed by a number: the fact with the time of the state that this database published so."""

Value = TypeVar("Value")


class Facts:
    """The ledger's existence, its version, and its named facts."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._connection = dialect.connection
        self._t = tables(dialect.ledger_schema)
        self._seen = False
        self._version: int | None = None
        self._known: dict[str, Any] | None = None

    def exists(self) -> bool:
        """Return whether the database has a ledger. Reads do not need to ask: see `Ledger`."""
        if not self._seen:
            with self._dialect.doing("read the ledger"):
                self._seen = sa.inspect(self._connection).has_table(
                    self._t.facts.name, schema=self._dialect.ledger_schema
                )
        return self._seen

    def is_current(self) -> bool:
        """Return whether there is a ledger of this program's version.

        Raises StructureError if a later version of the program wrote it.
        """
        if not self.exists():
            return False
        version = self.fact("version")
        if version in FORMER or version == str(VERSION):
            return version == str(VERSION)
        raise StructureError(
            f"its ledger has version {version}, and this program knows version {VERSION}",
            database=self._dialect.name,
            remedy="use the version of dbsync-pipeline that wrote it",
        )

    def create(self, mirrored: Iterable[Table] = ()) -> None:
        """Create the missing ledger, or upgrade an old one, in the open transaction.

        A second call does nothing. Digests in a ledger of a former version count as computed from
        the present columns of the `mirrored` tables. Raises StructureError if a later version of
        the program wrote the ledger.
        """
        if self.is_current():
            return
        if self.exists():
            return self._upgrade(mirrored)
        with self._dialect.doing("create the ledger"):
            schema = self._dialect.ledger_schema
            # CREATE SCHEMA IF NOT EXISTS needs the right to create even where the schema exists
            if schema and not sa.inspect(self._connection).has_schema(schema):
                self._connection.execute(sa.schema.CreateSchema(schema))
            self._t.metadata.create_all(self._connection)
            facts = {"version": str(VERSION), "identity": str(uuid.uuid4())}
            self._connection.execute(
                self._t.facts.insert(),
                [{"name": name, "value": value} for name, value in facts.items()],
            )

    def drop_tables(self) -> None:
        """Drop the ledger, in the open transaction."""
        with self._dialect.doing("drop the ledger"):
            self._t.metadata.drop_all(self._connection)
        self._seen, self._version = False, None

    def _upgrade(self, mirrored: Iterable[Table]) -> None:
        with self._dialect.doing("upgrade the ledger"):
            added = ADDED[FORMER.index(self.fact("version") or "") :]
            self._add(added)
            if ("digests", "columns") in added:
                self._describe_digests(mirrored)
            self.note("version", str(VERSION))
        self._version = None

    def _add(self, added: Iterable[tuple[str, str | None]]) -> None:
        from alembic.migration import MigrationContext
        from alembic.operations import Operations

        operations = Operations(MigrationContext.configure(self._connection))
        for table, column in added:
            changed: sa.Table = getattr(self._t, table)
            if column is None:
                changed.create(self._connection)
                continue
            operations.add_column(
                changed.name, sa.Column(column, changed.c[column].type), schema=changed.schema
            )

    def _describe_digests(self, mirrored: Iterable[Table]) -> None:
        digests = self._t.digests
        for table in mirrored:
            self._connection.execute(
                digests.update()
                .where(digests.c.table_name == table.name)
                .values(columns=json.dumps(table.signatures))
            )

    def _columns(self, table: sa.Table) -> list[sa.Column[Any]]:
        """The columns that the database has: no sync upgrades a source's ledger, so it may be
        older than this program."""
        lacking = [
            getattr(self._t, name).c[column] for name, column in self._lacking if column is not None
        ]
        return [column for column in table.columns if not any(column is new for new in lacking)]

    @property
    def _lacking(self) -> Sequence[tuple[str, str | None]]:
        """What later versions of the ledger added, of tables and columns."""
        if self._version is None:
            self._version = int(self.fact("version") or VERSION)
        return ADDED[self._version - 1 :]

    @contextmanager
    def read_once(self) -> Iterator[None]:
        """Within, ask the database for the same only once, and for all facts by one query. Nothing
        may be written within; afterwards the ledger is read as it is then.
        """
        self._known = {}
        try:
            yield
        finally:
            self._known = None

    def _once(self, what: str, read: Callable[[], Value]) -> Value:
        """What `read` returns; within `read_once`, what it returned the first time."""
        if self._known is None:
            return read()
        if what not in self._known:
            self._known[what] = read()
        value: Value = self._known[what]
        return value

    def fact(self, name: str) -> str | None:
        """Return one fact by its name, None if it was never recorded."""
        if self._known is not None and not name.startswith(GIVEN):
            return self._once("facts", self._facts).get(name)
        return self._once(f"fact {name}", lambda: self._fact(name))

    def _facts(self) -> dict[str, str]:
        """All facts but the states that this database sent, which are many."""
        facts = self._t.facts
        few = sa.select(facts.c.name, facts.c.value).where(facts.c.name.not_like(f"{GIVEN}%"))
        return {row.name: str(row.value) for row in self._rows(few)}

    def _fact(self, name: str) -> str | None:
        facts = self._t.facts
        row = self._row(sa.select(facts.c.value).where(facts.c.name == name))
        return None if row is None else str(row.value)

    def note(self, name: str, value: str | None) -> None:
        """Replace a fact; None deletes it."""
        facts = self._t.facts
        with self._dialect.doing("write the ledger"):
            self._connection.execute(facts.delete().where(facts.c.name == name))
            if value is not None:
                self._connection.execute(facts.insert().values(name=name, value=value))

    def identity(self) -> str:
        """Return the random name that the ledger was created with; empty without a ledger."""
        return self.fact("identity") or ""

    def _put(self, name: str, value: str) -> None:
        """Replace a fact with a source's rights: to insert and to update, but not to delete."""
        facts = self._t.facts
        updated = self._connection.execute(
            facts.update().where(facts.c.name == name).values(value=value)
        )
        if not updated.rowcount:
            self._connection.execute(facts.insert().values(name=name, value=value))

    def _rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """Every read of the ledger. Where there is no ledger, no query has a result."""
        if not self.exists():
            return ()
        with self._dialect.doing("read the ledger"):
            return self._connection.execute(query).all()

    def _row(self, query: sa.Select[Any]) -> sa.Row[Any] | None:
        return next(iter(self._rows(query)), None)
