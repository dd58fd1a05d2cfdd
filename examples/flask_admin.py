"""An admin page in a Flask application: status, sync and history of the mirror.

Register `admin` in your application. Every request must carry the token of DBSYNC_API_TOKEN. Each
request runs one `dbsync` command as a process of its own, so a sync neither blocks nor outlives the
rules of the command line, and the JSON is the same: docs/json.md.

    flask --app examples.flask_admin run
"""

from __future__ import annotations

import hmac
import subprocess
import sys

from flask import Blueprint, Flask, Response, abort, request

from dbsync_pipeline.settings import load

STATUSES = {0: 200, 1: 409, 2: 400}
"""The HTTP status for each exit status: true, not true, an invalid request."""

admin = Blueprint("dbsync", __name__, url_prefix="/admin")


@admin.before_request
def authenticate() -> None:
    """Refuse a request without the token."""
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), load().required_api_token().encode()):
        abort(401)


@admin.get("/db-status")
def db_status() -> Response:
    """Show each database: reachable, rows, age, in sync, ready."""
    return dbsync("status")


@admin.get("/sync-history")
def sync_history() -> Response:
    """Show the newest runs; `?limit=` says how many."""
    return dbsync("history", "--limit", request.args.get("limit", "10"))


@admin.post("/sync")
def sync() -> Response:
    """Sync from the primary, or from `source`, to all others, or to the databases in `target`."""
    body = request.get_json(silent=True) or {}
    options = [f"--source={body['source']}"] if "source" in body else []
    options += [f"--target={name}" for name in body.get("target", [])]
    return dbsync("sync", *options)


def dbsync(*words: str) -> Response:
    """Run a command and return its JSON."""
    command = [sys.executable, "-m", "dbsync_pipeline.cli.entry", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return Response(done.stdout, STATUSES.get(done.returncode, 500), mimetype="application/json")


def create_app() -> Flask:
    """Return a Flask application with these pages."""
    app = Flask(__name__)
    app.register_blueprint(admin)
    return app
