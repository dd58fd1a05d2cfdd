"""The HTTP API of `dbsync serve`: the verbs sync, adopt, status and history for other programs.

Options, results and errors are those of the command line; docs/api.md describes the addresses. No
request is read further without the token, except for the page in `glance/`, which a person opens
with the same token. A sync runs in a process of its own, because Dagster runs
one job at a time per process, and continues if the client disconnects. Settings are read at start.
"""

from __future__ import annotations

import logging
import multiprocessing
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import BoundedSemaphore
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from dbsync_pipeline import redact
from dbsync_pipeline.errors import Busy, DbsyncError, SettingsError, Transient
from dbsync_pipeline.http.glance.routes import Glance, is_page, pages
from dbsync_pipeline.http.metrics import CONTENT_TYPE, Metrics
from dbsync_pipeline.http.server import BODY_SECONDS, MOST_BODY, LimitBody
from dbsync_pipeline.mirror.database import databases
from dbsync_pipeline.mirror.model import Model, configured_model
from dbsync_pipeline.mirror.status import status
from dbsync_pipeline.output.base import Result, error_json, text
from dbsync_pipeline.output.sync import Adopted, Listed, Statuses, Synced
from dbsync_pipeline.request import AdoptOptions, HistoryOptions, SyncOptions, SyncRequest
from dbsync_pipeline.runs import history, launch
from dbsync_pipeline.runs.adopt import adopt_all as take_in
from dbsync_pipeline.settings import Settings, load

Done = TypeVar("Done")

REMEDY = "see docs/api.md for the addresses and their options"
UNREAD = "Dbsync-Unread"
"""The header that names the databases whose ledgers could not be read."""

AT_ONCE = 8
"""How many syncs run at the same time; each is a process of some 200 megabytes."""
_slots = BoundedSemaphore(AT_ONCE)

_forks = "forkserver" in multiprocessing.get_all_start_methods()
_processes = multiprocessing.get_context("forkserver" if _forks else "spawn")
"""How a sync's process starts: forked by one that has imported this module, which the first sync
starts. This process has threads, so it must not fork itself. Windows cannot fork."""

_log = logging.getLogger("uvicorn.error")
_bearer = HTTPBearer(auto_error=False, description="DBSYNC_API_TOKEN")

router = APIRouter(prefix="/admin", dependencies=[Depends(_bearer)])
monitoring = APIRouter(dependencies=[Depends(_bearer)])


def create() -> FastAPI:
    """Return the ASGI application. Raise SettingsError if a setting or the token is wrong."""
    settings = load()
    if _forks:
        _processes.set_forkserver_preload([__name__])
    app = FastAPI(
        title="dbsync", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.settings, app.state.model = settings, configured_model(settings)
    app.state.token = settings.required_api_token()
    app.add_middleware(LimitBody, too_large=_too_large, too_slow=_too_slow)
    app.middleware("http")(_authenticate)
    app.add_exception_handler(DbsyncError, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _not_found)
    app.state.metrics, app.state.glance = Metrics(settings), Glance(settings)
    app.include_router(router)
    app.include_router(monitoring)
    app.include_router(pages)
    return app


def _configured(request: Request) -> tuple[Settings, Model]:
    return request.app.state.settings, request.app.state.model


Configured = Annotated[tuple[Settings, Model], Depends(_configured)]


# The addresses ------------------------------------------------------------------------------------


class SyncBody(SyncOptions):
    """The options of `dbsync sync`, and whether to wait for the end."""

    wait: bool = Field(
        default=True, description="Respond when the sync has ended; otherwise when it is accepted."
    )


@router.get("/db-status")
def db_status(configured: Configured) -> Response:
    """Show for each database whether it answers, what it holds, and how far it is behind."""
    settings, model = configured
    return _respond(Statuses(status(settings, model), settings.primary))


@router.get("/sync-history")
def sync_history(configured: Configured, options: Annotated[HistoryOptions, Query()]) -> Response:
    """List past syncs, newest first, however they were launched."""
    settings, _ = configured
    options.check(settings)
    with launch.dagster_instance(settings) as instance:
        past = history.past(instance, databases(settings), options, seconds=settings.answer_seconds)
    return _respond(Listed(past), headers={UNREAD: ", ".join(past.unread)} if past.unread else {})


@router.post("/sync")
def sync(
    configured: Configured, background: BackgroundTasks, body: SyncBody | None = None
) -> Response:
    """Make the targets equal to the source.

    200: every target is equal. 409, 503: a target is not; 503 if a retry can help every one that is
    not. 202: the sync was accepted and continues.
    """
    settings, model = configured
    body = body or SyncBody()
    request = body.resolve(settings, model)
    _take_slot()
    if not body.wait:
        # the server ends only after its background tasks
        background.add_task(_sync_in_background, settings, request)
        accepted = {"source": request.source, "target": request.targets}
        return _json(accepted, 202, background=background)
    return _respond(Synced(request, _sync(settings, request)))


@router.post("/adopt")
def adopt(configured: Configured, body: AdoptOptions | None = None) -> Response:
    """Take in standbys whose rows another tool copied.

    200: every standby is taken in, now or earlier. 409, 503: one is not; 503 if a retry can help
    every one that is not.
    """
    settings, model = configured
    request = (body or AdoptOptions()).resolve(settings, model)
    _take_slot()
    return _respond(Adopted(request.source, _in_a_process(take_in, settings, request)))


@monitoring.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request) -> Response:
    """Return the state of the standbys in Prometheus' text format."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE)


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> Response:
    """Describe these addresses to a program."""
    return _json(request.app.openapi())


def _take_slot() -> None:
    """Reserve a slot for a sync; raise Busy if AT_ONCE syncs are running."""
    if not _slots.acquire(blocking=False):
        raise Busy(
            f"{AT_ONCE} syncs are running, which is the limit",
            operation="sync",
            remedy="wait until one of them has ended, then repeat the request",
        )


def _sync(settings: Settings, request: SyncRequest) -> list[history.Run]:
    """Run the syncs in a new process, and free their slot."""
    return _in_a_process(launch.sync_in_new_process, settings, request)


def _in_a_process(
    work: Callable[[Settings, SyncRequest, str], Done], settings: Settings, request: SyncRequest
) -> Done:
    """Do the work of a request in a new process, and free its slot."""
    try:
        with ProcessPoolExecutor(1, _processes) as process:
            return process.submit(work, settings, request, "api").result()
    except BrokenProcessPool:
        raise DbsyncError(
            "the process of the sync ended early: it was killed, or could not start",
            operation="sync",
            remedy="`dbsync history` shows what was published",
        ) from None
    finally:
        _slots.release()


def _sync_in_background(settings: Settings, request: SyncRequest) -> None:
    """Run the syncs for a client that does not wait; log the error if they cannot start."""
    try:
        _sync(settings, request)
    except DbsyncError as error:
        _log.error("%s", error)
    except Exception as error:
        _log.error("%s", redact.text(error))


# Responses ----------------------------------------------------------------------------------------


async def _authenticate(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Refuse every request of a program without the token, and never respond with a traceback."""
    if not is_page(request) and not await _has_token(request):
        remedy = "send the header `Authorization: Bearer <DBSYNC_API_TOKEN>`"
        return _refuse(DbsyncError("the token is missing or wrong", remedy=remedy), 401)
    try:
        return await call_next(request)
    except Exception as error:
        return _refuse(DbsyncError(redact.text(error)), 500)


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    cause = f"the body has more than {MOST_BODY:,} bytes"
    error = SettingsError(cause, operation="read the request", remedy=REMEDY)
    await _refuse(error, 413)(scope, receive, send)


async def _too_slow(scope: Scope, receive: Receive, send: Send) -> None:
    cause = f"the body was not complete within {BODY_SECONDS:g} seconds"
    error = SettingsError(cause, operation="read the request", remedy="repeat the request")
    await _refuse(error, 408)(scope, receive, send)


async def _has_token(request: Request) -> bool:
    """Whether the request has the token; the time that this takes reveals nothing about it."""
    credentials = await _bearer(request)
    given = credentials.credentials.strip() if credentials else ""
    return secrets.compare_digest(given.encode(), request.app.state.token.encode())


def _failed(_request: Request, error: Any) -> Response:
    """400 for a wrong request, 503 if a retry can help, else 409."""
    if isinstance(error, SettingsError):
        return _refuse(error, 400)
    return _refuse(error, 503 if isinstance(error, Transient) else 409)


def _invalid(_request: Request, error: Any) -> Response:
    wrong = [
        f"{'.'.join(map(str, problem['loc'][1:])) or problem['loc'][0]}: {problem['msg']}"
        for problem in error.errors()
    ]
    return _refuse(
        SettingsError("; ".join(wrong), operation="read the request", remedy=REMEDY), 400
    )


def _not_found(request: Request, error: Any) -> Response:
    cause = f"{request.method} {request.url.path}: {error.detail}"
    refusal = error_json(SettingsError(cause, remedy=REMEDY))
    return _json({"error": refusal}, error.status_code, error.headers)  # 405 has Allow


def _respond(result: Result, headers: dict[str, str] | None = None) -> Response:
    """Return the result as JSON: 200 if it is ok, 503 if a retry can help, else 409."""
    status = 200 if result.ok else 503 if result.transient else 409
    return _json(result.json(), status, headers)


def _refuse(error: DbsyncError, status: int) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return _json({"error": error_json(error)}, status, headers)


def _json(
    value: Any,
    status: int = 200,
    headers: dict[str, str] | None = None,
    background: BackgroundTasks | None = None,
) -> Response:
    return Response(
        text(value), status, headers, media_type="application/json", background=background
    )
