"""The sockets of this process, below the drivers: how many bytes came, and how a wait is ended."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FILES = Path("/dev/fd")
"""What the process has open, by number; Windows has no such folder."""
_TCP_INFO_BYTES_RECEIVED = slice(128, 136)
"""Of Linux's struct tcp_info (linux/tcp.h): tcpi_bytes_received, an unsigned 64-bit number."""


@dataclass(frozen=True)
class Socket:
    """A socket that a library of this process has open. `inode` distinguishes it from a later one
    that has the same number.
    """

    number: int
    inode: int

    @contextlib.contextmanager
    def opened(self) -> Iterator[socket.socket]:
        """Yield a second handle; closing it leaves the first one open. Raise OSError if the socket
        is closed.
        """
        copy = os.dup(self.number)
        if os.fstat(copy).st_ino != self.inode:
            os.close(copy)
            raise OSError("the socket was closed, and another has its number")
        with socket.socket(fileno=copy) as handle:
            yield handle

    def bytes_received(self) -> int:
        """Return how many bytes it has received; 0 if that is not known. Known on Linux, by TCP."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError), self.opened() as handle:
                if handle.family in (socket.AF_INET, socket.AF_INET6):
                    info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
                    return int.from_bytes(info[_TCP_INFO_BYTES_RECEIVED], sys.byteorder)
        return 0

    def shut_down(self) -> None:
        """Make every call that waits for it return, now and later."""
        with contextlib.suppress(OSError), self.opened() as handle:
            handle.shutdown(socket.SHUT_RDWR)

    def peer(self) -> tuple[str, int] | None:
        """Return the address and port of the other end by TCP; None where there is none."""
        with contextlib.suppress(OSError), self.opened() as handle:
            if handle.family in (socket.AF_INET, socket.AF_INET6):
                return handle.getpeername()[:2]  # type: ignore[no-any-return]
        return None


def of_file(number: int) -> Socket:
    """Return the socket with this file number."""
    return Socket(number, os.fstat(number).st_ino)


def open_sockets() -> frozenset[Socket]:
    """Return the sockets that this process has open; none on Windows, which has no list of them."""
    sockets = set()
    for name in os.listdir(_FILES) if _FILES.is_dir() else ():
        with contextlib.suppress(OSError):  # the list's own file is closed by now
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                sockets.add(Socket(int(name), status.st_ino))
    return frozenset(sockets)
