"""Alerts to people, and the heartbeat to a watchdog.

An alert that cannot be delivered is logged and changes nothing else: it never fails the run that it
is about. The URLs contain tokens and passwords, so they are neither logged nor quoted.
"""

from __future__ import annotations

import logging
import re
import urllib.request
from collections.abc import Callable
from functools import partial

from dbsync_pipeline import redact
from dbsync_pipeline.deadline import run_until
from dbsync_pipeline.settings import Settings

Log = Callable[[str], object]

_log = logging.getLogger("dbsync")
_BETWEEN_URLS = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_SCHEME = re.compile(r"[A-Za-z0-9]+(?=://)")
_ALERT_SECONDS = 20.0
_HEARTBEAT_SECONDS = 5.0


def send(settings: Settings, title: str, body: str, log: Log = _log.warning) -> int:
    """Send to all URLs of DBSYNC_ALERT_URLS at once; return how many accepted, within 20 seconds.

    `log` receives a line for each that did not: its position in the setting and its kind. URLs and
    passwords in the body are cut out. Raise nothing.
    """
    addresses = urls(settings.alert_urls.get_secret_value())
    text = redact.clean(body)
    work = {str(n): partial(_deliver, url, title, text) for n, url in enumerate(addresses)}
    results = run_until(work, _ALERT_SECONDS, label="dbsync-alert")
    delivered = {n for n in range(len(addresses)) if results.get(str(n)) is True}
    for position, url in enumerate(addresses):
        if position not in delivered:
            log(
                f"alert {position + 1} of {len(addresses)} in DBSYNC_ALERT_URLS "
                f"({_kind(url)}) was not delivered: {title}"
            )
    return len(delivered)


def urls(text: str) -> tuple[str, ...]:
    """Return the URLs of a setting. Blanks or commas separate them; a comma inside a URL stays."""
    return tuple(url for url in _BETWEEN_URLS.split(text.strip()) if url)


def heartbeat(settings: Settings, log: Log = _log.warning) -> bool:
    """Request DBSYNC_HEARTBEAT_URL, if set, after a good sync; return whether it answered.

    A failure is logged; nothing is raised.
    """
    url = settings.heartbeat_url.get_secret_value()
    if not url:
        return False
    try:
        with urllib.request.urlopen(url, timeout=_HEARTBEAT_SECONDS):
            return True
    except Exception as error:  # its message may quote the URL
        log(f"the heartbeat (DBSYNC_HEARTBEAT_URL) was not delivered: {type(error).__name__}")
        return False


def _deliver(url: str, title: str, body: str) -> bool:
    """Send to one URL; return whether it accepted. Raise nothing: an error may quote the URL."""
    try:
        import apprise

        logging.getLogger("apprise").disabled = True  # it quotes a URL that it cannot read
        sender = apprise.Apprise()
        return bool(sender.add(url)) and bool(
            sender.notify(
                title=title,
                body=body,
                notify_type=apprise.NotifyType.WARNING,
                body_format=apprise.NotifyFormat.TEXT,
            )
        )
    except Exception:
        return False


def _kind(url: str) -> str:
    scheme = _SCHEME.match(url)
    return scheme[0] if scheme else "not a URL"
