"""psycopg2's errors as the project's own, without values, secrets or pieces of a URL."""

from __future__ import annotations

import re
from typing import Any

import psycopg2
import psycopg2.errors
import sqlalchemy as sa

from dbsync_pipeline.errors import Busy, DatabaseError, Starting, Unavailable

DRIVER_ERRORS = (psycopg2.Error, sa.exc.DBAPIError)
GRANT = "grant it; docs/security.md lists what a role needs"

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_NO_RIGHT = "42501"
_DISK_FULL = "53100"
_CHECK = "23514"
_DEPENDED_ON = "2BP01"
_ENDED = ("57P", "08", "40")


def translate(error: BaseException, name: str, operation: str) -> Exception:
    """Return the project's error for a driver's error in database `name`."""
    original = getattr(error, "orig", None) or error
    if isinstance(original, psycopg2.errors.LockNotAvailable):
        return Busy(
            "another session holds a lock on the tables",
            operation=operation,
            database=name,
            remedy="try again later",
        )
    if isinstance(original, psycopg2.errors.QueryCanceled):
        return DatabaseError("the statement was cancelled", operation=operation, database=name)
    if _is_disconnect(original):
        return _unreachable(original, name, operation)
    code = getattr(original, "pgcode", None) or ""
    if code.startswith(_ENDED):
        return Unavailable(
            "the server ended the work", operation=operation, database=name, remedy="try again"
        )
    message = without_value(original) or type(original).__name__
    if code == _NO_RIGHT:
        return DatabaseError(
            f"the role of {name} lacks a right: {message}",
            operation=operation,
            database=name,
            remedy=GRANT,
        )
    if code == _DEPENDED_ON:
        dependents = getattr(getattr(original, "diag", None), "message_detail", None) or ""
        return DatabaseError(
            f"{message}: {'; '.join(dependents.splitlines())}",
            operation=operation,
            database=name,
            remedy="drop what depends on it first, and create it again afterwards",
        )
    return DatabaseError(
        f"{message} (SQLSTATE {code})" if code else message,
        operation=operation,
        database=name,
        remedy=_remedy(original, code),
    )


def _remedy(error: Any, code: str) -> str | None:
    if code == _DISK_FULL:
        return "free space on the disk of its server"
    if code == _CHECK and not error.diag.constraint_name:  # a row that no partition takes
        return (
            "run the sync again, which creates the partitions that the source has; a table that is "
            "divided otherwise needs a partition for such rows"
        )
    if code == _CHECK:
        return (
            "correct the row in the source, or drop the constraint on the standby: "
            f"ALTER TABLE {error.diag.table_name} DROP CONSTRAINT {error.diag.constraint_name}"
        )
    return None


def without_value(error: Any) -> str:
    """Return the server's message without the value that errors of class "data exception" quote."""
    message = getattr(getattr(error, "diag", None), "message_primary", None) or ""
    if not (getattr(error, "pgcode", None) or "").startswith("22"):
        return message
    return re.sub(r':?\s*".*"', "", message, flags=re.DOTALL).strip()


def _is_disconnect(error: BaseException) -> bool:
    """Whether the connection failed: such errors have no SQLSTATE.

    COPY raises the base class DatabaseError if the connection is gone.
    """
    if getattr(error, "pgcode", None) is not None:
        return False
    return (
        isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError))
        or type(error) is psycopg2.DatabaseError
    )


def _unreachable(error: BaseException, name: str, operation: str) -> Exception:
    """The reason in the project's own text: the driver's may repeat pieces of the URL."""
    message = str(error)
    reason = next(
        (text for part, text in _REASONS if part in message), "the server cannot be reached"
    )
    return (Starting if reason in _STARTING else Unavailable)(
        reason,
        operation=operation,
        database=name,
        remedy=f"see that the server of {name} runs and that DBSYNC_{name.upper()}_URL is right, "
        "then try again",
    )


_REASONS = (
    ("authentication failed", "the server refused the user or the password"),
    ("no password supplied", "the server asks for a password"),
    (
        "permission denied for database",
        "the role may not connect to that database (GRANT CONNECT; see docs/security.md)",
    ),
    ("translate host name", "the name of the host is not known"),
    ("refused", "nothing answers at that address"),
    ("No such file or directory", "nothing answers at that address"),
    ("timeout expired", "no answer in time"),
    ("starting up", "the server is starting up"),
    ("accepting connections", "the server is in recovery, and takes no connections yet"),
    ("shutting down", "the server is shutting down"),
    ("too many connections for role", "the server accepts no further connections of this role"),
    ("too many clients", "the server accepts no further connections"),
    ("connection slots", "the server accepts no further connections"),
    ("does not exist", "the database or the user does not exist there"),
    ("closed", "the connection was lost"),
)
_STARTING = ("the server is starting up", "the server is in recovery, and takes no connections yet")
