"""The two drivers of SQL Server behind one face: how to connect, fetch in batches, load in bulk, and what an error means.

Microsoft's own driver, mssql-python, is the default: it reads Arrow and loads it over the server's native bulk protocol. pyodbc serves
where somebody has an ODBC driver of their own. Neither is imported before a URL asks for it.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline import extras
from dbsync_pipeline.dialects.table import Row
from dbsync_pipeline.errors import Busy, DatabaseError, SettingsError, Starting, Unavailable

LOCKS = "consistent_reads"
"""The URL's own option: `consistent_reads=locks` reads under table locks where the database has no SNAPSHOT isolation."""

_LIBRARIES = {
    "libltdl": "libltdl7",
    "libodbc.": "libodbc2",
    "libodbcinst": "libodbcinst2",
    "libgssapi": "libgssapi-krb5-2",
}


# -- connecting


def url_of(url: sa.URL) -> sa.URL:
    """The URL with its driver named, encrypted and verified unless it says otherwise, and without what is ours.

    SQLAlchemy knows `authentication` in small letters only, and would ask for Windows authentication beside it.
    """
    driver = url.get_driver_name() if "+" in url.drivername else "mssqlpython"
    url = url.set(
        query={
            "authentication" if name.lower() == "authentication" else name: url.query[name]
            for name in url.query
        }
    )
    given = {name.lower() for name in url.query}
    ours = {} if "encrypt" in given or "odbc_connect" in given else {"Encrypt": "yes"}
    if driver == "pyodbc" and not given & {"driver", "odbc_connect"}:
        ours["driver"] = _wheel_driver()
    return (
        url.set(drivername=f"mssql+{driver}")
        .difference_update_query([LOCKS])
        .update_query_dict(ours)
    )


def _wheel_driver() -> str:
    """The ODBC driver inside the mssql-python-odbc wheel, by its path."""
    found = importlib.util.find_spec("mssql_python_odbc")
    folder = Path(found.origin).parent / "libs" if found and found.origin else None
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
    import platform

    return {
        "x86_64": ("x86_64", "x64"),
        "AMD64": ("x64", "x86_64"),
        "aarch64": ("arm64", "aarch64"),
    }.get(platform.machine(), (platform.machine(),))


def under_locks(url: sa.URL) -> bool:
    """Whether the URL asks for reads under locks; raises SettingsError where it asks for what there is not."""
    asked = url.query.get(LOCKS)
    if asked not in (None, "locks"):
        raise SettingsError(
            f"its URL has {LOCKS} with a value other than `locks`",
            remedy=f"write {LOCKS}=locks, or nothing",
        )
    return asked == "locks"


def import_driver(url: sa.URL) -> None:
    """Raises SettingsError with the command that installs what is missing."""
    driver = {"mssqlpython": "mssql_python", "pyodbc": "pyodbc"}.get(url.get_driver_name())
    if driver is None:
        raise SettingsError(
            f"the driver {url.get_driver_name()!r} of SQL Server is not known; known are: mssqlpython, pyodbc",
            remedy="write the URL as mssql://…, mssql+mssqlpython://… or mssql+pyodbc://…",
        )
    try:
        __import__(driver)
        __import__("pyarrow")
    except ImportError as error:
        raise missing(str(error)) from None


def missing(message: str, name: str | None = None) -> SettingsError:
    """What is to be installed where a driver could not be loaded."""
    library = next((name for name in _LIBRARIES if name in message), None)
    if library is None:
        return SettingsError(
            "the driver of SQL Server is not installed",
            operation="connect",
            database=name,
            remedy=extras.install("mssql"),
        )
    return SettingsError(
        f"the driver of SQL Server needs the system library {library.rstrip('.')}, which is not there",
        operation="connect",
        database=name,
        remedy=f"sudo apt-get install {_LIBRARIES[library]}   (or the package of that library on this system)",
    )


class DriverErrors:
    """The errors of the drivers that are loaded; a driver that is not loaded raises none. To be used as a class attribute."""

    def __get__(self, _instance: object, _owner: type) -> tuple[type[Exception], ...]:
        native = sys.modules.get("mssql_python")
        found = [
            sa.exc.DBAPIError,
            *((native.Error, native.ConnectionStringParseError) if native else ()),
        ]
        odbc = sys.modules.get("pyodbc")
        return (*found, *((odbc.Error,) if odbc else ()))


# -- executing, fetching and loading


def is_native(cursor: Any) -> bool:
    """Is this a cursor of mssql-python?"""
    return hasattr(cursor, "arrow_batch")


def execute(cursor: Any, statement: str, texts: Sequence[str]) -> None:
    """A statement with its parameters, all of them texts: of pyodbc's a long one is an NTEXT, a type of old, unless told otherwise."""
    if texts and not is_native(cursor):
        cursor.setinputsizes([(_SIZES["NVARCHAR"], 0, 0)] * len(texts))
    cursor.execute(statement, *texts)


def fetch(cursor: Any, size: int) -> list[Row]:
    """Up to `size` rows."""
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
) -> None:
    """All rows into a table whose columns have these T-SQL types; `connection` commits by itself. `bulk` where the driver knows it.

    An error of `batches` comes out as itself, whatever the driver makes of it.
    """
    failures: list[BaseException] = []

    def watched() -> Iterator[list[Row]]:
        try:
            yield from batches
        except BaseException as error:
            failures.append(error)
            raise

    cursor = connection.cursor()
    try:
        (_bulk if bulk and is_native(cursor) else _many)(cursor, table, types, watched())
    except Exception as error:
        if failures:
            raise failures[0] from None
        raise error from None
    finally:
        cursor.close()


def _bulk(cursor: Any, table: str, types: Sequence[str], batches: Iterator[list[Row]]) -> None:
    """Native bulk load, over a connection of its own."""
    import pyarrow as pa

    schema = pa.schema([(f"c{n}", _arrow(name)) for n, name in enumerate(types)])
    first = next(batches, None)
    if first is None:
        return

    def records() -> Iterator[Any]:
        batch: list[Row] | None = first
        while batch:
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array(column, field.type)
                    for column, field in zip(zip(*batch, strict=True), schema, strict=True)
                ],
                schema=schema,
            )
            batch = next(batches, None)

    cursor.bulkcopy_arrow(table, records(), timeout=0, keep_nulls=True, table_lock=True)


def _arrow(type_name: str) -> Any:
    import pyarrow as pa

    kind = type_name.split("(")[0].split(" ")[0]
    arrow = {
        "BIGINT": pa.int64,
        "INT": pa.int32,
        "SMALLINT": pa.int16,
        "FLOAT": pa.float64,
        "VARBINARY": pa.binary,
    }
    return arrow.get(kind, pa.string)()


def _many(cursor: Any, table: str, types: Sequence[str], batches: Iterator[list[Row]]) -> None:
    """Arrays of parameters."""
    insert = f"INSERT INTO {table} VALUES ({', '.join('?' * len(types))})"
    sizes = [_SIZES.get(name.split("(")[0]) for name in types]
    for batch in batches:
        if not is_native(cursor):
            cursor.fast_executemany = True
            cursor.setinputsizes([(size, 0, 0) if size else None for size in sizes])
        write_many(cursor, insert, batch)


def write_many(cursor: Any, statement: str, rows: Sequence[Any]) -> None:
    """Many rows of an application's: one by one by mssql-python, which takes a column's type from a few of them.

    Where those are ASCII it sends all of them as VARCHAR, with a question mark for every letter that the code page lacks.
    """
    if is_native(cursor):
        for row in rows:
            cursor.execute(statement, row)
    else:
        cursor.executemany(statement, rows)


_SIZES = {"NVARCHAR": -9, "VARBINARY": -3}
"""ODBC's SQL_WVARCHAR and SQL_VARBINARY: without a size, of any length."""


def cancel(cursor: Any) -> None:
    """Stop the statement of a cursor, from another thread."""
    if is_native(cursor):
        if handle := cursor.hstmt:  # None once the cursor is closed
            handle._cancel()  # the driver has no public way
    else:
        cursor.cancel()


def leave(connection: Any) -> None:
    """Give up what is open, before SQLAlchemy closes the connection; raises where the server has ended it already.

    mssql-python takes a second close for none; pyodbc does not, and would be reported in the log.
    """
    if type(connection).__module__.startswith("mssql_python"):
        connection.close()
    else:
        connection.rollback()


# -- errors


def plain_message(error: BaseException) -> str:
    """The server's own words, without the values that it quotes and without what the drivers put before and after them."""
    message = str(
        getattr(error, "ddbc_error", None)
        or (error.args[-1] if error.args else "")
        or type(error).__name__
    )
    message = message.split("DDBC Error: ")[-1]
    message = (
        re.sub(r"\[[^\]]*\]", "", message, count=0 if message.startswith("[") else 1)
        if message.startswith("[")
        else message
    )
    return _VALUES.sub("", re.sub(r"\s*\(\d+\)\s*\(SQL\w+\).*$", "", message, flags=re.S)).strip()


_VALUES = re.compile(
    r"\s*The duplicate key value is \(.*\)\.?|\s*Truncated value: '.*'\.?| '.*'(?= to data type| overflowed)|, value = [^.]*",
    re.S,
)
"""What SQL Server tells of rows, in the errors 2601, 2627, 2628, 244, 245 and 220."""


def number(error: BaseException) -> int | None:
    """The server's number of an error, where the driver tells it: mssql-python gives the text only."""
    found = re.search(r"\((\d+)\) \(SQL\w+\)", str(error))
    return int(found[1]) if found else None


def translate(error: BaseException, name: str, operation: str) -> Exception:
    """The project's error for a driver's, without its chain."""
    original = getattr(error, "orig", None) or error
    if type(original).__name__ == "ConnectionStringParseError":
        return _not_parsed(str(original), name)
    text, code = str(original), number(original)
    if "Failed to load the driver" in text or "libodbc" in text:
        return missing(_why_not_loaded(text), name)
    for numbers, pieces, make in _MEANINGS:
        if code in numbers or any(piece in text for piece in pieces):
            made: Exception = make(name, operation)
            return made
    message = plain_message(original)
    if code in _NO_RIGHT or any(piece in text for piece in _NO_RIGHT_TEXTS):
        return DatabaseError(
            f"the user of {name} lacks a right: {message}",
            operation=operation,
            database=name,
            remedy=GRANT,
        )
    if code in _DUPLICATE or "duplicate key" in text:
        return DatabaseError(message, operation=operation, database=name, remedy=_UNIQUE)
    mended = (
        f"see that DBSYNC_{name.upper()}_URL is right; docs/sql-server.md has one of every kind"
        if operation == "connect"
        else None
    )
    return DatabaseError(message, operation=operation, database=name, remedy=mended)


def _not_parsed(text: str, name: str) -> SettingsError:
    """What mssql-python says of a URL before it connects. A word of it may be a piece of a password that was not written as %XX."""
    empty = [word for word in ("server", "database") if f"Empty value for keyword '{word}'" in text]
    unknown = "has an option that the driver does not know"
    remedy = f"mend DBSYNC_{name.upper()}_URL"
    if "'odbc_connect'" in text:
        unknown, remedy = (
            "has a whole connection string, which pyodbc takes",
            f"begin DBSYNC_{name.upper()}_URL with mssql+pyodbc://",
        )
    elif empty:
        unknown = f"names no {' and no '.join(empty)}"
    return SettingsError(f"its URL {unknown}", operation="connect", database=name, remedy=remedy)


def _why_not_loaded(text: str) -> str:
    """mssql-python does not say which library its driver lacks."""
    import ctypes

    try:
        ctypes.CDLL(_wheel_driver())
    except OSError as error:
        return str(error)
    return text


def _busy(cause: str) -> Any:
    return lambda name, operation: Busy(
        cause, operation=operation, database=name, remedy="try again later"
    )


def _gone(
    cause: str,
    remedy: str = "see that the server of {name} runs and that {url} is right, then try again",
    kind: type[Unavailable] = Unavailable,
) -> Any:
    def make(name: str, operation: str) -> Unavailable:
        told = remedy.format(name=name, url=f"DBSYNC_{name.upper()}_URL")
        return kind(cause, operation=operation, database=name, remedy=told)

    return make


def _wrong(cause: str, remedy: str) -> Any:
    return lambda name, operation: SettingsError(
        cause,
        operation=operation,
        database=name,
        remedy=remedy.format(url=f"DBSYNC_{name.upper()}_URL"),
    )


def _no_snapshot(name: str, operation: str) -> DatabaseError:
    return DatabaseError(
        "the database does not allow SNAPSHOT isolation, without which it cannot be read consistently beside its writers",
        operation=operation,
        database=name,
        remedy="ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON; where that may not be, add "
        f"`{LOCKS}=locks` to DBSYNC_{name.upper()}_URL: writers of the database then wait while it is read",
    )


def _cancelled(name: str, operation: str) -> DatabaseError:
    return DatabaseError("the statement was cancelled", operation=operation, database=name)


_NO_RIGHT = (229, 230, 262, 297, 300, 1088, 2760, 15247)
_NO_RIGHT_TEXTS = (
    "permission was denied",
    "permission denied",
    "not have permission",
    "must be owner",
)
_DUPLICATE = (2601, 2627)
_UNIQUE = (
    "where the models do not have that unique index or constraint, drop it on the target; where they do, look for rows that differ in "
    "nothing but what it ignores: SQL Server takes two NULLs as equal"
)
GRANT = "grant it; docs/security.md lists what a role needs"

# the numbers are Microsoft's; the texts stand for them where the driver does not give numbers
_MEANINGS: tuple[tuple[tuple[int, ...], tuple[str, ...], Any], ...] = (
    (
        (1205,),
        ("deadlock", "Serialization failure"),
        _busy("the server ended this work to break a deadlock"),
    ),
    (
        (1222,),
        ("Lock request time out", "due to lock timeout"),
        _busy("somebody holds a lock on the tables"),
    ),
    ((3952,), ("snapshot isolation is not allowed",), _no_snapshot),
    (
        (3960, 3961),
        ("Snapshot isolation transaction", "could not serialize"),
        _busy("a table was changed under the snapshot"),
    ),
    (
        (40613, 40197, 40501, 49918, 49919, 49920, 10928, 10929, 40143, 40540, 4221, 615, 926),
        (
            "is not currently available",
            "The service has encountered an error",
            "The service is currently busy",
            "Not enough resources to process request",
            "Too many operations in progress",
            "Too many create or update operations",
            "limit for the database is",
        ),
        _gone(
            "the service is busy, or is moving or waking the database",
            "try again in a minute",
            Starting,
        ),
    ),
    (
        (),
        (
            "Entra ID access token",
            "Azure AD authentication failed",
            "Azure authentication libraries",
        ),
        _gone(
            "no token of Microsoft Entra is to be had here",
            "give this machine the identity, or log in (`az login`) as the user that {url} means; docs/sql-server.md lists the kinds",
        ),
    ),
    (
        (),
        ("SSPI Provider", "Cannot generate SSPI context"),
        _gone(
            "Windows authentication failed: there is no ticket for the user of the mirror",
            "run `kinit` as that user, or write a user and a password into {url}",
        ),
    ),
    (
        (18456,),
        ("Login failed", "authentication failed"),
        _gone("the server refused the user or the password"),
    ),
    (
        (4060, 911),
        ("Cannot open database", "does not exist. Make sure"),
        _gone("there is no such database, or this user may not open it"),
    ),
    (
        (),
        (
            "name does not match",
            "hostname mismatch",
            "IP address mismatch",
            "principal name is incorrect",
        ),
        _gone(
            "the server's certificate is for another name than the one in its URL",
            "write the host in {url} as the certificate has it, or add `HostnameInCertificate=<that name>`",
        ),
    ),
    (
        (),
        ("certificate verify failed", "certificate chain"),
        _gone(
            "the server's certificate cannot be verified",
            "add the certificate of its authority to those that this system trusts (docs/sql-server.md says how)",
        ),
    ),
    (
        (),
        ("Encryption not supported",),
        _gone(
            "the server offers no encryption, so that no encrypted connection to it could be made",
            "give the server a certificate; or add `?Encrypt=no` to {url}, on a network where nobody listens",
        ),
    ),
    (
        (),
        ("SSL Provider", "TLS handshake"),
        _gone("no encrypted connection to the server could be made"),
    ),
    ((), ("Operation canceled", "HY008", "canceling statement"), _cancelled),
    ((), ("Login timeout", "Connection timeout", "timeout expired"), _gone("no answer in time")),
    (
        (),
        ("Invalid value specified for connection string",),
        _wrong(
            "an option of its URL has a value that the driver does not know",
            "mend that option of {url}",
        ),
    ),
    (
        (),
        ("Can't open lib", "Data source name not found"),
        _wrong(
            "there is no such ODBC driver here",
            "name an installed one in {url}, as `driver=…` or, in a whole connection string, as `Driver=…`; "
            "mssql+pyodbc://user:password@host/name needs none",
        ),
    ),
    (
        (),
        ("Client unable to establish", "08001", "TCP Provider", "Unable to complete login"),
        _gone("nothing answers at that address"),
    ),
    (
        (64, 233, 10053, 10054),
        (
            "Communication link failure",
            "08S01",
            "08S02",
            "Connection not open",
            "closed connection",
            "Connection closed",
            "terminating connection",
        ),
        _gone("the connection was lost"),
    ),
)
