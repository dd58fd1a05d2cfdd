"""Transact-SQL as text: how a column is hashed, read, staged and written back, and the statements
made of these.

Everything here depends on the models only, so it can be compiled and parsed without a server. See
`canonical` for what the digests are computed from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import mssql

from dbsync_pipeline.dialects import foreign_keys
from dbsync_pipeline.dialects.digests import Form
from dbsync_pipeline.dialects.table import Column, Kind, Table
from dbsync_pipeline.errors import StructureError

TYPES = mssql.dialect(deprecate_large_types=True)  # type: ignore[no-untyped-call]
TYPES.server_version_info = (15,)  # type: ignore[assignment]  # an older one has no DATE and no TIME
BINARY = "Latin1_General_100_BIN2"
_INSTANT = "convert(datetimeoffset(6), '2000-01-01T00:00:00+00:00')"
_DATETIME = "convert(datetime2(6), '2000-01-01T00:00:00')"
_DATE = "convert(date, '2000-01-01')"
_MIDNIGHT = "convert(time(6), '00:00:00')"
_ARGUMENTS = 100
"""The most arguments of a `concat`. SQL Server accepts 254, and cuts its result at 8,000 bytes if
none is a MAX type, where a short piece has up to 54 bytes; Babelfish accepts 100."""


@dataclass(frozen=True)
class Flavour:
    """What Microsoft's server and Babelfish write differently.

    `utf8` turns a text into UTF-8, `hexadecimal` turns 16 bytes into hexadecimal digits, `fence`
    keeps the optimizer from computing a hash twice, and `whole_join` from looking for one row only.
    """

    utf8: str
    hexadecimal: str
    fence: str
    whole_join: str = ""


_EIGHT = (
    "right('000000000000000' + "
    "to_hex(convert(bigint, convert(binary(8), substring({{0}}, {0}, 8)))), 16)"
)

MICROSOFT = Flavour(
    " COLLATE Latin1_General_100_BIN2_UTF8",
    "lower(convert(varchar(32), substring({0}, 1, 16), 2))",
    "",
    " OPTION (USE HINT('DISABLE_OPTIMIZER_ROWGOAL'))",
)
BABELFISH = Flavour(
    "", f"{_EIGHT.format(1)} + {_EIGHT.format(9)}", " ORDER BY (SELECT NULL) OFFSET 0 ROWS"
)
"""Texts are UTF-8 there already, `convert` has no hexadecimal style, and PostgreSQL's optimizer
needs the fence."""


def quote(name: str) -> str:
    """Return an identifier, quoted."""
    return "[" + name.replace("]", "]]") + "]"


def quote_table(table: sa.Table) -> str:
    """Return a table's name, quoted, with its schema where it has one."""
    return ".".join(quote(part) for part in (table.schema, table.name) if part)


def literal(text: str) -> str:
    """Return a text, quoted; as NVARCHAR only where needed: Babelfish rejects it in some places."""
    return ("" if text.isascii() else "N") + "'" + text.replace("'", "''") + "'"


def national(text: str) -> str:
    """Return a text, quoted, as NVARCHAR."""
    return "N'" + text.replace("'", "''") + "'"


def names(columns: Iterable[Column], alias: str = "") -> str:
    """Return the columns' names as a list in SQL, each after the alias where there is one."""
    return ", ".join(f"{alias}{'.' if alias else ''}{quote(column.name)}" for column in columns)


def type_name(column: Column) -> str:
    """Return the column's type as a cast names it."""
    return column.type.compile(TYPES).split(" COLLATE ")[0]


def plain(column: Column, name: str) -> str:
    """Return the column as a plain value."""
    if column.kind is Kind.TEXT:
        return name if _is_nvarchar(column) else f"convert(nvarchar(max), {name})"
    if column.kind is Kind.DATETIME and type_name(column) == "DATETIME":
        # DATETIME counts in three-hundredths of a second; its value is the three digits it shows
        name = f"convert(datetime2(3), {name})"
    return _PLAIN[column.kind].format(name)


_PLAIN = {
    Kind.INTEGER: "convert(bigint, {0})",
    Kind.BOOLEAN: "convert(smallint, {0})",
    Kind.UUID: "lower(convert(nvarchar(36), {0}))",
    Kind.NUMERIC: "convert(nvarchar(41), {0})",
    Kind.INSTANT: f"datediff_big(microsecond, {_INSTANT}, {{0}})",
    Kind.DATETIME: f"datediff_big(microsecond, {_DATETIME}, {{0}})",
    Kind.DATE: f"datediff(day, {_DATE}, {{0}})",
    Kind.TIME: f"datediff_big(microsecond, {_MIDNIGHT}, {{0}})",
    Kind.FLOAT: "convert(float(53), {0})",
    Kind.BYTES: "convert(varbinary(max), {0})",
}


def _is_nvarchar(column: Column) -> bool:
    return type_name(column).upper().startswith("NVARCHAR")


def exact(column: Column, name: str) -> str:
    """Return the column as it travels between two SQL Servers, exactly.

    As `plain`, but times keep their seventh digit and their offset, and OPAQUE columns travel as
    bytes.
    """
    match column.kind:
        case Kind.INSTANT | Kind.DATETIME | Kind.TIME:
            return f"convert(nvarchar(34), {name}, 121)"
        case Kind.OPAQUE:
            return _as_bytes(column, name)
        case _:
            return plain(column, name)


def _as_bytes(column: Column, name: str) -> str:
    if column.kind is Kind.OPAQUE and type_name(column) in _NOT_EXACT:
        raise StructureError(
            f"column {column.name} is of type {type_name(column)}, which cannot be carried exactly",
            remedy="leave the column out of the models, or give it another type",
        )
    return f"convert(varbinary(max), {name})"


_NOT_EXACT = ("SQL_VARIANT", "TIMESTAMP", "ROWVERSION")
"""The bytes of a SQL_VARIANT lack its type; only the server can set a ROWVERSION."""


def value(column: Column, name: str, native: bool) -> str:
    """Return the column as it leaves the server: exactly, or as a plain value."""
    return exact(column, name) if native else plain(column, name)


def stored(column: Column, name: str, native: bool) -> str:
    """Return the inverse of `value`: what the column stores for a value that arrives."""
    match column.kind:
        case Kind.INSTANT | Kind.DATETIME | Kind.TIME if native:
            return f"convert({type_name(column)}, {name}, 121)"
        case Kind.OPAQUE | Kind.NUMERIC | Kind.UUID:
            return f"convert({type_name(column)}, {name})"
        case Kind.INSTANT:
            return _moment(name)
        case Kind.DATETIME:
            return f"convert({type_name(column)}, {_moment(name)})"
        case Kind.DATE:
            return f"convert(date, dateadd(day, {name}, {_INSTANT}))"
        case Kind.TIME:
            seconds = f"dateadd(second, {name} / 1000000, {_MIDNIGHT})"
            return f"dateadd(microsecond, {name} % 1000000, {seconds})"
        case Kind.BOOLEAN:
            return f"convert(bit, {name})"
        case _:
            return name


def _moment(name: str) -> str:
    """Return a number of microseconds as a DATETIMEOFFSET in UTC.

    In three steps, since dateadd counts in int. Every division truncates towards zero, so no step
    leaves the years 1 to 9999. On Babelfish other types begin in 1753.
    """
    days = f"dateadd(day, {name} / 86400000000, {_INSTANT})"
    return (
        f"dateadd(microsecond, {name} % 1000000, dateadd(second, {name} / 1000000 % 86400, {days}))"
    )


def staged_type(column: Column, native: bool, collation: str | None = None) -> str:
    """Return the type of the column in staging, which stores what `value` returns."""
    match column.kind:
        case Kind.INTEGER:
            return "BIGINT"
        case Kind.BOOLEAN:
            return "SMALLINT"
        case Kind.DATE:
            return "INT"
        case Kind.INSTANT | Kind.DATETIME | Kind.TIME:
            return "NVARCHAR(34)" if native else "BIGINT"
        case Kind.UUID | Kind.NUMERIC:
            return "NVARCHAR(41)"
        case Kind.FLOAT:
            return "FLOAT(53)"
        case Kind.TEXT:
            length = column.length
            bounded = f"NVARCHAR({length})" if length and length <= 4000 else "NVARCHAR(MAX)"
            return f"{bounded} COLLATE {collation}" if collation else bounded
        case _:
            return "VARBINARY(MAX)"


# -- digests


def damaged(columns: Sequence[Column], native: bool, flavour: Flavour) -> str:
    """Return SQL for the number, from 1, of the first column whose value would be damaged; else 0.

    Half of a surrogate pair does not survive UTF-8, and a plain value has no seventh digit of a
    second.
    """
    cases = [
        f"WHEN {condition} THEN {number}"
        for number, column in enumerate(columns, 1)
        if (condition := _damaged(column, f"t.{quote(column.name)}", native, flavour))
    ]
    return f"CASE {' '.join(cases)} ELSE 0 END" if cases else "0"


def _damaged(column: Column, name: str, native: bool, flavour: Flavour) -> str | None:
    if column.kind is Kind.TEXT and flavour.utf8:
        text = plain(column, name)
        back = f"convert(nvarchar(max), {_utf8(column, name, flavour)})"
        return f"{text} COLLATE {BINARY} <> {back} COLLATE {BINARY}"
    if (
        column.kind in (Kind.INSTANT, Kind.DATETIME, Kind.TIME)
        and not native
        and type_name(column) in _SEVEN_DIGITS
    ):
        return f"datepart(nanosecond, {name}) % 1000 <> 0"
    return None


_SEVEN_DIGITS = {"DATETIMEOFFSET", "DATETIME2", "TIME"} | {
    f"{name}(7)" for name in ("DATETIMEOFFSET", "DATETIME2", "TIME")
}


def _utf8(column: Column, name: str, flavour: Flavour, bounded: bool = False) -> str:
    if not bounded:
        return f"convert(varchar(max), {plain(column, name)}{flavour.utf8})"
    most = _most_units(column)
    assert most is not None, "a row with it is not short"
    text = name if _is_nvarchar(column) else f"convert(nvarchar({most}), {name})"
    return f"convert(varchar({_UTF8_BYTES * most}), {text}{flavour.utf8})"


def _most_units(column: Column) -> int | None:
    """Return the most UTF-16 units that a text column holds, by its type there; None for MAX."""
    sized = re.fullmatch(r"N?VARCHAR\((\d+)\)", type_name(column), re.IGNORECASE)
    return int(sized[1]) if sized else None


_UTF8_BYTES = 3
"""The most bytes of UTF-8 for a UTF-16 unit: a pair of them takes 4."""
_ROW_BYTES = 8000
"""The most that `concat` returns, and that a VARCHAR holds, without a MAX type."""
_PIECE_BYTES = 54
"""The most bytes of a piece, of text without the text itself."""


def _is_short(columns: Sequence[Column]) -> bool:
    """Return whether what is hashed of a row of these columns never exceeds `_ROW_BYTES`.

    It is then computed without MAX types, which the server handles like large objects.
    """
    texts = [column for column in columns if column.kind is Kind.TEXT]
    most = [units for column in texts if (units := _most_units(column)) is not None]
    size = _PIECE_BYTES * len(columns) + _UTF8_BYTES * sum(most)
    return len(most) == len(texts) and size <= _ROW_BYTES


def _piece(column: Column, name: str, native: bool, flavour: Flavour, bounded: bool) -> str:
    """Return the column's piece of the text that is hashed."""
    match column.kind:
        case Kind.TEXT:
            text = _utf8(column, name, flavour, bounded)
            return f"convert(varchar(20), datalength({text})) + ':' + {text}"
        case Kind.BYTES | Kind.OPAQUE:
            data = _as_bytes(column, name)
            half = flavour.hexadecimal.format(f"hashbytes('SHA2_256', {data})")
            return f"convert(varchar(20), datalength({data})) + ':' + {half}"
        case Kind.FLOAT:
            number = plain(column, name)
            bits = (
                number
                if native
                else f"case when {number} = 0 then convert(float(53), 0) else {number} end"
            )
            return f"convert(varchar(20), convert(bigint, convert(binary(8), {bits})))"
        case Kind.BOOLEAN:
            return f"convert(varchar(1), {name})"
        case Kind.UUID:
            return f"lower(convert(varchar(36), {name}))"
        case Kind.INSTANT | Kind.DATETIME | Kind.TIME if native:
            return f"convert(varchar(34), {name}, 121)"
        case _:
            return f"convert(varchar(41), {plain(column, name)})"


def hashed(columns: Sequence[Column], native: bool, flavour: Flavour) -> str:
    """Return SQL for the SHA-256 of a row of `t`, over these columns."""
    bounded = _is_short(columns)
    pieces = [
        f"isnull({_piece(column, f't.{quote(column.name)}', native, flavour, bounded)}, '~') + '|'"
        for column in columns
    ]
    groups = [_concat(pieces[n : n + _ARGUMENTS]) for n in range(0, len(pieces), _ARGUMENTS)]
    if len(groups) > 1 and not bounded:
        groups.insert(0, "convert(varchar(max), '')")
    whole = _concat(groups)
    return f"hashbytes('SHA2_256', {whole})"


def _concat(pieces: Sequence[str]) -> str:
    return f"concat({', '.join(pieces)})" if len(pieces) > 1 else pieces[0]


def bucket(table: Table, form: Form, flavour: Flavour) -> str:
    """Return SQL for the row's bucket; see `canonical.bucket_of`."""
    key = table.key
    name = f"t.{quote(key[0].name)}"
    if len(key) == 1 and key[0].kind is Kind.INTEGER:
        return f"convert(int, abs(convert(bigint, {name}) / 128) % {form.buckets})"
    if len(key) == 1 and key[0].kind is Kind.UUID:
        four = f"substring(convert(binary(16), {name}), 13, 4)"
    else:
        four = f"substring({hashed(key, form.native, flavour)}, 1, 4)"
    return f"convert(int, abs(convert(bigint, convert(int, {four}))) % {form.buckets})"


def digests(table: Table, form: Form, flavour: Flavour, source: str, only: bool) -> str:
    """Return the query for (bucket, rows, sum, sum) of every bucket.

    `only`: of the buckets in its parameter, a JSON list. `source` is the FROM clause, as `t`.
    """
    first, second = (
        f"convert(nvarchar(41), sum(convert(decimal(38, 0), {half})))" for half in _halves()
    )
    rows = _rows(table, form, flavour, source, only)
    return f"SELECT b, count_big(*), {first}, {second} FROM ({rows}) x GROUP BY b"


def row_digests(table: Table, form: Form, flavour: Flavour, source: str) -> str:
    """Return the query for (bucket, half, half, key…) of each row of the buckets in its parameter,
    ordered by bucket.
    """
    keys = ", ".join(f"k{n}" for n in range(len(table.key)))
    rows = _rows(table, form, flavour, source, True, True)
    return f"SELECT b, {', '.join(_halves())}, {keys} FROM ({rows}) x ORDER BY b"


def _rows(
    table: Table, form: Form, flavour: Flavour, source: str, only: bool, keys: bool = False
) -> str:
    here = bucket(table, form, flavour)
    parts = [f"{here} AS b", f"{hashed(table.columns, form.native, flavour)} AS r"]
    if keys:
        parts += [
            f"{value(column, f't.{quote(column.name)}', form.native)} AS k{n}"
            for n, column in enumerate(table.key)
        ]
    where = f" WHERE {here} IN (SELECT b FROM OPENJSON(?) WITH (b INT '$'))" if only else ""
    return f"SELECT {', '.join(parts)} FROM {source}{where}{flavour.fence}"


def _halves() -> tuple[str, str]:
    """Return SQL for the two numbers of a hash that the buckets sum."""
    first, second = (
        f"convert(bigint, convert(binary(8), substring(r, {start}, 8)))" for start in (1, 9)
    )
    return first, second


# -- keys that come in as one JSON text: [[1, "a"], [2, "b"]]


def json_keys(columns: Sequence[Column], native: bool) -> str:
    """Return a FROM clause of the keys in parameter `?`, with columns k0, k1, …"""
    types = ", ".join(
        f"k{n} {staged_type(column, native)} '$[{n}]'" for n, column in enumerate(columns)
    )
    return f"OPENJSON(?) WITH ({types})"


def same_key(columns: Sequence[Column], native: bool, collations: dict[str, str]) -> str:
    """Return the condition that joins the keys of `json_keys`, as `k`, to the rows of `t`."""
    return " AND ".join(
        f"t.{quote(column.name)} = {stored(column, f'k.k{n}', native)}"
        f"{_collate(column, collations)}"
        for n, column in enumerate(columns)
    )


def _collate(column: Column, collations: dict[str, str]) -> str:
    return (
        f" COLLATE {collations[column.name]}"
        if column.kind is Kind.TEXT and column.name in collations
        else ""
    )


# -- staging


def create_loaded(
    name: str, columns: Sequence[Column], native: bool, collations: dict[str, str]
) -> str:
    """Return the statement that creates a table for the bulk load, in types that are exact."""
    parts = ", ".join(
        f"{quote(column.name)} {staged_type(column, native, collations.get(column.name))} NULL"
        for column in columns
    )
    return f"CREATE TABLE {name} ({parts})"


def insert_loaded(into: str, name: str, columns: Sequence[Column], native: bool) -> str:
    """Return the INSERT of loaded rows, in the types of the live table."""
    values = ", ".join(stored(column, f"s.{quote(column.name)}", native) for column in columns)
    return f"INSERT INTO {into} ({names(columns)}) SELECT {values} FROM {name} s"


def insert_keys(into: str, key: Sequence[Column], native: bool) -> str:
    """Return the INSERT of the keys in its parameter, in the types of the live table."""
    values = ", ".join(stored(column, f"k.k{n}", native) for n, column in enumerate(key))
    return f"INSERT INTO {into} ({names(key)}) SELECT {values} FROM {json_keys(key, native)} k"


def create_like(name: str, table: Table, columns: Sequence[Column], before: str = "") -> str:
    """Return the statement that creates an empty table with the columns of the live one.

    The outer join makes all of them nullable, and none of them an IDENTITY.
    """
    return (
        f"SELECT {before}{names(columns, 't')} INTO {name} "
        f"FROM (SELECT 1 AS one) o LEFT JOIN {quote_table(table.sa)} t ON 1 = 0 WHERE 1 = 0"
    )


def insert_staged(table: Table, staging: str, but: str | None = None) -> str:
    """Return the INSERT of staged rows into the live table; of all but those with keys in `but`.

    Columns are qualified: Babelfish has variables of its own, for example `found`.
    """
    into = f"{quote_table(table.sa)} ({names(table.columns)})"
    where = f" WHERE NOT {_is_in(but, table, 's')}" if but else ""
    return f"INSERT INTO {into} SELECT {names(table.columns, 's')} FROM {staging} s{where}"


def update_staged(table: Table, new: str, gone: str) -> str:
    """Return the UPDATE of live rows whose keys are in both; empty if all columns are key."""
    others = [column for column in table.columns if column not in table.key]
    if not others:
        return ""
    values = ", ".join(f"{quote(column.name)} = s.{quote(column.name)}" for column in others)
    live = f"{quote_table(table.sa)} t INNER JOIN {new} s ON {_agree(table.key, 't')}"
    return f"UPDATE t SET {values} FROM {live} WHERE {_is_in(gone, table, 's')}"


def delete_staged(table: Table, staging: str, but: str | None = None) -> str:
    """Return the DELETE of the live rows whose keys are staged; of all but those in `but`."""
    live = f"{quote_table(table.sa)} t"
    where = f" WHERE NOT {_is_in(but, table, 's')}" if but else ""
    return f"DELETE t FROM {live} INNER JOIN {staging} s ON {_agree(table.key, 't')}{where}"


def _is_in(staging: str, table: Table, row: str) -> str:
    """Return the condition that the key of `row` is staged, exactly: as bytes where it has texts,
    of which the server takes different ones as equal.
    """
    pairs = [(key, f"g.{quote(key.name)}", f"{row}.{quote(key.name)}") for key in table.key]
    parts = [f"{staged} = {own}" for _, staged, own in pairs]
    parts += [
        f"convert(varbinary(max), {staged}) = convert(varbinary(max), {own})"
        for key, staged, own in pairs
        if key.kind is Kind.TEXT
    ]
    same = " AND ".join(parts)
    return f"EXISTS (SELECT 1 FROM {staging} g WHERE {same})"


def as_written(table: Table, new: str, gone: str) -> str:
    """Return a FROM clause, as `t`, of the rows that the live table will have."""
    kept = f"FROM {quote_table(table.sa)} l WHERE NOT {_is_in(gone, table, 'l')}"
    return (
        f"(SELECT {names(table.columns, 'l')} {kept} "
        f"UNION ALL SELECT {names(table.columns, 'n')} FROM {new} n) t"
    )


def live_of(table: Table, new: str) -> str:
    """Return a FROM clause, as `t`, of the live rows whose keys are staged."""
    live = f"FROM {quote_table(table.sa)} l WHERE {_is_in(new, table, 'l')}"
    return f"(SELECT {names(table.columns, 'l')} {live}) t"


def refers_to_gone(key: sa.ForeignKeyConstraint, parent: Table, new: str, gone: str) -> str:
    """Return the query for 1 where a row refers by this key to one that is about to go, else 0."""
    same = " AND ".join(
        f"c.{quote(element.parent.name)} = p.{quote(element.column.name)}"
        for element in key.elements
    )
    going = f"{_is_in(gone, parent, 'p')} AND NOT {_is_in(new, parent, 'p')}"
    child, referred = quote_table(key.parent), quote_table(parent.sa)  # type: ignore[arg-type]
    rows = f"SELECT 1 FROM {child} c INNER JOIN {referred} p ON {same} WHERE {going}"
    return f"SELECT CASE WHEN EXISTS ({rows}) THEN 1 ELSE 0 END"


def collisions(
    table: Table,
    new: str,
    columns: Sequence[Column],
    condition: str = "",
    gone: str | None = None,
) -> str:
    """Return the query for the keys of two new rows that the server compares as equal in these
    columns, or of a new row that equals a live one whose key is not in `gone`.

    `new` is a FROM clause of the new rows. `condition` is that of a filtered index: other rows may
    be equal.
    """
    where = f" WHERE {condition}" if condition else ""
    agreed = names(columns)
    key = ", ".join(f"convert(nvarchar(max), s.{quote(column.name)})" for column in table.key)
    twice = f"SELECT {agreed} FROM {new} n{where} GROUP BY {agreed} HAVING count(*) > 1"
    repeated = f"EXISTS (SELECT 1 FROM ({twice}) d WHERE {_agree(columns, 'd')})"
    live = quote_table(table.sa)
    if condition:
        new, live = f"(SELECT * FROM {new} n{where})", f"(SELECT * FROM {live}{where})"
    stays = f" AND NOT {_is_in(gone, table, 't')}" if gone else ""
    exists = f"EXISTS (SELECT 1 FROM {live} t WHERE {_agree(columns, 't')}{stays})"
    return f"SELECT TOP (2) {key} FROM {new} s WHERE {repeated} OR {exists}"


def as_stored(loaded: str, columns: Sequence[Column], native: bool) -> str:
    """Return a FROM clause of loaded rows in the types of the live table."""
    parts = ", ".join(
        f"{stored(column, f's.{quote(column.name)}', native)} AS {quote(column.name)}"
        for column in columns
    )
    return f"(SELECT {parts} FROM {loaded} s)"


def condition_of(index: sa.Index) -> str:
    """Return the condition of a filtered index; empty for any other."""
    where = index.dialect_options["mssql"]["where"]
    if where is None or isinstance(where, str):
        return where or ""
    compiler = TYPES.statement_compiler(TYPES, None)  # type: ignore[no-untyped-call]
    return str(compiler.process(where, include_table=False, literal_binds=True))


def _agree(columns: Sequence[Column], other: str) -> str:
    return " AND ".join(
        f"{other}.{quote(column.name)} = s.{quote(column.name)}" for column in columns
    )


def orphans(key: sa.ForeignKeyConstraint, flavour: Flavour) -> str:
    """Return the query for 1 where a reference leads nowhere, 0 where the foreign key holds.

    To find one row the optimizer would look up every child's parent by itself; the hint makes it
    join the two tables.
    """
    pairs = [(quote(element.parent.name), quote(element.column.name)) for element in key.elements]
    child, parent = quote_table(key.parent), quote_table(key.referred_table)  # type: ignore[arg-type]
    return foreign_keys.orphans(child, parent, pairs) + flavour.whole_join
