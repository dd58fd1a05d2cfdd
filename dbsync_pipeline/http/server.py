"""Run the HTTP API with uvicorn, with limits on what one client can use up.

A client has HEADER_SECONDS to send the headers of a request and BODY_SECONDS for its body, which
may have at most MOST_BODY bytes; at most MOST_CONNECTIONS are open at once. uvicorn itself limits
only the number of connections and the size of headers.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
BODY_SECONDS = 10.0
MOST_BODY = 65_536
MOST_HEADER = 16_384
MOST_CONNECTIONS = 64


class DeadlineProtocol(H11Protocol):
    """Closes a connection whose request headers are not complete after HEADER_SECONDS."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first request."""
        super().connection_made(transport)
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        """Start the deadline with the first byte of a request, and stop it after its headers."""
        super().data_received(data)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the deadline."""
        self._stop_deadline()
        super().connection_lost(exc)

    def _set_deadline(self) -> None:
        incomplete = self.cycle is None or bool(self.conn.trailing_data[0])
        if self.conn.their_state is h11.IDLE and incomplete:
            if self._deadline is None:
                self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)
        else:
            self._stop_deadline()

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class LimitBody:
    """ASGI middleware that reads the body before the application does, within the limits.

    Respond with 413 if the body is too large, and with 408 if it is not complete in time.
    """

    def __init__(self, app: ASGIApp, too_large: ASGIApp, too_slow: ASGIApp) -> None:
        self._app, self._too_large, self._too_slow = app, too_large, too_slow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(receive)
        except TimeoutError:
            return await self._too_slow(scope, receive, send)
        if len(body) > MOST_BODY:
            return await self._too_large(scope, receive, send)
        return await self._app(scope, _replayed(body, receive), send)


async def _body(receive: Receive) -> bytes:
    """Return the body, or its beginning if it is too large."""
    body = b""
    while len(body) <= MOST_BODY:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body first, and then what the server sends."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def options() -> dict[str, Any]:
    """Return uvicorn's options for these limits."""
    return {
        "http": DeadlineProtocol,
        "ws": "none",
        "h11_max_incomplete_event_size": MOST_HEADER,
        "limit_concurrency": MOST_CONNECTIONS,
        "server_header": False,
    }


def main() -> None:
    """Serve the API on the address of the command line until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    address = parser.parse_args()
    uvicorn.run(
        "dbsync_pipeline.http.app:create",
        factory=True,
        host=address.host,
        port=address.port,
        **options(),
    )


if __name__ == "__main__":
    main()
