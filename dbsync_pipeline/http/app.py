"""`dbsync serve`: the HTTP API, for a program that cannot run `dbsync`. The same words, the same answers, the same errors.

Every request brings the token, or is answered by 401 before anything else of it is read. A sync runs in a process of its own, for
Dagster runs one at a time in one, and to its end, also when whoever asked for it has gone. Settings are read at the start.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from threading import BoundedSemaphore
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from dbsync_pipeline import output, redact
from dbsync_pipeline.errors import Busy, DbsyncError, SettingsError, Transient
from dbsync_pipeline.mirror.database import databases
from dbsync_pipeline.mirror.model import Model, load_model
from dbsync_pipeline.mirror.status import status
from dbsync_pipeline.policy import Overrides
from dbsync_pipeline.request import SyncRequest, resolve
from dbsync_pipeline.runs import history, launch
from dbsync_pipeline.settings import Settings, load

PAGE = "docs/api.md has the addresses and their words"
UNREAD = "Dbsync-Unread"
"""The header that names the databases whose ledgers were not read."""

AT_ONCE = 8
"""So many syncs run at once, each a process of some 200 megabytes."""
_running = BoundedSemaphore(AT_ONCE)

_log = logging.getLogger("uvicorn.error")
"""The server's own."""

router = APIRouter(prefix="/admin")


def create() -> FastAPI:
    """The application, as a server of ASGI runs it. Raises SettingsError where a setting is wrong, or the token missing."""
    settings = load()
    app = FastAPI(
        title="dbsync", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.settings, app.state.model = settings, load_model(settings.models, settings.revisions)
    app.state.token = settings.required_api_token()
    app.middleware("http")(_guard)
    app.add_exception_handler(DbsyncError, _failed)
    app.add_exception_handler(RequestValidationError, _misasked)
    app.add_exception_handler(HTTPException, _unknown)
    app.include_router(router)
    return app


def _ground(request: Request) -> tuple[Settings, Model]:
    return request.app.state.settings, request.app.state.model


Ground = Annotated[tuple[Settings, Model], Depends(_ground)]


# What can be asked -----------------------------------------------------------------------------------------------------


Name = Annotated[str, Field(min_length=1, max_length=200)]


class Asked(Overrides):
    """What to sync: the options of `dbsync sync` by their names, and whether to wait for its end."""

    model_config = ConfigDict(extra="forbid")

    source: Name | None = None
    target: list[Name] = []
    table: list[Name] = []
    wait: bool = True


class Wanted(BaseModel):
    """Which runs to list: the options of `dbsync history` by their names."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=20, ge=1, le=output.MOST_RUNS)
    source: Name | None = None
    target: Name | None = None
    failed: bool = False


@router.get("/db-status")
def db_status(ground: Ground) -> Response:
    """Of each database whether it answers, what it holds, and how far it is from the primary: `dbsync status`."""
    return _answer(status(*ground))


@router.get("/sync-history")
def sync_history(ground: Ground, asked: Annotated[Wanted, Query()]) -> Response:
    """The syncs that ran, newest first, however they were launched: `dbsync history`."""
    settings, _ = ground
    source, target = (
        None if name is None else settings.database(name).name
        for name in (asked.source, asked.target)
    )
    wanted = history.Wanted(asked.limit, source, target, asked.failed)
    with launch.dagster_instance(settings) as instance:
        found = history.past(instance, databases(settings), wanted, seconds=settings.answer_seconds)
    return _answer(found.runs, headers={UNREAD: ", ".join(found.unread)} if found.unread else None)


@router.post("/sync")
def sync(ground: Ground, later: BackgroundTasks, asked: Asked | None = None) -> Response:
    """Make the targets equal to the source: `dbsync sync`. 200 where they are, 409 where one is not, 202 where nobody waits for it."""
    asked = asked or Asked()
    settings, model = ground
    choice = resolve(settings, model, asked.source, asked.target, asked.table, asked.overrides)
    _claim()
    if not asked.wait:
        later.add_task(_sync_unwatched, settings, choice)  # the server waits for it before it ends
        return _answer({"source": choice.source, "target": choice.targets}, 202, background=later)
    done = _sync(settings, choice)
    return _answer(
        output.outcomes_json(choice, done), 200 if all(run.succeeded for run in done) else 409
    )


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> Response:
    """These addresses and their words, for a program."""
    return _answer(request.app.openapi())


def _claim() -> None:
    """A place among those that run; raises Busy where there are so many that this machine might not bear one more."""
    if not _running.acquire(blocking=False):
        cause = f"{AT_ONCE} syncs that were asked for here are running"
        raise Busy(cause, operation="sync", remedy="wait for one of them to end, then ask again")


def _sync(settings: Settings, choice: SyncRequest) -> list[history.Run]:
    """The syncs, in a new process, after which the place that was claimed for them is free."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            return apart.submit(launch.sync_all, settings, choice, "api").result()
    except BrokenProcessPool:
        cause = "the process of the sync is gone: it was killed, or could not start"
        raise DbsyncError(
            cause, operation="sync", remedy="`dbsync history` says what was published"
        ) from None
    finally:
        _running.release()


def _sync_unwatched(settings: Settings, choice: SyncRequest) -> None:
    """The syncs, for nobody: history has how they ended, and the log why they could not begin."""
    try:
        _sync(settings, choice)
    except DbsyncError as error:
        _log.error("%s", error)
    except Exception as error:
        _log.error("%s", redact.text(error))


# How it is answered ----------------------------------------------------------------------------------------------------


async def _guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Nothing without the token, and no traceback to anyone."""
    if not _brings(request.app.state.token, request):
        remedy = "send the header `Authorization: Bearer <DBSYNC_API_TOKEN>`"
        return _refuse(DbsyncError("the token is missing, or is another one", remedy=remedy), 401)
    try:
        return await call_next(request)
    except Exception as error:
        return _refuse(DbsyncError(redact.text(error)), 500)


def _brings(token: str, request: Request) -> bool:
    """Whether the request has the token; how long it takes to say so tells nothing of it."""
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    return (
        secrets.compare_digest(given.strip().encode(), token.encode()) and kind.lower() == "bearer"
    )


def _failed(_request: Request, error: Any) -> Response:
    """400 the asking was wrong, 503 a retry can help, 409 it is not so."""
    if isinstance(error, SettingsError):
        return _refuse(error, 400)
    return _refuse(error, 503 if isinstance(error, Transient) else 409)


def _misasked(_request: Request, error: Any) -> Response:
    wrong = [
        f"{'.'.join(map(str, one['loc'][1:])) or one['loc'][0]}: {one['msg']}"
        for one in error.errors()
    ]
    return _refuse(SettingsError("; ".join(wrong), operation="read the request", remedy=PAGE), 400)


def _unknown(request: Request, error: Any) -> Response:
    return _refuse(
        SettingsError(f"{request.method} {request.url.path}: {error.detail}", remedy=PAGE),
        error.status_code,
    )


def _answer(
    value: Any,
    status: int = 200,
    headers: dict[str, str] | None = None,
    background: BackgroundTasks | None = None,
) -> Response:
    return Response(
        output.text(value), status, headers, media_type="application/json", background=background
    )


def _refuse(error: DbsyncError, status: int) -> Response:
    return _answer(
        {"error": output.error_json(error)},
        status,
        {"WWW-Authenticate": "Bearer"} if status == 401 else None,
    )
