"""What an error of either driver means: the project's error for it, with its remedy.

Errors are recognised by the server's number where the driver gives one, else by their text, which
`SET LANGUAGE us_english` keeps English. A message passes on neither values nor secrets.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.mssql import drivers
from dbsync_pipeline.errors import Busy, DatabaseError, SettingsError, Starting, Unavailable


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
        return drivers.missing(_why_not_loaded(text), name)
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
        ctypes.CDLL(drivers.wheel_driver())
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
        f"`{drivers.LOCKS}=locks` to DBSYNC_{name.upper()}_URL: writers of the database then wait while it is read",
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
