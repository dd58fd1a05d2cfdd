"""Ctrl-C ends the program with status 130 at any moment, without a traceback.

Python raises an exception on Ctrl-C. That is right while there is work to roll back. It is wrong
while modules are imported, because the exception can occur in a callback that prints it and
continues. Dagster catches it while it runs a job, and may lose it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

STATUS = 130
"""128 plus the number of SIGINT, the convention of shells."""


def end_at_once(before: Callable[[], object] = lambda: None) -> None:
    """Make Ctrl-C call `before` and end the process at once, from now on."""

    def end(*_: Any) -> NoReturn:
        before()
        os._exit(STATUS)

    _handle(end)


@contextlib.contextmanager
def at_once(before: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Make Ctrl-C end the process at once within the block, which must not need a rollback."""
    previous = signal.getsignal(signal.SIGINT)
    try:
        end_at_once(before)
        yield
    finally:
        _handle(previous)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Make Ctrl-C raise KeyboardInterrupt within the block, as Python does by default."""
    previous = signal.getsignal(signal.SIGINT)
    try:
        _handle(signal.default_int_handler)
        yield
    finally:
        _handle(previous)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of the block if a library caught a Ctrl-C within it.

    Signals reach the main thread only; in another thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        previous = (
            signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False),
            sys.unraisablehook,
        )
        sys.unraisablehook = _show_unless_kept
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous[0])
            sys.unraisablehook = previous[1]
        with contextlib.suppress(BlockingIOError):  # no signal came
            if signal.SIGINT in reader.recv(4096):
                raise KeyboardInterrupt


def _show_unless_kept(raised: sys.UnraisableHookArgs) -> None:
    if not issubclass(raised.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(raised)


def _handle(handler: Any) -> None:
    """Set the handler, unless SIGINT is ignored, as shells do for their background jobs."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
