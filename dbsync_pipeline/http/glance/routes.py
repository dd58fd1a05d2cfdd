"""The addresses of the page: `/`, and `/sign-in` and `/sign-out` for its session.

They are for browsers, so they respond with HTML and are not part of the API's description. All
other addresses want the token itself.
"""

from __future__ import annotations

import base64
import hashlib
import math
import secrets
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Query, Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, RedirectResponse

from dbsync_pipeline import redact
from dbsync_pipeline.dialects import ENGINES
from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.http.glance.facts import Reader
from dbsync_pipeline.http.glance.sessions import (
    SESSION_SECONDS,
    Attempts,
    Sessions,
    is_same_origin,
)
from dbsync_pipeline.http.glance.texts import Language, preferred
from dbsync_pipeline.http.glance.view import View, look, outcome
from dbsync_pipeline.settings import Settings

PATHS = frozenset({"/", "/sign-in", "/sign-out"})

COOKIE = "dbsync-session"
LANGUAGE_COOKIE = "dbsync-language"

_YEAR = 365 * 86_400
_TEMPLATES = Path(__file__).parent / "templates"
_STYLE = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept-Language, Cookie",
}

pages = APIRouter(include_in_schema=False)


class Glance:
    """The page's state: the token, the sessions, the attempts, and what was read."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.token = settings.required_api_token().encode()
        self.reader = Reader(settings)
        self.sessions = Sessions()
        self.attempts = Attempts()
        self._templates = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(
            style=Markup(_STYLE),
            quoted=_quoted,
            short=_short,
            outcome=outcome,
            engine=lambda name: ENGINES[name].label,
            first_line=lambda text: text.splitlines()[0],
        )

    def html(
        self, request: Request, template: str, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """Return the template as a response in the language of the request, which it remembers if
        the request chose it."""
        chosen = request.query_params.get("language")
        wishes = (chosen, request.cookies.get(LANGUAGE_COOKIE))
        code = next((wish for wish in wishes if wish in ("en", "es")), None)
        code = code or preferred(request.headers.get("accept-language", ""))
        say = Language(code, self.settings.timezone)
        if "view" in values:
            values["headline"] = _headline(values["view"], say)
        if "notice" in values:
            name, inserted = values["notice"]
            values["notice"] = say.text(name, **inserted) if name else ""
        text = self._templates.get_template(template).render(say=say, root=_root(request), **values)
        response = HTMLResponse(text, status, HEADERS)
        if chosen == code:
            response.set_cookie(
                LANGUAGE_COOKIE,
                code,
                max_age=_YEAR,
                path=_root(request) or "/",
                httponly=True,
                samesite="strict",
                secure=_is_secure(request),
            )
        return response


def _state(request: Request) -> Glance:
    glance: Glance = request.app.state.glance
    return glance


Here = Annotated[Glance, Depends(_state)]


@pages.get("/")
def page(request: Request, glance: Here, read: Annotated[str, Query()] = "") -> Response:
    """Show the page; `read=now` reads the ledgers first. Without a session, lead to the form."""
    if not glance.sessions.is_open(request.cookies.get(COOKIE)):
        return _to(request, "/sign-in")
    try:
        view = look(glance.reader.read(again=read == "now"), glance.settings)
    except DbsyncError as error:
        return glance.html(request, "error.html", 503, error=error)
    except Exception as error:
        unexpected = DbsyncError(redact.text(error))
        return glance.html(request, "error.html", 500, error=unexpected)
    return glance.html(request, "page.html", view=view)


@pages.get("/sign-in")
def form(request: Request, glance: Here) -> Response:
    """Show the form that asks for the token, or lead to the page if there is a session."""
    if glance.sessions.is_open(request.cookies.get(COOKIE)):
        return _to(request, "/")
    return _form(request, glance)


@pages.post("/sign-in")
async def sign_in(request: Request, glance: Here) -> Response:
    """Open a session for the token, and set its cookie.

    401 if the token is wrong, 403 if another site sent the form, 429 after too many wrong tokens.
    """
    if not is_same_origin(request):
        return _form(request, glance, 403, "not_from_here")
    address = request.client.host if request.client else ""
    wait = glance.attempts.wait_seconds(address)
    if wait:
        response = _form(request, glance, 429, "too_many", minutes=math.ceil(wait / 60))
        response.headers["Retry-After"] = str(math.ceil(wait))
        return response
    if not secrets.compare_digest(_field(await request.body(), "token"), glance.token):
        return _form(request, glance, 401, "wrong_token")
    glance.attempts.forget(address)
    response = _to(request, "/")
    response.set_cookie(
        COOKIE,
        glance.sessions.begin(),
        max_age=int(SESSION_SECONDS),
        path=_root(request) or "/",
        httponly=True,
        samesite="strict",
        secure=_is_secure(request),
    )
    return response


@pages.post("/sign-out")
def sign_out(request: Request, glance: Here) -> Response:
    """End the session, and forget its cookie. A second call does nothing."""
    if not is_same_origin(request):
        return _form(request, glance, 403, "not_from_here")
    glance.sessions.end(request.cookies.get(COOKIE))
    response = _to(request, "/sign-in")
    response.delete_cookie(
        COOKIE,
        path=_root(request) or "/",
        httponly=True,
        samesite="strict",
        secure=_is_secure(request),
    )
    return response


def _form(
    request: Request, glance: Glance, status: int = 200, notice: str = "", **inserted: Any
) -> Response:
    level = "bad" if notice else ""
    return glance.html(request, "sign_in.html", status, notice=(notice, inserted), level=level)


def _to(request: Request, path: str) -> Response:
    return RedirectResponse(_root(request) + path, 303, HEADERS)


def is_page(request: Request) -> bool:
    """Return whether the address checks the session by itself.

    It is the address that was requested: `request.url` would contain the Host header too, which the
    client chooses.
    """
    return request.scope["path"].removeprefix(_root(request)) in PATHS


def _root(request: Request) -> str:
    """Return the address that another application mounted this one at; empty for none."""
    return str(request.scope.get("root_path", ""))


def _is_secure(request: Request) -> bool:
    """Whether the browser speaks TLS: to a proxy on this machine, which says so."""
    return bool(request.scope["scheme"] == "https")


def _field(body: bytes, name: str) -> bytes:
    """Return the field of a form, without blanks around it; empty if there is none."""
    try:
        fields = parse_qs(body.decode(), max_num_fields=4)
    except ValueError:
        return b""
    return fields.get(name, [""])[0].strip().encode()


def _headline(view: View, say: Language) -> str:
    about = dict(view.about)
    names = about.pop("names")
    ending = "_one" if len(names) == 1 and view.headline in ("head_all", "head_warns") else ""
    listed = say.names(names) if names else ""
    return say.text(view.headline + ending, names=listed, **about)


def _quoted(text: str) -> Markup:
    """Return the text with its parts in backquotes as code, whose options stay on one line."""
    parts = [
        _code(part) if index % 2 else escape(part) for index, part in enumerate(text.split("`"))
    ]
    return Markup("").join(parts)


def _code(command: str) -> Markup:
    parts = [Markup("<span>{}</span>").format(part) for part in command.split()]
    return Markup("<code>{}</code>").format(Markup(" ").join(parts))


def _short(number: int) -> str:
    """Return 10, 1k, 10M: a number of an axis."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number // size}{unit}"
    return str(number)
