"""What an error of either driver means: the project's error for it, with its remedy.

An error is recognised by the server's number where the driver gives one, else by its text, else by
its SQLSTATE. pyodbc gives all three. mssql-python gives no number, and a fixed text per SQLSTATE;
`SET LANGUAGE us_english` keeps the server's text English, except while a login is refused.

A message passes on no value, no secret, no server name and no client address. The numbers and
texts are those of `sys.messages`; which of them a retry can fix is in Microsoft's lists of
transient errors (Microsoft.Data.SqlClient, `SqlConfigurableRetryFactory`; Azure SQL, "Troubleshoot
transient connection errors").
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from dbsync_pipeline.dialects.mssql import drivers
from dbsync_pipeline.errors import (
    Busy,
    DatabaseError,
    DbsyncError,
    SettingsError,
    Starting,
    Unavailable,
)


class DriverErrors:
    """A class attribute: the error classes of the drivers that are imported by then."""

    def __get__(self, _instance: object, _owner: type) -> tuple[type[Exception], ...]:
        native, odbc = sys.modules.get("mssql_python"), sys.modules.get("pyodbc")
        return (
            sa.exc.DBAPIError,
            *((native.Error, native.ConnectionStringParseError) if native else ()),
            *((odbc.Error,) if odbc else ()),
        )


# -- reading a driver's error


def numbers(error: BaseException) -> set[int]:
    """Return the server's numbers in an error: one, several or, by mssql-python, none."""
    return {int(number) for number in re.findall(r"\((-?\d+)\) \(SQL\w+\)", str(error))}


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error, where it is one that has a meaning here."""
    if (text := getattr(error, "driver_error", None)) is not None:
        return _NATIVE_STATES.get(str(text))
    state = str(error.args[0]) if error.args else ""
    return state if re.fullmatch(r"[0-9A-Z]{5}", state) else None


_NATIVE_STATES = {
    "Client unable to establish connection": "08001",
    "Connection not open": "08003",
    "Server rejected the connection": "08004",
    "Connection failure during transaction": "08007",
    "Communication link failure": "08S01",
    "Integrity constraint violation": "23000",
    "Invalid authorization specification": "28000",
    "Serialization failure": "40001",
    "Operation canceled": "HY008",
    "Timeout expired": "HYT00",
    "Connection timeout expired": "HYT01",
}
"""mssql-python's texts for the SQLSTATEs that have a meaning here (`mssql_python.exceptions`)."""


def is_violation(error: BaseException) -> bool:
    """Return whether a constraint refused a statement: a unique one or a foreign key (SQLSTATE
    23000).
    """
    original = getattr(error, "orig", None) or error
    return bool(numbers(original) & {547, 2601, 2627}) or sqlstate(original) == "23000"


def plain_message(error: BaseException) -> str:
    """Return the server's message without values, server names and addresses, and without what
    the drivers add before and after it.
    """
    message = str(
        getattr(error, "ddbc_error", None)
        or (error.args[-1] if error.args else "")
        or type(error).__name__
    )
    message = message.split("DDBC Error: ")[-1]
    if message.startswith("["):
        message = re.sub(r"\[[^\]]*\]", "", message)
    message = re.sub(r"\s*\(-?\d+\)\s*\(SQL\w+\).*$", "", message, flags=re.S)
    return _ADDRESS.sub("(address)", _SERVER.sub(r"\1", _VALUES.sub("", message))).strip()


_VALUES = re.compile(
    r"\s*The duplicate key value is \(.*\)\.?"
    r"|\s*Truncated value: '.*'\.?"
    r"| '.*'(?= to data type| overflowed)"
    r"|, value = [^.]*",
    re.S,
)
"""What SQL Server quotes of rows, in the errors 2601, 2627, 2628, 244, 245 and 220."""

_SERVER = re.compile(r"\b([Ss]erver|[Hh]ost|connecting to) ['\"][^'\"]*['\"]")
_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\b(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{1,4}\b")


# -- meanings


def translate(error: BaseException, name: str, operation: str) -> DbsyncError:
    """Return the project's error for a driver's error.

    `name` is the database's name in the mirror, `operation` what was tried.
    """
    original = getattr(error, "orig", None) or error
    text = str(original)
    if type(original).__name__ == "ConnectionStringParseError":
        return _not_parsed(text, name)
    if "Failed to load the driver" in text or "libodbc" in text:
        return drivers.missing(_why_not_loaded(text), name)
    meaning = _meaning(original)
    if meaning is not None:
        return meaning.error(name, operation, plain_message(original))
    remedy = (
        f"check DBSYNC_{name.upper()}_URL; docs/sql-server.md has a URL of every kind"
        if operation == "connect"
        else None
    )
    return DatabaseError(plain_message(original), operation=operation, database=name, remedy=remedy)


def _not_parsed(text: str, name: str) -> SettingsError:
    """Return the error for a URL that mssql-python refuses before it connects.

    Its text may contain a piece of a password that was not written as %XX.
    """
    url = f"DBSYNC_{name.upper()}_URL"
    empty = [item for item in ("server", "database") if f"for keyword '{item}'" in text]
    cause, remedy = "has an option that the driver does not know", f"fix {url}"
    if "'odbc_connect'" in text:
        cause = "has a whole connection string, which only pyodbc takes"
        remedy = f"begin {url} with mssql+pyodbc://"
    elif empty:
        cause = f"names no {' and no '.join(empty)}"
    return SettingsError(f"its URL {cause}", operation="connect", database=name, remedy=remedy)


def _why_not_loaded(text: str) -> str:
    """Return which library the driver lacks, which mssql-python does not report."""
    try:
        ctypes.CDLL(drivers.wheel_driver())
    except OSError as error:
        return str(error)
    return text


Make = Callable[..., DbsyncError]


@dataclass(frozen=True)
class Meaning:
    """One kind of failure: how to recognise it, and the error that reports it.

    `cause` and `remedy` may contain {name}, {url} (the setting) and {message} (the server's).
    """

    make: Make
    cause: str
    remedy: str | None
    numbers: frozenset[int] = frozenset()
    texts: tuple[str, ...] = ()
    states: tuple[str, ...] = ()

    def error(self, name: str, operation: str, message: str) -> DbsyncError:
        """Return the error for this database and operation."""
        cause, remedy = (
            (text or "")
            .replace("{name}", name)
            .replace("{url}", f"DBSYNC_{name.upper()}_URL")
            .replace("{message}", message)
            for text in (self.cause, self.remedy)
        )
        return self.make(cause, operation=operation, database=name, remedy=remedy or None)


def _meaning(error: BaseException) -> Meaning | None:
    """Return the meaning of an error: by its numbers, else by its text, else by its SQLSTATE."""
    codes, text, state = numbers(error), str(error), sqlstate(error)
    tests: tuple[Callable[[Meaning], bool], ...] = (
        lambda meaning: bool(codes & meaning.numbers),
        lambda meaning: any(piece in text for piece in meaning.texts),
        lambda meaning: state in meaning.states,
    )
    return next((candidate for test in tests for candidate in _MEANINGS if test(candidate)), None)


GRANT = "grant it; docs/security.md lists what a role needs"
_RUNNING = "check that the server of {name} runs and that {url} is right, then try again"
_LATER = "try again later"

_MEANINGS = (
    # -- another session is in the way: nothing was written, a retry helps
    Meaning(
        Busy,
        "the server ended this work to break a deadlock",
        _LATER,
        frozenset({1205}),
        ("deadlock", "Serialization failure"),
        ("40001",),
    ),
    Meaning(
        Busy,
        "another session has a lock on the tables",
        _LATER,
        frozenset({1222}),
        ("Lock request time out", "due to lock timeout"),
    ),
    Meaning(
        DatabaseError,
        "the database does not allow SNAPSHOT isolation, without which it cannot be read "
        "consistently beside its writers",
        "ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON; where that is not possible, add "
        f"`{drivers.LOCKS}=locks` to {{url}}: writers of the database then wait while it is read",
        frozenset({3952}),
        ("snapshot isolation is not allowed",),
    ),
    Meaning(
        Busy,
        "a table was changed, or its structure was, while the snapshot was read",
        _LATER,
        frozenset({3960, 3961, 3962, 41301, 41302, 41305, 41325, 41839}),
        ("Snapshot isolation transaction", "could not serialize"),
    ),
    Meaning(
        DatabaseError,
        "the server ended the bulk load: {message}",
        "write mssql+pyodbc:// into {url}, which loads in another way",
        texts=("Error code 4804",),  # the stream ended early; it arrives as 40197
    ),
    # -- the server is short of something: a retry helps
    Meaning(
        Busy,
        "the server is short of memory, locks or workers",
        "try again when it is less busy",
        frozenset({701, 802, 844, 845, 847, 1204, 8628, 8645, 8651, 10936}),
        (
            "insufficient system memory",
            "insufficient memory available",
            "waiting for memory resources",
            "memory grant was not available",
            "cannot obtain a LOCK resource",
            "waiting for buffer latch",
            "limit for the elastic pool is",
        ),
    ),
    Meaning(
        Starting,
        "the service is busy, or is moving or waking the database",
        "try again in a minute",
        frozenset(
            {615, 921, 922, 926, 952, 4221, 10928, 10929, 18401, 40143, 40197, 40501, 40540}
            | {40613, 40627, 42108, 42109, 49918, 49919, 49920}
        ),
        (
            "is not currently available",
            "The service has encountered an error",
            "The service is currently busy",
            "Not enough resources to process request",
            "Too many operations in progress",
            "Too many create or update operations",
            "limit for the database is",
            "too busy to support requests",
            "HADR_DATABASE_WAIT",
            "is being recovered",
            "has not been recovered yet",
            "is in transition",
            "script upgrade mode",
            "SQL pool is",
            "Operation on server and database",
            "The database may be offline. Wait",
        ),
    ),
    Meaning(
        Starting,
        "the availability group is failing over, or this replica does not serve reads",
        "try again in a minute; if it stays so, name the group's listener in {url}",
        frozenset({976, 979, 983, 988, 41131, 41158}),
        (
            "is currently not accessible for queries",
            "Unable to access availability database",
            "lacks a quorum of nodes",
        ),
    ),
    # -- the database as it is cannot take this work
    Meaning(
        DatabaseError,
        "this replica of the availability group is for read-only connections",
        "name the group's listener in {url}; to read from this replica as a source only, add "
        "`ApplicationIntent=ReadOnly`",
        frozenset({978}),
        ("application intent is set to read only",),
    ),
    Meaning(
        DatabaseError,
        "the database is read-only",
        "name the primary replica in {url}, or ALTER DATABASE CURRENT SET READ_WRITE",
        frozenset({3906, 3908, 40890}),
        ("because the database is read-only",),
    ),
    Meaning(
        DatabaseError,
        "the transaction log is full, or the service ended a transaction that wrote too much",
        "back up the log or let it grow; on Azure SQL choose a larger service tier",
        frozenset({9002, 40549, 40550, 40551, 40552, 40553, 45156}),
        (
            "The transaction log for database",
            "you have a long-running transaction",
            "excessive transaction log space",
            "acquired too many locks",
            "excessive tempdb usage",
            "excessive memory usage",
        ),
    ),
    Meaning(
        DatabaseError,
        "the database has no room for more rows",
        "give it more space: a larger maximum size, another file, or a larger service tier",
        frozenset({1101, 1105, 40544, 40545}),
        (
            "has reached its size quota",
            "Could not allocate space for object",
            "Could not allocate a new page",
        ),
    ),
    Meaning(
        DatabaseError,
        "a memory-optimised table cannot be read or written in this way",
        "leave the table out of the models, or make it a disk-based one",
        frozenset({10794, 12307, 12310, 41332, 41333}),
        ("memory optimized tables",),
    ),
    # -- who connects
    Meaning(
        Unavailable,
        "the firewall of the Azure SQL server does not admit this machine",
        "add its address to the server's firewall rules, or a rule for its virtual network",
        frozenset({40615, 40914, 47073}),
        ("Client with IP address", "Client is not allowed", "Deny Public Network Access"),
    ),
    Meaning(
        Unavailable,
        "no token of Microsoft Entra is available here",
        "give this machine the identity, or log in (`az login`) as the user that {url} names; "
        "docs/sql-server.md lists the kinds",
        texts=(
            "Entra ID access token",
            "Azure AD authentication failed",
            "Azure authentication libraries",
        ),
    ),
    Meaning(
        Unavailable,
        "Windows authentication failed: there is no ticket for the user of the mirror",
        "run `kinit` as that user, or write a user and a password into {url}",
        frozenset({18452}),
        ("SSPI Provider", "Cannot generate SSPI context", "untrusted domain"),
    ),
    Meaning(
        Unavailable,
        "there is no such database, or this user may not open it",
        _RUNNING,
        frozenset({911, 916, 4060, 40532}),
        ("Cannot open database", "does not exist. Make sure", "Cannot open server"),
        ("08004", "3D000"),
    ),
    Meaning(
        Unavailable,
        "the login is disabled or locked, or its password has expired",
        "enable the login or change its password, then write it into {url}",
        frozenset({18463, 18464, 18465, 18466, 18470, 18486, 18487, 18488}),
        ("account is disabled", "account is currently locked out", "password of the account"),
    ),
    Meaning(
        Unavailable,
        "the server refused the user or the password",
        _RUNNING,
        frozenset({18456}),
        ("Login failed", "authentication failed"),
        ("28000",),
    ),
    # -- encryption
    Meaning(
        Unavailable,
        "the server's certificate is for another name than the one in its URL",
        "write the host in {url} as the certificate has it, or add "
        "`HostnameInCertificate=<that name>`",
        texts=(
            "name does not match",
            "hostname mismatch",
            "IP address mismatch",
            "principal name is incorrect",
        ),
    ),
    Meaning(
        Unavailable,
        "the server's certificate cannot be verified",
        "add the certificate of its authority to those that this system trusts "
        "(docs/sql-server.md describes how)",
        texts=("certificate verify failed", "certificate chain"),
    ),
    Meaning(
        Unavailable,
        "no encrypted connection could be made: the server offers no encryption",
        "give the server a certificate; or add `?Encrypt=no` to {url}, on a network that nobody "
        "can listen to",
        frozenset({20}),
        ("Encryption not supported",),
    ),
    Meaning(
        Unavailable,
        "no encrypted connection to the server could be made",
        _RUNNING,
        texts=("SSL Provider", "TLS handshake"),
    ),
    # -- URLs
    Meaning(
        SettingsError,
        "an option of its URL has a value that the driver does not know",
        "fix that option of {url}",
        texts=("Invalid value specified for connection string",),
    ),
    Meaning(
        SettingsError,
        "there is no such ODBC driver here",
        "name an installed one in {url}, as `driver=…` or, in a whole connection string, as "
        "`Driver=…`; mssql+pyodbc://user:password@host/name needs none",
        texts=("Can't open lib", "Data source name not found"),
        states=("IM002", "IM003"),
    ),
    # -- rights and constraints
    Meaning(
        DatabaseError,
        "the user of {name} lacks a right: {message}",
        GRANT,
        frozenset({229, 230, 262, 297, 300, 1088, 2760, 15247, 15151, 4834}),
        ("permission was denied", "permission denied", "not have permission", "must be owner"),
    ),
    Meaning(
        DatabaseError,
        "{message}",
        "where the models do not have that unique index or constraint, drop it on the target; "
        "where they do, look for rows that differ in nothing but what it ignores: SQL Server "
        "compares two NULLs as equal",
        frozenset({2601, 2627}),
        ("duplicate key",),
    ),
    # -- the connection
    Meaning(
        DatabaseError,
        "the statement was cancelled",
        None,
        texts=("Operation canceled", "canceling statement"),
        states=("HY008",),
    ),
    Meaning(
        Unavailable,
        "the server did not answer in time",
        _RUNNING,
        frozenset({-2, 258, 10060, 17197}),
        ("Login timeout", "Connection timeout", "timeout expired", "Login failed due to timeout"),
        ("HYT00", "HYT01"),
    ),
    Meaning(
        Unavailable,
        "the connection was lost",
        _RUNNING,
        frozenset({64, 121, 233, 596, 6005, 6006, 10053, 10054, 17142, 17147, 17148}),
        (
            "Communication link failure",
            "Connection not open",
            "closed connection",
            "Connection closed",
            "terminating connection",
            "session is in the kill state",
            "SHUTDOWN is in progress",
        ),
        ("08S01", "08S02", "08003", "08007"),
    ),
    Meaning(
        Unavailable,
        "nothing answers at that address",
        _RUNNING,
        frozenset({2, 26, 53, 10061, 11001}),
        ("Client unable to establish", "TCP Provider", "Unable to complete login"),
        ("08001",),
    ),
)
"""Earlier entries win: put the specific ones first."""
