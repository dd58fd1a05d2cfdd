"""Ctrl-C ends the program with status 130 at any moment, without a traceback.

Python raises an exception on Ctrl-C. That is right while there is work to roll back. It is wrong
while modules are imported, because the exception can occur in a callback that prints it and
continues. Dagster catches it while it runs a job, and may lose it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NoReturn, Protocol, TypeVar

Result = TypeVar("Result")

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
    """Raise KeyboardInterrupt at the end of the block if a library caught a Ctrl-C within it, or at
    `check` within it.

    Signals reach the main thread only; in another thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    listener, hook = _Listener(), sys.unraisablehook
    previous = signal.set_wakeup_fd(listener.fileno(), warn_on_full_buffer=False)
    sys.unraisablehook = _show_unless_kept
    _keeping.append(listener)
    try:
        yield
    finally:
        _keeping.remove(listener)
        signal.set_wakeup_fd(previous)
        sys.unraisablehook = hook
        received = listener.close()
    if signal.SIGINT in received:
        raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt if a library caught a Ctrl-C since a block of `kept` began; for a
    loop that waits for something else.
    """
    if any(signal.SIGINT in listener.received for listener in _keeping):
        raise KeyboardInterrupt


def interruptible(work: Callable[[], Result]) -> Result:
    """Return the result of `work`, or raise its error; a signal ends the wait for it.

    For a library that does not return on a signal. The main thread has another one do the work,
    which may continue in the background after a signal.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="dbsync-interruptible", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_SECONDS)
    return future.result()


_LOOK_SECONDS = 1.0
"""On Windows, a signal does not end a wait."""


class Cancellable(Protocol):
    """Work whose running statement another thread can cancel."""

    def cancel(self) -> None:
        """Cancel the statement that runs now, if one does, without waiting for its end."""


def cancel_on_signal(work: Cancellable) -> None:
    """From now on, cancel the work in another thread when SIGINT or SIGTERM arrives.

    A handler runs only when the main thread returns from the library that it is in, which may wait
    for a server; this ends that wait. It is done only for signals that have a handler in Python,
    and until the work is garbage.
    """
    _cancellable.add(work)
    if threading.current_thread() is threading.main_thread():
        listener = _Listener.for_process()
        other = signal.set_wakeup_fd(listener.fileno(), warn_on_full_buffer=False)
        if other not in (-1, listener.fileno()):  # `kept`, or an event loop, has the signals now
            signal.set_wakeup_fd(other)


_cancellable: weakref.WeakSet[Cancellable] = weakref.WeakSet()
_keeping: list[_Listener] = []


class _Listener:
    """A thread that learns of signals while the main thread is in a library.

    Python writes the number of each signal to the file descriptor at once: `signal.set_wakeup_fd`.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self.received: set[int] = set()
        self._thread = threading.Thread(target=self._listen, name="dbsync-signals", daemon=True)
        self._thread.start()

    @staticmethod
    @functools.cache
    def for_process() -> _Listener:
        return _Listener()

    def fileno(self) -> int:
        return self._writer.fileno()

    def close(self) -> set[int]:
        """Stop listening; return the numbers of all signals that arrived."""
        self._writer.close()
        self._thread.join()
        self._reader.close()
        return self.received

    def _listen(self) -> None:
        while numbers := self._reader.recv(4096):
            self.received.update(numbers)
            if {signal.SIGINT, signal.SIGTERM} & set(numbers):
                for work in list(_cancellable):
                    work.cancel()


def _show_unless_kept(raised: sys.UnraisableHookArgs) -> None:
    if not issubclass(raised.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(raised)


def _handle(handler: Any) -> None:
    """Set the handler, unless SIGINT is ignored, as shells do for their background jobs."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
