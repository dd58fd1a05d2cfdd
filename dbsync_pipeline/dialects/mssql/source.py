"""SQL Server as a source: one consistent state, its digests, and its rows."""

from __future__ import annotations

import base64
import datetime as dt
import json
import pickle
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import sqlalchemy as sa

from dbsync_pipeline.dialects import values
from dbsync_pipeline.dialects.contract import translated
from dbsync_pipeline.dialects.digests import PLAIN, Digests, Form, RowDigest
from dbsync_pipeline.dialects.mssql import babelfish, catalog, tsql, unsupported
from dbsync_pipeline.dialects.mssql.connection import MSSQLConnection, object_id
from dbsync_pipeline.dialects.mssql.tsql import quote
from dbsync_pipeline.dialects.table import Row, RowKey, RowKeys, Table
from dbsync_pipeline.errors import Unrepresentable

BUCKETS_PER_PAGE = 65_536
"""Row digests are fetched for this many buckets, about eight million rows, by one pass over the
table: the condition cannot use an index."""

_IN_MEMORY = 16 * 1024 * 1024
"""The bytes of a page that are kept in memory; more go to a temporary file."""


class MSSQLSource(MSSQLConnection):
    """Reads one state of the database, and compares it. Writes nothing."""

    def __init__(self, name: str, connection: sa.Connection) -> None:
        super().__init__(name, connection)
        self._snapshot: object = None
        self._in_snapshot: dict[tuple[Table, Form], Digests] = {}

    @translated
    def snapshot(self, tables: Sequence[Table] = ()) -> dt.datetime:
        """Begin to read one state, and return its time on the server's clock (UTC).

        The state is that of the transaction's first read of a table. With
        `consistent_reads=locks` each mirrored table stays locked against writers from its first
        read to the end, so all tables are read in the state of the last one. The ledger is not
        locked: the publish writes its number there over another connection.
        """
        # before the snapshot, under which the catalog is read only aside: see `_catalog`
        first = self._all(catalog.FIRST_TABLE)
        self._isolate("READ COMMITTED" if self._reads_under_locks else "SNAPSHOT")
        self._hint = " WITH (TABLOCK, HOLDLOCK)" if self._reads_under_locks else ""
        self._snapshot, self._in_snapshot = self.connection.begin(), {}
        table = first[0][0] if first else "sys.schemas"
        microseconds = self._first_row(
            "SELECT datediff_big(microsecond, '2000-01-01T00:00:00', sysutcdatetime()), "
            f"(SELECT TOP (1) 1 FROM {table})"
        )[0]
        return (values.EPOCH + dt.timedelta(microseconds=microseconds)).replace(tzinfo=dt.UTC)

    # -- digests

    @translated
    def digest_format(self) -> str:
        """Return the name of the server's own digest format."""
        return "mssql babelfish" if self._babelfish else "mssql"

    @translated
    def count(self, table: Table) -> int:
        """Count the rows of a table."""
        return int(self._first_row(f"SELECT count_big(*) FROM {self._from(table)}")[0])

    @translated
    def rows(self, table: Table) -> int:
        """Return the rows of a table from the catalog; Babelfish's has none, so count there."""
        if self._babelfish:
            return int(self.count(table))
        return int(self._catalog(catalog.ROWS.format(object_id(table)))[0][0])

    @translated
    def digests(self, table: Table, form: Form, only: np.ndarray | None = None) -> Digests:
        """Return the digests of all buckets, or of those in `only`, in one pass over the table.

        Those of all buckets are computed once in a snapshot: a standby that passes on what it
        received is digested to recognise that, and again to prove its copy.
        """
        transaction = self.connection.get_transaction()
        if only is not None or transaction is None or transaction is not self._snapshot:
            return self._digested(table, form, only)
        if (table, form) not in self._in_snapshot:
            self._in_snapshot[table, form] = self._digested(table, form, None)
        return self._in_snapshot[table, form]

    def _digested(
        self, table: Table, form: Form, only: np.ndarray | None, rows_from: str | None = None
    ) -> Digests:
        """Digest the rows of a FROM clause, as `t`; of the table without one."""
        rows_from = rows_from or self._from(table)
        sql = tsql.digests(table, form, self._flavour, rows_from, only is not None)
        buckets = () if only is None else (json.dumps(only.tolist()),)
        rows = (row for batch in self._stream(sql, *buckets) for row in batch)
        return Digests.gather(form, rows)

    @translated
    def row_digests(self, table: Table, form: Form, only: np.ndarray) -> Iterator[RowDigest]:
        """Yield the digests of the rows of these buckets, ordered by bucket.

        One result is open at a time, and the caller sends statements between two rows, so each page
        is fetched whole, into a temporary file if it is large. By Arrow, since a fetched row lacks
        a leading U+FEFF.
        """
        sql = tsql.row_digests(table, form, self._flavour, self._from(table))
        for start in range(0, len(only), BUCKETS_PER_PAGE):
            buckets = json.dumps(only[start : start + BUCKETS_PER_PAGE].tolist())
            for bucket, first, second, *key in _kept(self._stream(sql, buckets)):
                yield RowDigest(bucket, tuple(key), (first, second))

    def octets(self, column: sa.ColumnElement[object]) -> sa.ColumnElement[int]:
        """Return the bytes of a value, as a bigint: a sum of ints overflows at two gigabytes."""
        return sa.cast(sa.func.datalength(column), sa.BigInteger)

    @translated
    def require_supported(self, tables: Sequence[Table], *, writing: bool) -> None:
        """Raise StructureError for a table or column with a feature that a mirror cannot carry.

        Babelfish has none of these.
        """
        if self._babelfish:
            return
        for table, rows in zip(tables, self._catalog_of(catalog.UNSUPPORTED, tables), strict=True):
            for column, what in rows:
                if unsupported.matters(table, column, what, writing=writing):
                    raise unsupported.refusal(self.name, table, column, what)

    @translated
    def hidden(self, tables: Sequence[Table]) -> list[str]:
        """Return the tables of which a policy hides rows, or a mask hides values, from this user.

        Raise DatabaseError where this user cannot see policies.
        """
        if not self._babelfish:
            self._require_catalog()
        query = babelfish.HIDDEN if self._babelfish else catalog.HIDDEN
        matches = self._catalog_of(query, tables)
        return [table.name for table, rows in zip(tables, matches, strict=True) if rows[0][0]]

    # -- rows

    @translated
    def read(
        self, table: Table, keys: RowKeys | None = None, form: Form = PLAIN
    ) -> Iterator[list[Row]]:
        """Yield plain values of all rows, or of those with these keys, in batches."""
        yield from self.read_as(table, keys, PLAIN, keys_form=form)

    @translated
    def read_as(
        self, table: Table, keys: RowKeys | None, form: Form, keys_form: Form | None = None
    ) -> Iterator[list[Row]]:
        """Yield rows in the values of that form: plain ones, or SQL Server's own.

        The keys are in the values of `keys_form`, which is the same if it is not given.

        Raise Unrepresentable where a text or a time would be damaged on the way; the last column
        of the query finds it.
        """
        columns = ", ".join(
            tsql.value(column, f"t.{quote(column.name)}", form.native) for column in table.columns
        )
        damaged = tsql.damaged(table.columns, form.native, self._flavour)
        sql = f"SELECT {columns}, {damaged} FROM {self._from(table)}"
        parameters: tuple[str, ...] = ()
        if keys is not None:
            native = (keys_form or form).native
            condition = tsql.same_key(table.key, native, self._collations(table))
            sql += f" INNER JOIN {tsql.json_keys(table.key, native)} k ON {condition}"
            parameters = (keys_as_json(keys),)
        for batch in self._stream(sql, *parameters):
            yield [self._undamaged(table, row) for row in batch]

    def _undamaged(self, table: Table, row: Row) -> Row:
        """Return the row without its last column, the number of a damaged column or 0."""
        if row[-1]:
            key = ", ".join(
                repr(value)
                for column, value in zip(table.columns, row, strict=False)
                if column in table.key
            )
            raise Unrepresentable(
                f"column {table.columns[row[-1] - 1].name} of the row with key ({key}) cannot be "
                "carried exactly: it has half of a surrogate pair, or more than microseconds",
                operation="stage",
                database=self.name,
                table=table.name,
                remedy="change that value in the source",
            )
        return row[:-1]


def _kept(batches: Iterator[list[Row]]) -> Iterator[Row]:
    """Fetch all rows at once, and yield them from memory or from a temporary file."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        count = 0
        for batch in batches:
            pickle.dump(batch, file, pickle.HIGHEST_PROTOCOL)
            count += 1
        file.seek(0)
        for _ in range(count):
            yield from pickle.load(file)


def keys_as_json(keys: Sequence[RowKey]) -> str:
    """Return keys as one JSON text, bytes in base64: `[[1, "a"], [2, "b"]]`."""
    return json.dumps(
        [
            [base64.b64encode(part).decode() if isinstance(part, bytes) else part for part in key]
            for key in keys
        ]
    )
