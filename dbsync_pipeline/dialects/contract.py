"""What an engine must be able to do to take part in a mirror, and the values that pass between engines.

A `Dialect` is one open connection to one database, in one of two roles: the source gives a snapshot and is only read; the target is
locked, compared, staged into and published to. Everything that differs between engines is in a dialect; nothing above knows an engine.

Values travel between engines as *plain values*, one Python form per kind of column (see `Kind`). Between two databases of one engine
they travel as the engine itself holds them. `Form.native` says which of the two a comparison speaks.
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator, TypeEngine

from dbsync_pipeline.errors import DbsyncError, NotProved, StructureError

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation, Operations

Key = tuple[Any, ...]
Row = tuple[Any, ...]
Keys = Sequence[Key]

BATCH_BYTES = 4 * 1024 * 1024
"""Rows are moved in batches of about this many bytes, so that memory does not depend on a table's size."""

CANONICAL = "canonical"


class Kind(enum.Enum):
    """What a column holds, and (in brackets) the plain value that carries it between engines."""

    INTEGER = "integer"  # int
    BOOLEAN = "boolean"  # 0 or 1
    UUID = "uuid"  # str, lower case, with dashes
    NUMERIC = "numeric"  # str with exactly the column's scale of digits
    TEXT = "text"  # str: text, enums, and JSON as the application wrote it
    INSTANT = "instant"  # int, microseconds since 2000-01-01 UTC
    DATETIME = "datetime"  # int, microseconds since 2000-01-01, without a zone
    DATE = "date"  # int, days since 2000-01-01
    TIME = "time"  # int, microseconds since midnight
    FLOAT = "float"  # float
    BYTES = "bytes"  # bytes
    OPAQUE = "opaque"  # not carried between engines; within one, exactly


def kind_of(type_: TypeEngine[Any]) -> Kind:
    """The kind of a column of this SQLAlchemy type. What has no exact form in every engine is OPAQUE."""
    if isinstance(type_, sa.Interval):
        return Kind.OPAQUE
    type_ = undecorated(type_)
    return next((kind for matches, kind in _KINDS if matches(type_)), Kind.OPAQUE)


def undecorated(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """The type that the database knows of, below those that the application made of it."""
    while isinstance(type_, TypeDecorator):
        type_ = type_.impl_instance
    return type_


def _is(*classes: type) -> Callable[[TypeEngine[Any]], bool]:
    return lambda type_: isinstance(type_, classes)


_KINDS: tuple[tuple[Callable[[Any], bool], Kind], ...] = (
    (_is(sa.Boolean), Kind.BOOLEAN),
    (_is(sa.Integer), Kind.INTEGER),
    (_is(sa.Float), Kind.FLOAT),
    (
        lambda t: isinstance(t, sa.Numeric) and t.precision is not None and t.scale is not None,
        Kind.NUMERIC,
    ),
    (lambda t: isinstance(t, sa.Uuid) and t.native_uuid, Kind.UUID),
    (_is(sa.Enum), Kind.TEXT),
    (lambda t: isinstance(t, sa.JSON) and type(t).__name__ != "JSONB", Kind.TEXT),
    (lambda t: isinstance(t, sa.String) and not isinstance(t, (sa.CHAR, sa.NCHAR)), Kind.TEXT),
    (
        lambda t: (
            isinstance(t, sa.DateTime) and (t.timezone or type(t).__name__ == "DATETIMEOFFSET")
        ),
        Kind.INSTANT,
    ),
    (_is(sa.DateTime), Kind.DATETIME),
    (_is(sa.Date), Kind.DATE),
    (lambda t: isinstance(t, sa.Time) and not t.timezone, Kind.TIME),
    (_is(sa.LargeBinary), Kind.BYTES),
)


@dataclass(frozen=True)
class Column:
    """One mirrored column of the models."""

    name: str
    kind: Kind
    type: TypeEngine[Any]
    nullable: bool

    @property
    def signature(self) -> str:
        """What of the type makes the digests of a value: its class, its kind, its digits, and the classes that single engines have for it."""
        digits = {Kind.NUMERIC: self.scale, Kind.FLOAT: getattr(self.type, "precision", None)}.get(
            self.kind
        )
        variants = sorted(
            (engine, type(one).__name__) for engine, one in self.type._variant_mapping.items()
        )
        words = [
            type(self.type).__name__,
            self.kind.value,
            *(f"{engine}:{class_}" for engine, class_ in variants),
        ]
        return " ".join(words if digits is None else [*words, str(digits)])

    @property
    def scale(self) -> int:
        """Digits after the point of a NUMERIC column."""
        return int(getattr(self.type, "scale", 0) or 0)

    @property
    def length(self) -> int | None:
        """The most characters that a TEXT column holds; None where it has no limit."""
        return (
            getattr(self.type, "length", None)
            if isinstance(self.type, sa.String) and not isinstance(self.type, sa.Enum)
            else None
        )


@dataclass(frozen=True)
class Table:
    """One table of the models, as the mirror sees it: the columns that it copies, in the models' order, and the key.

    `only` names the columns of a narrower view of the table, in their order.
    """

    sa: sa.Table
    only: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return str(self.sa.key)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns that are copied: all but those that the database computes."""
        here = {
            column.name: Column(
                column.name, kind_of(column.type), column.type, bool(column.nullable)
            )
            for column in self.sa.columns
            if column.computed is None
        }
        return (
            tuple(here.values()) if self.only is None else tuple(here[name] for name in self.only)
        )

    @cached_property
    def key(self) -> tuple[Column, ...]:
        names = [column.name for column in self.sa.primary_key.columns]
        by_name = {column.name: column for column in self.columns}
        if not names or any(name not in by_name for name in names):
            raise StructureError(
                "has no primary key of plain columns, so its rows cannot be told apart",
                table=self.name,
                remedy="give the table a primary key in the models",
            )
        return tuple(by_name[name] for name in names)

    @cached_property
    def signatures(self) -> tuple[tuple[str, str], ...]:
        """Name and sign of each column, and its place in the key: while they stay, so do the digests of a row and its bucket.

        A longer text or another default changes none.
        """
        places = {column.name: f" key {place}" for place, column in enumerate(self.key)}
        return tuple((one.name, one.signature + places.get(one.name, "")) for one in self.columns)

    def as_digested(self, form: Form) -> Table | None:
        """The table as digests of that form saw it: without columns that came since. None where one is gone, or is of another type."""
        if not form.columns or form.columns == self.signatures:
            return self
        here, then = dict(self.signatures), dict(form.columns)
        whole_key = all(column.name in then for column in self.key)
        same = whole_key and all(here.get(name) == sign for name, sign in then.items())
        return Table(self.sa, tuple(then)) if same else None

    @cached_property
    def counter(self) -> Column | None:
        """The column that the database numbers by itself, if there is one."""
        column = self.sa.autoincrement_column
        if column is None or column.foreign_keys:
            return None
        return next(mine for mine in self.columns if mine.name == column.name)


@dataclass(frozen=True)
class Form:
    """How rows are turned into digests: the same on both sides of a comparison.

    `family` is `canonical`, or the name that an engine gives to its own form (then both sides are of that engine). `buckets` is how
    many groups the rows of a table fall into, by key. `columns` are the signs of the columns that were digested (`Table.signs`), where
    digests are kept longer than the models may stay as they are.
    """

    digest_format: str
    buckets: int
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def native(self) -> bool:
        return self.digest_format != CANONICAL


@dataclass(frozen=True)
class Digests:
    """The digests of a table, bucket by bucket: `rows` (int64), `first` and `second` (uint64, sums of row digests modulo 2^64)."""

    form: Form
    rows: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def gather(cls, form: Form, buckets: Iterable[tuple[int, int, Any, Any]]) -> Digests:
        """From (bucket, rows, sum, sum); sums may be of any size and sign."""
        rows = np.zeros(form.buckets, np.int64)
        sums = np.zeros((2, form.buckets), np.uint64)
        for bucket, count, first, second in buckets:
            rows[bucket] = count
            sums[0, bucket] = int(first) & 0xFFFF_FFFF_FFFF_FFFF
            sums[1, bucket] = int(second) & 0xFFFF_FFFF_FFFF_FFFF
        return cls(form, rows, sums[0], sums[1])

    def differing(self, other: Digests) -> np.ndarray:
        """The buckets that are not alike, in order (int64)."""
        return np.flatnonzero(
            (self.rows != other.rows) | (self.first != other.first) | (self.second != other.second)
        )

    def replaced(self, buckets: np.ndarray, other: Digests) -> Digests:
        """These digests with the given buckets taken from `other`."""
        rows, first, second = self.rows.copy(), self.first.copy(), self.second.copy()
        rows[buckets], first[buckets], second[buckets] = (
            other.rows[buckets],
            other.first[buckets],
            other.second[buckets],
        )
        return Digests(self.form, rows, first, second)

    @property
    def total(self) -> int:
        """Rows of the whole table."""
        return int(self.rows.sum())

    def __str__(self) -> str:
        return f"{self.total}:{int(self.first.sum()):016x}{int(self.second.sum()):016x}"

    def to_bytes(self) -> bytes:
        """24 bytes a bucket, little-endian: all rows, then all first sums, then all second sums."""
        return b"".join(
            part.astype(f"<{part.dtype.str[1:]}").tobytes()
            for part in (self.rows, self.first, self.second)
        )

    @classmethod
    def from_bytes(cls, form: Form, data: bytes) -> Digests:
        """The inverse of `to_bytes`."""
        size = form.buckets * 8
        return cls(
            form,
            np.frombuffer(data[:size], "<i8"),
            np.frombuffer(data[size : 2 * size], "<u8"),
            np.frombuffer(data[2 * size : 3 * size], "<u8"),
        )


@dataclass(frozen=True)
class RowDigest:
    """One row of a bucket that differs: its key (as `Form` speaks it) and the two halves of its digest."""

    bucket: int
    key: Key
    digest: tuple[int, int]


@dataclass
class Moved:
    """What a load has carried so far."""

    rows: int = 0
    bytes: int = 0


def staging(schema: str | None, name: str, columns: Sequence[Column]) -> sa.TableClause:
    """A staging table as SQLAlchemy's statements name it."""
    return sa.table(
        name, *(sa.column(column.name, column.type) for column in columns), schema=schema
    )


def orphans(child: str, parent: str, pairs: Iterable[tuple[str, str]]) -> str:
    """SQL that gives 1 where a row of `child` refers to no row of `parent`, else 0. All names are quoted; `pairs` are (child's, parent's)."""
    columns = list(pairs)
    given = " AND ".join(f"c.{mine} IS NOT NULL" for mine, _ in columns)
    same = " AND ".join(f"p.{theirs} = c.{mine}" for mine, theirs in columns)
    nowhere = f"SELECT 1 FROM {child} c WHERE {given} AND NOT EXISTS (SELECT 1 FROM {parent} p WHERE {same})"
    return f"SELECT CASE WHEN EXISTS ({nowhere}) THEN 1 ELSE 0 END"


def violated_key(database: str, key: str, table: str, *, outside: bool = False) -> NotProved:
    """A foreign key that would not hold; `outside` says that the models do not have its table."""
    return NotProved(
        f"the foreign key {key} would not hold"
        + (
            ": the models do not have its table, which refers to rows that would go"
            if outside
            else ""
        ),
        operation="publish",
        database=database,
        table=table,
        remedy=f"delete the rows of {table} on {database} that refer to them, drop the key, or take the table into the models"
        if outside
        else "sync all tables, or mend the row in the source: `dbsync sync` without --table",
    )


def translated(method: Callable[..., Any]) -> Callable[..., Any]:
    """A dialect's method, a generator too, whose driver errors come out as the project's own, with the table that it was given."""
    operation = method.__name__.strip("_").replace("_", " ")

    @functools.wraps(method)
    def call(self: Dialect, *args: Any, **kwargs: Any) -> Any:
        with self.doing(operation, _table_of(args)):
            return method(self, *args, **kwargs)

    @functools.wraps(method)
    def generate(self: Dialect, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self.doing(operation, _table_of(args)):
            yield from method(self, *args, **kwargs)

    return generate if inspect.isgeneratorfunction(method) else call


def _table_of(args: Sequence[Any]) -> str | None:
    return next((one.name for one in args if isinstance(one, Table)), None)


class Dialect(ABC):
    """One open connection. Methods are called by one thread at a time.

    Raises `Unavailable`, `Busy` or `DatabaseError`, never a driver's own exception: every public method of a dialect translates.
    """

    engine_name: ClassVar[str]
    own_format_is_sha256: ClassVar[bool] = False
    driver_errors: ClassVar[tuple[type[Exception], ...]]
    ledger_schema: ClassVar[str | None]
    """The schema of the project's own tables; None where a prefix serves."""
    defers_keys: ClassVar[bool] = True
    """Does the engine know foreign keys that can be deferred? One that does not makes them without."""

    def __init__(self, name: str, connection: sa.Connection) -> None:
        self.name = name
        self.connection = connection

    @contextmanager
    def doing(self, operation: str, table: str | None = None) -> Iterator[None]:
        """Within, an error of the driver comes out as the project's own, naming this operation and without its chain."""
        try:
            yield
        except self.driver_errors as error:
            told = self.translate(error, self.name, operation)
            if isinstance(told, DbsyncError) and told.table is None:
                told.table = table
            raise told from None

    # -- the connection

    @classmethod
    @abstractmethod
    def engine(cls, url: sa.URL, *, label: str, connect_seconds: float) -> sa.Engine:
        """An engine whose connections are pinned to exact sessions; `label` is what the server shows of them."""

    @classmethod
    @abstractmethod
    def translate(cls, error: BaseException, name: str, operation: str) -> Exception:
        """The project's error for a driver's, without its chain."""

    @abstractmethod
    def cancel(self) -> None:
        """Stop the running statement; may be called from another thread."""

    def close(self) -> None:
        """Roll back what is open and give the connection up. A second call does nothing."""
        if not self.connection.closed:
            self.connection.invalidate()
            self.connection.close()

    def prepare(self) -> None:
        """What a database needs once before it takes part in a mirror; most engines need nothing. Outside of transactions."""
        assert not self.connection.in_transaction()

    def require_visible(self, tables: Sequence[Table]) -> None:
        """Raises DatabaseError where this role is not allowed to see whether the tables are there."""
        assert not self.connection.closed

    def limit_lock_wait(self, seconds: float) -> None:
        """Give up waiting for what others have locked after this time, from now on. Outside of transactions."""
        assert not self.connection.in_transaction()

    # -- transactions

    @abstractmethod
    def snapshot(self) -> dt.datetime:
        """Begin a read-only transaction that sees one state for its whole life; returns the database's time of that state."""

    @abstractmethod
    def begin(self, tables: Sequence[Table], *, wait_seconds: float) -> None:
        """Begin the writing transaction: the target's lock first, then the tables', so that others may read and not write.

        Raises Busy, naming the holder, when the lock is not had within `wait_seconds`.
        """

    @abstractmethod
    def commit(self) -> None: ...

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Within the open transaction: where this fails, what it did is taken back, and the transaction goes on."""
        with self.connection.begin_nested():
            yield

    @abstractmethod
    def suspend_constraints(self, tables: Sequence[Table]) -> None:
        """Within the writing transaction, foreign keys are not enforced until `prove_constraints`."""

    @abstractmethod
    def prove_constraints(self, tables: Sequence[Table]) -> None:
        """Every foreign key of these tables holds, or NotProved is raised."""

    # -- structure

    def alter(self, operations: Operations, operation: MigrateOperation) -> Any:
        """Within the open transaction, carry out one of Alembic's operations as this engine needs it done, losing no row."""
        from alembic.operations import Operations

        return Operations.invoke(operations, operation)

    @contextmanager
    def altering(self) -> Iterator[None]:
        """Within the open transaction and all of its alterations. At the end foreign keys hold, or StructureError is raised; most engines
        have proved them by then.
        """
        yield

    # -- digests

    @abstractmethod
    def digest_format(self) -> str:
        """The name of the engine's own form: two databases that say the same can be compared in it."""

    @abstractmethod
    def count(self, table: Table) -> int: ...

    def rows(self, table: Table) -> int:
        """How many rows a table has, for a person to read: some engines know it without counting, and a little late."""
        return self.count(table)

    def comparable_table(self, table: Table, form: Form) -> Table | None:
        """The table as digests of that form saw it, where they can be computed again; None where the models, or the engine, make others now."""
        return (
            None
            if form.native and form.digest_format != self.digest_format()
            else table.as_digested(form)
        )

    @abstractmethod
    def digests(self, table: Table, form: Form, only: np.ndarray | None = None) -> Digests:
        """The digests of every bucket, or of these buckets only, computed where the data lives."""

    @abstractmethod
    def row_digests(self, table: Table, form: Form, only: np.ndarray) -> Iterator[RowDigest]:
        """The rows of these buckets, ordered by bucket; streamed."""

    # -- rows

    @abstractmethod
    def read(self, table: Table, keys: Keys | None = None) -> Iterator[list[Row]]:
        """Plain values of all rows, or of the rows with these plain keys, in batches of about BATCH_BYTES."""

    @abstractmethod
    def create_staging(self, table: Table) -> None:
        """Private, empty staging for new rows and for keys, gone when the connection is."""

    @abstractmethod
    def stage_rows(self, table: Table, source: Dialect, keys: Keys, form: Form) -> Moved:
        """Carry the rows with these keys from the source's snapshot into staging."""

    @abstractmethod
    def stage_keys(self, table: Table, keys: Keys, form: Form) -> None:
        """Note keys of live rows that are gone or replaced."""

    @abstractmethod
    def delete_staged(self, table: Table) -> int:
        """Delete the live rows whose keys are noted; returns how many."""

    @abstractmethod
    def insert_staged(self, table: Table) -> int:
        """Insert the staged rows into the live table; returns how many."""

    @abstractmethod
    def staged(self, table: Table) -> tuple[sa.TableClause, sa.TableClause]:
        """The staging tables of new rows and of keys, to be read by statements of their own."""

    @abstractmethod
    def create_like(self, name: str, table: Table) -> None:
        """Within the open transaction, a table `name` beside the ledger's: `dbsync_publish`, `dbsync_change`, and the columns of `table`."""

    @abstractmethod
    def octets(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        """About how many bytes a value takes."""

    def displayed(self, column: Column, stored: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """A stored value of this column for a person to read, exactly: JSON and enums as the text that is stored."""
        return (
            sa.cast(stored, sa.UnicodeText)
            if isinstance(undecorated(column.type), (sa.JSON, sa.Enum))
            else stored
        )

    @abstractmethod
    def hidden(self, tables: Sequence[Table]) -> list[str]:
        """The tables of which the database may not show all rows to this role, by name."""

    @abstractmethod
    def fill(self, table: Table, source: Dialect, form: Form) -> Moved:
        """Carry all rows of this table, which is empty here, straight into the live table."""

    def strip(self, tables: Sequence[Table]) -> list[str]:
        """Drop what slows a first load and can be built afterwards; returns what `restore` needs. Readers wait until the commit."""
        return []

    def restore(self, stripped: Sequence[str]) -> None:
        """Build again what `strip` dropped; raises NotProved where a foreign key would not hold."""
        assert not stripped, "an engine that strips restores"

    # -- counters

    @abstractmethod
    def numbers(self, table: Table) -> tuple[int, int] | None:
        """The last number that the table's counter gave, and the highest key; None where it has no counter, or none that can be read."""

    def counter(self, table: Table) -> int | None:
        """The last number that the table's counter gave, or the highest key if that is greater; None where it has no counter."""
        numbers = self.numbers(table)
        return None if numbers is None else max(numbers)

    @abstractmethod
    def move_counter(self, table: Table, value: int) -> None:
        """The next number given will be greater than `value`; never moves a counter back."""

    # -- about the database

    @abstractmethod
    def size_bytes(self) -> int: ...

    @abstractmethod
    def set_marker(self, mark: int) -> None:
        """Within the open transaction, leave a passing mark that every session of this very database sees, and no other does."""

    @abstractmethod
    def sees_marker(self, mark: int) -> bool: ...
