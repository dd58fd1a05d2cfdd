"""IDENTITY columns and sequences of SQL Server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mssql import TINYINT

from dbsync_pipeline.dialects.contract import translated
from dbsync_pipeline.dialects.counters import Counter
from dbsync_pipeline.dialects.mssql import catalog
from dbsync_pipeline.dialects.mssql.connection import MSSQLConnection, object_ids
from dbsync_pipeline.dialects.mssql.tsql import literal, quote, quote_table
from dbsync_pipeline.dialects.table import Column, Kind, Table, undecorated

_BITS = {TINYINT: 8, sa.SmallInteger: 15, sa.BigInteger: 63}


class MSSQLCounters(MSSQLConnection):
    """What the database numbers by itself."""

    @translated
    def counters(self, tables: Sequence[Table]) -> list[Counter]:
        """Return IDENTITY columns, sequences that fill columns, and those that fill none.

        A sequence of the last sort is left out if this user may not alter it. Babelfish has no
        views of sequences.
        """
        counters = list(self._identities(tables))
        if self._babelfish or not tables:
            return counters
        counters += self._sequences(tables)
        used = {counter.handle for counter in counters}
        free = catalog.FREE_SEQUENCES.format(tables=object_ids(tables))
        return counters + [
            Counter(f"sequence {name}", name, last, None, step, end)
            for name, last, step, end in self._catalog(free)
            if name not in used
        ]

    @translated
    def move_counter(self, counter: Counter, value: int) -> None:
        """Make an IDENTITY or a sequence continue beyond `value`; never move it back.

        An IDENTITY is set one step further: in a table that never had rows, DBCC CHECKIDENT sets
        the next number, and in others the last one. A sequence restarts with its next number.
        """
        if value == counter.last or counter.furthest(value, counter.position) != value:
            return
        number = value if value == counter.end else value + counter.step
        if counter.sequence:
            self._run(f"ALTER SEQUENCE {counter.handle} RESTART WITH {number}")
        else:
            self._run(f"DBCC CHECKIDENT ({literal(counter.handle)}, RESEED, {number})")

    def _identities(self, tables: Sequence[Table]) -> Iterator[Counter]:
        columns = list(self._filled(catalog.IDENTITY, tables))
        furthest = self._all_furthest(
            [(table, column, step) for table, column, (_, step) in columns]
        )
        for (table, column, (last, step)), number in zip(columns, furthest, strict=True):
            yield Counter(
                f"{table.name}.{column.name}",
                quote_table(table.sa),
                last,
                number,
                step,
                _end(column, step),
                sequence=False,
            )

    def _filled(
        self, query: str, tables: Sequence[Table]
    ) -> Iterator[tuple[Table, Column, tuple[Any, ...]]]:
        """Yield each mirrored column that a query finds, by its name, with the rest of the row."""
        for table, rows in zip(tables, self._catalog_of(query, tables), strict=True):
            by_name = {column.name: column for column in table.columns}
            for name, *rest in sorted(rows, key=lambda row: str(row[0])):
                if name in by_name:
                    yield table, by_name[name], tuple(rest)

    def _sequences(self, tables: Sequence[Table]) -> Iterator[Counter]:
        for table, column, sequence in self._filled(catalog.COLUMN_SEQUENCES, tables):
            yield self._sequence(table, column, sequence)
        for table in tables:
            yield from self._client_sequences(table)

    def _client_sequences(self, table: Table) -> Iterator[Counter]:
        """Yield the sequences that only the models name as a default."""
        for column in table.columns:
            default = table.sa_column(column.name).default
            if isinstance(default, sa.Sequence):
                name = ".".join(quote(part) for part in (default.schema, default.name) if part)
                for row in self._catalog(catalog.SEQUENCE.format(literal(name))):
                    yield self._sequence(table, column, row)

    def _sequence(self, table: Table, column: Column, row: Sequence[Any]) -> Counter:
        handle, last, step, end = row
        name = f"{table.name}.{column.name}"
        if column.kind is not Kind.INTEGER:
            return Counter(name, handle, last, None, step, end)
        ends = (end, _end(column, step))
        return Counter(
            name,
            handle,
            last,
            self._furthest(table, column, step),
            step,
            min(ends) if step > 0 else max(ends),
        )

    def _furthest(self, table: Table, column: Column, step: int) -> int | None:
        return self._all_furthest([(table, column, step)])[0]

    def _all_furthest(self, columns: Sequence[tuple[Table, Column, int]]) -> list[int | None]:
        """Return the number furthest in the direction of the step, of each column, by one query."""
        parts = [
            f"SELECT {n} AS n, q.* FROM (SELECT convert(bigint, {'max' if step > 0 else 'min'}"
            f"({quote(column.name)})) AS furthest FROM {self._from(table)}) q"
            for n, (table, column, step) in enumerate(columns)
        ]
        rows = self._all(" UNION ALL ".join(parts)) if parts else []
        return [number for _, number in sorted(rows, key=lambda row: row[0])]


def _end(column: Column, step: int) -> int:
    """The furthest number that an integer column can hold."""
    type_ = undecorated(column.type)
    bits = next((size for class_, size in _BITS.items() if isinstance(type_, class_)), 31)
    if isinstance(type_, TINYINT) and step < 0:
        return 0
    return int(2**bits - 1 if step > 0 else -(2**bits))
