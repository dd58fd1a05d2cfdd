"""A server that accepts connections and never sends anything."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """The URL of a PostgreSQL that accepts every connection and never sends a byte."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"postgresql://bob:hunter2@127.0.0.1:{server.getsockname()[1]}/nowhere"
        for connection in taken:
            connection.close()
