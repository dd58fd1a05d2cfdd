"""No client can bring the HTTP API down: generated, slow, huge and many requests."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from dbsync_pipeline.http import server
from dbsync_pipeline_tests.http_server import serving

TOKEN = "only-for-these-tests-0123456789"
ALL_CHECKS = list(HealthCheck)
PLAIN = "text/plain; charset=utf-8"
"""What uvicorn itself sends for a request that is not HTTP."""
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with one database, so that every sync is refused before it starts a process."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DBSYNC_API_TOKEN", TOKEN)
        patch.setenv("DBSYNC_WINDOWS_URL", f"sqlite:///{folder / 'windows.db'}")
        patch.setattr(server, "HEADER_SECONDS", 1.0)
        patch.setattr(server, "BODY_SECONDS", 1.0)
        with serving() as address:
            yield address


@pytest.mark.system  # for the time it takes
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_generated_request_causes_a_server_error(mode: GenerationMode, url: str) -> None:
    """Requests that the API's own OpenAPI document allows, and requests that it does not."""
    api = schemathesis.openapi.from_url(f"{url}/admin/openapi.json", headers=HEADERS)
    for operation in api.get_all_operations():

        @given(case=operation.ok().as_strategy(generation_mode=mode))
        @settings(max_examples=60, deadline=None, database=None, suppress_health_check=ALL_CHECKS)
        def request(case: Any) -> None:
            response = case.call(headers=HEADERS, timeout=60)
            assert response.status_code < 500, response.text
            if response.status_code >= 400 and response.headers["content-type"] != PLAIN:
                assert response.json()["error"]["cause"]

        request()


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    try:
        while part := connection.recv(65_536):
            received += part
    except ConnectionError:  # it was closed while data was in transit
        pass
    return received


@pytest.mark.parametrize("beginning", [b"", b"GET /admin/db-status HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_without_complete_headers_is_closed(url: str, beginning: bytes) -> None:
    with connected(url) as connection:
        connection.sendall(beginning)
        started = time.monotonic()
        assert until_closed(connection) == b""
        assert time.monotonic() - started < 10


def test_headers_that_come_byte_by_byte_do_not_keep_a_connection(url: str) -> None:
    with connected(url) as connection, pytest.raises(OSError):
        for _ in range(200):
            connection.sendall(b"x")
            time.sleep(0.05)


def headers(length: int) -> bytes:
    return (
        f"POST /admin/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def test_a_body_that_does_not_arrive_is_not_waited_for(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(headers(100) + b"{")
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 408") and b"not complete within" in answer


def test_a_huge_body_is_refused_before_it_is_read(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(headers(10**12) + b" " * (server.MOST_BODY + 1))
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 413")


def test_huge_headers_are_refused(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * (4 * server.MOST_HEADER))
        assert until_closed(connection)[:12] in (b"HTTP/1.1 400", b"")


def test_too_many_connections_are_refused_and_the_rest_served(url: str) -> None:
    with ExitStack() as opened:
        for _ in range(server.MOST_CONNECTIONS):
            opened.enter_context(connected(url))
        time.sleep(0.2)
        assert requests.get(f"{url}/admin/db-status", timeout=30).status_code == 503
    deadline = time.monotonic() + 20
    while requests.get(f"{url}/admin/db-status", timeout=30).status_code != 401:
        assert time.monotonic() < deadline


def test_many_requests_at_once_are_answered(url: str) -> None:
    with ThreadPoolExecutor(16) as clients:
        ask = lambda _: requests.get(f"{url}/admin/db-status", headers=HEADERS, timeout=60)  # noqa: E731
        codes = {response.status_code for response in clients.map(ask, range(48))}
    assert codes == {200}
