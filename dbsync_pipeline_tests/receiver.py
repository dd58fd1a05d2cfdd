"""Where alerts and heartbeats arrive in tests."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Receiver:
    """A real HTTP server that keeps what it is sent; `alerts` are (title, body), `beats` the paths that were called."""

    def __init__(self) -> None:
        self.alerts: list[tuple[str, str]] = []
        self.beats: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said: dict[str, Any] = json.loads(
                    self.rfile.read(int(self.headers["Content-Length"]))
                )
                receiver.alerts.append((said["title"], said["message"]))
                self.send_response(200)
                self.end_headers()

            def do_GET(self) -> None:
                receiver.beats.append(self.path)
                self.send_response(500 if "broken" in self.path else 200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
