"""Who is signed in, and how often a wrong token may be tried.

A session is a random number in a cookie. The server keeps only its hash, in memory, until it
expires; a restart signs everybody out. The cookie opens the page and nothing else: the API still
wants the token itself.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from urllib.parse import urlsplit

from starlette.requests import Request

SESSION_SECONDS = 12 * 3600.0
MOST_SESSIONS = 100
ATTEMPTS = 10
"""Wrong tokens that one address may send within ATTEMPT_SECONDS."""
ATTEMPT_SECONDS = 300.0
MOST_ADDRESSES = 1000


class Sessions:
    """The open sessions: at most MOST_SESSIONS, of which the oldest ends first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[str, float] = {}

    def begin(self) -> str:
        """Open a session and return its secret, for the cookie."""
        secret, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            self._ends = {key: end for key, end in self._ends.items() if end > now}
            while len(self._ends) >= MOST_SESSIONS:
                del self._ends[next(iter(self._ends))]
            self._ends[_hash(secret)] = now + SESSION_SECONDS
        return secret

    def is_open(self, secret: str | None) -> bool:
        """Return whether the secret is that of a session that has not ended."""
        with self._lock:
            return bool(secret) and self._ends.get(_hash(secret or ""), 0) > time.monotonic()

    def end(self, secret: str | None) -> None:
        """End the session, if it is open."""
        with self._lock:
            self._ends.pop(_hash(secret or ""), None)


class Attempts:
    """The wrong tokens of the last ATTEMPT_SECONDS, counted by the address of the client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[str, list[float]] = {}

    def wait_seconds(self, address: str) -> float:
        """Return how long the address must wait before it may try a token; 0 if it may try now,
        which counts as an attempt.
        """
        now = time.monotonic()
        with self._lock:
            recent = [at for at in self._times.pop(address, []) if at > now - ATTEMPT_SECONDS]
            wait = recent[0] + ATTEMPT_SECONDS - now if len(recent) >= ATTEMPTS else 0.0
            while len(self._times) >= MOST_ADDRESSES:
                del self._times[next(iter(self._times))]
            self._times[address] = recent if wait else [*recent, now]
        return wait

    def forget(self, address: str) -> None:
        """Forget the attempts of an address that had the token."""
        with self._lock:
            self._times.pop(address, None)


def is_same_origin(request: Request) -> bool:
    """Return whether a page of this server, or no page at all, sent the request.

    Every current browser says so in `Sec-Fetch-Site`; an older one sends the page's `Origin`. A
    program that is no browser sends neither, and cannot be led to send a cookie.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
