"""The statements, errors and checks of the SQL Server dialect, without a server.

The dialect runs on a connection that records its statements; a parser of T-SQL reads them. How a
server carries them out is what the conformance suite shows, where DBSYNC_TEST_URLS names a server.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import io
import json
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import sqlglot
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.dialects import mssql
from sqlalchemy.dialects.mssql import pyodbc
from sqlglot import exp

from dbsync_pipeline.columns import Instant
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import CANONICAL, Form
from dbsync_pipeline.dialects.mssql import catalog, drivers, source, tsql
from dbsync_pipeline.dialects.mssql.connection import DDL, Server
from dbsync_pipeline.dialects.mssql.dialect import MSSQL
from dbsync_pipeline.dialects.mssql.values import to_mssql
from dbsync_pipeline.dialects.mssql.watched import WatchedConnection
from dbsync_pipeline.dialects.table import Kind, Row, Table, kind_of
from dbsync_pipeline.dialects.values import converter
from dbsync_pipeline.errors import (
    DatabaseError,
    NotProved,
    StructureError,
    Unrepresentable,
)
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline_tests.worlds import MODEL

NATIVE = "mssql"


def _every_kind(*columns: sa.Column[Any]) -> Model:
    model = Model(sa.MetaData())
    sa.Table(
        "of every]kind",
        model.metadata,
        sa.Column("a key", sa.Unicode(20), primary_key=True),
        sa.Column("moment", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("number", sa.Numeric(38, 10)),
        sa.Column("single", sa.Float(24)),
        sa.Column("old", sa.DateTime),
        sa.Column("exact", mssql.DATETIME2(3)),
        sa.Column("day", sa.Date),
        sa.Column("hour", sa.Time),
        sa.Column("xml", mssql.XML),
        sa.Column("varchar", sa.String(10)),
        sa.Column("small", mssql.TINYINT),
        sa.Column("parent", sa.Unicode(20)),
        sa.Column("parent_moment", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(
            ["parent", "parent_moment"],
            ["a schema.of every]kind.a key", "a schema.of every]kind.moment"],
            name="fk_kind",
        ),
        *columns,
        schema="a schema",
    )
    return model


EVERYTHING = _every_kind()
SYNCS = [
    pytest.param(MODEL, CANONICAL, id="five tables"),
    pytest.param(MODEL, NATIVE, id="five tables, native"),
    pytest.param(EVERYTHING, CANONICAL, id="every kind"),
    pytest.param(_every_kind(sa.Column("money", mssql.MONEY)), NATIVE, id="every kind, native"),
]


class Recorder:
    """A connection that records every statement and returns fixed rows."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.autocommit = False
        self.loaded: list[Row] = []
        self.driver_connection, self.loading, self.waiting_since = self, None, None

    def cursor(self) -> _Cursor:
        return _Cursor(self)

    def rows_for(self, sql: str) -> list[Row]:
        for pattern, rows in ROWS.items():
            if re.search(pattern, " ".join(sql.split())):
                # one query for several tables numbers them
                numbers = re.findall(r"SELECT (\d+) AS n, q", sql)
                return [(int(n), *row) for n in numbers for row in rows] if numbers else rows
        return []

    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...


ROWS: dict[str, list[Row]] = {
    r"d.name = schema_name\(\)": [],
    r"sp_getapplock": [(0,)],
    r"@@TRANCOUNT": [(1,)],
    r"sysutcdatetime|count_big\(\*\) FROM|convert\(bigint, max": [(7,)],
    r"database_|rowcount_big|sys.partitions": [(7,)],
    r"relrowsecurity|masked": [(7,)],
    r"VIEW DEFINITION": [(150, 1)],
    r"set_config": [("replica",)],
    r"CASE WHEN EXISTS \(SELECT 1 FROM .+ c (WHERE|INNER JOIN)": [(0,)],
    r"delete_referential_action <> 0": [("fk_chats_user_id",), ("fk_kind",)],
    r"sys.foreign_key_columns": [("fk", "dbo", "audit", "dbo", "users", "user_id", "id")],
    r"FROM sys.tables WHERE schema_id": [("loaded_by_a_dead_run",)],
    r"FROM sys.tables t": [("[dbo].[users]",)],
    r"FROM sys.sequences s WHERE has_perms": [("[dbo].[numbers]", 5, 1, 1_000)],
    r"sys.identity_columns": [("id", 7, 1)],
    r"collation_name": [
        ("key", "Latin1_General_100_BIN2", 1252),
        ("varchar", "Latin1_General_CI_AS", 1252),
    ],
    r"WITH mirrored": [
        (
            "ALTER TABLE [dbo].[c] NOCHECK CONSTRAINT [f]",
            "ALTER TABLE [dbo].[c] WITH CHECK CHECK CONSTRAINT [f]",
        )
    ],
}


class _Cursor:
    description = (("a",),)

    def __init__(self, connection: Recorder) -> None:
        self._connection = connection
        self._rows: list[Row] = []

    def execute(self, sql: str, *_given: Any) -> None:
        self._connection.statements.append(sql)
        self._rows = self._connection.rows_for(sql)

    def executemany(self, sql: str, rows: list[Row]) -> None:
        self._connection.statements.append(sql)
        self._connection.loaded += rows

    def fetchall(self) -> list[Row]:
        return self._rows

    def fetchmany(self, _size: int) -> list[Row]:
        rows, self._rows = self._rows, []
        return rows if rows != [(7,)] else []

    def setinputsizes(self, _sizes: object) -> None: ...

    def nextset(self) -> bool:
        return False

    def close(self) -> None: ...


def _opened(babelfish: bool, locks: bool = False) -> tuple[MSSQL, Recorder]:
    raw, transaction = Recorder(), SimpleNamespace(commit=lambda: None)
    watched = WatchedConnection(lambda timeout: raw, 60, timeout=4, port=None)
    connection: Any = SimpleNamespace(
        connection=SimpleNamespace(driver_connection=watched),
        closed=True,
        info={"server": Server((15,), 3, babelfish), "label": "dbsync run 1234"},
        begin=lambda: transaction,
        get_execution_options=lambda: {"dbsync_locks": locks},
        engine=SimpleNamespace(raw_connection=lambda: raw),
        get_transaction=lambda: transaction,
    )
    return MSSQL("azure", connection), raw


class _Source(Dialect):
    """A source with one row, of which only the key has values."""

    def read(self, table: Table, keys: Any = None) -> Iterator[list[Row]]:
        yield [
            tuple(PLAIN[column.kind] if column in table.key else None for column in table.columns)
        ]


_Source.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
PLAIN: dict[Kind, Any] = {
    Kind.INTEGER: 7,
    Kind.UUID: "1" * 8 + "-1111-1111-1111-" + "1" * 12,
    Kind.TEXT: "k",
    Kind.INSTANT: -1,
}


def statements_of_a_sync(model: Model, babelfish: bool, digest_format: str) -> list[str]:
    """Return the statements of a whole sync of these tables, in both roles."""
    dialect, raw = _opened(babelfish)
    form, tables = Form(digest_format, 127), model.tables
    source = _Source("windows", None)  # type: ignore[arg-type]
    dialect.require_supported(tables, writing=True)
    dialect.snapshot()
    dialect.set_marker(5), dialect.sees_marker(6), dialect.size_bytes(), dialect.digest_format()
    dialect.begin(tables, wait_seconds=1)
    dialect.hidden(tables), dialect.require_visible(tables)
    for table in tables:
        keys = [tuple(PLAIN[column.kind] for column in table.key)]
        (
            dialect.count(table),
            dialect.rows(table),
            dialect.digests(table, form),
            dialect.digests(table, form, np.arange(3)),
        )
        list(dialect.row_digests(table, form, np.arange(3)))
        list(dialect.read_as(table, None, form)), list(dialect.read_as(table, keys, form))
        (
            dialect.create_staging(table),
            dialect.stage_rows(table, source, keys, form),
            dialect.stage_keys(table, keys, form),
        )
        dialect.create_like("rescued_users_1234", table)
    for counter in dialect.counters(tables):
        dialect.move_counter(counter, counter.position + 100_000)
    for table in tables:
        dialect.digests_as_written(table, form, np.arange(3))
        dialect.prepare_fill(table, source, form)
    for deletes_first in (True, False):
        dialect._write_in_order(tables, deletes_first=deletes_first)
    dialect.suspend_constraints(tables)
    dialect.write_staged(tables)
    for table in tables:
        dialect.fill(table, source, form)
        dialect.holds_staged(table, form)
    dialect._suspend()
    for table in tables:
        dialect.delete_staged(table), dialect.insert_staged(table)
    dialect.prove_constraints(tables)
    dialect.commit(), dialect.close()
    return raw.statements


COMMANDS = ("SET ", "EXEC ", "ALTER SEQUENCE", "ALTER TABLE", "DECLARE ", "CREATE TRIGGER", "IF ")
"""What the parser accepts as commands without parsing them."""

UNKNOWN = re.compile(
    r"SET TRANSACTION ISOLATION LEVEL (SNAPSHOT|READ COMMITTED)"
    r"|DBCC CHECKIDENT \('[^']+', RESEED, \d+\)"
    r"|(ENABLE|DISABLE) TRIGGER \[.+\] ON (\[.+\]\.)?\[.+\]"
)
"""T-SQL that the parser does not know."""


HINT = " OPTION (USE HINT('DISABLE_OPTIMIZER_ROWGOAL'))"
"""Documented for queries in T-SQL, and unknown to the parser."""


def _parsed(statement: str) -> None:
    statement = statement.removesuffix(HINT)
    if UNKNOWN.fullmatch(statement):
        return
    if aside := re.fullmatch(r"EXEC sp_executesql N'SET [^;]+; (.+)'", statement, re.DOTALL):
        statement = aside[1].replace("''", "'")
    for one in sqlglot.parse(statement, read="tsql"):
        if isinstance(one, (exp.Command, type(None))):
            assert statement.lstrip().startswith(COMMANDS), statement


@pytest.mark.parametrize(("model", "digest_format"), SYNCS)
@pytest.mark.parametrize("babelfish", [False, True], ids=["microsoft", "babelfish"])
def test_every_statement_of_a_sync_is_tsql(
    model: Model, babelfish: bool, digest_format: str
) -> None:
    statements = statements_of_a_sync(model, babelfish, digest_format)
    assert len(statements) > 30
    for statement in statements:
        _parsed(statement)
    text = "\n".join(statements)
    assert "MERGE" not in text.upper()
    assert (
        text.count("DROP TABLE [dbsync].[loaded_")
        == text.count("CREATE TABLE [dbsync].[loaded_") + 1
    ), "the run's own, and one of a dead run"


def test_reads_use_one_snapshot_or_locks_until_the_end() -> None:
    table = MODEL.table("users")
    for locks, level, hint in (
        (False, "SNAPSHOT", "[users] t"),
        (True, "READ COMMITTED", "[users] t WITH (TABLOCK, HOLDLOCK)"),
    ):
        dialect, raw = _opened(babelfish=False, locks=locks)
        dialect.snapshot()
        assert f"SET TRANSACTION ISOLATION LEVEL {level}" in raw.statements
        before = len(raw.statements)
        (
            dialect.count(table),
            dialect.digests(table, Form(CANONICAL, 3)),
            list(dialect.read(table)),
            dialect.counters([table]),
        )
        reads = [
            statement
            for statement in raw.statements[before:]
            if "[users]" in statement and "object_id" not in statement
        ]
        assert len(reads) == 4 and all(f"FROM {hint}" in statement for statement in reads)


def test_babelfish_reads_a_snapshot_even_with_the_option_for_locks() -> None:
    """It ignores the lock hints; without a snapshot each statement would read another state."""
    dialect, raw = _opened(babelfish=True, locks=True)
    dialect.snapshot()
    assert "SET TRANSACTION ISOLATION LEVEL SNAPSHOT" in raw.statements


@pytest.mark.parametrize("locks", [False, True], ids=["snapshot", "locks"])
def test_a_source_reads_a_table_before_it_sets_its_mark(locks: bool) -> None:
    """A mark is a lock of the transaction, which begins with the first read of a table."""
    dialect, raw = _opened(babelfish=False, locks=locks)
    dialect.snapshot()
    dialect.set_marker(5)
    *_, before, mark = raw.statements
    assert "sp_getapplock" in mark and "SELECT TOP (1) 1 FROM [dbo].[users]" in before


def test_whole_tables_are_digested_once_in_a_snapshot_and_every_time_outside_of_one() -> None:
    table, form = MODEL.table("users"), Form(CANONICAL, 3)
    for snapshot, times in ((True, 1), (False, 2)):
        dialect, raw = _opened(babelfish=False)
        if snapshot:
            dialect.snapshot()
        for _ in range(2):
            dialect.digests(table, form), dialect.digests(table, form, np.arange(2))
        digests = [statement for statement in raw.statements if "GROUP BY b" in statement]
        assert len([statement for statement in digests if "OPENJSON" not in statement]) == times
        assert len([statement for statement in digests if "OPENJSON" in statement]) == 2


@pytest.mark.parametrize("in_memory", [1, 10**6], ids=["in a file", "in memory"])
def test_row_digests_are_fetched_whole_and_in_order(
    in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page is one pass over the table; its rows are not all in memory."""
    monkeypatch.setattr(source, "_IN_MEMORY", in_memory)
    monkeypatch.setattr(source, "BUCKETS_PER_PAGE", 2)
    dialect, _ = _opened(babelfish=False)
    pages: list[str] = []

    def stream(_sql: str, buckets: str) -> Iterator[list[Row]]:
        pages.append(buckets)
        yield from ([(bucket, 7, -(2**63), f"\ufeff{bucket}")] for bucket in json.loads(buckets))

    monkeypatch.setattr(dialect, "_stream", stream)
    digests = dialect.row_digests(MODEL.table("users"), Form(CANONICAL, 5), np.arange(5))
    assert [(row.bucket, row.key, row.digest) for row in digests] == [
        (bucket, (f"\ufeff{bucket}",), (7, -(2**63))) for bucket in range(5)
    ]
    assert pages == ["[0, 1]", "[2, 3]", "[4]"]


def test_a_snapshot_does_not_begin_with_a_table_that_forbids_it() -> None:
    """A memory-optimised table cannot be read under SNAPSHOT, and an external one is elsewhere."""
    query = " ".join(catalog.FIRST_TABLE.split())
    assert "t.is_memory_optimized = 0 AND t.is_external = 0" in query
    assert "CASE s.name WHEN 'dbsync' THEN 0" in query, "the ledger's table is known to do"


def test_the_catalog_is_read_aside_while_a_snapshot_is_open() -> None:
    """A query of it under SNAPSHOT fails once an index was rebuilt: error 3961."""
    dialect, raw = _opened(babelfish=False)
    dialect.snapshot()
    begun = len(raw.statements)
    dialect.hidden(MODEL.tables)
    for table in MODEL.tables:
        dialect.rows(table), dialect.counters([table])
        list(dialect.read(table, [tuple(PLAIN[column.kind] for column in table.key)]))
    aside = "EXEC sp_executesql N'SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
    of_catalog = [statement for statement in raw.statements[begun:] if "sys." in statement]
    assert of_catalog and all(statement.startswith(aside) for statement in of_catalog)


@pytest.mark.parametrize("type_", [mssql.SQL_VARIANT, mssql.ROWVERSION, mssql.TIMESTAMP])
def test_a_type_that_cannot_be_carried_exactly_is_refused_by_column(type_: Any) -> None:
    table = Table(
        sa.Table(
            "t",
            sa.MetaData(),
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("odd", type_),
        )
    )
    with pytest.raises(StructureError, match="column odd is of type"):
        tsql.hashed(table.columns, True, tsql.MICROSOFT)


def test_the_parser_finds_a_broken_statement() -> None:
    table = MODEL.table("users")
    broken = tsql.digests(table, Form(CANONICAL, 3), tsql.MICROSOFT, "[users] t", True).replace(
        "OPENJSON(?)", "OPENJSON(?", 1
    )
    with pytest.raises(sqlglot.errors.SqlglotError):
        _parsed(broken)


def test_create_table_uses_the_types_of_sql_server() -> None:
    dialect = mssql.dialect(deprecate_large_types=True)  # type: ignore[no-untyped-call]
    dialect.ddl_compiler = DDL
    made = [str(sa.schema.CreateTable(table.sa).compile(dialect=dialect)) for table in MODEL.tables]
    for statement in made:
        _parsed(statement)
    text = "\n".join(made)
    assert "DEFERRABLE" not in text
    assert "email NVARCHAR(320) COLLATE Latin1_General_100_BIN2 NOT NULL" in text
    assert "[key] NVARCHAR(200) COLLATE Latin1_General_100_BIN2 NOT NULL" in text
    assert text.count("DATETIMEOFFSET(6)") == text.count("DATETIMEOFFSET") == 8
    assert text.count("IDENTITY") == 2
    for type_ in ("NTEXT", "IMAGE", " TEXT"):
        assert type_ not in text


def test_the_digest_of_many_columns_is_not_cut_at_8000_bytes() -> None:
    columns = [sa.Column(f"c{n}", sa.Integer, primary_key=n == 0) for n in range(500)]
    expression = tsql.hashed(
        Table(sa.Table("wide", sa.MetaData(), *columns)).columns, False, tsql.MICROSOFT
    )
    _parsed(f"SELECT {expression} FROM [wide] t")
    assert (
        expression.startswith("hashbytes('SHA2_256', concat(convert(varchar(max), ''), concat(")
        and expression.count("concat(") == 6
    )


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (sa.Unicode(100), "convert(varchar(300), t.[text]{utf8})"),
        (sa.String(100), "convert(varchar(300), convert(nvarchar(100), t.[text]){utf8})"),
        (sa.Enum("a", "abcd"), "convert(varchar(12), convert(nvarchar(4), t.[text]){utf8})"),
        (sa.Unicode(10).with_variant(mssql.NVARCHAR(500), NATIVE), "convert(varchar(1500), "),
        (sa.Unicode(2500), "convert(varchar(7500), "),
        (sa.Unicode(3000), "convert(varchar(max), "),  # 9,000 bytes of UTF-8
        (sa.UnicodeText(), "convert(varchar(max), "),
        (sa.JSON(), "convert(varchar(max), "),
        (mssql.XML(), "convert(varchar(max), "),
    ],
    ids=str,
)
def test_a_short_row_is_hashed_without_large_objects(type_: Any, text: str) -> None:
    columns = [sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", type_)]
    table = Table(sa.Table("short", sa.MetaData(), *columns))
    expression = tsql.hashed(table.columns, False, tsql.MICROSOFT)
    _parsed(f"SELECT {expression} FROM [short] t")
    assert text.format(utf8=tsql.MICROSOFT.utf8) in expression
    assert ("(max)" in expression) == ("(max)" in text)


def test_names_are_quoted() -> None:
    table = EVERYTHING.tables[0]
    assert tsql.quote_table(table.sa) == "[a schema].[of every]]kind]"
    assert tsql.literal("it's") == "'it''s'"


def test_types_of_sql_server_have_their_kind() -> None:
    kinds = [
        kind_of(type_)
        for type_ in (
            mssql.DATETIMEOFFSET(6),
            mssql.DATETIME2(),
            mssql.SMALLDATETIME(),
            mssql.MONEY(),
        )
    ]
    assert kinds == [Kind.INSTANT, Kind.DATETIME, Kind.DATETIME, Kind.OPAQUE]


# -- what a column cannot hold

MICROSECONDS = (dt.datetime(2026, 1, 31, 12) - dt.datetime(2000, 1, 1)) // dt.timedelta(
    microseconds=1
)


@pytest.mark.parametrize(
    ("type_", "value", "why"),
    [
        (sa.Unicode(4), "abc🙂", "counts as two"),
        (sa.Unicode(3), "abcd", "longer than 3"),
        (sa.Unicode(3), "\ud83d", "half of a surrogate pair"),
        (sa.Unicode(3), "\0", "U\\+0000"),
        (sa.String(3), "漢", "code page 1252 lacks"),
        (sa.Float(53), float("nan"), "NaN"),
        (sa.Float(53), float("-inf"), "infinity"),
        (sa.Float(24), 0.1, "REAL"),
        (sa.Float(53), 5e-324, "no number between 0 and 2.23e-308"),
        (sa.Float(53), -2.2e-308, "no number between 0"),
        (sa.Float(24), 2.0**-127, "no number between 0 and 1.18e-38"),
        (sa.Numeric(5, 2), "1234.00", "more than 3 digits"),
        (sa.DateTime(), MICROSECONDS + 1000, "three-hundredths"),
        (mssql.SMALLDATETIME(), MICROSECONDS + 1_000_000, "minutes"),
        (mssql.DATETIME2(3), MICROSECONDS + 1, "more than 3 digits"),
        (mssql.DATETIMEOFFSET(6), 2**62, "years 1 to 9999"),
        (sa.Date(), 10**7, "years 1 to 9999"),
        (mssql.TINYINT(), 256, "0 to 255"),
        (sa.Integer(), 2**31, "32 bits"),
    ],
)
def test_a_value_that_a_column_cannot_hold_is_refused_by_table_key_and_column(
    type_: Any, value: Any, why: str
) -> None:
    table = Table(
        sa.Table(
            "t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("c", type_)
        )
    )
    column = table.columns[1]
    code_page = 1252 if type(type_) is sa.String else None
    convert = converter(
        table, table.columns, [int, to_mssql(column, tsql.type_name(column), code_page)], "azure"
    )
    with pytest.raises(
        Unrepresentable, match=f"column c of the row with key \\(9\\).*{why}"
    ) as refusal:
        convert((9, value))
    assert (refusal.value.table, refusal.value.database) == ("t", "azure")


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (sa.Unicode(4), "ab🙂"),
        (sa.Unicode(3), "  \n"),
        (sa.String(4), "añ€"),
        (sa.Float(53), sys.float_info.min),
        (sa.Float(24), -(2.0**-126)),
        (sa.Float(53), -0.0),
        (sa.Float(24), 0.5),
        (sa.Numeric(38, 10), "-" + "9" * 28 + "." + "9" * 10),
        (sa.DateTime(), MICROSECONDS + 3000),
        (mssql.DATETIME2(), MICROSECONDS + 1),
        (mssql.DATETIMEOFFSET(6), -63_082_281_600_000_000),
        (sa.Time(), 86_399_999_999),
    ],
)
def test_a_value_that_a_column_can_hold_is_unchanged(type_: Any, value: Any) -> None:
    table = Table(sa.Table("t", sa.MetaData(), sa.Column("c", type_, primary_key=True)))
    column = table.columns[0]
    convert = to_mssql(column, tsql.type_name(column), 1252 if type(type_) is sa.String else None)
    assert convert(value) == value and type(convert(value)) is type(value)


def test_keys_that_the_server_compares_as_equal_are_refused() -> None:
    dialect, raw = _opened(babelfish=False)
    collision = [("1", "k"), ("1", "k ")]
    raw.rows_for = lambda sql: collision if "HAVING count" in sql else [(0,)]  # type: ignore[method-assign]
    table = MODEL.table("user_memory")
    dialect._staging[table.name] = 0
    with pytest.raises(
        Unrepresentable,
        match=r"user_id, key must be unique.*\('1', 'k'\) and \('1', 'k '\).*trailing spaces",
    ):
        dialect.write_staged([table])


def _with_filtered_index(where: Any) -> Table:
    table = sa.Table(
        "accounts",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Unicode(50)),
        sa.Column("deleted", sa.Boolean),
    )
    sa.Index("ux_email", table.c.email, unique=True, mssql_where=where(table))
    return Table(table)


@pytest.mark.parametrize(
    ("where", "condition"),
    [
        (lambda table: table.c.deleted == sa.false(), "deleted = 0"),
        (lambda table: sa.text("deleted = 0"), "deleted = 0"),
        (lambda table: table.c.email.is_not(None), "email IS NOT NULL"),
    ],
)
def test_a_filtered_unique_index_forbids_only_what_it_contains(where: Any, condition: str) -> None:
    """Soft deletes: a deleted row may have the e-mail of another."""
    table = _with_filtered_index(where)
    dialect, raw = _opened(babelfish=False)
    raw.rows_for = lambda sql: []  # type: ignore[method-assign]
    dialect._staging[table.name] = 0
    dialect._refuse_collisions(table, "#dbsync_new_0")
    dialect._refuse_collisions(table, "[dbsync].[loaded_0]", Form(CANONICAL, 3))
    staged, loaded = (statement for statement in raw.statements if "HAVING" in statement)
    for statement in (staged, loaded):
        _parsed(statement)
        assert statement.count(f"WHERE {condition}") == 3, "new rows twice, and live rows"
    assert "convert(bit, s.[deleted]) AS [deleted]" in loaded


def test_a_row_that_would_be_damaged_on_the_way_is_refused() -> None:
    dialect, _ = _opened(babelfish=False)
    table = MODEL.table("user_memory")
    row = (*range(len(table.columns)), 3)
    with pytest.raises(
        Unrepresentable, match=r"column value of the row with key \(0, 1\).*surrogate"
    ):
        dialect._undamaged(table, row)


def test_a_reference_that_leads_nowhere_is_reported() -> None:
    dialect, raw = _opened(babelfish=False)
    raw.rows_for = lambda sql: [(1,)] if "NOT EXISTS" in sql else [(0,)]  # type: ignore[method-assign]
    with pytest.raises(NotProved, match="fk_chats_user_id"):
        dialect.prove_constraints([MODEL.table("chats")])


def test_a_violated_key_of_a_table_outside_the_models_is_reported() -> None:
    """SQL Server checks it as it is switched on again."""
    dialect, raw = _opened(babelfish=False)
    dialect.suspend_constraints([MODEL.table("chats")])
    dialect._suspend()

    def rows_for(sql: str) -> list[Row]:
        if "WITH CHECK CHECK" in sql:
            raise sa.exc.DBAPIError(
                "",
                {},
                Exception(
                    'The ALTER TABLE statement conflicted with the FOREIGN KEY constraint "f".'
                ),
            )
        return [(0,)]

    raw.rows_for = rows_for  # type: ignore[method-assign]
    with pytest.raises(
        NotProved,
        match=r"(?s)table \[dbo\]\.\[c\]: the foreign key \[f\] would not hold.*into the models",
    ):
        dialect.prove_constraints([MODEL.table("chats")])


class _Sized:
    """A cursor of pyodbc that keeps its arguments."""

    def setinputsizes(self, sizes: Any) -> None:
        self.sizes = sizes

    def execute(self, statement: str, *given: str) -> None:
        self.given = given


def test_pyodbc_sends_texts_as_nvarchar_max_and_not_as_ntext() -> None:
    cursor = _Sized()
    drivers.execute(cursor, "SELECT ? + ?", ("a" * 5000, "b"))
    assert cursor.sizes == [(-9, 0, 0)] * 2 and cursor.given[1] == "b"


def test_pyodbc_sends_an_instant_as_a_text_typed_as_datetimeoffset() -> None:
    """With its offset, and a blank before the time: ODBC accepts nothing else."""
    dialect = pyodbc.dialect()  # type: ignore[no-untyped-call]
    instant = dt.datetime(1, 1, 1, 5, 45, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=45)))
    assert Instant().process_bind_param(instant, dialect) == "0001-01-01 05:45:00.000000+05:45"
    table = sa.table("t", sa.column("at", Instant()))
    compiled = table.insert().values(at=instant).compile(dialect=dialect)
    assert list(compiled._get_set_input_sizes_lookup().values()) == [(-155, 34, 7)]  # type: ignore[union-attr]
    assert Instant().compile(dialect) == "DATETIMEOFFSET(6)"


def test_octets_can_be_summed_beyond_two_gigabytes() -> None:
    """DATALENGTH of a bounded column is an int, and so is a sum of ints; not on Babelfish."""
    dialect, _ = _opened(babelfish=False)
    message = str(dialect.octets(sa.column("name")).compile(dialect=mssql.dialect()))  # type: ignore[no-untyped-call]
    assert message == "CAST(datalength(name) AS BIGINT)"


@pytest.mark.parametrize("babelfish", [False, True], ids=["microsoft", "babelfish"])
def test_an_altered_column_stays_not_null(babelfish: bool) -> None:
    """SQL Server drops NOT NULL unless it is repeated; Babelfish keeps it, and rejects it there."""
    dialect, _ = _opened(babelfish)
    output = io.StringIO()
    options = {"as_sql": True, "output_buffer": output, "target_metadata": sa.MetaData()}
    with Operations.context(MigrationContext.configure(dialect_name="mssql", opts=options)) as op:
        op.invoke = lambda operation: dialect.alter(op, operation)  # type: ignore[method-assign]
        op.alter_column(
            "users",
            "name",
            type_=sa.Unicode(80),
            existing_type=sa.Unicode(50),
            existing_nullable=False,
        )
        op.drop_column("users", "tier")
    statements = [
        one.strip()
        for one in re.split(r"^GO$|;", output.getvalue(), flags=re.MULTILINE)
        if one.strip()
    ]
    assert (
        statements[0]
        == f"ALTER TABLE users ALTER COLUMN name NVARCHAR(80){'' if babelfish else ' NOT NULL'}"
    )
    assert (
        "sys.default_constraints" in output.getvalue()
        and statements[-1] == "ALTER TABLE users DROP COLUMN tier"
    )
    _parsed(statements[0]), _parsed(statements[-1])


@pytest.mark.parametrize(
    ("column", "feature", "refused", "said"),
    [
        ("email", "encrypted", (True, True), "Always Encrypted"),
        ("created_at", "period", (False, True), "SET (SYSTEM_VERSIONING = OFF)"),
        ("created_at", "ledger", (False, True), "ledger table"),
        ("preferences", "column set", (False, True), "DROP COLUMN [preferences]"),
        ("preferences", "typed XML", (False, True), "ALTER COLUMN [preferences] XML"),
        ("", "in memory", (False, True), "memory-optimized"),
        ("not_copied", "encrypted", (False, False), ""),
    ],
)
def test_what_a_mirror_cannot_carry_is_refused_by_name(
    column: str, feature: str, refused: tuple[bool, bool], said: str
) -> None:
    tables = MODEL.tables[:1]
    for writing, expected in zip((False, True), refused, strict=True):
        dialect, raw = _opened(babelfish=False)
        raw.rows_for = lambda sql: (  # type: ignore[method-assign]
            [(0, column, feature)] if "encryption_type" in sql else []
        )
        with pytest.raises(StructureError) if expected else contextlib.nullcontext() as refusal:
            dialect.require_supported(tables, writing=writing)
        if refusal is not None:
            text = f"{refusal.value}"
            assert said in text and f"table {tables[0].name}" in text
            assert (f"column {column} " in text) == bool(column)


def test_babelfish_has_nothing_that_a_mirror_cannot_carry() -> None:
    dialect, raw = _opened(babelfish=True)
    dialect.require_supported(MODEL.tables, writing=True)
    assert not raw.statements


def test_keys_are_sent_as_json() -> None:
    assert (
        source.keys_as_json([(1, "a'🙂"), (2, b"\0\xff")])
        == '[[1, "a\'\\ud83d\\ude42"], [2, "AP8="]]'
    )
    assert decimal.Decimal(1)  # plain numerics are texts already


@pytest.mark.parametrize(
    ("level", "granted", "expected"),
    [
        (120, 1, "COMPATIBILITY_LEVEL = 150"),
        (130, 0, "docs/security.md"),
        (130, None, "VIEW DEFINITION"),
    ],
)
def test_a_hidden_catalog_is_refused(level: int, granted: int | None, expected: str) -> None:
    dialect, raw = _opened(babelfish=False)
    raw.rows_for = lambda sql: [(level, granted)]  # type: ignore[method-assign]
    with pytest.raises(DatabaseError) as refusal:
        dialect.require_visible(MODEL.tables)
    assert expected in str(refusal.value)
