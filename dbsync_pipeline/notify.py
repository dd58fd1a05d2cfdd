"""The one door by which the project speaks to people who are not looking, and its sign of life to a watchdog.

An alert that cannot be delivered is said in the log and nothing else: it never fails what it tells of. URLs are secrets here, tokens and
passwords stand in them: they are neither logged nor quoted.
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

Say = Callable[[str], object]

_log = logging.getLogger("dbsync")
_BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_SCHEME = re.compile(r"[A-Za-z0-9]+(?=://)")
_SECONDS = 20.0
_HEARTBEAT_SECONDS = 5.0


def send(settings: Settings, title: str, body: str, say: Say = _log.warning) -> int:
    """Send to every URL of DBSYNC_ALERT_URLS at the same time; returns how many took it, within 20 seconds. Raises nothing.

    `say` is told of those that did not, by their place in the setting and their kind. Anything in the body that looks like a URL or a
    password is cut out.
    """
    addresses = urls(settings.alert_urls.get_secret_value())
    text = redact.clean(body)
    work = {str(place): partial(_deliver, url, title, text) for place, url in enumerate(addresses)}
    results = run_until(work, _SECONDS, label="dbsync-alert")
    good = {place for place in range(len(addresses)) if results.get(str(place)) is True}
    for place, url in enumerate(addresses):
        if place not in good:
            say(
                f"alert {place + 1} of {len(addresses)} in DBSYNC_ALERT_URLS ({_kind(url)}) was not delivered: {title}"
            )
    return len(good)


def urls(text: str) -> tuple[str, ...]:
    """The URLs of a setting, which blanks or commas separate; a comma inside of one stays in it."""
    return tuple(url for url in _BETWEEN.split(text.strip()) if url)


def heartbeat(settings: Settings, say: Say = _log.warning) -> bool:
    """Call DBSYNC_HEARTBEAT_URL, if there is one, after a good sync; True when it answered. Raises nothing."""
    url = settings.heartbeat_url.get_secret_value()
    if not url:
        return False
    try:
        if not url.startswith(("http://", "https://")):
            raise ValueError
        with urllib.request.urlopen(url, timeout=_HEARTBEAT_SECONDS):
            return True
    except Exception as error:  # its message may quote the URL
        say(f"the heartbeat (DBSYNC_HEARTBEAT_URL) was not delivered: {type(error).__name__}")
        return False


def _deliver(url: str, title: str, body: str) -> bool:
    """Send to one URL; return whether it took the alert. Raise nothing: an exception may quote the URL."""
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
    found = _SCHEME.match(url)
    return found[0] if found else "not a URL"
