"""Ctrl-C: it ends the program with status 130 at any moment, and shows no traceback.

Python turns it into an exception, which is right where something was begun that has to be taken back. It is wrong while modules are
loaded, where the exception meets callbacks that show it and go on; and Dagster keeps it from a job that it runs, where it may be lost.
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
"""128 and the number of SIGINT, as shells have it."""


def end_at_once(before: Callable[[], object] = lambda: None) -> None:
    """From now on Ctrl-C ends the process there and then, after `before`."""

    def end(*_: Any) -> NoReturn:
        before()
        os._exit(STATUS)

    _handle(end)


@contextlib.contextmanager
def at_once(before: Callable[[], object] = lambda: None) -> Iterator[None]:
    """The same for a while, in which nothing is begun that has to be taken back."""
    usual = signal.getsignal(signal.SIGINT)
    try:
        end_at_once(before)
        yield
    finally:
        _handle(usual)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Ctrl-C is an exception, as it is in Python."""
    usual = signal.getsignal(signal.SIGINT)
    try:
        _handle(signal.default_int_handler)
        yield
    finally:
        _handle(usual)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """A Ctrl-C that others kept to themselves is raised at the end. It reaches the main thread alone: elsewhere this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        usual = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False), sys.unraisablehook
        sys.unraisablehook = _show_unless_kept
        try:
            yield
        finally:
            signal.set_wakeup_fd(usual[0])
            sys.unraisablehook = usual[1]
        with contextlib.suppress(BlockingIOError):  # no signal came
            if signal.SIGINT in reader.recv(4096):
                raise KeyboardInterrupt


def _show_unless_kept(what: sys.UnraisableHookArgs) -> None:
    if not issubclass(what.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(what)


def _handle(handler: Any) -> None:
    """A shell starts its background jobs deaf to Ctrl-C, and they stay so."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
