"""The name under which a server shows the project's sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LABEL: ContextVar[str] = ContextVar("dbsync_label", default="dbsync")
"""As what a server shows the sessions that are opened now."""


@contextmanager
def labelled(label: str) -> Iterator[None]:
    """Let servers show the sessions that are opened within as `label`."""
    token = LABEL.set(label)
    try:
        yield
    finally:
        LABEL.reset(token)
