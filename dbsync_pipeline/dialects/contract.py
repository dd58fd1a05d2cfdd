"""What an engine must do to take part in a mirror, in five roles.

A `Dialect` is one open connection to one database. It fills every role: a `Session` is opened,
interrupted and ended; a `Connection` has transactions; a `Source` is only read, in a snapshot; a
`Target` is locked, staged into and published to; a `Schema` is altered. Everything that differs
between engines is in a dialect; no module above knows an engine.

Methods are called by one thread at a time. They raise `Unavailable`, `Busy` or `DatabaseError`,
never a driver's own exception: every public method of a dialect translates.
"""

from __future__ import annotations

import datetime as dt
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import sqlalchemy as sa

from dbsync_pipeline.dialects import reflection
from dbsync_pipeline.dialects.counters import Counter
from dbsync_pipeline.dialects.digests import PLAIN, Digests, Form, RowDigest
from dbsync_pipeline.dialects.reflection import Place, Reflection
from dbsync_pipeline.dialects.staging import Moved, Written
from dbsync_pipeline.dialects.table import Column, Row, RowKeys, Size, Table, undecorated
from dbsync_pipeline.errors import DbsyncError, Unavailable

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation, Operations

    from dbsync_pipeline.dialects.stamps import Stamps


class Session(ABC):
    """One session: how it is opened, interrupted and ended, and what its errors mean."""

    engine_name: ClassVar[str]
    """The first word of the engine's URLs."""
    driver_errors: ClassVar[tuple[type[Exception], ...]]

    def __init__(self, name: str, connection: sa.Connection) -> None:
        self.name = name
        self.connection = connection

    @contextmanager
    def doing(self, operation: str, table: str | None = None) -> Iterator[None]:
        """Translate driver errors raised within, naming the operation and table, without chain."""
        try:
            yield
        except self.driver_errors as error:
            translation = self._translation(error, operation)
            if isinstance(translation, DbsyncError) and translation.table is None:
                translation.table = table
            raise translation from None

    def _translation(self, error: BaseException, operation: str) -> Exception:
        if why := self.ended_because():
            return Unavailable(
                why,
                operation=operation,
                database=self.name,
                remedy=f"see that the network to {self.name} and its server are well, then try "
                "again; DBSYNC_SILENCE_SECONDS is how long a silence may last",
            )
        return self.translate(error, self.name, operation)

    @classmethod
    @abstractmethod
    def engine(
        cls, url: sa.URL, *, label: str, connect_seconds: float, silence_seconds: float
    ) -> sa.Engine:
        """Return an engine whose sessions have pinned settings; servers show them as `label`.

        A session that waits for its server and receives no byte for `silence_seconds` is ended,
        unless the server says that it computes: see `watchdog`.
        """

    def ended_because(self) -> str | None:
        """Return why the watchdog ended the session; None if it did not."""
        return None

    @classmethod
    @abstractmethod
    def translate(cls, error: BaseException, name: str, operation: str) -> Exception:
        """Return the project's error for a driver's error in database `name`."""

    @abstractmethod
    def cancel(self) -> None:
        """Stop the running statement, without waiting for its end. Another thread may call this.

        If the statement does not end within seconds, the session is ended.
        """

    def close(self) -> None:
        """Roll back the open transaction and close the connection. A second call does nothing."""
        if not self.connection.closed:
            self.connection.invalidate()
            self.connection.close()

    def end(self) -> None:
        """End the session, on the server too, and return when it is gone.

        Nothing that it sent can be carried out afterwards. Raise Unavailable if the server cannot
        be asked. A second call does nothing.
        """
        self.close()


class Connection(Session):
    """A session's transactions, and facts about its database."""

    @classmethod
    def locate(cls, url: sa.URL, name: str, *, create: bool) -> None:
        """Before connecting, raise SettingsError or Unavailable if the URL cannot be a database.

        `create` allows a new database, for engines that create one when they open it.
        """
        assert url.get_backend_name() == cls.engine_name

    @classmethod
    def command(cls, url: sa.URL, name: str, statement: str) -> str:
        """Return what a person at a terminal types to run a statement in database `name`."""
        return f"in {name}: {statement}"

    def limit_lock_wait(self, seconds: float) -> None:
        """From now on wait at most this long for locks. Call it outside of transactions."""
        assert not self.connection.in_transaction()

    @abstractmethod
    def commit(self) -> None:
        """Commit the open transaction."""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo what ran within if it fails; the open transaction stays usable."""
        with self.connection.begin_nested():
            yield

    @abstractmethod
    def size_bytes(self) -> int:
        """Return the size of the database."""

    def read_only_by_default(self) -> bool:
        """Return whether sessions are read-only here unless they ask, as those of this project do.

        An application's session does not ask.
        """
        return False

    @abstractmethod
    def set_marker(self, mark: int) -> None:
        """In the open transaction, set a mark that all sessions of this same database see."""

    @abstractmethod
    def sees_marker(self, mark: int) -> bool:
        """Return whether a session of this same database has set the mark."""


class Source(Connection):
    """Reading: one snapshot, digests computed where the data lives, rows by key."""

    addresses_rows: ClassVar[bool] = True
    """Whether rows have addresses that hold within a transaction, which keyless tables need."""
    own_format_is_sha256: ClassVar[bool] = False
    """Whether the engine's own digests are SHA-256 and not a faster, weaker hash."""

    @abstractmethod
    def snapshot(self, tables: Sequence[Table] = ()) -> dt.datetime:
        """Begin a read-only transaction that sees one state; return the database's time of it.

        An engine whose snapshots do not hold against TRUNCATE or DDL keeps those off the `tables`.
        """

    @abstractmethod
    def hidden(self, tables: Sequence[Table]) -> list[str]:
        """Return the names of the tables of which this role may not see all rows."""

    @abstractmethod
    def count(self, table: Table) -> int:
        """Return the exact number of rows."""

    def rows(self, table: Table) -> int:
        """Return the number of rows for people to read; some engines know it without counting."""
        return self.count(table)

    def sizes(self, tables: Sequence[Table]) -> Mapping[str, Size]:
        """Return the size of each table on the database's disk; nothing if the engine cannot tell
        at once.
        """
        return {}

    @abstractmethod
    def digest_format(self) -> str:
        """Return the engine's own format: databases that return the same are comparable in it."""

    def comparable_table(self, table: Table, form: Form) -> Table | None:
        """Return the table as digests of this form saw it.

        Return None if the models, or the engine, would compute other digests now.
        """
        if form.native and form.digest_format != self.digest_format():
            return None
        return form.table_as_digested(table)

    @abstractmethod
    def digests(self, table: Table, form: Form, only: np.ndarray | None = None) -> Digests:
        """Return the digests of all buckets, or of the buckets `only`."""

    @abstractmethod
    def row_digests(self, table: Table, form: Form, only: np.ndarray) -> Iterator[RowDigest]:
        """Stream the rows of the buckets `only`, ordered by bucket.

        The rows of a keyless table come with their addresses in place of keys.
        """

    def stamps(self) -> Stamps | None:
        """What proves that rows are as they were earlier; None if the engine has no such proof."""
        return None

    @abstractmethod
    def read(
        self, table: Table, keys: RowKeys | None = None, form: Form = PLAIN
    ) -> Iterator[list[Row]]:
        """Stream plain values of all rows, or of those with these keys, in batches of BATCH_BYTES.

        The keys are in the values of `form`.
        """

    @abstractmethod
    def counters(self, tables: Sequence[Table]) -> list[Counter]:
        """Return the counters that fill columns of these tables, and sequences beside them."""


class Target(Source):
    """Writing: lock, stage away from the live tables, publish in one transaction."""

    keys_per_load: ClassVar[int] = 5_000
    """How many keys of rows that differ are gathered before their rows are staged together."""
    proves_before_writing: ClassVar[bool] = False
    """Whether staged changes are proved before they are written, since writes make readers wait."""

    @abstractmethod
    def begin(self, tables: Sequence[Table], *, wait_seconds: float) -> None:
        """Begin the writing transaction: lock the target, then the tables against writers.

        Raise Busy, naming the holder, if a lock is not free within `wait_seconds`.
        """

    @abstractmethod
    def suspend_constraints(self, tables: Sequence[Table]) -> None:
        """In the open transaction, do not enforce foreign keys until `prove_constraints`."""

    @abstractmethod
    def prove_constraints(self, tables: Sequence[Table]) -> None:
        """Raise NotProved if a foreign key of these tables, or to them, does not hold."""

    @abstractmethod
    def create_staging(self, table: Table) -> None:
        """Create empty, private staging for rows and keys; it goes with the connection."""

    @abstractmethod
    def stage_rows(self, table: Table, source: Dialect, keys: RowKeys, form: Form) -> Moved:
        """Carry the rows with these keys from the source's snapshot into staging."""

    @abstractmethod
    def stage_keys(self, table: Table, keys: RowKeys, form: Form) -> None:
        """Stage the keys of live rows that are deleted or replaced."""

    @abstractmethod
    def staged(self, table: Table) -> tuple[sa.TableClause, sa.TableClause]:
        """Return the staging tables of rows and of keys, for SQLAlchemy statements."""

    def same_row(
        self, table: Table, staged: sa.FromClause, live: sa.FromClause
    ) -> sa.ColumnElement[bool]:
        """Return the condition that `staged`, the staging table of keys, has the live row.

        `live` is the table's clause with the alias `t`.
        """
        return sa.and_(*(staged.c[column.name] == live.c[column.name] for column in table.key))

    def stage_everything(self, table: Table) -> None:
        """Stage the keys of all live rows, to be deleted."""
        live, (_, gone) = table.clause, self.staged(table)
        keys = [column.name for column in table.key]
        everything = sa.select(*(live.c[key] for key in keys))
        self.connection.execute(gone.insert().from_select(keys, everything))

    def stage_equal(self, table: Table, stored_in: str, publish: int) -> None:
        """Stage the addresses of live rows that equal the rows which that publish inserted.

        Of a keyless table, whose inserted rows are kept whole in the table of before-images
        `stored_in`. Equal rows are staged as often as they were inserted, at most.
        """
        raise NotImplementedError(f"{self.engine_name} gives rows no addresses")

    @abstractmethod
    def delete_staged(self, table: Table) -> int:
        """Delete the live rows whose keys are staged; return their number."""

    @abstractmethod
    def insert_staged(self, table: Table) -> int:
        """Insert the staged rows into the live table; return their number."""

    def write_staged(self, tables: Sequence[Table]) -> dict[str, Written]:
        """Apply the staged changes of these tables, between `suspend_constraints` and
        `prove_constraints`; return the counts.

        First what is gone or replaced is deleted, in all tables; then what is new or new again is
        inserted. A key that moved to another row is free by then.
        """
        deleted = {table.name: self.delete_staged(table) for table in tables}
        return {
            table.name: Written(deleted[table.name], self.insert_staged(table)) for table in tables
        }

    def digests_as_written(self, table: Table, form: Form, only: np.ndarray) -> Digests:
        """Return the digests of these buckets as they will be after `write_staged`.

        For an engine that `proves_before_writing`.
        """
        raise NotImplementedError

    def holds_staged(self, table: Table, form: Form) -> bool:
        """Return whether the live table holds every staged row exactly, after `write_staged`.

        For an engine that `proves_before_writing`.
        """
        raise NotImplementedError

    def prepare_fill(self, table: Table, source: Dialect, form: Form) -> None:
        """Carry the rows for a `fill` of this table as far as possible without making readers wait.

        Most engines do all of it in `fill`.
        """

    @abstractmethod
    def fill(self, table: Table, source: Dialect, form: Form) -> Moved:
        """Carry all rows of this table, which is empty here, directly into the live table."""

    def strip(self, tables: Sequence[Table]) -> list[str]:
        """Drop what slows a first load and can be rebuilt; return what `restore` needs.

        Readers wait until the commit.
        """
        return []

    def restore(self, stripped: Sequence[str]) -> None:
        """Rebuild what `strip` dropped. Raise NotProved if a foreign key would not hold."""
        assert not stripped, "an engine that strips restores"

    @abstractmethod
    def move_counter(self, counter: Counter, value: int) -> None:
        """Make a movable counter's next number lie beyond `value`; never move it back."""


class Schema(Connection):
    """Structure: the project's own tables, what a role sees, and Alembic's operations."""

    ledger_schema: ClassVar[str | None]
    """The schema of the project's own tables; None if they have a prefix instead."""
    defers_keys: ClassVar[bool] = True
    """Whether the engine supports DEFERRABLE foreign keys; else they are created without it."""

    def prepare(self) -> None:
        """Do what the engine needs once per database. Call it outside of transactions."""
        assert not self.connection.in_transaction()

    system_schemas: ClassVar[frozenset[str]] = frozenset({"information_schema"})
    """Schemas with tables of the engine itself."""

    def places(self, schemas: Sequence[str]) -> list[Place]:
        """Return the tables in these schemas or, if none is named, in all but the system's.

        Partitions, the project's own tables and those of extensions are left out. Read in the open
        transaction.
        """
        own = self.ledger_schema
        return [
            (schema, name)
            for schema, name in reflection.places(self.connection, schemas, self.system_schemas)
            if (schema != own if own else not name.startswith("dbsync_"))
        ]

    def reflect(self, tables: Sequence[Place]) -> Reflection:
        """Return the structure of these tables, read in the open transaction."""
        return reflection.reflect(self.connection, tables)

    def require_visible(self, tables: Sequence[Table]) -> None:
        """Raise DatabaseError if this role may not see whether the tables exist."""
        assert not self.connection.closed

    def structure_mark(self, tables: Sequence[sa.Table]) -> str | None:
        """Return a hash of all that a comparison of these tables with the models reads of them;
        None if the engine has none. Does not need to end the open transaction.
        """
        return None

    def alter(self, operations: Operations, operation: MigrateOperation) -> Any:
        """In the open transaction, run one of Alembic's operations without losing a row."""
        from alembic.operations import Operations

        return Operations.invoke(operations, operation)

    @contextmanager
    def altering(self) -> Iterator[None]:
        """Surround all alterations of the open transaction.

        At its end foreign keys hold, or StructureError is raised. Most engines have proved them by
        then.
        """
        yield

    @abstractmethod
    def create_like(self, name: str, table: Table) -> None:
        """Create a table of before-images beside the ledger's tables, for the open transaction.

        Its columns are `dbsync_publish`, `dbsync_change`, and those of `table`. An engine on which
        an uncommitted table makes others wait commits it at once.
        """

    script_begins: ClassVar[tuple[str, ...]] = ("BEGIN;",)
    """The first lines of a script that a person runs in one transaction."""
    with_numbers: ClassVar[str] = ""
    """What an INSERT of a script has before VALUES, so that it may give generated numbers."""

    @abstractmethod
    def quoted(self, name: str) -> str:
        """Return an identifier as a script writes it."""

    @abstractmethod
    def literal(self, column: Column, value: Any) -> str:
        """Return a plain value, which is not None, as a script writes it for this column.

        Raise Cannot if the column cannot hold it.
        """

    @abstractmethod
    def octets(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        """Return about how many bytes a value takes."""

    def displayed(self, column: Column, stored: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return a stored value for people to read, exactly: JSON and enums as stored text."""
        if isinstance(undecorated(column.type), (sa.JSON, sa.Enum)):
            return sa.cast(stored, sa.UnicodeText)
        return stored


class Dialect(Target, Schema):
    """One open connection in every role. An engine is a subclass in a folder of its own."""


def translated(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a dialect's method, or generator, to raise the project's errors.

    They name the method as the operation, and the `Table` among its arguments.
    """
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
    return next((argument.name for argument in args if isinstance(argument, Table)), None)
