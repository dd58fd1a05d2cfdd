"""Writing to PostgreSQL: staging in temporary tables, constraints deferred until the commit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg2
import psycopg2.errors
import sqlalchemy as sa

from dbsync_pipeline.dialects import values
from dbsync_pipeline.dialects.contract import Dialect, translated
from dbsync_pipeline.dialects.counters import Counter
from dbsync_pipeline.dialects.digests import Form
from dbsync_pipeline.dialects.foreign_keys import held, key_violated, orphans, violated_key
from dbsync_pipeline.dialects.postgresql import catalog, copy, readers
from dbsync_pipeline.dialects.postgresql.catalog import names, quote, quote_table
from dbsync_pipeline.dialects.postgresql.errors import without_value
from dbsync_pipeline.dialects.postgresql.expressions import FENCE
from dbsync_pipeline.dialects.postgresql.one_statement import OneStatement
from dbsync_pipeline.dialects.postgresql.source import PostgreSQLSource
from dbsync_pipeline.dialects.staging import Moved, Written
from dbsync_pipeline.dialects.table import RowKeys, Table
from dbsync_pipeline.dialects.temporary import TemporaryStaging
from dbsync_pipeline.errors import Busy, NotProved, StructureError

_LOCK = 0x6462_7379_6E63
"""The key of the target's advisory lock: "dbsync"."""


_ADDRESS = {"dbsync_table": "tableoid", "dbsync_place": "ctid"}
_PLACE = "tableoid, ctid"
"""What identifies a row of a keyless table within a transaction that keeps writers out."""


class PostgreSQLTarget(TemporaryStaging, PostgreSQLSource):
    """A database that is locked, staged into and published to."""

    temporary_schema = "pg_temp"

    def __init__(self, name: str, connection: sa.Connection) -> None:
        super().__init__(name, connection)
        self._replica = False
        self._one_statement: OneStatement | None = None

    # -- the lock

    @translated
    def begin(self, tables: Sequence[Table], *, wait_seconds: float) -> None:
        """Begin the writing transaction: lock the target, then the tables against writers.

        The target's lock does not wait; the tables' wait at most `wait_seconds`. Raise Busy, naming
        the holder.
        """
        self._begin(isolation_level="READ COMMITTED")
        free, pid = self._first_row(f"SELECT pg_try_advisory_xact_lock({_LOCK}), pg_backend_pid()")
        self._require_same_server_session(pid)
        if not free:
            raise Busy(
                self._holder(),
                operation="lock",
                database=self.name,
                remedy="wait until it ends, then try again",
            )
        self._run(f"SET LOCAL lock_timeout = {round(wait_seconds * 1000)}")
        try:
            if tables:
                named = ", ".join(quote_table(table.sa) for table in tables)
                self._run(f"LOCK TABLE {named} IN SHARE ROW EXCLUSIVE MODE")
        except psycopg2.errors.LockNotAvailable:
            self._raw.rollback()
            raise Busy(
                f"{self._blockers(tables)} is writing to the tables",
                operation="lock",
                database=self.name,
                remedy="wait until that transaction ends, then try again",
            ) from None

    def _holder(self) -> str:
        holder = self._all(catalog.LOCK_HOLDER, (_LOCK >> 32, _LOCK & 0xFFFF_FFFF))
        if not holder:
            return "another sync of this database has just ended"
        label, since = holder[0]
        # the server shows the time only to the holder's own role
        when = f", since {since:%Y-%m-%d %H:%M:%S} UTC" if since else ""
        return f"another sync holds the lock of this database: {label}{when}"

    def _blockers(self, tables: Sequence[Table]) -> str:
        blockers = self._all(catalog.BLOCKERS, ([quote_table(table.sa) for table in tables],))
        return (
            ", ".join(
                f"{user} ({label or 'no application name'}, process {pid})"
                for pid, user, label in blockers
            )
            or "another session"
        )

    # -- constraints

    @translated
    def suspend_constraints(self, tables: Sequence[Table]) -> None:
        """Defer foreign keys; if one cannot be deferred or a trigger would fire, act as a replica.

        If this role may not, leave the keys that cannot be deferred on: see `write_staged`. Raise
        StructureError if that cannot do.
        """
        obstacles = self._named(catalog.NOT_DEFERRABLE, tables)
        if not obstacles:
            self._run("SET CONSTRAINTS ALL DEFERRED")
            return
        try:
            with self.connection.begin_nested():
                self._run("SET LOCAL session_replication_role = replica")
        except (psycopg2.errors.InsufficientPrivilege, sa.exc.ProgrammingError):
            self._one_statement = OneStatement.of(self, tables)
            if self._one_statement is None:
                why = "cannot be suspended until the commit"
                raise self._not_suspended(obstacles, why) from None
            self._run("SET CONSTRAINTS ALL DEFERRED")
            return
        self._replica = True
        if remaining := self._named(catalog.FIRE_FOR_REPLICAS, tables):
            raise StructureError(
                f"{', '.join(remaining)} cannot be suspended, since it fires for replicas",
                database=self.name,
                operation="publish",
                remedy="on the standby, disable it or let it fire for origins only: "
                "ALTER TABLE ... ENABLE TRIGGER",
            )

    def _not_suspended(self, obstacles: Sequence[str], why: str) -> StructureError:
        return StructureError(
            f"{', '.join(obstacles)} {why}",
            database=self.name,
            operation="publish",
            remedy="declare the foreign keys DEFERRABLE without ON DELETE and ON UPDATE actions "
            "and disable the triggers, or GRANT SET ON PARAMETER session_replication_role to this "
            "role",
        )

    @translated
    def prove_constraints(self, tables: Sequence[Table]) -> None:
        """Raise NotProved if a foreign key of these tables, or to them, does not hold."""
        if not self._replica:
            try:
                self._run("SET CONSTRAINTS ALL IMMEDIATE")
            except psycopg2.errors.ForeignKeyViolation as error:
                raise self._violated(error, {table.sa.name for table in tables}) from None
            return
        for table in tables:
            for key in held(self.connection, table.sa):
                if self._first_row(_orphans(key))[0]:
                    raise key_violated(self.name, key)
        for name, child, parent, child_columns, parent_columns in self._all(
            catalog.OUTSIDE_KEYS, ([quote_table(table.sa) for table in tables],)
        ):
            pairs = zip(child_columns, parent_columns, strict=True)
            if self._first_row(orphans(child, parent, pairs))[0]:
                raise violated_key(self.name, name, child, outside=True)

    def _violated(self, error: psycopg2.Error, mirrored: Collection[str] = ()) -> NotProved:
        name, table = str(error.diag.constraint_name), str(error.diag.table_name)
        return violated_key(
            self.name, name, table, outside=bool(mirrored) and table not in mirrored
        )

    # -- staging

    @translated
    def create_staging(self, table: Table) -> None:
        """Create empty temporary tables for rows and keys; they go at the transaction's end."""
        number = self._staging.setdefault(table.name, len(self._staging))
        address = ", ".join(f"{part} AS {column}" for column, part in _ADDRESS.items())
        keys = address if table.keyless else names(table.key)
        for name, columns in (
            (f"dbsync_new_{number}", names(table.columns)),
            (f"dbsync_gone_{number}", keys),
        ):
            self._run(f"DROP TABLE IF EXISTS pg_temp.{name}")
            self._run(
                f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS "
                f"SELECT {columns} FROM {quote_table(table.sa)} WITH NO DATA"
            )

    @translated
    def stage_rows(self, table: Table, source: Dialect, keys: RowKeys, form: Form) -> Moved:
        """Carry the rows with these keys from the source's snapshot into staging."""
        return self._load(self._new(table), table, source, keys, form)

    @translated
    def stage_keys(self, table: Table, keys: RowKeys, form: Form) -> None:
        """Stage the keys of live rows that are deleted or replaced."""
        as_they_are = form.native or table.keyless
        texts = iter(keys) if as_they_are else map(self._converter(table, table.key), keys)
        copy.copy_in(
            self._raw,
            f"COPY {self._gone(table)} FROM STDIN",
            copy.Lines(map(copy.line, texts), Moved()),
        )

    def address(self, table: Table) -> Mapping[str, str]:
        """Return the table or partition of a row, and its place there."""
        return _ADDRESS

    def live(self, table: Table) -> sa.FromClause:
        """Return the live table as `t`, without rows of tables that inherit from it."""
        if self._from(table) == quote_table(table.sa):
            return super().live(table)
        columns = [*map(sa.column, _ADDRESS.values()), *table.clause.c]
        rows = sa.select(*columns).with_hint(table.clause, "ONLY", "postgresql")
        return rows.subquery("t")

    @translated
    def stage_everything(self, table: Table) -> None:
        """Stage the keys of all live rows, to be deleted."""
        if not table.keyless:
            return super().stage_everything(table)
        self._run(f"INSERT INTO {self._gone(table)} SELECT {_PLACE} FROM {self._from(table)}")

    @translated
    def stage_equal(self, table: Table, stored_in: str, publish: int) -> None:
        """Stage the addresses of live rows that equal the rows which that publish inserted."""
        stored = (
            f"{self.ledger_schema}.{quote(stored_in)} t "
            f"WHERE dbsync_publish = {publish} AND dbsync_change = 'inserted'"
        )
        live = self._copies(table, f"{self._from(table)} t", f"{_PLACE},")
        self._run(
            f"INSERT INTO {self._gone(table)} SELECT {_PLACE} "
            f"FROM ({live}) l JOIN ({self._copies(table, stored)}) s USING (a, b, n)"
        )

    def _copies(self, table: Table, relation: str, place: str = "") -> str:
        """Rows of a relation by their hashes `a` and `b`; `n` numbers those that are equal."""
        form = Form(self.digest_format(), 1)
        first, second = self._sql.halves(form)
        return (
            f"SELECT {place} a, b, row_number() OVER (PARTITION BY a, b) AS n FROM ("
            f"SELECT {place} {first} AS a, {second} AS b FROM ("
            f"SELECT {place} {self._sql.row(table, form)} AS r FROM {relation} {FENCE}) x) y"
        )

    @translated
    def delete_staged(self, table: Table) -> int:
        """Delete the live rows whose keys are staged; return their number."""
        return self._run(self._deleting(table))

    @translated
    def insert_staged(self, table: Table) -> int:
        """Insert the staged rows into the live table; return their number."""
        return self._run(self._inserting(table))

    def _deleting(self, table: Table) -> str:
        live, gone = self._from(table), self._gone(table)
        return f"DELETE FROM {live} t USING {gone} g WHERE {self._same(table, 't', 'g')}"

    def _same(self, table: Table, live: str, staged: str) -> str:
        """The condition that two aliases have the same key, or the same address."""
        parts = _ADDRESS if table.keyless else {part.name: quote(part.name) for part in table.key}
        return " AND ".join(
            f"{live}.{part} = {staged}.{quote(column)}" for column, part in parts.items()
        )

    def _inserting(self, table: Table) -> str:
        columns = names(table.columns)
        return (
            f"INSERT INTO {quote_table(table.sa)} ({columns}) OVERRIDING SYSTEM VALUE "
            f"SELECT {columns} FROM {self._new(table)}"
        )

    @translated
    def write_staged(self, tables: Sequence[Table]) -> dict[str, Written]:
        """Apply the staged changes; where foreign keys stay on, in one statement.

        Raise StructureError if the keys refuse that: see `one_statement`.
        """
        if self._one_statement is None:
            return super().write_staged(tables)
        written = self._one_statement.write(tables)
        if written is None:
            raise self._not_suspended(
                self._named(catalog.NOT_DEFERRABLE, tables),
                "cannot be suspended until the commit, and a constraint refuses to write meanwhile",
            )
        return written

    # -- loading

    @translated
    def fill(self, table: Table, source: Dialect, form: Form, connections: int = 1) -> Moved:
        """Carry all rows of this table, which is empty here, directly into the live table.

        A large table of a PostgreSQL source whose rows need no conversion is read over that many
        connections. CHECK constraints that are NOT VALID are dropped meanwhile, if this role may:
        rows that are older than they are may violate them.
        """
        not_valid = self._all(catalog.NOT_VALID_CHECKS, (quote_table(table.sa),))
        for drop, _ in not_valid:
            self._run(drop)
        if connections > 1 and isinstance(source, PostgreSQLSource) and form.native:
            moved = self._fill_from_several(table, source, form, connections)
        else:
            moved = self._load(quote_table(table.sa), table, source, None, form)
        for _, add in not_valid:
            self._run(add)
        return moved

    def _fill_from_several(
        self, table: Table, source: PostgreSQLSource, form: Form, connections: int
    ) -> Moved:
        live = quote_table(table.sa)
        if source.copy_format(table) != "binary":
            moved = self._load(live, table, source, None, form)
            moved.why_fewer = "its rows are copied as text"
            return moved
        into = f"COPY {live} ({names(table.columns)}) FROM STDIN (FORMAT binary)"
        with readers.sharing(source, table, connections) as (all_readers, pages, why_fewer):
            moved = readers.merged(
                all_readers,
                pages,
                lambda reader, some, file: reader.copy_to(table, None, form, file, "binary", some),
                lambda stream: copy.copy_in(self._raw, into, stream),
            )
        moved.why_fewer = why_fewer
        return moved

    def _load(
        self, into: str, table: Table, source: Dialect, keys: RowKeys | None, form: Form
    ) -> Moved:
        """Carry rows of the source's snapshot into a live or a staging table, by COPY."""
        into = f"COPY {into} ({names(table.columns)}) FROM STDIN"
        if isinstance(source, PostgreSQLSource) and form.native:
            how = source.copy_format(table)
            return copy.pipe(
                source._raw,
                lambda file: source.copy_to(table, keys, form, file, how),
                lambda file: copy.copy_in(self._raw, f"{into} (FORMAT {how})", file),
            )
        moved, convert = Moved(), self._converter(table, table.columns)
        lines = (copy.line(convert(row)) for batch in source.read(table, keys) for row in batch)
        try:
            copy.copy_in(self._raw, into, copy.Lines(lines, moved))
        except psycopg2.DataError as error:
            self._name_refused_row(error, table, source, keys)
            raise
        return moved

    def _name_refused_row(
        self, error: psycopg2.DataError, table: Table, source: Dialect, keys: RowKeys | None
    ) -> None:
        """Raise Unrepresentable with the key of the row that COPY refused, if it can be known."""
        rows = (row for batch in source.read(table, keys) for row in batch)
        refused = copy.refused_row(error, rows)
        if refused is None:
            return
        row, column, is_it = refused
        column_names = [part.name for part in table.columns]
        texts: dict[str, Any] = dict(
            zip(column_names, self._converter(table, table.columns)(row), strict=True)
        )
        if texts.get(column) is not None and is_it(texts[column]):
            key = [row[column_names.index(part.name)] for part in values.key_shown(table)]
            raise values.unrepresentable(
                table, column, key, without_value(error), self.name
            ) from None

    @translated
    def strip(self, tables: Sequence[Table]) -> list[str]:
        """Drop foreign keys and secondary indexes; return what `restore` needs.

        Drop nothing if this role does not own the tables, or another table refers to them. Readers
        wait until the commit.
        """
        oids = [
            self._first_row("SELECT %s::regclass::oid", (quote_table(table.sa),))[0]
            for table in tables
        ]
        if not self._first_row(catalog.MAY_STRIP, {"oids": oids})[0]:
            return []
        self._run("SET LOCAL maintenance_work_mem = '256MB'")
        parts = self._all(catalog.SECONDARY, {"oids": oids})
        for _, drop, _ in parts:
            self._run(drop)
        return [create for _, _, create in reversed(parts)]

    @translated
    def restore(self, stripped: Sequence[str]) -> None:
        """Rebuild what `strip` dropped. Raise NotProved if a foreign key would not hold."""
        try:
            for statement in stripped:
                self._run(statement)
        except psycopg2.errors.ForeignKeyViolation as error:
            raise self._violated(error) from None

    # -- counters

    @translated
    def move_counter(self, counter: Counter, value: int) -> None:
        """Make the sequence's next number lie beyond `value`; never move it back.

        setval is not undone by a rollback.
        """
        furthest = "greatest" if counter.step > 0 else "least"
        name = self._literal(counter.handle)
        self._run(
            f"SELECT setval({name}::regclass, {furthest}({value}, last_value)) "
            f"FROM {counter.handle}"
        )


def _orphans(key: sa.ForeignKeyConstraint) -> str:
    pairs = [(quote(element.parent.name), quote(element.column.name)) for element in key.elements]
    return orphans(quote_table(key.parent), quote_table(key.referred_table), pairs)  # type: ignore[arg-type]
