"""SQL expressions of columns: what is hashed, read and compared, and the bucket of a row.

`t` is the table's alias in every statement. See `canonical` for the form that digests between
engines follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dbsync_pipeline.dialects.digests import Form
from dbsync_pipeline.dialects.postgresql.catalog import quote
from dbsync_pipeline.dialects.postgresql.column_types import array_of
from dbsync_pipeline.dialects.table import Column, Kind, Table

FENCE = "OFFSET '0'"
"""Ends a subquery whose expressions are computed once for each row, and not once for each use.

A bigint, as this is, is known to be 0 before the server decides about parallel workers; the int of
OFFSET 0 is converted only afterwards, and rules them out.
"""

_MOST_RANGES = 1_000
"""Of keys in one statement: it is planned within milliseconds."""

_PIECES_A_CALL = 50
"""PostgreSQL calls a function with at most 100 arguments; a column takes two."""


@dataclass(frozen=True)
class Expressions:
    """The expressions of a server of this major version; 18 has shorter and faster ones."""

    version: int
    utf8: bool = True
    """Whether the database's encoding is UTF-8, in which the canonical form counts bytes."""

    def row(self, table: Table, form: Form) -> str:
        """Return what is hashed: a record, or the SHA-256 of the canonical text."""
        if form.native:
            return self._record(table.columns)
        return self._sha256(table.columns)

    def halves(self, form: Form) -> tuple[str, str]:
        """Return two signed 64-bit numbers of the row `r`.

        The hash of a record is linear in the hashes of its fields (hash_record_extended multiplies
        by 31 and adds), so two rows that swap a value would keep the sum. Hashing the result once
        more prevents that.
        """
        if form.native:
            first, second = (
                f"hashint8extended({self._record_hash('r', seed)}, {seed})" for seed in (1, 2)
            )
            return first, second
        return self._int8("substring(r, 1, 8)"), self._int8("substring(r, 9, 8)")

    def bucket(self, table: Table, form: Form) -> str:
        """Return the bucket of a row. Canonical buckets are those of `canonical.bucket_of`."""
        key, plain = table.key, len(table.key) == 1 and not table.keyless
        if plain and key[0].kind is Kind.INTEGER:
            return f"(abs(t.{quote(key[0].name)}::bigint / 128) % {form.buckets})::int"
        if plain and key[0].kind is Kind.UUID:
            last = f"substring(uuid_send(t.{quote(key[0].name)}), 13, 4)"
            return f"(abs({self._int4(last)}::bigint) % {form.buckets})::int"
        if form.native:
            return f"(abs({self._record_hash(self._record(key), 3)} / 2) % {form.buckets})::int"
        first = f"substring({self._sha256(key)}, 1, 4)"
        return f"(abs({self._int4(first)}::bigint) % {form.buckets})::int"

    def keys(self, table: Table, form: Form) -> list[str]:
        """Return the parts of a row's key, or of its address in a keyless table, as text."""
        if table.keyless:
            return ["t.tableoid::text", "t.ctid::text"]
        return [self.key_value(column, form) for column in table.key]

    def row_digests(self, table: Table, form: Form, relation: str, condition: str) -> str:
        """Return the query of the bucket, the digest's halves and the key's parts of these rows,
        ordered by bucket.
        """
        keys = [f"{part} AS k{n}" for n, part in enumerate(self.keys(table, form))]
        key_names = ", ".join(f"k{n}" for n in range(len(keys)))
        return (
            f"SELECT b, {', '.join(self.halves(form))}, {key_names} FROM ("
            f"SELECT {self.bucket(table, form)} AS b, {', '.join(keys)}, "
            f"{self.row(table, form)} AS r FROM {relation} t {condition} {FENCE}) x ORDER BY b"
        )

    def row_digest(self, table: Table, form: Form) -> str:
        """Return the key's parts and the digest's halves of a row, as one array of texts.

        The row is in a subquery of its own, so that its values are read once.
        """
        halves = (f"({half})::text" for half in self.halves(form))
        parts = ", ".join([*(f"({key})::text" for key in self.keys(table, form)), *halves])
        return f"(SELECT ARRAY[{parts}] FROM (SELECT {self.row(table, form)} AS r {FENCE}) x)"

    def in_buckets(
        self, table: Table, form: Form, buckets: Sequence[int], keys: tuple[int, int] | None
    ) -> str:
        """Return the condition that selects the rows of these buckets.

        Where the table's integer keys are known to lie between `keys`, it names the ranges of keys
        as well if they are few, so that the server can look them up instead of reading all rows.
        """
        listed = ",".join(map(str, buckets))
        condition = f"{self.bucket(table, form)} = ANY('{{{listed}}}'::int[])"
        ranges = _key_ranges(buckets, form.buckets, *keys) if keys else []
        if ranges:
            key = f"t.{quote(table.key[0].name)}"
            either = " OR ".join(f"{key} BETWEEN {first} AND {last}" for first, last in ranges)
            condition += f" AND ({either})"
        return f"WHERE {condition}"

    def key_value(self, column: Column, form: Form) -> str:
        """Return a part of a key in the form's values: text that the server reads, or plain."""
        return f"t.{quote(column.name)}::text" if form.native else self.plain(column)

    def plain(self, column: Column) -> str:
        """Return the column as a plain value. OPAQUE is text, for servers of other versions.

        Moments are the numbers that the server stores: extract() rounds those that are far from
        1970, before version 14 from the year 2242 on.
        """
        name = f"t.{quote(column.name)}"
        if array_of(column):
            return f"to_jsonb({name})::text"
        match column.kind:
            case Kind.BOOLEAN:
                return f"{name}::int"
            case Kind.UUID | Kind.NUMERIC | Kind.TEXT | Kind.OPAQUE:
                return f"{name}::text"
            case Kind.FLOAT:
                return f"{name}::float8"
            case Kind.INSTANT:
                return self._int8(f"timestamptz_send({name})")
            case Kind.DATETIME:
                return self._int8(f"timestamp_send({name})")
            case Kind.TIME:
                return self._int8(f"time_send({name})")
            case Kind.DATE:
                return self._int4(f"date_send({name})")
            case _:
                return name

    def _record(self, columns: Sequence[Column]) -> str:
        """The columns as one value; before version 14, which cannot hash a record, as its text."""
        record = f"ROW({', '.join(self._hashable(column) for column in columns)})"
        return record if self.version >= 14 else f'{record}::text COLLATE "C"'

    def _record_hash(self, record: str, seed: int) -> str:
        function = "hash_record_extended" if self.version >= 14 else "hashtextextended"
        return f"{function}({record}, {seed})"

    def _sha256(self, columns: Sequence[Column]) -> str:
        """The SHA-256 of the canonical text, in calls of at most 100 arguments."""
        pieces = [f"coalesce({self._canonical(column)}, '~'), '|'" for column in columns]
        groups = [
            f"concat({', '.join(pieces[start : start + _PIECES_A_CALL])})"
            for start in range(0, len(pieces), _PIECES_A_CALL)
        ]
        return f"sha256(convert_to({' || '.join(groups)}, 'UTF8'))"

    def _hashable(self, column: Column) -> str:
        """The column such that equal hashes mean equal values, byte for byte.

        Hashes that follow the type's equality do not distinguish -0 from 0, nor 1.0 from 1.00.
        """
        name = f"t.{quote(column.name)}"
        match column.kind:
            case Kind.TEXT | Kind.OPAQUE:
                return f'{name}::text COLLATE "C"'
            case Kind.FLOAT:
                return f"encode(float8send({name}::float8), 'hex')"
            case Kind.BYTES:
                return name if self.version >= 18 else f"encode(sha256({name}), 'hex')"
            case _:  # a NUMERIC has one scale, so equal numbers are equal texts
                return name

    def _canonical(self, column: Column) -> str:
        name = f"t.{quote(column.name)}"
        match column.kind:
            case Kind.TEXT | Kind.OPAQUE:
                text = f"({self.plain(column)})"
                data = text if self.utf8 else f"convert_to({text}, 'UTF8')"
                return f"octet_length({data}) || ':' || {text}"
            case Kind.BYTES:
                first = f"encode(substring(sha256({name}), 1, 16), 'hex')"
                return f"octet_length({name}) || ':' || {first}"
            case Kind.FLOAT:
                return f"({self._int8(f'float8send({name}::float8 + 0.0)')})::text"
            case _:
                return f"({self.plain(column)})::text"

    def _int8(self, eight: str) -> str:
        if self.version >= 18:
            return f"({eight})::bigint"
        return f"('x' || encode({eight}, 'hex'))::bit(64)::bigint"

    def _int4(self, four: str) -> str:
        if self.version >= 18:
            return f"({four})::int"
        return f"('x' || encode({four}, 'hex'))::bit(32)::int"


def _key_ranges(
    buckets: Sequence[int], of: int, lowest: int, highest: int
) -> list[tuple[int, int]]:
    """Return the ranges of integer keys in these buckets; none if they are too many.

    128 consecutive keys are in the bucket of their hundred-and-twenty-eighth part, whatever their
    sign.
    """
    furthest = max(abs(lowest), abs(highest)) // 128
    if len(buckets) * (furthest // of + 1) > _MOST_RANGES:
        return []
    parts = [part for bucket in buckets for part in range(bucket, furthest + 1, of)]
    positive = [(128 * part, 128 * part + 127) for part in parts] if highest >= 0 else []
    negative = [(-128 * part - 127, -128 * part) for part in parts] if lowest < 0 else []
    return positive + negative


def by_width(table: Table) -> list[tuple[str, int]]:
    """Return conditions that split a table by the width of its rows, and a batch size for each.

    A batch takes at most 16 MB, or one row. PostgreSQL knows the length of a value that is stored
    out of line without fetching it.
    """
    unbounded = [
        column
        for column in table.columns
        if column.kind is Kind.BYTES or (column.kind is Kind.TEXT and column.length is None)
    ]
    if not unbounded:
        return [("", 2_000)]
    width = " + ".join(
        f"coalesce(octet_length(t.{quote(column.name)}"
        f"{'::text' if column.kind is Kind.TEXT else ''}), 0)"
        for column in unbounded
    )
    return [
        (f" AND {width} < 8192", 2_000),
        (f" AND {width} >= 8192 AND {width} < 262144", 64),
        (f" AND {width} >= 262144", 1),
    ]
