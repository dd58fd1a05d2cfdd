"""A mail server that takes everything: enough of SMTP (RFC 5321) for a client without passwords."""

from __future__ import annotations

import email
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from threading import Thread


@contextmanager
def mail_server() -> Iterator[tuple[str, list[Message]]]:
    """Its address, as host:port, and the mails that it has taken."""
    taken: list[Message] = []

    class Conversation(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say(220)
            for line in self.rfile:
                word = line.split(b" ")[0].strip().upper()
                if word == b"DATA":
                    self._say(354)
                    taken.append(
                        email.message_from_bytes(b"".join(iter(self.rfile.readline, b".\r\n")))
                    )
                self._say(221 if word == b"QUIT" else 250)

        def _say(self, code: int) -> None:
            self.wfile.write(b"%d -\r\n" % code)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Conversation) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", taken
        server.shutdown()
