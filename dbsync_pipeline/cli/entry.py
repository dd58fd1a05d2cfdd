"""The script's entry point: what holds before the command line is loaded, which takes a second, and whatever its output goes to.

Output that cannot be written ends the program with status 1 and one line that says so, or none where the reader of a pipe has gone.
"""

from __future__ import annotations

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
    # It would show a traceback of a connection that could not be closed, as on Ctrl-C; what failed before is told without it.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    signals.end_at_once()  # while modules are loaded, and while Python ends
    from dbsync_pipeline.cli import app

    try:
        with signals.raised():
            app.main()
    except KeyboardInterrupt:
        sys.exit(signals.STATUS)


class _Output(io.TextIOWrapper):
    """Standard output. Its failure ends the program here, where it cannot be taken for the failure of another file."""

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
    os.dup2(
        os.open(os.devnull, os.O_WRONLY), 1
    )  # what is left goes nowhere: Python would try it again as it ends
    if isinstance(error, BrokenPipeError):
        sys.exit(1)
    _lost(error.strerror or type(error).__name__)


def _lost(why: str) -> NoReturn:
    sys.exit(f"the output could not be written: {why}")


if __name__ == "__main__":
    main()
