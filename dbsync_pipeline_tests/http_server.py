"""The HTTP API in a thread of the test's process, on a free port."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from dbsync_pipeline.http.server import options
from dbsync_pipeline_tests.processes import free_port


@contextmanager
def serving(application: str = "dbsync_pipeline.http.app:create") -> Iterator[str]:
    """Serve the application with the current settings; yield its address."""
    port = free_port()
    config = uvicorn.Config(
        application,
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="critical",
        **options(),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)
