"""sqlite3's errors as the project's own, without values."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

from dbsync_pipeline.errors import Busy, DatabaseError, Unavailable

DRIVER_ERRORS = (sqlite3.Error, sa.exc.DBAPIError)

QUOTES_TEXT = " with text '"
"""What the driver writes of a text that is not UTF-8, before it quotes the text."""


def is_busy(error: BaseException) -> bool:
    """Return whether another session has a lock."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: BaseException) -> int:
    original = getattr(error, "orig", None) or error
    return (getattr(original, "sqlite_errorcode", None) or 0) & 0xFF


def translate(error: BaseException, name: str, operation: str) -> Exception:
    """Return the project's error for a driver's error in database `name`."""
    message, code = str(getattr(error, "orig", None) or error), _code(error)
    if is_busy(error):
        return Busy(
            "another session is writing to the database",
            operation=operation,
            database=name,
            remedy="wait until that transaction ends, then try again",
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return Unavailable(
            "the file cannot be opened",
            operation=operation,
            database=name,
            remedy=f"see that the folder that DBSYNC_{name.upper()}_URL names exists and is "
            "readable",
        )
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return DatabaseError(
            message,
            operation=operation,
            database=name,
            remedy="see that the disk of its file has room, and has no faults",
        )
    if code == sqlite3.SQLITE_READONLY:
        return DatabaseError(
            "this user may not write to the file",
            operation=operation,
            database=name,
            remedy="let it write to the file, to those beside it that end in -wal and -shm, and to "
            "their folder: docs/security.md",
        )
    return DatabaseError(message.split(QUOTES_TEXT)[0], operation=operation, database=name)
