"""A TCP proxy in front of a real database server, which stalls, cuts and delays connections at a chosen byte, text or moment.

    with proxy_to(target.url) as proxy:
        proxy.after(b"COMMIT", TO_SERVER, cut)          # forward COMMIT, then lose the connection
        proxy.after(50_000, TO_CLIENT, stall)           # forward 50,000 bytes of the answers, then nothing more
        sync(source, Database("linux", proxy.url))

Without a trigger it forwards everything. `proxy.after` and `proxy.before` return an event that is set when the trigger has fired, which
happens once, on the first connection that reaches it. An action is any function of the connection that reached the trigger.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from dbsync_pipeline.mirror.database import Database

TO_SERVER = "to the server"
TO_CLIENT = "to the client"


class Connection:
    """One connection through the proxy. Every method can be called from any thread, and takes effect at once."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy = proxy
        self._client, self._server = client, server
        self._open = {TO_SERVER: threading.Event(), TO_CLIENT: threading.Event()}
        self._swallowing: set[str] = set()
        self._answering = threading.RLock()
        self._seen = {TO_SERVER: 0, TO_CLIENT: 0}
        self._piece = 0
        self._tail = {TO_SERVER: b"", TO_CLIENT: b""}
        self.delay_seconds = {TO_SERVER: 0.0, TO_CLIENT: 0.0}
        for direction in self._open:
            self.resume(direction)

    def stall(self, *directions: str) -> None:
        """Forward nothing more, in both directions by default, and leave both sockets open.

        The proxy reads nothing either, so the closing of one side does not reach the other.
        """
        for direction in directions or self._open:
            self._open[direction].clear()

    def resume(self, *directions: str) -> None:
        """Forward again after `stall`; nothing was lost."""
        for direction in directions or self._open:
            self._open[direction].set()

    def swallow(self, *directions: str) -> None:
        """Go on reading and acknowledging, and forward nothing: like a firewall that drops packets behind it."""
        self._swallowing.update(directions or self._open)

    def cut(self) -> None:
        """Lose the connection. What was forwarded to the server before still arrives there."""
        self.close()

    def close(self) -> None:
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.resume()

    def serve(self) -> None:
        """Forward in both directions until one side closes or the connection is cut."""
        answers = threading.Thread(target=self._pump, args=(TO_CLIENT,), daemon=True)
        answers.start()
        self._pump(TO_SERVER)
        answers.join()
        self.close()

    def _pump(self, direction: str) -> None:
        ends = (self._client, self._server)
        reader, writer = ends if direction == TO_SERVER else ends[::-1]
        with contextlib.suppress(OSError):
            while data := self._received(reader, direction):
                if direction == TO_SERVER:
                    self._piece = self.proxy.pieces.next()
                self._forward(data, writer, direction)
            writer.shutdown(socket.SHUT_WR)

    def _received(self, reader: socket.socket, direction: str) -> bytes:
        self._open[direction].wait()
        return reader.recv(65536)

    def _forward(self, data: bytes, writer: socket.socket, direction: str) -> None:
        """Forward a piece, up to the first trigger in it, which fires; then the rest of it."""
        place = Place(direction, self._seen[direction], self._tail[direction], self._piece)
        trigger, length = self.proxy.next_trigger(place, data)
        if trigger is None:
            return self._send(data, writer, direction)
        with self._answering:  # no answer to what is sent here overtakes the action
            self._send(data[:length], writer, direction)
            trigger.fire(self)
        if rest := data[length:]:
            self._forward(rest, writer, direction)

    def _send(self, data: bytes, writer: socket.socket, direction: str) -> None:
        time.sleep(self.delay_seconds[direction])
        if direction == TO_CLIENT:
            with self._answering:
                pass
        self._open[direction].wait()
        if direction not in self._swallowing:
            writer.sendall(data)
        self._seen[direction] += len(data)
        self._tail[direction] = (self._tail[direction] + data)[-_LONGEST:]


_LONGEST = 100
"""A text that triggers may be longer than what arrives in one piece by as much as this."""

Action = Callable[[Connection], None]


@dataclass(frozen=True)
class Place:
    """Where a connection's stream is, in bytes of one direction, with the end of what was seen; `piece` counts those to the server."""

    direction: str
    seen: int
    tail: bytes
    piece: int


@dataclass(frozen=True)
class Piece:
    """The n-th piece that is sent to the server, by whichever connection: about one statement, or a part of a COPY.

    Proxies that share their `Pieces` count them together.
    """

    n: int


class Pieces:
    """How many pieces were sent so far."""

    def __init__(self) -> None:
        self.number = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        with self._lock:
            self.number += 1
            return self.number


@dataclass(eq=False)
class Trigger:
    """What is done, and at which byte or text of a connection's stream in one direction."""

    direction: str
    at: int | bytes | Piece
    action: Action
    before: bool
    fired: threading.Event = field(default_factory=threading.Event)

    def found(self, place: Place, data: bytes) -> int | None:
        """How many bytes of `data` go through before the action; None if the trigger is not in `data`."""
        if self.direction != place.direction:
            return None
        if isinstance(self.at, Piece):
            return (0 if self.before else len(data)) if self.at.n == place.piece else None
        if isinstance(self.at, int):
            return self.at - place.seen if 0 < self.at - place.seen <= len(data) else None
        tail = place.tail
        start = (tail + data).find(self.at, max(0, len(tail) - len(self.at) + 1))
        if start < 0:
            return None
        return max(0, start - len(tail)) if self.before else len(data)

    def fire(self, connection: Connection) -> None:
        self.fired.set()
        self.action(connection)


class Proxy:
    """Listens on a port of this machine. Use `proxy_to`, which also ends it."""

    def __init__(
        self, server: sa.URL, connect_seconds: float = 0, pieces: Pieces | None = None
    ) -> None:
        self._server = server
        self._connect_seconds = connect_seconds
        self._triggers: list[Trigger] = []
        self._lock = threading.Lock()
        self._port = 0
        self._listener: socket.socket | None = None
        self.connections: list[Connection] = []
        self.pieces = pieces or Pieces()
        self.listen()

    @property
    def url(self) -> sa.URL:
        """The server's URL with the proxy's address."""
        return self._server.set(
            host="127.0.0.1", port=self._port, query=_without_host(self._server)
        )

    def after(self, at: int | bytes | Piece, direction: str, action: Action) -> threading.Event:
        """Act when this number of bytes, the piece that holds this text, or that piece was forwarded."""
        return self._add(Trigger(direction, at, action, before=False))

    def before(self, at: bytes | Piece, direction: str, action: Action) -> threading.Event:
        """Act when this text or piece has arrived at the proxy, before any of it is forwarded."""
        return self._add(Trigger(direction, at, action, before=True))

    def _add(self, trigger: Trigger) -> threading.Event:
        with self._lock:
            self._triggers.append(trigger)
        return trigger.fired

    def next_trigger(self, place: Place, data: bytes) -> tuple[Trigger | None, int]:
        """The first trigger in `data`, which is used up, and how many bytes go before it."""
        with self._lock:
            found = [
                (length, trigger)
                for trigger in self._triggers
                if (length := trigger.found(place, data)) is not None
            ]
            if not found:
                return None, len(data)
            length, trigger = min(found, key=lambda pair: pair[0])
            self._triggers.remove(trigger)
            return trigger, length

    def everywhere(self, action: Action) -> None:
        """Do it to all connections that there are."""
        with self._lock:
            connections = list(self.connections)
        for connection in connections:
            action(connection)

    def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=64)
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def refuse(self) -> None:
        """Refuse new connections, as a server that is down; those that there are go on."""
        if self._listener:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        self.refuse()
        self.everywhere(Connection.close)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        time.sleep(self._connect_seconds)
        try:
            server = _reach(self._server)
        except OSError:
            client.close()
            return
        connection = Connection(self, client, server)
        with self._lock:
            self.connections.append(connection)
        connection.serve()


def _without_host(url: sa.URL) -> dict[str, str | tuple[str, ...]]:
    return {name: value for name, value in url.query.items() if name != "host"}


def _reach(url: sa.URL) -> socket.socket:
    host = f"{url.query.get('host') or url.host}"
    port = url.port or {"postgresql": 5432, "mssql": 1433}[url.get_backend_name()]
    if not host.startswith("/"):
        return socket.create_connection((host, port))
    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{host}/.s.PGSQL.{port}")
    return server


@contextlib.contextmanager
def proxy_to(
    server: sa.URL, connect_seconds: float = 0, pieces: Pieces | None = None
) -> Iterator[Proxy]:
    """A proxy to that server, which lets each new connection wait for `connect_seconds`. It is closed at the end."""
    proxy = Proxy(server, connect_seconds, pieces)
    try:
        yield proxy
    finally:
        proxy.close()


@contextlib.contextmanager
def reached_by_proxy(
    database: Database, silence_seconds: float, **given: float
) -> Iterator[tuple[Database, Proxy]]:
    """The database as it is reached through a proxy, silent for at most so long, and the proxy."""
    with proxy_to(database.url) as proxy:
        yield replace(database, url=proxy.url, silence_seconds=silence_seconds, **given), proxy


# Actions for `after` and `before`


def cut(connection: Connection) -> None:
    connection.cut()


def stall(connection: Connection) -> None:
    connection.stall()


def stall_all(connection: Connection) -> None:
    """Every connection that there is falls silent, and new ones get through."""
    connection.proxy.everywhere(Connection.stall)


def swallow(connection: Connection) -> None:
    connection.swallow()


def delay(seconds: float) -> Action:
    """From then on, hold each piece back for so long."""

    def act(connection: Connection) -> None:
        connection.delay_seconds = dict.fromkeys(connection.delay_seconds, seconds)

    return act


def cut_and_refuse(seconds: float) -> Action:
    """Cut every connection and refuse new ones for so long, as a server that is restarted."""

    def act(connection: Connection) -> None:
        proxy = connection.proxy
        proxy.refuse()
        proxy.everywhere(Connection.cut)
        again = threading.Timer(seconds, proxy.listen)
        again.daemon = True
        again.start()

    return act
