"""The file-like ends of COPY: text lines to read from, and a writer that counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from dbsync_pipeline.dialects.staging import Moved

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
"""COPY's text format, see the PostgreSQL manual, COPY, "Text Format"."""


def line(texts: Iterable[str | None]) -> str:
    """One row in COPY's text format."""
    return "\t".join(["\\N" if text is None else text.translate(_ESCAPES) for text in texts]) + "\n"


class Lines:
    """Lines as a file that COPY reads from; holds about one read of them."""

    def __init__(self, lines: Iterator[str], moved: Moved) -> None:
        self._lines = lines
        self._moved = moved
        self._rest = b""
        self.failure: Exception | None = None
        """Why the lines ended early. The driver sends the text of what `read` raises to the server, and forgets it."""

    def read(self, size: int = -1) -> bytes:
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
        """psycopg2 asks that the method exists, and does not call it for COPY."""
        return self.read(size)


class Counted:
    """A writer that counts the bytes written through it."""

    def __init__(self, writer: BinaryIO, moved: Moved) -> None:
        self._writer = writer
        self._moved = moved

    def write(self, data: bytes) -> int:
        self._moved.bytes += len(data)
        return self._writer.write(data)
