"""The page of `dbsync serve`: who may see it, what it says, and what a look at it costs."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests

from dbsync_pipeline.http.glance import facts, sessions, texts
from dbsync_pipeline.http.glance.routes import COOKIE
from dbsync_pipeline_tests.http_server import serving
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.test_cli import Dbsync, dbsync, places  # noqa: F401
from dbsync_pipeline_tests.worlds import execute

TOKEN = "only-for-these-tests-0123456789"


@pytest.fixture
def url(places: Places) -> Iterator[str]:  # noqa: F811
    places.set(DBSYNC_API_TOKEN=TOKEN)
    with serving() as address:
        yield address


def browser(language: str = "en") -> requests.Session:
    session = requests.Session()
    session.headers["Accept-Language"] = language
    return session


def signed_in(url: str, language: str = "en") -> requests.Session:
    session = browser(language)
    page = session.post(f"{url}/sign-in", data={"token": TOKEN}, timeout=60)
    assert page.status_code == 200 and urlsplit(page.url).path == "/", page.text
    return session


def plain(page: requests.Response) -> str:
    """What a person reads of the page, in one line."""
    body = page.text[page.text.index("<body>") :]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


# Who may see it --------------------------------------------------------------------------------


def test_the_page_needs_a_session_and_the_token_opens_one(url: str) -> None:
    session = browser()
    first = session.get(url, timeout=60)
    assert urlsplit(first.url).path == "/sign-in" and "DBSYNC_API_TOKEN" in first.text
    wrong = session.post(f"{url}/sign-in", data={"token": TOKEN + "1"}, timeout=60)
    assert wrong.status_code == 401 and not session.cookies and "not the token" in wrong.text
    assert "windows" not in first.text + wrong.text and TOKEN not in wrong.text
    page = session.post(f"{url}/sign-in", data={"token": TOKEN}, timeout=60)
    assert page.status_code == 200 and "windows" in page.text and TOKEN not in page.text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_cookie_is_for_this_site_alone_and_secure_under_tls(url: str, scheme: str) -> None:
    answer = requests.post(
        f"{url}/sign-in",
        data={"token": TOKEN},
        headers={"X-Forwarded-Proto": scheme},  # as a proxy with TLS on this machine says
        allow_redirects=False,
        timeout=60,
    )
    assert answer.status_code == 303
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/", "max-age=43200"} <= attributes
    assert ("secure" in attributes) is (scheme == "https")


def test_signing_out_ends_the_session_on_the_server(url: str) -> None:
    session = signed_in(url)
    kept = dict(session.cookies)
    left = session.post(f"{url}/sign-out", timeout=60)
    assert urlsplit(left.url).path == "/sign-in" and COOKIE not in session.cookies
    again = requests.get(url, cookies=kept, allow_redirects=False, timeout=60)
    assert again.status_code == 303


def test_a_session_ends_by_itself(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSION_SECONDS", -1)
    page = browser().post(f"{url}/sign-in", data={"token": TOKEN}, timeout=60)
    assert urlsplit(page.url).path == "/sign-in"


def test_the_cookie_opens_the_page_and_nothing_else(url: str) -> None:
    session = signed_in(url)
    for path in ("/admin/db-status", "/admin/sync-history", "/metrics", "/admin/openapi.json"):
        assert session.get(url + path, timeout=60).status_code == 401
    assert session.post(f"{url}/admin/sync", json={}, timeout=60).status_code == 401


def test_it_works_inside_of_another_application(places: Places) -> None:  # noqa: F811
    places.set(DBSYNC_API_TOKEN=TOKEN)
    session = browser()
    with serving("examples.fastapi_admin:create_app") as shop:
        url = f"{shop}/dbsync"
        assert session.get(f"{url}/", timeout=60).url == f"{url}/sign-in"
        page = session.post(f"{url}/sign-in", data={"token": TOKEN}, timeout=60)
        assert page.url == f"{url}/" and 'href="/dbsync/?read=now"' in page.text
        assert session.get(f"{url}/admin/db-status", timeout=60).status_code == 401
        assert session.post(f"{url}/sign-out", timeout=60).url == f"{url}/sign-in"
        assert session.get(f"{url}/", timeout=60).url == f"{url}/sign-in"


@pytest.mark.parametrize("host", ["x/?", "x/#", "x/sign-in?"])
def test_a_host_header_does_not_open_the_api(url: str, host: str) -> None:
    """The address is the request's own; a URL put together with the header would end as `/`."""
    answer = requests.get(f"{url}/metrics", headers={"Host": host}, timeout=60)
    assert answer.status_code in (400, 401)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Origin": "{url}"}, 303),
        ({}, 303),
    ],
)
def test_another_site_can_neither_sign_in_nor_out(
    url: str, headers: dict[str, str], status: int
) -> None:
    session = signed_in(url)
    sent = {name: value.format(url=url) for name, value in headers.items()}
    for path in ("/sign-in", "/sign-out"):
        answer = session.post(
            url + path, data={"token": TOKEN}, headers=sent, allow_redirects=False, timeout=60
        )
        assert answer.status_code == status
    assert (session.get(url, timeout=60).url == f"{url}/sign-in") is (status == 303)


def test_wrong_tokens_are_bounded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(token: str) -> requests.Response:
        return requests.post(
            f"{url}/sign-in", data={"token": token}, allow_redirects=False, timeout=60
        )

    assert attempt(TOKEN).status_code == 303
    statuses = [attempt("x" * 30).status_code for _ in range(sessions.ATTEMPTS)]
    assert statuses == [401] * sessions.ATTEMPTS
    refused = attempt(TOKEN)
    assert refused.status_code == 429 and 290 <= int(refused.headers["Retry-After"]) <= 300
    monkeypatch.setattr(sessions, "ATTEMPT_SECONDS", 0.0)
    assert attempt(TOKEN).status_code == 303


@pytest.mark.parametrize("body", [b"", b"token", b"\xff=1", b"&".join([b"a=1"] * 50)])
def test_a_form_that_is_none_is_a_wrong_token(url: str, body: bytes) -> None:
    assert requests.post(f"{url}/sign-in", data=body, timeout=60).status_code == 401


def test_sessions_and_addresses_are_bounded() -> None:
    opened, attempts = sessions.Sessions(), sessions.Attempts()
    secrets = [opened.begin() for _ in range(sessions.MOST_SESSIONS + 1)]
    assert [opened.is_open(secret) for secret in secrets] == [False] + [
        True
    ] * sessions.MOST_SESSIONS
    for number in range(sessions.MOST_ADDRESSES + 100):
        assert attempts.wait_seconds(str(number)) == 0
    assert len(attempts._times) == sessions.MOST_ADDRESSES


# What it says ----------------------------------------------------------------------------------


def test_it_shows_syncs_refusals_and_readiness_in_both_languages(
    url: str,
    places: Places,  # noqa: F811
    dbsync: Dbsync,  # noqa: F811
) -> None:
    from dbsync_pipeline.definitions import defs

    assert dbsync("sync", "--target", "linux", "--quiet").status == 0
    english, spanish = signed_in(url), signed_in(url, "es-ES,es;q=0.9,en;q=0.5")
    text = plain(english.get(url, timeout=60))
    assert "Not every standby has been checked yet." in text
    assert "Not checked yet" in text and "windows as of" in text
    assert '<rect class="sync"' in english.get(url, timeout=60).text

    execute(places.named("linux"), "UPDATE users SET name = 'local' WHERE id = 1")
    execute(places.named("windows"), "UPDATE users SET name = 'new' WHERE id = 1")
    assert dbsync("sync", "--target", "linux", "--quiet").status == 1
    with places.dagster() as instance:
        defs.resolve_job_def("readiness_job").execute_in_process(instance=instance)
    page = english.get(url, timeout=60)
    text = plain(page)
    assert "local writes, users" in text and "--overwrite" in text and 'class="cross"' in page.text
    assert "1 of 2 standbys could take over now." in text
    text = plain(spanish.get(url, timeout=60))
    assert "1 de 2 podrían sustituir a la primaria ahora." in text and "Rechazado" in text


def test_what_a_person_wrote_is_shown_as_text(
    url: str,
    places: Places,  # noqa: F811
    dbsync: Dbsync,  # noqa: F811
) -> None:
    assert dbsync("sync", "--target", "linux", "--quiet").status == 0
    assert dbsync("pause", "linux", "--reason", "<script>alert(1)</script>").status == 0
    page = signed_in(url).get(url, timeout=60).text
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page


def test_it_loads_nothing_and_runs_no_script(url: str) -> None:
    for page in (browser().get(url, timeout=60), signed_in(url).get(url, timeout=60)):
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "frame-ancestors 'none'" in policy and "form-action 'self'" in policy
        assert page.headers["cache-control"] == "no-store"
        linked = re.findall(r"(?:src|href|action)=\"([^\"]*)\"", page.text)
        assert linked and all(link[0] in "/?" or link.startswith("data:") for link in linked)
        assert "<script" not in page.text and " style=" not in page.text


def test_the_switch_of_the_language_stays(url: str) -> None:
    session = signed_in(url)
    assert '<html lang="en">' in session.get(url, timeout=60).text
    assert '<html lang="es">' in session.get(url, params={"language": "es"}, timeout=60).text
    assert '<html lang="es">' in session.get(url, timeout=60).text
    assert '<html lang="es">' in session.get(url, params={"language": "xx"}, timeout=60).text


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "en"),
        ("es", "es"),
        ("es-MX,es;q=0.9,en;q=0.8", "es"),
        ("en-US,en;q=0.9,es;q=0.8", "en"),
        ("fr,es;q=0.3", "es"),
        ("de", "en"),
        ("es;q=x,en", "en"),
    ],
)
def test_the_language_is_the_one_that_the_browser_prefers(header: str, code: str) -> None:
    assert texts.preferred(header) == code


def test_both_languages_have_every_text_with_the_same_values() -> None:
    def values(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    assert list(texts.ENGLISH) == list(texts.SPANISH)
    for name, text in texts.ENGLISH.items():
        assert values(text) == values(texts.SPANISH[name]), name
        assert text.count("`") == texts.SPANISH[name].count("`"), name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3_600, "1 h"),
        (12_000, "3 h 20 min"),
        (439_300, "5 d 2 h"),
    ],
)
def test_ages_have_two_units_at_most(seconds: float, text: str) -> None:
    assert texts.Language("en", "UTC").age(seconds) == text


def test_numbers_are_as_the_language_writes_them() -> None:
    english, spanish = texts.Language("en", "UTC"), texts.Language("es", "UTC")
    assert (english.number(25_300), english.size(1_234_567)) == ("25,300", "1.2 MB")
    assert (spanish.number(25_300), spanish.size(1_234_567)) == (
        "25\N{NO-BREAK SPACE}300",
        "1,2 MB",
    )


# What a look costs -----------------------------------------------------------------------------


def test_a_page_that_is_loaded_again_asks_no_database(
    url: str,
    places: Places,  # noqa: F811
    dbsync: Dbsync,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file of the standby is away, so a question to it would fail and show."""
    assert dbsync("sync", "--target", "linux", "--quiet").status == 0
    session = signed_in(url)
    file = places.folder / ".dbsync" / "linux.db"
    away = file.rename(file.with_suffix(".away"))
    assert "No answer" not in plain(session.get(url, timeout=60)).split("azure")[0]
    again = {"read": "now"}
    assert "No answer" not in plain(session.get(url, params=again, timeout=60)).split("azure")[0]
    monkeypatch.setattr(facts, "SOONEST_SECONDS", 0.0)
    silent = plain(session.get(url, params=again, timeout=60))
    assert "No answer" in silent.split("azure")[0]
    assert "Holds not known: it does not answer" in silent
    away.rename(file)
    assert "No answer" in plain(session.get(url, timeout=60)).split("azure")[0]
    monkeypatch.setattr(facts, "SILENT_SECONDS", 0.0)
    assert "No answer" not in plain(session.get(url, timeout=60)).split("azure")[0]


def test_a_sync_that_ended_since_is_shown_at_once(
    url: str,
    places: Places,  # noqa: F811
    dbsync: Dbsync,  # noqa: F811
) -> None:
    session = signed_in(url)
    assert "windows as of" not in plain(session.get(url, timeout=60))
    assert dbsync("sync", "--target", "linux", "--quiet").status == 0
    text = plain(session.get(url, timeout=60))
    assert "windows as of" in text and "windows → linux published" in text


def test_the_page_of_an_unreadable_store_says_so(
    url: str,
    places: Places,  # noqa: F811
) -> None:
    session = signed_in(url)
    for file in (places.dagster_home / "history").rglob("*.db"):
        file.write_bytes(b"this is no database")
    page = session.get(url, timeout=60)
    assert page.status_code == 500 and "cannot be shown" in page.text, page.text
