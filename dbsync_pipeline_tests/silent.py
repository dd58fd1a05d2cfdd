"""A server that takes connections and never says a word, and a door to a real one that is slow to open."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import sqlalchemy as sa


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """The URL of a PostgreSQL that accepts every connection and answers none."""
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


@contextlib.contextmanager
def slow_server(url: sa.URL, seconds: float) -> Iterator[str]:
    """The URL of that PostgreSQL database behind a door that lets every connection wait for so long."""
    path = f"{url.query.get('host') or url.host}"
    port = url.port or 5432

    def reach() -> socket.socket:
        if not path.startswith("/"):
            return socket.create_connection((path, port))
        real = socket.socket(socket.AF_UNIX)
        real.connect(f"{path}/.s.PGSQL.{port}")
        return real

    def pump(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError), one, other:
            while data := one.recv(65536):
                other.sendall(data)

    def serve(client: socket.socket) -> None:
        time.sleep(seconds)
        real = reach()
        for pair in ((client, real), (real, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        through = url.set(host="127.0.0.1", port=server.getsockname()[1], query={})
        yield through.render_as_string(hide_password=False)
