"""The entry point of the script: Ctrl-C while the program loads, and output that cannot be written.

If the output cannot be written, the program ends with status 1 and one line that says so; without a
line if the reader of a pipe has ended.
"""

from __future__ import annotations

import atexit
import gc
import io
import logging
import os
import sys
from typing import NoReturn

from dbsync_pipeline import signals


def main() -> None:
    """Load the command line and run it."""
    if sys.stdout is None:  # the caller closed it
        _lost("it is closed")
    sys.stdout = _Output(
        sys.stdout.buffer,
        sys.stdout.encoding,
        sys.stdout.errors,
        line_buffering=sys.stdout.isatty(),
    )
    # it logs a traceback if a connection cannot be closed, as after Ctrl-C
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    signals.end_at_once()  # while modules are imported, and while Python ends
    _collect_less_garbage()
    from dbsync_pipeline.cli import app

    try:
        with signals.raised():
            app.main()
    except KeyboardInterrupt:
        sys.exit(signals.STATUS)


def _collect_less_garbage() -> None:
    """Do not search for garbage among what the imports create, nor among everything at the end.

    Both take longer than many commands: the end alone took a second after Dagster was imported.
    """
    gc.set_threshold(100_000, 50, 50)
    atexit.register(gc.freeze)


class _Output(io.TextIOWrapper):
    """Standard output. A failure ends the program here, so no other code can misread it."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            _end_without_output(error)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            _end_without_output(error)


def _end_without_output(error: OSError) -> NoReturn:
    # discard what is buffered: Python would try to write it again as it ends
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        sys.exit(1)
    _lost(error.strerror or type(error).__name__)


def _lost(why: str) -> NoReturn:
    sys.exit(f"the output could not be written: {why}")


if __name__ == "__main__":
    main()
