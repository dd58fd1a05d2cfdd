"""Reading from SQLite: digests are computed in this process, which is where the data lives."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from dbsync_pipeline.dialects import canonical, values
from dbsync_pipeline.dialects.contract import translated
from dbsync_pipeline.dialects.counters import Counter
from dbsync_pipeline.dialects.digests import PLAIN, Digests, Form, RowDigest
from dbsync_pipeline.dialects.sqlite import sql
from dbsync_pipeline.dialects.sqlite.connection import SQLiteConnection
from dbsync_pipeline.dialects.sqlite.errors import QUOTES_TEXT
from dbsync_pipeline.dialects.sqlite.sql import quote
from dbsync_pipeline.dialects.sqlite.values import from_sqlite, to_sqlite
from dbsync_pipeline.dialects.table import Column, Row, RowKey, RowKeys, Table
from dbsync_pipeline.errors import DatabaseError

_MOST_JOINED = 500
"""SQLite's own limit on the queries that UNION ALL joins, SQLITE_MAX_COMPOUND_SELECT."""


class SQLiteSource(SQLiteConnection):
    """A file that is read in one snapshot."""

    enforces_keys = False

    @translated
    def digest_format(self) -> str:
        """Return the format of every SQLite file."""
        return "sqlite"

    @translated
    def count(self, table: Table) -> int:
        """Return the exact number of rows."""
        return int(self._raw.execute(f"SELECT count(*) FROM {quote(table.sa.name)}").fetchone()[0])

    def hidden(self, tables: Sequence[Table]) -> list[str]:
        """Return no table: SQLite hides no rows."""
        return []

    # -- digests

    @translated
    def digests(self, table: Table, form: Form, only: np.ndarray | None = None) -> Digests:
        """Return the digests of all buckets, or of the buckets `only`."""
        rows, first, second = ([0] * form.buckets for _ in range(3))
        for bucket, digest in self._bucketed(table, form, only):
            first_half, second_half = canonical.halves(digest)
            rows[bucket] += 1
            first[bucket] += first_half
            second[bucket] += second_half
        return Digests.gather(form, zip(range(form.buckets), rows, first, second, strict=True))

    def _bucketed(
        self, table: Table, form: Form, only: np.ndarray | None
    ) -> Iterator[tuple[int, bytes]]:
        key_of, bucket_of, digest_of = (
            self._key_of(table, form),
            self._bucket_of(table, form),
            self._digest_of(table, form),
        )
        chosen = None if only is None else frozenset(only.tolist())
        for row in self._all_rows(table):
            bucket = bucket_of(key_of(row))
            if chosen is None or bucket in chosen:
                yield bucket, digest_of(row)

    @translated
    def row_digests(self, table: Table, form: Form, only: np.ndarray) -> Iterator[RowDigest]:
        """Stream the rows of the buckets `only`, ordered by bucket.

        SQLite sorts the keys by bucket, on disk if they are many; each row is then fetched by its
        key and digested.
        """
        bucket_of = self._bucket_of(table, form)
        convert = self._converter_from(table, table.key, form)
        shown: Callable[[Row], Row] = tuple if table.keyless else convert
        chosen = frozenset(only.tolist())
        row_at = self._row_at(table) if table.keyless else None

        def bucket(*key: Any) -> int | None:
            number = bucket_of(convert(row_at(*key) if row_at else key))
            return number if number in chosen else None

        parts = 1 if row_at else len(table.key)
        self._raw.create_function("dbsync_bucket", parts, bucket, deterministic=True)
        digest_of = self._digest_of(table, form)
        by_key = sql.select_by_key(table)
        fetch = self._raw.cursor()
        try:
            for number, *key in self._raw.execute(_keys_by_bucket(table)):
                row = fetch.execute(by_key, key).fetchone()
                yield RowDigest(number, tuple(shown(tuple(key))), canonical.halves(digest_of(row)))
        except sqlite3.OperationalError as error:
            if QUOTES_TEXT in str(error) or "user-defined function" in str(error):
                for _ in self._bucketed(table, form, None):  # this raises with the row
                    pass
            raise

    def _row_at(self, table: Table, name: str = "", place: str = "") -> Callable[..., Row]:
        """The function from the address of a row to the row: of a keyless table, or of the quoted
        `name`, in which a row is addressed by `place`.
        """
        cursor = self._raw.cursor()
        name, place = name or quote(table.sa.name), place or sql.address(table)
        query = f"SELECT {sql.names(table.columns)} FROM main.{name} WHERE {place} = ?"
        return lambda number: tuple(cursor.execute(query, (number,)).fetchone())

    def _key_of(self, table: Table, form: Form) -> Callable[[Row], RowKey]:
        """The function from a stored row to its key in the form's values."""
        names = [column.name for column in table.columns]
        places = [names.index(column.name) for column in table.key]
        convert = self._converter_from(table, table.key, form)
        return lambda row: convert(tuple(row[place] for place in places))

    def _bucket_of(self, table: Table, form: Form) -> Callable[[RowKey], int]:
        if not form.native:
            return canonical.bucket_of(table.key, form.buckets, keyless=table.keyless)

        def bucket(key: RowKey) -> int:
            if len(key) == 1 and isinstance(key[0], int):  # rows written together fall together
                return abs(key[0]) // 128 % form.buckets
            return int.from_bytes(sha256(repr(key).encode()).digest()[:4], "big") % form.buckets

        return bucket

    def _digest_of(self, table: Table, form: Form) -> Callable[[Row], bytes]:
        """The function from a stored row to its digest.

        SQLite's own format is Python's `repr` of the row: unambiguous for the five classes that
        SQLite stores, and fast.
        """
        if form.native:
            return lambda row: canonical.digest(repr(row).encode())
        convert, form_of = (
            self._converter_from(table, table.columns, form),
            canonical.form_of(table.columns),
        )
        return lambda row: canonical.digest(form_of(convert(row)))

    def _converter_from(
        self, table: Table, columns: Sequence[Column], form: Form
    ) -> Callable[[Row], Row]:
        """The function from stored values to the form's values."""
        if form.native:
            return lambda row: row
        convert = values.converter(
            table, columns, [from_sqlite(column) for column in columns], self.name
        )
        return lambda row: tuple(convert(row))

    def _converter_to(
        self, table: Table, columns: Sequence[Column], form: Form
    ) -> Callable[[Row], Sequence[Any]]:
        """The function from the form's values to stored values."""
        if form.native:
            return lambda row: row
        return values.converter(
            table, columns, [to_sqlite(column) for column in columns], self.name
        )

    # -- counters

    @translated
    def counters(self, tables: Sequence[Table]) -> list[Counter]:
        """Return a counter for each key that SQLite numbers.

        Without AUTOINCREMENT SQLite gives the highest key plus one, so nothing can be moved.
        """
        counted = [(table, table.counter) for table in tables if table.counter is not None]
        numbered = self._with_autoincrement() if counted else set()
        last = dict[str, int]()
        if numbered:
            last = dict(self._raw.execute("SELECT name, max(seq) FROM sqlite_sequence GROUP BY 1"))
        return [
            Counter(
                f"{table.name}.{column.name}",
                table.sa.name,
                last.get(table.sa.name),
                highest,
                movable=table.sa.name in numbered,
            )
            for (table, column), highest in zip(counted, self._highest(counted), strict=True)
        ]

    def _with_autoincrement(self) -> set[str]:
        """The names of all tables whose numbers are never given again."""
        definitions = self._raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        return {name for name, create in definitions if sql.has_autoincrement(create)}

    def _highest(self, counted: Sequence[tuple[Table, Column]]) -> Iterator[int | None]:
        """The highest number in each column, asked for as many at once as SQLite joins."""
        for start in range(0, len(counted), _MOST_JOINED):
            queries = [
                f"SELECT {n}, max({quote(column.name)}) FROM {quote(table.sa.name)}"
                for n, (table, column) in enumerate(counted[start : start + _MOST_JOINED])
            ]
            highest = dict(self._raw.execute(" UNION ALL ".join(queries)))
            yield from (highest[n] for n in range(len(queries)))

    # -- rows

    @translated
    def read(
        self, table: Table, keys: RowKeys | None = None, form: Form = PLAIN
    ) -> Iterator[list[Row]]:
        """Stream plain values of all rows, or of those with these keys, in batches."""
        convert = self._converter_from(table, table.columns, PLAIN)
        for batch in sql.batches(self._rows(table, keys, form)):
            yield [convert(row) for row in batch]

    @translated
    def read_stored(self, table: Table, keys: RowKeys | None, form: Form) -> Iterator[list[Row]]:
        """Stream rows as SQLite stores them, with their storage classes."""
        yield from sql.batches(self._rows(table, keys, form))

    def _rows(self, table: Table, keys: RowKeys | None, form: Form) -> Iterator[Row]:
        """Rows as SQLite stores them. Raise DatabaseError if a key is not found."""
        if keys is None:
            yield from self._all_rows(table)
            return
        cursor, by_key = self._raw.cursor(), sql.select_by_key(table)
        to_stored = self._converter_to(table, table.key, form)
        convert: Callable[[Row], Sequence[Any]] = tuple if table.keyless else to_stored
        for key in keys:
            row = cursor.execute(by_key, convert(key)).fetchone()
            if row is None:
                raise DatabaseError(
                    f"the row with key {key!r} is not stored as SQLAlchemy stores its type, "
                    "so it cannot be found by its key",
                    operation="read",
                    database=self.name,
                    table=table.name,
                    remedy="store the key through the models",
                )
            yield row

    def _all_rows(self, table: Table) -> Iterator[Row]:
        """All rows as SQLite stores them.

        Raise Unrepresentable for a text that is not UTF-8: the driver does not name its row.
        """
        query = f"SELECT {sql.names(table.columns)} FROM {quote(table.sa.name)}"
        try:
            for row in self._raw.execute(query):
                # not `yield from`: that closes the cursor, also if the database is closed already
                yield row
        except sqlite3.OperationalError as error:
            if QUOTES_TEXT in str(error):
                self._raw.text_factory = _text
                for row in self._raw.execute(query):
                    self._require_texts(table, row)
            raise

    def _require_texts(self, table: Table, row: Row) -> None:
        by_name = dict(zip((column.name for column in table.columns), row, strict=True))
        for column, value in by_name.items():
            if isinstance(value, _NotText):
                key = [by_name[part.name] for part in values.key_shown(table)]
                raise values.unrepresentable(
                    table, column, key, "its text is not UTF-8", self.name
                ) from None


def _keys_by_bucket(table: Table) -> str:
    """The query for the buckets and keys of the chosen buckets.

    The bucket gets its name in a query of its own: outside of ORDER BY, SQLite would prefer a
    column of the table to a name of the query.
    """
    key_names = ", ".join(f"k{n}" for n in range(1 if table.keyless else len(table.key)))
    inner = (
        f"SELECT dbsync_bucket({sql.keys(table)}), {sql.keys(table)} "
        f"FROM main.{quote(table.sa.name)}"
    )
    return (
        f"WITH found (b, {key_names}) AS ({inner}) "
        f"SELECT b, {key_names} FROM found WHERE b IS NOT NULL ORDER BY b"
    )


class _NotText(bytes):
    """A text that is not UTF-8."""


def _text(stored: bytes) -> str | _NotText:
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return _NotText(stored)
