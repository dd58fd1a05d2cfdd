"""What each database remembers of the mirror: the publishes that it received, and its digests as last published.

Lives in schema `dbsync` (tables with the prefix `dbsync_` on SQLite) and is written in the publishing transaction, so it is the truth
about what was published, whatever became of the process that published.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.columns import Instant
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import Digests, Form
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DatabaseError, StructureError

VERSION = 3
_FORMER = ("1", "2")
_ADDED = (("publishes", "state"), ("digests", "columns"))
"""The table and the column that each former version lacked of the next one."""

_UNKNOWN = "strange numbers"
_GIVEN = "state "
"""With a number after it, the fact that holds the moment of the state that this database has published under that number."""
TERM = "term"
"""The fact that holds the term."""
_AT_ONCE = 1000
"""So many runs are asked for by one statement: SQL Server takes at most 2,100 parameters."""


@dataclass(frozen=True, order=True)
class Term:
    """One reign: `n` counts the primaries that there have been, `primary` is the one of this term.

    `after` is the former primary where the term counts only once that one has taken it too: a failback that is under way.
    """

    n: int
    primary: str
    after: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"term {self.n} ({self.primary})"

    def to_text(self) -> str:
        return " ".join(filter(None, (str(self.n), self.primary, self.after)))

    @classmethod
    def from_text(cls, text: str) -> Term:
        """The inverse of `to_text`."""
        n, *names = text.split(" ")
        return cls(int(n), *names)


@dataclass(frozen=True)
class TableResult:
    """What a publish did to one table.

    `bytes` were moved between the databases; `seconds` are of compare, staging and publishing. `digest` is of the table afterwards and
    `before` of the table as it was found; `filled` says that it was empty then.
    """

    rows: int
    inserted: int
    updated: int
    deleted: int
    bytes: int
    digest: str
    seconds: float
    before: str = ""
    filled: bool = False


@dataclass(frozen=True)
class Publish:
    """A publish as the ledger has it.

    `number` counts the publishes of one primary to all its standbys, so that of two standbys the one with the higher number is newer.
    Instants are UTC. `partial` is a selection of tables. `undoes` is the number of the publish that this one took back. `state` is the
    number under which the primary first published what this one brought: its own, unless a standby passed on just what it had received.
    `numbered` says that the primary knows that number too. `snapshot_at` is the moment of that state.
    """

    number: int
    run_id: str
    source: str
    target: str
    snapshot_at: dt.datetime
    published_at: dt.datetime
    tables: Mapping[str, TableResult]
    seconds: Mapping[str, float]
    partial: bool = False
    undoes: int | None = None
    numbered: bool = False
    state: int = 0

    @property
    def changed(self) -> int:
        """Rows inserted, updated and deleted."""
        return sum(table.inserted + table.updated + table.deleted for table in self.tables.values())


@dataclass(frozen=True)
class Rescued:
    """Rows of one table that one publish took away or replaced, and keys that it inserted; `stored_in` is the table that holds them."""

    publish: int
    table: str
    stored_in: str
    deleted: int
    replaced: int
    inserted: int
    bytes: int


@dataclass(frozen=True)
class Numbers:
    """The numbers of the states that a database knows: all up to the highest, but for the `strange` ones (first and last of each range).

    A source that was restored from a backup goes on above the numbers of its standbys, but what was published under those it does not hold.
    """

    highest: int
    unknown: tuple[tuple[int, int], ...] = ()

    def __contains__(self, number: int) -> bool:
        return number <= self.highest and not any(
            first <= number <= last for first, last in self.unknown
        )

    @classmethod
    def read(cls, highest: int, unknown: str | None) -> Numbers:
        """From the highest number and the ranges as `written`."""
        ranges = (
            (int(first), int(last))
            for first, _, last in (word.partition("-") for word in (unknown or "").split())
        )
        return cls(highest, tuple(ranges))

    @property
    def written(self) -> str | None:
        """The strange ranges as the ledger keeps them, `6-9 12-12`; None where there are none."""
        return " ".join(f"{first}-{last}" for first, last in self.unknown) or None


@dataclass(frozen=True)
class _Tables:
    metadata: sa.MetaData
    facts: sa.Table
    publishes: sa.Table
    digests: sa.Table
    rescues: sa.Table


@cache
def _tables(schema: str | None) -> _Tables:
    metadata, prefix = sa.MetaData(schema=schema), "" if schema else "dbsync_"

    def table(name: str, *columns: sa.Column[Any]) -> sa.Table:
        return sa.Table(f"{prefix}{name}", metadata, *columns)

    def number(name: str, **given: Any) -> sa.Column[Any]:
        return sa.Column(
            name, sa.BigInteger, **{"nullable": False, "autoincrement": False, **given}
        )

    def text(name: str, length: int | None = None, **given: Any) -> sa.Column[Any]:
        return sa.Column(
            name, sa.Unicode(length) if length else sa.UnicodeText, **{"nullable": False, **given}
        )

    return _Tables(
        metadata,
        facts=table("facts", text("name", 63, primary_key=True), text("value")),
        publishes=table(
            "publishes",
            number("number", primary_key=True),
            text("run_id", 255, unique=True),
            text("source", 63),
            text("source_identity", 36),
            sa.Column("snapshot_at", Instant, nullable=False),
            sa.Column("published_at", Instant, nullable=False),
            sa.Column("partial", sa.Boolean, nullable=False),
            number("undoes", nullable=True),
            sa.Column("numbered", sa.Boolean, nullable=False),
            text("tables"),
            text("seconds"),
            number("state", nullable=True),
        ),
        digests=table(
            "digests",
            text("table_name", 255, primary_key=True),
            number("publish", primary_key=True),
            text("family", 63),
            sa.Column("buckets", sa.Integer, nullable=False),
            sa.Column("data", sa.LargeBinary),
            text("columns", nullable=True),
        ),
        rescues=table(
            "rescues",
            number("publish", primary_key=True),
            text("table_name", 255, primary_key=True),
            text("stored_in", 63),
            *(number(name) for name in ("deleted", "replaced", "inserted", "bytes")),
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
            return sa.inspect(self._connection).has_table(
                self._t.facts.name, schema=self._dialect.ledger_schema
            )

    def create(self, tables: Iterable[Table] = ()) -> None:
        """Make the ledger's tables in a transaction of their own, where they are missing; a second call does nothing.

        The digests in a ledger of a former version count as of the columns that `tables` have now.
        """
        if self.exists():
            return self._bring_up(tables)
        self._connection.rollback()
        with self._dialect.doing("create the ledger"), self._connection.begin():
            schema = self._dialect.ledger_schema
            # inspected first: CREATE SCHEMA IF NOT EXISTS needs the right to create even where it exists
            if schema and not sa.inspect(self._connection).has_schema(schema):
                self._connection.execute(sa.schema.CreateSchema(schema))
            self._t.metadata.create_all(self._connection)
            facts = {"version": str(VERSION), "identity": str(uuid.uuid4())}
            self._connection.execute(
                self._t.facts.insert(),
                [{"name": name, "value": value} for name, value in facts.items()],
            )

    def drop(self) -> None:
        """Forget everything, in a transaction of its own."""
        with self._dialect.doing("drop the ledger"), self._connection.begin():
            self._t.metadata.drop_all(self._connection)

    def _bring_up(self, tables: Iterable[Table]) -> None:
        """A ledger of a former version becomes one of this; one of a later version is refused."""
        from alembic.migration import MigrationContext
        from alembic.operations import Operations

        version = self._fact("version")
        self._connection.rollback()
        if version in _FORMER:
            with self._dialect.doing("bring the ledger up"), self._connection.begin():
                operations = Operations(MigrationContext.configure(self._connection))
                for table, column in _ADDED[_FORMER.index(version) :]:
                    here = getattr(self._t, table)
                    operations.add_column(
                        here.name, sa.Column(column, here.c[column].type), schema=here.schema
                    )
                for mirrored in tables:
                    kept = self._t.digests.update().where(
                        self._t.digests.c.table_name == mirrored.name
                    )
                    self._connection.execute(kept.values(columns=json.dumps(mirrored.signatures)))
                self.note("version", str(VERSION))
        elif version != str(VERSION):
            raise StructureError(
                f"its ledger is of version {version}, this program knows version {VERSION}",
                database=self._dialect.name,
                remedy="use the version of dbsync-pipeline that wrote it",
            )

    def _fact(self, name: str) -> str:
        return self.fact(name) or ""

    def fact(self, name: str) -> str | None:
        """One fact by its name; None where it was never noted."""
        facts = self._t.facts
        with self._dialect.doing("read the ledger"):
            value = self._connection.execute(
                sa.select(facts.c.value).where(facts.c.name == name)
            ).scalar_one_or_none()
        return None if value is None else str(value)

    def note(self, name: str, value: str | None) -> None:
        """Replace a fact; None takes it away."""
        facts = self._t.facts
        with self._dialect.doing("write the ledger"):
            self._connection.execute(facts.delete().where(facts.c.name == name))
            if value is not None:
                self._connection.execute(facts.insert().values(name=name, value=value))

    def identity(self) -> str:
        """A random name that the database was given when its ledger was made; empty where it has none."""
        return self._fact("identity") if self.exists() else ""

    def number(self) -> int:
        """The highest number that this database knows, of a publish or of a state, received or sent; 0 where it knows none."""
        publishes = self._t.publishes
        with self._dialect.doing("read the ledger"):
            received = self._connection.execute(
                sa.select(sa.func.max(publishes.c.number), sa.func.max(publishes.c.state))
            ).one()
        return max(int(self.fact("number") or 0), *(number or 0 for number in received))

    def numbers(self) -> Numbers:
        """The states that this database holds or has been through: sent as a source, or received as a standby."""
        last = self.last()
        return Numbers.read(
            max(int(self.fact("number") or 0), last.state if last else 0), self.fact(_UNKNOWN)
        )

    def record_unknown(self, numbers: Numbers) -> None:
        """A standby that takes a source's state does not know what the source does not know."""
        self.note(_UNKNOWN, numbers.written)

    def knows(self, received: Publish) -> bool:
        """Whether the state that a standby received is one that this database holds or has been through.

        A database that was restored from a backup gives numbers again that it had given before: so it is not the number alone that
        tells, but the moment of the state too, where this database noted one under that number as a source, or received one as a standby.
        """
        if received.state not in self.numbers():
            return False
        given, moment = self.fact(_given(received.state)), received.snapshot_at
        if given is not None:
            return dt.datetime.fromisoformat(given) == moment
        publishes = self._t.publishes
        state = sa.func.coalesce(publishes.c.state, publishes.c.number)
        own = self._many(
            sa.select(publishes).where(
                state == received.state,
                publishes.c.undoes.is_(None),
                publishes.c.numbered == sa.true(),
            )
        )
        return not own or any(one.snapshot_at == moment for one in own)

    def forget_given(self) -> None:
        """A database that takes another's state holds nothing any more of what it once gave itself."""
        facts = self._t.facts
        with self._dialect.doing("write the ledger"):
            self._connection.execute(facts.delete().where(facts.c.name.startswith(_GIVEN)))

    def claim_number(self, above: int, moment: dt.datetime) -> int:
        """Take the next number of this primary, greater than `above`, in a transaction of its own; two that ask get two numbers.

        The number is noted with the moment of the state that is published under it. Numbers up to `above` that this database never
        knew become strange to it.
        """
        with self._dialect.doing("write the ledger"), self._connection.begin():
            highest, number = self._next_number(above)
            if above > highest:
                known = self.numbers()
                self._put(
                    _UNKNOWN,
                    replace(known, unknown=(*known.unknown, (highest + 1, above))).written or "",
                )
            self._put(_given(number), moment.isoformat())
        return number

    def inherited_number(self, above: int) -> int | None:
        """As `claim_number`, within the open transaction, for a primary that answers for the numbers that others gave: none is strange to it.

        None, and the transaction goes on, where this role may not note the number.
        """
        try:
            with self._dialect.doing("write the ledger"), self._dialect.attempt():
                return self._next_number(above)[1]
        except DatabaseError:
            return None

    def _next_number(self, above: int) -> tuple[int, int]:
        """The highest number that was known, and the next one, which is noted."""
        facts = self._t.facts
        # the row is locked by its update before it is read, so that nobody else reads it meanwhile
        self._connection.execute(
            facts.update().where(facts.c.name == "number").values(value=facts.c.value)
        )
        highest = self.number()
        number = max(highest, above) + 1
        self._put("number", str(number))
        return highest, number

    def _put(self, name: str, value: str) -> None:
        """As `note`, with a source's rights: it may insert and update facts, and delete none."""
        facts = self._t.facts
        if not self._connection.execute(
            facts.update().where(facts.c.name == name).values(value=value)
        ).rowcount:
            self._connection.execute(facts.insert().values(name=name, value=value))

    def term(self) -> Term | None:
        """The highest term that this database took; None where it took none."""
        value = self.fact(TERM)
        return None if value is None else Term.from_text(value)

    def take_term(self, term: Term) -> bool:
        """Within the open transaction, take a term that is higher than the one that stands here; True where it stands here afterwards.

        False for a lower one, for the same n with another primary, and where somebody else takes one at the same moment.
        """
        mine, facts = self.term(), self._t.facts
        if mine is not None and mine.n >= term.n:
            return mine == term
        with self._dialect.doing("write the ledger"):
            # by deleting, not by an update: a standby's role has no right to that on this table
            old = (
                facts.delete().where(facts.c.name == TERM, facts.c.value == mine.to_text())
                if mine
                else None
            )
            if old is not None and self._connection.execute(old).rowcount != 1:
                return False
            try:
                with self._dialect.attempt():
                    self._connection.execute(facts.insert().values(name=TERM, value=term.to_text()))
            except sa.exc.IntegrityError:
                return False
        return True

    def settle_term(self) -> None:
        """Within the open transaction: the term that stands here counts by itself from now on. A second call does nothing."""
        mine = self.term()
        if mine is not None and mine.after:
            self.note(TERM, replace(mine, after=None).to_text())

    def newest(self) -> Publish | None:
        """The publish with the highest number, an undo too."""
        return self._one(
            sa.select(self._t.publishes).order_by(self._t.publishes.c.number.desc()).limit(1)
        )

    def last(self) -> Publish | None:
        """The publish whose state stands here: the newest that was not taken back; None where there is none."""
        publishes, undone = self._t.publishes, set[int]()
        with self._dialect.doing("read the ledger"):
            entries = self._connection.execute(
                sa.select(publishes.c.number, publishes.c.undoes).order_by(
                    publishes.c.number.desc()
                )
            ).all()
        for number, undoes in entries:
            if number in undone:
                continue
            if undoes is None:
                return self._one(sa.select(publishes).where(publishes.c.number == number))
            undone.add(undoes)
        return None

    def of_run(self, run_id: str) -> Publish | None:
        """The publish of that run, if it was committed."""
        return self._one(sa.select(self._t.publishes).where(self._t.publishes.c.run_id == run_id))

    def publishes(self, limit: int | None = None, *, source: str | None = None) -> list[Publish]:
        """The newest publishes, from that source if one is named, newest first; all without a limit."""
        publishes = self._t.publishes
        query = sa.select(publishes).order_by(publishes.c.number.desc()).limit(limit)
        return self._many(query if source is None else query.where(publishes.c.source == source))

    def beginning(self, run_id: str) -> list[Publish]:
        """The publishes of the runs whose id begins so, newest first."""
        publishes = self._t.publishes
        begins = publishes.c.run_id.startswith(run_id, autoescape=True)
        return self._many(sa.select(publishes).where(begins).order_by(publishes.c.number.desc()))

    def rescuing(self) -> list[Publish]:
        """The publishes of which rescued rows are kept, newest first."""
        publishes = self._t.publishes
        kept = publishes.c.number.in_(sa.select(self._t.rescues.c.publish))
        return self._many(sa.select(publishes).where(kept).order_by(publishes.c.number.desc()))

    def of_runs(self, run_ids: Collection[str]) -> list[Publish]:
        """The publishes of these runs, of those that were committed, newest first."""
        publishes, wanted = self._t.publishes, list(run_ids)
        found: list[Publish] = []
        for start in range(0, len(wanted), _AT_ONCE):
            found += self._many(
                sa.select(publishes).where(publishes.c.run_id.in_(wanted[start : start + _AT_ONCE]))
            )
        return sorted(found, key=lambda entry: entry.number, reverse=True)

    def _many(self, query: sa.Select[Any]) -> list[Publish]:
        with self._dialect.doing("read the ledger"):
            rows = self._connection.execute(query).all()
        return [self._publication(row) for row in rows]

    def _one(self, query: sa.Select[Any]) -> Publish | None:
        with self._dialect.doing("read the ledger"):
            row = self._connection.execute(query).one_or_none()
        return None if row is None else self._publication(row)

    def _publication(self, row: sa.Row[Any]) -> Publish:
        tables = {name: TableResult(**result) for name, result in json.loads(row.tables).items()}
        return Publish(
            row.number,
            row.run_id,
            row.source,
            self._dialect.name,
            _utc(row.snapshot_at),
            _utc(row.published_at),
            tables,
            json.loads(row.seconds),
            row.partial,
            row.undoes,
            row.numbered,
            row.number if row.state is None else row.state,
        )

    def record(self, publication: Publish, source_identity: str) -> None:
        """Write a publish."""
        with self._dialect.doing("write the ledger"):
            self._connection.execute(
                self._t.publishes.insert().values(
                    number=publication.number,
                    run_id=publication.run_id,
                    source=publication.source,
                    source_identity=source_identity,
                    snapshot_at=publication.snapshot_at,
                    published_at=publication.published_at,
                    partial=publication.partial,
                    undoes=publication.undoes,
                    numbered=publication.numbered,
                    state=publication.state,
                    tables=json.dumps(
                        {name: asdict(result) for name, result in publication.tables.items()}
                    ),
                    seconds=json.dumps(dict(publication.seconds)),
                )
            )

    # -- digests

    def digests(self, table: str, before: int | None = None) -> Digests | None:
        """The digests of a table as last published, or as they stood before that publish; None where it never was."""
        digests = self._t.digests
        query = (
            sa.select(*self._kept_of(digests))
            .where(digests.c.table_name == table)
            .order_by(digests.c.publish.desc())
            .limit(1)
        )
        if before is not None:
            query = query.where(digests.c.publish < before)
        with self._dialect.doing("read the ledger"):
            row = self._connection.execute(query).one_or_none()
        if row is None or row.data is None:
            return None
        columns = tuple(
            (name, sign) for name, sign in json.loads(row._mapping.get("columns") or "[]")
        )
        return Digests.from_bytes(Form(row.family, row.buckets, columns), row.data)

    def keep_digests(self, publish: int, table: str, value: Digests | None) -> None:
        """The digests of a table from this publish on; None for a table that counts as never published."""
        form, data = (value.form, value.to_bytes()) if value is not None else (Form("", 0), None)
        with self._dialect.doing("write the ledger"):
            given = {
                "publish": publish,
                "table_name": table,
                "family": form.digest_format,
                "buckets": form.buckets,
                "data": data,
                "columns": json.dumps(form.columns) if form.columns else None,
            }
            columns = {column.name: given[column.name] for column in self._kept_of(self._t.digests)}
            self._connection.execute(self._t.digests.insert().values(columns))

    def replace_digests(self, table: str, value: Digests) -> None:
        """Other digests in the place of those that the table was last published with."""
        digests = self._t.digests
        newest = sa.select(sa.func.max(digests.c.publish)).where(digests.c.table_name == table)
        with self._dialect.doing("write the ledger"):
            publish = self._connection.execute(newest).scalar_one()
            self._connection.execute(
                digests.delete().where(digests.c.table_name == table, digests.c.publish == publish)
            )
            self.keep_digests(publish, table, value)

    def _kept_of(self, digests: sa.Table) -> list[sa.Column[Any]]:
        """The columns of that table: a source's ledger, which no sync brings up, may be of the version before this one."""
        return [
            column
            for column in digests.columns
            if column.name != "columns" or self._fact("version") == str(VERSION)
        ]

    # -- rescued rows

    def rescues(self, publish: int | None = None) -> list[Rescued]:
        """What was rescued by one publish, or by all, newest first."""
        rescues = self._t.rescues
        query = sa.select(rescues).order_by(rescues.c.publish.desc(), rescues.c.table_name)
        if publish is not None:
            query = query.where(rescues.c.publish == publish)
        with self._dialect.doing("read the ledger"):
            rows = self._connection.execute(query).all()
        return [
            Rescued(
                r.publish, r.table_name, r.stored_in, r.deleted, r.replaced, r.inserted, r.bytes
            )
            for r in rows
        ]

    def note_rescue(self, rescued: Rescued) -> None:
        """Write down what a publish has rescued of one table."""
        with self._dialect.doing("write the ledger"):
            self._connection.execute(
                self._t.rescues.insert().values(
                    publish=rescued.publish,
                    table_name=rescued.table,
                    stored_in=rescued.stored_in,
                    deleted=rescued.deleted,
                    replaced=rescued.replaced,
                    inserted=rescued.inserted,
                    bytes=rescued.bytes,
                )
            )

    def forget(self, publish: int) -> None:
        """Forget the rescues of a publish, and the digests that only its undo would need."""
        digests, rescues = self._t.digests, self._t.rescues
        later = digests.alias()
        superseded = sa.exists().where(
            later.c.table_name == digests.c.table_name,
            later.c.publish > digests.c.publish,
            later.c.publish <= publish,
        )
        with self._dialect.doing("write the ledger"):
            self._connection.execute(rescues.delete().where(rescues.c.publish == publish))
            self._connection.execute(digests.delete().where(superseded))


def _given(state: int) -> str:
    return f"{_GIVEN}{state}"


def _utc(moment: dt.datetime) -> dt.datetime:
    return moment.astimezone(dt.UTC)
