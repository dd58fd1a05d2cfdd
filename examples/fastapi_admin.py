"""The mirror's HTTP API inside of a FastAPI application, under /dbsync/admin/.

The API is an application of its own, mounted into yours: the same addresses, token, limits and JSON
as `dbsync serve` (docs/api.md). It needs the extra `api`, and DBSYNC_API_TOKEN.

    uvicorn --factory examples.fastapi_admin:create_app
"""

from __future__ import annotations

from fastapi import FastAPI

from dbsync_pipeline.http.app import create


def create_app() -> FastAPI:
    """Return an application with its own page and the mirror's API beside it."""
    app = FastAPI(title="shop")
    app.mount("/dbsync", create())

    @app.get("/")
    def home() -> dict[str, str]:
        return {"shop": "open"}

    return app
