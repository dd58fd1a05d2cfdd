"""The verbs that serve pages or an API: ui, serve."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import Annotated

import typer

from dbsync_pipeline import extras
from dbsync_pipeline.cli.common import configured, starting_dagster
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.output.serve import Server

Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="The port to listen on.")]


def ui(port: Port = 3000) -> Server:
    """Run Dagster's web pages and its daemon. Ctrl-C stops both.

    They share their history of runs with this command line.
    """
    settings, _ = configured()
    _require_free("127.0.0.1", port, "ui")
    with starting_dagster():
        from dbsync_pipeline.runs import launch
    home = launch.prepare_home(settings)
    url = f"http://127.0.0.1:{port}"
    # Dagster's warning recommends a tool for projects of another layout
    quiet = ["-W", "ignore:Function `dev_command` is superseded"]
    module = ["-m", "dagster", "dev", "-m", "dbsync_pipeline.definitions"]
    return Server(
        {"url": url, "dagster_home": home},
        f"Dagster runs at {url} and keeps its runs in {home}. Ctrl-C stops it.",
        [sys.executable, *quiet, *module, "-h", "127.0.0.1", "-p", str(port)],
        {**os.environ, "DAGSTER_HOME": str(home)},
    )


def serve(
    host: Annotated[
        str,
        typer.Option("--host", help="The address to listen on: an IPv4 address or a name."),
    ] = "127.0.0.1",
    port: Port = 8000,
) -> Server:
    """Serve the page to glance at and the admin API over HTTP, both behind DBSYNC_API_TOKEN.

    Ctrl-C stops it and the running syncs.
    """
    settings, _ = configured()
    settings.required_api_token()
    extras.require("api", "fastapi", "uvicorn", operation="serve")
    _require_free(host, port, "serve")
    url = f"http://{host}:{port}"
    module = ["-m", "dbsync_pipeline.http.server", "--host", host, "--port", str(port)]
    return Server(
        {"url": url},
        f"The page is at {url}, and the admin API of docs/api.md below it. Ctrl-C stops both.",
        [sys.executable, *module],
        dict(os.environ),
    )


def _require_free(host: str, port: int, operation: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:
            raise SettingsError(
                f"{host} is not an address of this machine",
                operation=operation,
                remedy=f"dbsync {operation} --host 127.0.0.1",
            ) from None
        except OSError as error:
            raise _not_free(host, port, operation, error) from None


def _not_free(host: str, port: int, operation: str, error: OSError) -> SettingsError:
    if error.errno == errno.EADDRINUSE:
        return SettingsError(
            f"port {port} is taken",
            operation=operation,
            remedy=f"dbsync {operation} --port {port + 1 if port < 65535 else port - 1}",
        )
    return SettingsError(
        f"nothing can listen on {host}, port {port}: {error.strerror}",
        operation=operation,
        remedy="name an address of this machine and a free port",
    )
