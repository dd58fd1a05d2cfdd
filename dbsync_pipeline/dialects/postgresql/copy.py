"""COPY: text lines to read from, a writer that counts, and a pipe from one server to another."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO

import psycopg2

from dbsync_pipeline.dialects.postgresql.watched import Pipe
from dbsync_pipeline.dialects.staging import Moved
from dbsync_pipeline.dialects.table import Row
from dbsync_pipeline.dialects.watchdog import Watched

PIPE_BYTES = 256 * 1024

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
"""COPY's text format, see the PostgreSQL manual, COPY, "Text Format"."""

_CONTEXT = re.compile(
    r'COPY [^\n]*, line (?P<line>\d+), column (?P<column>[^\n]+?): "(?P<value>.*)"', re.DOTALL
)
"""The server's context of an error in COPY."""


def line(texts: Iterable[str | None]) -> str:
    """Return one row in COPY's text format."""
    return "\t".join(["\\N" if text is None else text.translate(_ESCAPES) for text in texts]) + "\n"


class Lines:
    """Lines as a file that COPY reads from. It holds about one read of them."""

    def __init__(self, lines: Iterator[str], moved: Moved) -> None:
        self._lines = lines
        self._moved = moved
        self._rest = b""
        self.failure: Exception | None = None
        """Why the lines ended early.

        The driver sends the text of what `read` raises to the server, and forgets the exception.
        """

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. At a failure, keep it and raise EOFError."""
        try:
            return self._read(size)
        except Exception as error:
            self.failure = error
            raise EOFError("the rows ended early") from None

    def _read(self, size: int) -> bytes:
        parts, length = [self._rest], len(self._rest)
        while length < size:
            text = next(self._lines, None)
            if text is None:
                break
            data = text.encode()
            self._moved.rows += 1
            self._moved.bytes += len(data)
            parts.append(data)
            length += len(data)
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]

    def readline(self, size: int = -1) -> bytes:
        """Return the same as `read`. psycopg2 requires the method and does not call it in COPY."""
        return self.read(size)


class Counted:
    """A writer that counts the bytes written through it."""

    def __init__(self, writer: BinaryIO, moved: Moved) -> None:
        self._writer = writer
        self._moved = moved

    def write(self, data: bytes) -> int:
        """Write the data; return the number of bytes written."""
        self._moved.bytes += len(data)
        return self._writer.write(data)


def copy_in(connection: Any, sql: str, file: Any) -> int:
    """Run a COPY FROM STDIN; return the number of rows.

    If the file failed, raise its failure and not the driver's account of it.
    """
    with connection.cursor() as cursor:
        try:
            cursor.copy_expert(sql, file, size=PIPE_BYTES)
        except psycopg2.Error:
            if failure := getattr(file, "failure", None):
                raise failure from None
            raise
        return int(cursor.rowcount)


def pipe(
    source: Watched, send_to: Callable[[Any], None], receive_from: Callable[[BinaryIO], int]
) -> Moved:
    """Connect one COPY's output to another's input; hold no more than a buffer of it.

    `send_to` writes to a file in a thread of its own while `receive_from` reads from one. `source`
    is the session that sends; it is not silent while it waits for the receiver. A sender that fails
    ends the pipe early, which the receiver may take for the end of the rows: its failure is
    therefore raised last.
    """
    moved, failures = Moved(), list[Exception]()
    reading, writing = os.pipe()

    def send() -> None:
        try:
            with io.BufferedWriter(Pipe(writing, source), PIPE_BYTES) as writer:
                send_to(Counted(writer, moved))
        except BrokenPipeError:
            pass  # the receiver failed, and raises the reason
        except Exception as error:
            failures.append(error)

    sender = threading.Thread(target=send, name="dbsync-copy", daemon=True)
    sender.start()
    try:
        with open(reading, "rb", PIPE_BYTES) as reader:
            moved.rows = receive_from(reader)
    finally:
        sender.join()
        if failures:
            raise failures[0] from None
    return moved


def refused_row(
    error: psycopg2.DataError, rows: Iterator[Row]
) -> tuple[Row, str, Callable[[str], bool]] | None:
    """Return the row that COPY refused, its column, and a test of the column's text.

    COPY names only the line; `rows` are the same rows in the same order, read again. The test
    checks whether the order was the same. Return None if COPY names no line.
    """
    context = _CONTEXT.search(error.diag.context or "")
    row = next(islice(rows, int(context["line"]) - 1, None), None) if context else None
    if context is None or row is None:
        return None
    start = context["value"].removesuffix("...")
    return row, context["column"], lambda text: text.startswith(start)
