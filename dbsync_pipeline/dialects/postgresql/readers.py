"""Several connections that read one table in one snapshot, and feed the one COPY of the target.

Where one connection is slower than the network or the disks, several are quicker. The source's
connection exports its snapshot, the others import it, and each takes ranges of pages until none is
left. The server sends one message for each row in COPY's binary format, so the streams are merged
between two messages. The target sees one stream, in one transaction.

    reader 0   pages 0 …   ┐
    reader 1   pages 64 …  ├─ whole rows ─►  header, rows, end  ─►  COPY … FROM STDIN
    reader 2   pages 128 … ┘

If one reader fails, the stream ends without COPY's end marker, the others are interrupted, and the
failure of the first is raised once all have ended.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

from dbsync_pipeline.dialects import watchdog
from dbsync_pipeline.dialects.postgresql import catalog
from dbsync_pipeline.dialects.postgresql.catalog import quote_table
from dbsync_pipeline.dialects.postgresql.copy import PIPE_BYTES
from dbsync_pipeline.dialects.staging import Moved
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DatabaseError, Transient

if TYPE_CHECKING:
    from dbsync_pipeline.dialects.postgresql.source import PostgreSQLSource

Pages = tuple[int, int | None]
"""The first page, and the one behind the last; None in the range that has no end."""
CopyTo = Callable[["PostgreSQLSource", Pages, Any], None]
"""Writes the rows of these pages to a file, in COPY's binary format."""

_ALL: Pages = (0, None)

SHARED_BYTES = 8 * 2**20
"""A smaller table is read before further connections are open."""
_RANGES_A_READER = 4
"""A reader that is quicker takes more of them."""
_MOST_PAGES = 16_384
"""Pages of a range, 128 MB, after which the readers of a large table share again."""
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""Signature, flags and length of an extension; see the PostgreSQL manual, COPY, "Binary Format"."""
_END = b"\xff\xff"


def ranges(pages: int, readers: int) -> list[Pages]:
    """Return ranges that cover all pages of a table, also those that are added meanwhile."""
    step = min(max(pages // (readers * _RANGES_A_READER), 1), _MOST_PAGES)
    starts = range(0, max(pages, 1), step)
    return list(zip(starts, [*starts[1:], None], strict=True))


@contextmanager
def sharing(
    source: PostgreSQLSource, table: Table, connections: int
) -> Iterator[tuple[list[PostgreSQLSource], list[Pages], str]]:
    """Yield the readers, of which `source` is the first, the ranges for them, and why there are
    fewer readers than `connections`: empty if there are not, or if the table is small.

    The others are closed at the end.
    """
    pages, size, is_heap = source._first_row(catalog.PAGES, (quote_table(table.sa),))
    if size < SHARED_BYTES:
        yield [source], [_ALL], ""
    elif not is_heap:
        yield [source], [_ALL], "it is not stored as a heap"
    else:
        with ExitStack() as closing:
            why = _open_others(source, table, connections, closing)
            readers = [source, *source.others]
            yield readers, ranges(pages, len(readers)), why


def _open_others(
    source: PostgreSQLSource, table: Table, connections: int, closing: ExitStack
) -> str:
    """Open the other readers, and return why there are fewer."""
    closing.callback(source.others.clear)
    try:
        snapshot = source.export_snapshot()
        while len(source.others) + 1 < connections:
            reader = source.another()
            closing.callback(reader.close)
            reader.import_snapshot(snapshot, [table])
            source.others.append(reader)
    except (DatabaseError, Transient) as error:  # one connection is enough
        return error.cause
    return ""


def merged(
    readers: Sequence[PostgreSQLSource],
    pages: Sequence[Pages],
    copy_to: CopyTo,
    receive_from: Callable[[BinaryIO], int],
) -> Moved:
    """Connect the rows that all readers send to one COPY's input, and return what was moved.

    It holds a buffer for each reader. `receive_from` reads from a file and returns the number of
    rows. All readers have ended when this returns or raises. Raise what failed first.
    """
    reading, writing = os.pipe()
    merging = _Merging(readers, pages, copy_to, writing)
    try:
        with open(reading, "rb", PIPE_BYTES) as stream:
            merging.moved.rows = receive_from(stream)
    except BaseException as error:
        merging.fail(error)
    merging.join()
    return merging.moved


class _Merging:
    """The threads of the readers, and the stream that they share."""

    def __init__(
        self,
        readers: Sequence[PostgreSQLSource],
        pages: Sequence[Pages],
        copy_to: CopyTo,
        writing: int,
    ) -> None:
        self.moved = Moved(connections=len(readers))
        self._readers, self._copy_to = readers, copy_to
        self._left: SimpleQueue[Pages] = SimpleQueue()
        for part in pages:
            self._left.put(part)
        self._stream = io.FileIO(writing, "wb")
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dbsync-copy", daemon=True)
        self._thread.start()

    def fail(self, error: BaseException) -> None:
        """Interrupt all readers, unless something has failed before."""
        with self._lock:
            first, self._failure = self._failure is None, self._failure or error
        if first:
            for reader in self._readers:
                watchdog.interrupt(reader._raw)

    def join(self) -> None:
        """Wait until all readers have ended; raise what failed first."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure from None

    def add(self, data: bytes, source: PostgreSQLSource) -> None:
        """Write whole rows to the stream. Raise BrokenPipeError if the copy has failed.

        Waiting for the receiver, or for another reader, is not a wait for the server.
        """
        with source._raw.elsewhere(), self._lock:
            if self._failure is not None:
                raise BrokenPipeError
            self._write(data)
            self.moved.bytes += len(data)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._stream.write(rest) or 0 :]

    def _run(self) -> None:
        threads = [
            threading.Thread(target=self._read, args=(reader,), name="dbsync-copy", daemon=True)
            for reader in self._readers
        ]
        with self._stream, suppress(BrokenPipeError):  # the receiver failed, and has the reason
            self._write(_HEADER)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if self._failure is None:
                self._write(_END)

    def _read(self, source: PostgreSQLSource) -> None:
        try:
            with suppress(Empty):
                while True:
                    rows = _Rows(self, source)
                    self._copy_to(source, self._left.get_nowait(), rows)
                    rows.flush()
        except BrokenPipeError:
            pass  # the receiver, or another reader, failed and has the reason
        except BaseException as error:
            self.fail(error)


class _Rows:
    """The file that one COPY writes to, one row in each call."""

    def __init__(self, merging: _Merging, source: PostgreSQLSource) -> None:
        self._merging, self._source = merging, source
        self._rows: list[bytes] = []
        self._size, self._first = 0, True

    def write(self, data: bytes) -> int:
        """Take a row, without the header that precedes the first and the end behind the last."""
        row = data[len(_HEADER) :] if self._first else data
        if self._first and not data.startswith(_HEADER):
            raise DatabaseError("COPY has another binary format", operation="copy to")
        self._first = False
        if row != _END:
            self._rows.append(row)
            self._size += len(row)
        if self._size >= PIPE_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Pass on the rows that were taken."""
        data = b"".join(self._rows)
        self._rows, self._size = [], 0
        self._merging.add(data, self._source)
