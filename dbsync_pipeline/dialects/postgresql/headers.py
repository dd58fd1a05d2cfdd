"""What PostgreSQL's row headers prove: which rows were written since a moment, without reading it.

The header of every row version names the transaction that wrote it (`xmin`). At a look with
snapshot S, every transaction below `pg_snapshot_xmin(S)` had ended. A row that is visible later and
whose `xmin` is below that horizon was therefore visible in S as well, unchanged: an update writes a
new version. Such rows can only become fewer. So if a bucket had n rows at S, and has n rows later,
all of them below the horizon, then these are the rows that it had: nothing was inserted, updated or
deleted.

The snapshot's own list of running transactions proves nothing: savepoints are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dbsync_pipeline.dialects.digests import Form, RowDigest
from dbsync_pipeline.dialects.postgresql.catalog import quote_table
from dbsync_pipeline.dialects.postgresql.expressions import FENCE, Expressions
from dbsync_pipeline.dialects.stamps import Moment, Stamp
from dbsync_pipeline.dialects.table import RowKeys, Table

Query = Callable[..., list[tuple[Any, ...]]]

_REACH = 2**30
"""Transactions. Headers hold 32 bits of a transaction's number, compared in a ring of 2^32: half of
the distance at which an old row would look new."""


class Headers:
    """The stamps of one open connection.

    `query` runs a statement and returns its rows. `relation` returns a table as a FROM clause names
    it: digests and row headers must be of the same rows. `with_keys` returns the condition that
    selects rows by their keys.
    """

    def __init__(
        self,
        query: Query,
        expressions: Expressions,
        relation: Callable[[Table], str],
        with_keys: Callable[[Table, RowKeys, Form], str],
    ) -> None:
        self._query, self._sql = query, expressions
        self._relation, self._with_keys = relation, with_keys

    def moment(self) -> Moment | None:
        """The state that the open transaction sees. None on a server that replays another's log,
        and where the role may not read the server's identity."""
        if self._query("SELECT NOT has_function_privilege('pg_control_system()', 'EXECUTE')")[0][0]:
            return None
        ((standby, server, database, snapshot, horizon),) = self._query(_MOMENT)
        return None if standby else Moment(f"{server} {database}", horizon, snapshot)

    def transaction(self) -> int:
        """The open transaction's own number (64 bits); it is given one if it has none yet."""
        return int(self._query("SELECT pg_current_xact_id()::text::bigint")[0][0])

    def reaches(self, stamp: Stamp, now: Moment) -> bool:
        """Whether the stamp is of this database and at most 2^30 transactions old."""
        if stamp.moment.identity != now.identity:
            return False
        return 0 <= now.horizon - stamp.moment.horizon < _REACH

    def fingerprints(self, tables: Sequence[Table]) -> Mapping[str, str]:
        """A hash of the catalog's rows of each table, its partitions and children, and of all types
        that the database defines. Tables that are not heaps, that a crash empties, or whose values
        name objects of the catalog have none."""
        names = {quote_table(table.sa): table.name for table in tables}
        rows = self._query(_FINGERPRINTS, (list(names),))
        return {names[name]: fingerprint for name, fingerprint in rows if fingerprint is not None}

    def rows_before(self, table: Table, horizon: int) -> tuple[int, int]:
        """Rows of the table: all, and those written before the horizon. Reads the row headers."""
        ((rows, before),) = self._query(
            f"SELECT count(*), count(*) FILTER (WHERE {_before('t.xmin', horizon)}) "
            f"FROM {self._relation(table)} t"
        )
        return rows, before

    def buckets_before(
        self, table: Table, form: Form, horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same by bucket (int64). Reads the row headers and the keys."""
        counts = np.zeros((2, form.buckets), np.int64)
        for bucket, *rows_of_bucket in self._query(
            f"SELECT b, count(*), count(*) FILTER (WHERE {_before('x', horizon)}) FROM (SELECT "
            f"{self._sql.bucket(table, form)} AS b, t.xmin AS x "
            f"FROM {self._relation(table)} t {FENCE}) s GROUP BY b"
        ):
            counts[:, bucket] = rows_of_bucket
        return counts[0], counts[1]

    def rows_since(
        self, table: Table, form: Form, horizon: int
    ) -> tuple[np.ndarray, np.ndarray, list[RowDigest]]:
        """The same, and the rows that were not written before the horizon, ordered by bucket. Reads
        the row headers, the keys, and these rows."""
        counts = np.zeros((2, form.buckets), np.int64)
        since: list[RowDigest] = []
        digest = f"CASE WHEN NOT {_before('t.xmin', horizon)} "
        digest += f"THEN {self._sql.row_digest(table, form)} END"
        for bucket, row, rows in self._query(
            f"SELECT b, r, count(*) FROM (SELECT {self._sql.bucket(table, form)} AS b, "
            f"{digest} AS r FROM {self._relation(table)} t {FENCE}) s GROUP BY b, r"
        ):
            counts[0, bucket] += rows
            if row is None:
                counts[1, bucket] += rows
            else:
                *key, first, second = row
                since += [RowDigest(bucket, tuple(key), (int(first), int(second)))] * rows
        return counts[0], counts[1], sorted(since, key=lambda row: row.bucket)

    def rows_with_keys(self, table: Table, form: Form, keys: RowKeys) -> list[RowDigest]:
        """The rows that have one of these keys, ordered by bucket. Looks the keys up."""
        condition = self._with_keys(table, keys, form)
        statement = self._sql.row_digests(table, form, self._relation(table), condition)
        return [
            RowDigest(bucket, tuple(key), (first, second))
            for bucket, first, second, *key in self._query(statement)
        ]

    def written_by(self, table: Table, transaction: int, horizon: int) -> tuple[int, int, int]:
        """Rows of the table: all, those written by that transaction, and those written by another
        one that had not ended at the horizon."""
        mine = f"t.xmin = '{transaction % 2**32}'::xid"
        ((rows, own, others),) = self._query(
            f"SELECT count(*), count(*) FILTER (WHERE {mine}), "
            f"count(*) FILTER (WHERE NOT ({mine} OR {_before('t.xmin', horizon)})) "
            f"FROM {self._relation(table)} t"
        )
        return rows, own, others


def _before(xmin: str, horizon: int) -> str:
    """Whether a row's transaction is below the horizon, compared in the ring of 32-bit numbers.

    Rows that an earlier turn of the ring has frozen may look newer than they are, never older.
    """
    return f"age({xmin}) > (SELECT age('{horizon % 2**32}'::xid))"


_MOMENT = """
SELECT pg_is_in_recovery(), s.system_identifier, d.oid, pg_current_snapshot()::text,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint
FROM pg_control_system() s, pg_database d WHERE d.datname = current_database()"""

_FINGERPRINTS = """
WITH RECURSIVE tree AS (
    SELECT n AS name, to_regclass(n)::oid AS oid FROM unnest(%s::text[]) n
    UNION
    SELECT t.name, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
), kept AS (
    SELECT t.name, bool_and(c.relkind = 'p'
               OR (c.relkind = 'r' AND c.relpersistence = 'p' AND m.amname = 'heap')) AS usable
    FROM tree t JOIN pg_class c ON c.oid = t.oid LEFT JOIN pg_am m ON m.oid = c.relam
    GROUP BY t.name
), columns AS (
    SELECT t.name,
           md5(string_agg(concat_ws(' ', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod,
                                    a.attisdropped, a.attgenerated, a.xmin, a.attmissingval::text),
                          ',' ORDER BY a.attrelid, a.attnum)) AS hash
    FROM tree t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0
    GROUP BY t.name
), parts (name, oid) AS (
    SELECT t.name, a.atttypid FROM tree t
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT p.name, part.oid FROM parts p JOIN pg_type y ON y.oid = p.oid
    CROSS JOIN LATERAL (
        SELECT unnest(ARRAY[y.typbasetype, y.typelem]) AS oid
        UNION SELECT a.atttypid FROM pg_attribute a
              WHERE a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION SELECT r.rngsubtype FROM pg_range r
              WHERE y.oid::text IN (r.rngtypid::text, to_jsonb(r) ->> 'rngmultitypid')
    ) part WHERE part.oid <> 0
), stored AS (
    SELECT p.name, bool_or(y.typnamespace = 'pg_catalog'::regnamespace
                           AND (y.typname LIKE 'reg%%' OR y.typname = 'aclitem')) AS refers,
           md5(string_agg(concat_ws(' ', a.attrelid, a.attnum, a.atttypid, a.xmin), ','
                          ORDER BY a.attrelid, a.attnum)) AS hash
    FROM parts p JOIN pg_type y USING (oid)
    LEFT JOIN pg_attribute a ON a.attrelid = y.typrelid AND a.attnum > 0
    GROUP BY p.name
), types AS (
    SELECT md5(concat_ws(' ',
        (SELECT string_agg(concat_ws(' ', oid, typtype, xmin), ',' ORDER BY oid) FROM pg_type
         WHERE oid >= 16384 AND typrelid = 0 AND typelem = 0),
        (SELECT string_agg(concat_ws(' ', oid, enumtypid, enumsortorder, enumlabel), ','
                           ORDER BY oid) FROM pg_enum))) AS hash
)
SELECT k.name, CASE WHEN k.usable AND NOT coalesce(v.refers, false)
                    THEN md5(concat_ws(' ', c.hash, v.hash, y.hash)) END
FROM kept k JOIN columns c USING (name) LEFT JOIN stored v USING (name) CROSS JOIN types y"""
