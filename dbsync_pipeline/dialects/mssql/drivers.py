"""The two drivers of SQL Server behind one interface: URLs, fetching in batches, loading in bulk.

Microsoft's own driver, mssql-python, is the default: it reads Arrow and loads it over the server's
native bulk protocol. pyodbc serves where an ODBC driver is installed already. Neither is imported
before a URL needs it.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline import extras
from dbsync_pipeline.dialects.table import Row
from dbsync_pipeline.errors import SettingsError

LOCKS = "consistent_reads"
"""The project's own URL option: `consistent_reads=locks` reads under table locks where the database
has no SNAPSHOT isolation."""

LIBRARIES = {
    "libltdl": "libltdl7",
    "libodbc.": "libodbc2",
    "libodbcinst": "libodbcinst2",
    "libgssapi": "libgssapi-krb5-2",
}
"""System libraries of the drivers, as an import error names them, and their Debian packages."""


# -- URLs


def complete_url(url: sa.URL) -> sa.URL:
    """Return the URL with its driver, with encryption unless it decides that itself, and without
    the project's own option.

    SQLAlchemy knows `authentication` in lower case only, and would add Windows authentication
    beside another spelling.
    """
    driver = url.get_driver_name() if "+" in url.drivername else "mssqlpython"
    url = url.set(
        query={
            "authentication" if name.lower() == "authentication" else name: url.query[name]
            for name in url.query
        }
    )
    given = {name.lower() for name in url.query}
    added = {} if "encrypt" in given or "odbc_connect" in given else {"Encrypt": "yes"}
    if driver == "pyodbc" and not given & {"driver", "odbc_connect"}:
        added["driver"] = wheel_driver()
    return (
        url.set(drivername=f"mssql+{driver}")
        .difference_update_query([LOCKS])
        .update_query_dict(added)
    )


def wheel_driver() -> str:
    """Return the path of the ODBC driver in the mssql-python-odbc wheel, or its usual name."""
    spec = importlib.util.find_spec("mssql_python_odbc")
    folder = Path(spec.origin).parent / "libs" if spec and spec.origin else None
    system = "alpine" if Path("/etc/alpine-release").exists() else "debian_ubuntu"
    patterns = (
        f"linux/{system}/*/lib/libmsodbcsql-*.so*",
        "macos/*/lib/libmsodbcsql*.dylib",
        "windows/*/msodbcsql*.dll",
    )
    for pattern in patterns if folder else ():
        for path in sorted(folder.glob(pattern)):  # type: ignore[union-attr]
            if path.parts[-3] in _machine() or path.parts[-2] in _machine():
                return str(path)
    return "ODBC Driver 18 for SQL Server"


def _machine() -> tuple[str, ...]:
    names = {
        "x86_64": ("x86_64", "x64"),
        "AMD64": ("x64", "x86_64"),
        "aarch64": ("arm64", "aarch64"),
    }
    return names.get(platform.machine(), (platform.machine(),))


def reads_under_locks(url: sa.URL) -> bool:
    """Return whether the URL has `consistent_reads=locks`. Raise SettingsError for other values."""
    value = url.query.get(LOCKS)
    if value not in (None, "locks"):
        raise SettingsError(
            f"its URL has {LOCKS} with a value other than `locks`",
            remedy=f"write {LOCKS}=locks, or nothing",
        )
    return value == "locks"


def import_driver(url: sa.URL) -> None:
    """Import the URL's driver. Raise SettingsError with a command where something is missing."""
    driver = {"mssqlpython": "mssql_python", "pyodbc": "pyodbc"}.get(url.get_driver_name())
    if driver is None:
        raise SettingsError(
            f"SQL Server's driver {url.get_driver_name()!r} is unknown; "
            "the known ones are mssqlpython, pyodbc",
            remedy="write the URL as mssql://…, mssql+mssqlpython://… or mssql+pyodbc://…",
        )
    try:
        __import__(driver)
        __import__("pyarrow")
    except ImportError as error:
        raise missing(str(error)) from None


def missing(message: str, name: str | None = None) -> SettingsError:
    """Return the error for a driver that could not be loaded, with what to install."""
    library = next((name for name in LIBRARIES if name in message), None)
    if library is None:
        return SettingsError(
            "the driver of SQL Server is not installed",
            operation="connect",
            database=name,
            remedy=extras.install("mssql"),
        )
    return SettingsError(
        f"the driver of SQL Server needs the system library {library.rstrip('.')}",
        operation="connect",
        database=name,
        remedy=f"sudo apt-get install {LIBRARIES[library]}   "
        "(or the package of that library on this system)",
    )


# -- executing, fetching and loading


def is_native(cursor: Any) -> bool:
    """Return whether this is a cursor of mssql-python."""
    return hasattr(cursor, "arrow_batch")


def execute(cursor: Any, statement: str, texts: Sequence[str]) -> None:
    """Execute a statement whose parameters are all texts.

    pyodbc sends a long one as NTEXT, an obsolete type, unless its type is given.
    """
    if texts and not is_native(cursor):
        cursor.setinputsizes([(_SIZES["NVARCHAR"], 0, 0)] * len(texts))
    cursor.execute(statement, *texts)


def fetch(cursor: Any, size: int) -> list[Row]:
    """Fetch at most `size` rows."""
    if is_native(cursor):
        batch = cursor.arrow_batch(size)
        return (
            list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
            if batch.num_rows
            else []
        )
    return [tuple(row) for row in cursor.fetchmany(size)]


def load(
    connection: Any,
    table: str,
    types: Sequence[str],
    batches: Iterator[list[Row]],
    *,
    bulk: bool = True,
    without_bulk: Callable[[Exception], None] = lambda error: None,
) -> None:
    """Load all rows into a table whose columns have these T-SQL types.

    `connection` commits each statement. By native bulk load where the driver has it and `bulk` is
    true. Where its connection cannot be opened, call `without_bulk` with the error and load by
    INSERT: no row has been sent then. An error that `batches` raises is raised unchanged, whatever
    the driver makes of it.
    """
    failures: list[BaseException] = []

    def watched() -> Iterator[list[Row]]:
        try:
            yield from batches
        except BaseException as error:
            failures.append(error)
            raise

    rows, cursor = watched(), connection.cursor()
    try:
        if bulk and is_native(cursor):
            rows = _bulk(cursor, table, types, rows, without_bulk)
        _many(cursor, table, types, rows)
    except Exception as error:
        if failures:
            raise failures[0] from None
        raise error from None
    finally:
        cursor.close()


def _bulk(
    cursor: Any,
    table: str,
    types: Sequence[str],
    batches: Iterator[list[Row]],
    without_bulk: Callable[[Exception], None],
) -> Iterator[list[Row]]:
    """Load by the native bulk protocol, over a connection that the driver opens for it.

    Return the batches that remain to be loaded: none, or all of them where that connection could
    not be opened.
    """
    import pyarrow as pa

    schema = pa.schema([(f"c{n}", _arrow(name)) for n, name in enumerate(types)])
    first, second = next(batches, None), next(batches, None)
    if first is None:
        return batches
    if second is None and len(first) <= _FEW:
        return iter([first])  # fewer trips than the login of another connection
    batches = chain([] if second is None else [second], batches)
    sent = False

    def records() -> Iterator[Any]:
        nonlocal sent
        sent = True
        for batch in chain([first], batches):
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array(column, field.type)
                    for column, field in zip(zip(*batch, strict=True), schema, strict=True)
                ],
                schema=schema,
            )

    try:
        cursor.bulkcopy_arrow(table, records(), timeout=0, keep_nulls=True, table_lock=True)
    except Exception as error:
        if sent:
            raise
        without_bulk(error)
        return chain([first], batches)
    return iter(())


def _arrow(type_name: str) -> Any:
    import pyarrow as pa

    types = {
        "BIGINT": pa.int64,
        "INT": pa.int32,
        "SMALLINT": pa.int16,
        "FLOAT": pa.float64,
        "VARBINARY": pa.binary,
    }
    return types.get(type_name.split("(")[0].split(" ")[0], pa.string)()


def _many(cursor: Any, table: str, types: Sequence[str], batches: Iterator[list[Row]]) -> None:
    """Load by INSERT with arrays of parameters."""
    insert = f"INSERT INTO {table} VALUES ({', '.join('?' * len(types))})"
    kinds = [name.split("(")[0].split(" ")[0] for name in types]
    for batch in batches:
        if is_native(cursor):
            _many_sized(cursor, insert, kinds, batch)
        else:
            cursor.fast_executemany = True
            cursor.setinputsizes(
                [(_SIZES[kind], 0, 0) if kind in _SIZES else None for kind in kinds]
            )
            cursor.executemany(insert, batch)


def _many_sized(cursor: Any, insert: str, kinds: Sequence[str], batch: list[Row]) -> None:
    """Insert a batch by mssql-python, which reserves the longest value's size for every row.

    Without sizes it would guess a column's type from a few rows. Rows with a long value go one by
    one; the others in parts that take at most _ARRAY_BYTES.
    """
    short = [row for row in batch if _longest(row) <= _SHORT]
    for row in batch:
        if _longest(row) > _SHORT:
            cursor.execute(insert, row)
    if not short:
        return
    sizes = [
        max((_length(value) for value in column), default=1) or 1
        for column in zip(*short, strict=True)
    ]
    rows = max(1, _ARRAY_BYTES // (2 * sum(sizes)))
    for start in range(0, len(short), rows):
        cursor.setinputsizes(
            [(_NATIVE_TYPES[kind], size, 0) for kind, size in zip(kinds, sizes, strict=True)]
        )
        cursor.executemany(insert, short[start : start + rows])


def _length(value: Any) -> int:
    """Return the size of a value: in UTF-16 units for a text, in bytes for others."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-16-le")) // 2
    return len(value) if isinstance(value, bytes) else 8


def _longest(row: Row) -> int:
    return max(map(_length, row))


def write_many(cursor: Any, statement: str, rows: Sequence[Any]) -> None:
    """Execute a statement for many rows; mssql-python does it row by row.

    mssql-python guesses a column's type from a few rows: where these are ASCII, it sends all as
    VARCHAR, with a question mark for each letter that the code page lacks.
    """
    if is_native(cursor):
        for row in rows:
            cursor.execute(statement, row)
    else:
        cursor.executemany(statement, rows)


_SIZES = {"NVARCHAR": -9, "VARBINARY": -3}
"""ODBC's SQL_WVARCHAR and SQL_VARBINARY; without a size, of any length."""

_NATIVE_TYPES = _SIZES | {"BIGINT": -5, "INT": 4, "SMALLINT": 5, "FLOAT": 8}
"""ODBC's numbers of the types of staging."""

_FEW = 100
"""Rows that are loaded by INSERT, without a bulk load."""

_SHORT = 4000
"""The longest text that an NVARCHAR with a size holds."""

_ARRAY_BYTES = 32 * 1024 * 1024
"""The most memory for one array of parameters."""


def cancel(cursor: Any) -> None:
    """Stop the statement of a cursor, from another thread."""
    if is_native(cursor):
        if handle := cursor.hstmt:  # None once the cursor is closed
            handle._cancel()  # the driver has no public way
    else:
        cursor.cancel()


def roll_back_and_leave(connection: Any) -> None:
    """Roll back before SQLAlchemy closes the connection. Raise where the server has ended it.

    mssql-python ignores a second close; pyodbc does not, and SQLAlchemy would log it.
    """
    if type(connection).__module__.startswith("mssql_python"):
        connection.close()
    else:
        connection.rollback()
