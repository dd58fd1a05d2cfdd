"""The page of `dbsync serve` in a real browser: a headless Chromium, where the machine has one.

`WRITE_SCREENSHOTS=1` writes the pictures of the documentation again.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from starlette.requests import Request

from dbsync_pipeline.http.glance import routes, view
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests import glance_sample
from dbsync_pipeline_tests.http_server import serving
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.test_cli import Dbsync, dbsync, places  # noqa: F401

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver"
    ),
]

TOKEN = "only-for-these-tests-0123456789"
IMAGES = Path(__file__).parent.parent / "docs" / "images"
TELEPHONE, DESK = (390, 844), (1280, 900)
Browser = webdriver.Chrome


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new",
        "--no-sandbox",  # a container lacks what the sandbox needs
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield browser
    finally:
        browser.quit()


def look(browser: Browser, size: tuple[int, int], scheme: str = "light") -> None:
    """The size of the screen, and whether the person prefers light or dark."""
    width, height = size
    telephone = size == TELEPHONE
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": telephone},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )


def shows(browser: Browser, text: str) -> bool:
    """Whether the page shows the text, at once or after a click has led to another page."""
    gone = (NoSuchElementException, StaleElementReferenceException)
    body = lambda _: text in browser.find_element(By.TAG_NAME, "body").text  # noqa: E731
    return bool(WebDriverWait(browser, 30, ignored_exceptions=gone).until(body))


def fits(browser: Browser) -> bool:
    """Whether nothing of the page is beyond the right edge of the screen."""
    script = "return document.documentElement.scrollWidth <= innerWidth"
    return bool(browser.execute_script(script))


def test_a_person_signs_in_reads_switches_the_language_and_signs_out(
    chromium: Browser,
    places: Places,  # noqa: F811
    dbsync: Dbsync,  # noqa: F811
) -> None:
    places.set(DBSYNC_API_TOKEN=TOKEN)
    assert dbsync("sync", "--target", "linux", "--quiet").status == 0
    with serving() as url:
        look(chromium, TELEPHONE)
        chromium.delete_all_cookies()
        chromium.get(url)
        assert shows(chromium, "Token") and fits(chromium)
        chromium.find_element(By.NAME, "token").send_keys("not-the-token-but-as-long")
        chromium.find_element(By.CLASS_NAME, "go").click()
        assert shows(chromium, "That is not the token.")
        chromium.find_element(By.NAME, "token").send_keys(TOKEN)
        chromium.find_element(By.CLASS_NAME, "go").click()
        assert shows(chromium, "windows as of") and fits(chromium)
        assert chromium.execute_script("return document.cookie") == "", "no script sees the cookie"
        chromium.find_element(By.LINK_TEXT, "Español").click()
        assert shows(chromium, "Últimas sincronizaciones") and fits(chromium)
        chromium.find_element(By.CSS_SELECTOR, "form button").click()
        assert shows(chromium, "Entre con el valor")
        chromium.get(url)
        assert chromium.current_url.endswith("/sign-in")
        messages = [entry["message"] for entry in chromium.get_log("browser")]
        assert [message for message in messages if "401 (Unauthorized)" not in message] == []


# Pictures --------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The address of the page of the sample in that language, as a file."""
    monkeypatch.setenv("DBSYNC_API_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    glance = routes.Glance(load())
    seen = view.look(glance_sample.facts(), glance_sample.SETTINGS)

    def write(language: str) -> str:
        scope = {
            "type": "http",
            "scheme": "http",
            "headers": [],
            "query_string": f"language={language}".encode(),
        }
        path = tmp_path / f"{language}.html"
        path.write_bytes(bytes(glance.html(Request(scope), "page.html", view=seen).body))
        return path.as_uri()

    return write


@pytest.mark.parametrize(
    ("name", "language", "size", "scheme"),
    [
        ("glance", "en", DESK, "light"),
        (None, "en", DESK, "dark"),
        (None, "en", TELEPHONE, "light"),
        ("glance-telefono", "es", TELEPHONE, "dark"),
        (None, "es", DESK, "light"),
    ],
)
def test_the_page_of_a_week_fits_every_screen(
    chromium: Browser,
    page: Callable[[str], str],
    name: str | None,
    language: str,
    size: tuple[int, int],
    scheme: str,
) -> None:
    look(chromium, size, scheme)
    chromium.get(page(language))
    assert fits(chromium)
    paper = chromium.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
    assert (paper == "rgba(21, 21, 19, 1)") is (scheme == "dark"), "the style sheet applies"
    if name and os.environ.get("WRITE_SCREENSHOTS"):
        height = chromium.execute_script("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": size[0], "height": height, "scale": 1}
        shot = chromium.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
        )
        (IMAGES / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
