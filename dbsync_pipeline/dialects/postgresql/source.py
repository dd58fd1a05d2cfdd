"""Reading from PostgreSQL: digests computed in the server, rows by COPY or by cursors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import sqlalchemy as sa

from dbsync_pipeline.dialects import values, watchdog
from dbsync_pipeline.dialects.contract import SharesSnapshots, labelled, translated
from dbsync_pipeline.dialects.counters import Counter
from dbsync_pipeline.dialects.digests import PLAIN, Digests, Form, RowDigest
from dbsync_pipeline.dialects.foreign_keys import is_outside
from dbsync_pipeline.dialects.postgresql import catalog
from dbsync_pipeline.dialects.postgresql.catalog import quote, quote_table
from dbsync_pipeline.dialects.postgresql.connection import PostgreSQLConnection
from dbsync_pipeline.dialects.postgresql.expressions import FENCE, by_width
from dbsync_pipeline.dialects.postgresql.headers import Headers
from dbsync_pipeline.dialects.postgresql.readers import Pages
from dbsync_pipeline.dialects.postgresql.values import to_postgresql
from dbsync_pipeline.dialects.table import Column, Kind, Row, RowKeys, Size, Table
from dbsync_pipeline.errors import StructureError

_KEYS_AT_A_TIME = 20_000
_SCANNED_PART = 16
"""Where at least this part of the buckets is read, a scan is quicker than a lookup of keys."""
_ColumnCounter = tuple[Table, str, str, int, int, bool, bool]
"""Table, column, sequence, increment, end, whether the rows follow it, whether the column is in a
unique index."""


class PostgreSQLSource(PostgreSQLConnection, SharesSnapshots):
    """A database that is read in one snapshot."""

    def __init__(self, name: str, connection: sa.Connection) -> None:
        super().__init__(name, connection)
        self._relations: dict[str, str] = {}
        self.others: list[Self] = []
        """Readers beside this one; see `readers`."""

    @translated
    def digest_format(self) -> str:
        """Return the format of servers of this major version and encoding."""
        return f"postgresql {self._version} {self._encoding}"

    @translated
    def count(self, table: Table) -> int:
        """Return the exact number of rows."""
        return int(self._first_row(f"SELECT count(*) FROM {self._from(table)}")[0])

    @translated
    def sizes(self, tables: Sequence[Table]) -> Mapping[str, Size]:
        """Return the size of each table with its partitions and children, in one statement."""
        named = {quote_table(table.sa): table.name for table in tables}
        return {
            named[name]: Size(int(rows), int(whole) - int(rows))
            for name, rows, whole in self._all(catalog.SIZES, (list(named),))
        }

    @translated
    def hidden(self, tables: Sequence[Table]) -> list[str]:
        """Return the tables whose row security applies to this role."""
        named = {quote_table(table.sa): table.name for table in tables}
        query = "SELECT n FROM unnest(%s::text[]) n WHERE row_security_active(n)"
        hiding = {named[name] for (name,) in self._all(query, (list(named),))}
        return [table.name for table in tables if table.name in hiding]

    @translated
    def _from(self, table: Table) -> str:
        """The table as a FROM clause names it, without the rows of tables that inherit from it.

        Raise StructureError if the models would leave rows out, or have them twice.
        """
        name = quote_table(table.sa)
        if name not in self._relations:
            rows, ancestors = (
                self._all(query, (name,)) for query in (catalog.INHERITING, catalog.ANCESTORS)
            )
            inheriting = [child for _, *child in rows if child[0] is not None]
            self._require_once(table, inheriting, ancestors)
            # ONLY in any case: a table that begins to inherit meanwhile has rows in this snapshot
            self._relations[name] = name if rows[0][0] else f"ONLY {name}"
        return self._relations[name]

    def _require_once(
        self, table: Table, inheriting: Sequence[Sequence[Any]], ancestors: Sequence[Row]
    ) -> None:
        models = {
            (other.schema, other.name)
            for other in table.sa.metadata.tables.values()
            if not is_outside(other)
        }

        def modelled(schema: str, name: str, visible: bool) -> bool:
            return (schema, name) in models or (visible and (None, name) in models)

        for schema, name, visible in inheriting:
            if not modelled(schema, name, visible):
                raise StructureError(
                    f"{schema}.{name} inherits from it, and the models do not have that table",
                    operation="read",
                    database=self.name,
                    table=table.name,
                    remedy=f"take {schema}.{name} into the models",
                )
        for schema, name, visible in ancestors:
            if modelled(schema, name, visible):
                raise StructureError(
                    f"it is a partition of {schema}.{name}, which the models have too",
                    operation="read",
                    database=self.name,
                    table=table.name,
                    remedy="leave the partition out of the models",
                )

    # -- digests

    @translated
    def digests(self, table: Table, form: Form, only: np.ndarray | None = None) -> Digests:
        """Return the digests of all buckets, or of the buckets `only`; parallel workers share a
        large table.
        """
        return Digests.gather(form, self._all(self._digesting(table, form, only)))

    def _digesting(self, table: Table, form: Form, only: np.ndarray | None = None) -> str:
        first, second = self._sql.halves(form)
        return (
            f"SELECT b, count(*), sum({first})::text, sum({second})::text FROM ("
            f"SELECT {self._sql.bucket(table, form)} AS b, {self._sql.row(table, form)} AS r "
            f"FROM {self._from(table)} t {self._in_buckets(table, form, only)} {FENCE}) x "
            "GROUP BY b"
        )

    @translated
    def row_digests(self, table: Table, form: Form, only: np.ndarray) -> Iterator[RowDigest]:
        """Stream the rows of the buckets `only`, ordered by bucket."""
        sql = self._sql.row_digests(
            table, form, self._from(table), self._in_buckets(table, form, only)
        )
        for batch in self._stream(sql, _KEYS_AT_A_TIME):
            for bucket, first, second, *key in batch:
                yield RowDigest(bucket, tuple(key), (first, second))

    def stamps(self) -> Headers:
        """Return what row headers prove."""
        return Headers(self._read_headers, self._sql, self._from, self._with_keys)

    @translated
    def _read_headers(self, sql: str, arguments: Any = None) -> list[tuple[Any, ...]]:
        return self._all(sql, arguments)

    def _in_buckets(self, table: Table, form: Form, only: np.ndarray | None) -> str:
        if only is None:
            return ""
        few = only.size * _SCANNED_PART <= form.buckets
        keys = self._integer_keys(table) if few else None
        return self._sql.in_buckets(table, form, only.tolist(), keys)

    def _integer_keys(self, table: Table) -> tuple[int, int] | None:
        """The lowest and the highest key; None if the key is no integer, or there is no row."""
        if table.keyless or len(table.key) != 1 or table.key[0].kind is not Kind.INTEGER:
            return None
        key = f"t.{quote(table.key[0].name)}"
        lowest, highest = self._first_row(
            f"SELECT min({key}), max({key}) FROM {self._from(table)} t"
        )
        return None if lowest is None else (int(lowest), int(highest))

    # -- rows

    @translated
    def read(
        self, table: Table, keys: RowKeys | None = None, form: Form = PLAIN
    ) -> Iterator[list[Row]]:
        """Stream plain values of all rows, or of those with these keys; narrow rows come first."""
        columns = ", ".join(self._sql.plain(column) for column in table.columns)
        where = self._with_keys(table, keys, form) or "WHERE true"
        for condition, rows in by_width(table):
            sql = f"SELECT {columns} FROM {self._from(table)} t {where}{condition}"
            yield from self._stream(sql, rows)

    @translated
    def copy_to(
        self,
        table: Table,
        keys: RowKeys | None,
        form: Form,
        file: Any,
        how: str,
        pages: Pages | None = None,
    ) -> None:
        """Write all rows, those with these keys, or those of these pages to a file in a format of
        COPY, text or binary.
        """
        columns = ", ".join(f"t.{quote(column.name)}" for column in table.columns)
        where = _in_pages(pages) if pages else self._with_keys(table, keys, form)
        rows = f"SELECT {columns} FROM {self._from(table)} t {where}"
        with self._raw.cursor() as cursor:
            cursor.copy_expert(f"COPY ({rows}) TO STDOUT (FORMAT {how})", file)

    @translated
    def copy_format(self, table: Table) -> str:
        """Return in which format COPY carries rows to a server of this version: binary or text.

        Types of extensions may have no binary form. Before version 14, a binary array or composite
        value is refused where its type has another oid.
        """
        if self._version < 14:
            return "text"
        if all(column.kind is not Kind.OPAQUE for column in table.columns):
            return "binary"
        named = (quote_table(table.sa), [column.name for column in table.columns])
        return "binary" if self._first_row(catalog.HAVE_BINARY_FORM, named)[0] else "text"

    # -- further connections

    def cancel(self) -> None:
        """See `Session`; stops the readers beside this one as well."""
        readers: list[PostgreSQLSource] = [self, *self.others]
        for reader in readers:
            watchdog.interrupt(reader._raw)

    @translated
    def another(self) -> Self:
        """Return another session of the same database and label, which the caller must close."""
        with labelled(str(self._raw.get_parameter_status("application_name"))):
            return type(self)(self.name, self.connection.engine.connect())

    @translated
    def export_snapshot(self) -> str:
        """Return the name of the open snapshot."""
        return str(self._first_row("SELECT pg_export_snapshot()")[0])

    @translated
    def import_snapshot(self, name: str, tables: Sequence[Table]) -> None:
        """Begin a read-only transaction in that snapshot, and lock the tables as `snapshot` does.

        Raise Busy at once if somebody waits to alter one: the exporter's lock is in his way.
        """
        self._begin_reading()
        self._run("SET TRANSACTION SNAPSHOT %s", (name,))
        named = ", ".join(quote_table(table.sa) for table in tables)
        lock = f"LOCK TABLE {named} IN ACCESS SHARE MODE NOWAIT"
        self._require_same_server_session(self._first_row(f"{lock}; SELECT pg_backend_pid()")[0])

    @translated
    def is_waited_for(self) -> bool:
        """Return whether another session waits for a lock of this one."""
        return bool(self._first_row(catalog.IS_WAITED_FOR)[0])

    # -- counters

    @translated
    def counters(self, tables: Sequence[Table]) -> list[Counter]:
        """Return the sequences that fill columns, and those of the tables' schemas that fill none.

        A sequence of the second sort is left out if this role may not read it.
        """
        of_columns = self._column_counters(tables)
        used = {sequence for _, _, sequence, *_ in of_columns}
        named = [quote_table(table.sa) for table in tables]
        free = [row for row in self._all(catalog.FREE_SEQUENCES, (named,)) if row[0] not in used]
        last = self._last_of([*used, *(name for name, _, _ in free)])
        highest = self._furthest(of_columns, last)
        return [
            Counter(
                f"{table.name}.{column}",
                sequence,
                last[sequence],
                highest.get((table.name, column, sequence)),
                step,
                end,
            )
            for table, column, sequence, step, end, _, _ in of_columns
        ] + [
            Counter(f"sequence {name}", name, last[name], None, step, end)
            for name, step, end in free
        ]

    def _column_counters(self, tables: Sequence[Table]) -> list[_ColumnCounter]:
        """The sequences that fill columns, in the order of the tables."""
        by_name = {quote_table(table.sa): table for table in tables}
        places = [
            (name, column.name, _sequence_of(table.sa_column(column.name)))
            for name, table in by_name.items()
            for column in table.columns
        ]
        arguments = dict(
            zip(
                ("tables", "columns", "sequences"),
                map(list, zip(*places, strict=True)),
                strict=True,
            )
        )
        rows = self._all(catalog.COLUMN_COUNTERS, arguments) if places else []
        order = {name: n for n, name in enumerate(by_name)}
        rows.sort(key=lambda row: (order[row[0]], row[1], row[2]))
        return [(by_name[name], *rest) for name, *rest in rows]

    def _furthest(
        self, counters: Sequence[_ColumnCounter], last: Mapping[str, int | None]
    ) -> dict[tuple[str, str, str], int | None]:
        """The furthest number in each column, by table, column and sequence.

        Without a unique index nothing is refused, and the table would be read to its end.
        """
        compared = [
            (table, column, sequence, "max" if step > 0 else "min")
            for table, column, sequence, step, _, follows, unique in counters
            if follows and (unique or last[sequence] is None)
        ]
        queries = [
            f"SELECT {n}, {furthest}({quote(column)})::numeric FROM {quote_table(table.sa)}"
            for n, (table, column, _, furthest) in enumerate(compared)
        ]
        numbers = dict(self._all(" UNION ALL ".join(queries))) if queries else {}
        return {
            (table.name, column, sequence): None if numbers[n] is None else int(numbers[n])
            for n, (table, column, sequence, _) in enumerate(compared)
        }

    def _last_of(self, sequences: Sequence[str]) -> dict[str, int | None]:
        """The last number that each sequence gave."""
        # pg_sequence_last_value would return NULL to a role that may not read the sequence
        queries = [
            f"SELECT {n}, CASE WHEN is_called THEN last_value END FROM {sequence}"
            for n, sequence in enumerate(sequences)
        ]
        rows = self._all(" UNION ALL ".join(queries)) if queries else []
        return {sequences[n]: last for n, last in rows}

    def _with_keys(self, table: Table, keys: RowKeys | None, form: Form) -> str:
        """The condition that selects the rows with these keys."""
        if keys is None:
            return ""
        if table.keyless:
            return self._with_addresses(keys)
        texts = keys if form.native else list(map(self._converter(table, table.key), keys))
        arrays = [
            f"{self._literal([key[n] for key in texts])}::text[]" for n in range(len(table.key))
        ]
        types = self._types(table)
        key = ", ".join(f"t.{quote(column.name)}" for column in table.key)
        if len(types) == 1 and not types[0].endswith("[]"):
            return f"WHERE {key} = ANY({arrays[0]}::{types[0]}[])"
        parts = [f"k{n}" for n in range(len(types))]
        casts = ", ".join(f"{part}::{type_}" for part, type_ in zip(parts, types, strict=True))
        return (
            f"WHERE ({key}) IN "
            f"(SELECT {casts} FROM unnest({', '.join(arrays)}) u({', '.join(parts)}))"
        )

    def _with_addresses(self, keys: RowKeys) -> str:
        """The condition that selects the rows at these addresses, which a scan of them finds.

        Partitions may have rows at one place each, so the table is part of the address.
        """
        places = self._literal(sorted({place for _, place in keys}))
        both = self._literal([f"{table} {place}" for table, place in keys])
        return (
            f"WHERE t.ctid = ANY({places}::tid[]) "
            f"AND t.tableoid::text || ' ' || t.ctid::text = ANY({both}::text[])"
        )

    def _types(self, table: Table) -> list[str]:
        """The types of the key's columns, as this database names them."""
        types = dict(self._all(catalog.COLUMN_TYPES, (quote_table(table.sa),)))
        return [types[column.name] for column in table.key]

    def _converter(self, table: Table, columns: Sequence[Column]) -> Callable[[Row], list[Any]]:
        """The function from a row of plain values to PostgreSQL's texts of them."""
        return values.converter(
            table, columns, [to_postgresql(column, self._encoding) for column in columns], self.name
        )


def _in_pages(pages: Pages) -> str:
    first, behind = pages
    below = "" if behind is None else f" AND t.ctid < '({behind},0)'::tid"
    return f"WHERE t.ctid >= '({first},0)'::tid{below}"


def _sequence_of(column: sa.Column[Any]) -> str | None:
    """The quoted name of the Sequence that the models fill a column from; None without one."""
    sequence = column.default
    if not isinstance(sequence, sa.Sequence):
        return None
    return ".".join(quote(part) for part in (sequence.schema, sequence.name) if part)
