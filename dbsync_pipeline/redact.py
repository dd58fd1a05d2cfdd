"""The text of an unexpected exception: enough to find the place, without secrets or rows.

The errors of `errors.py` are written for people. Any other exception may quote a connection string,
a statement or a row's values, so only its type, its place in this package and the first line of its
message are shown, without URLs and passwords.
"""

from __future__ import annotations

import re
from pathlib import Path

_PACKAGE = Path(__file__).parent
_SECRET = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+|(?i:password|pwd|secret|token)\s*[=:]\s*\S+")
_LENGTH = 300


def text(error: BaseException) -> str:
    """Return one line about the exception that is safe to store and to show."""
    lines = str(error).splitlines() or [""]
    message = clean(lines[0])[:_LENGTH]
    return f"unexpected {type(error).__name__} at {_place(error)}: {message}"


def clean(message: str) -> str:
    """Return the message without anything that looks like a URL or a password."""
    return _SECRET.sub("[hidden]", message)


def _place(error: BaseException) -> str:
    place, trace = "an unknown place", error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if _PACKAGE in path.parents:
            place = f"{path.relative_to(_PACKAGE.parent).as_posix()}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
