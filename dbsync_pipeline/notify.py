"""The one door by which the project speaks to people who are not looking, and its sign of life to a watchdog.

An alert that cannot be delivered is said in the log and nothing else: it never fails what it tells of. URLs are secrets here, tokens and
passwords stand in them: they are neither logged nor quoted.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
import urllib.request
from collections.abc import Callable

from dbsync_pipeline import redact
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
    delivered: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place, url in enumerate(addresses):
        work = (delivered, place, url, title, redact.clean(body))
        threading.Thread(target=_deliver, args=work, name="dbsync-alert", daemon=True).start()
    arrived, ends = set[int](), time.monotonic() + _SECONDS
    while len(arrived) < len(addresses):
        try:
            arrived.add(delivered.get(timeout=max(0.0, ends - time.monotonic())))
        except queue.Empty:
            break
    good = {place for place in arrived if place >= 0}
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


def _deliver(
    delivered: queue.SimpleQueue[int], place: int, url: str, title: str, body: str
) -> None:
    """Puts the place where it went, or -1 - place."""
    good = False
    try:
        import apprise

        logging.getLogger("apprise").disabled = True  # it quotes a URL that it cannot read
        sender = apprise.Apprise()
        good = bool(sender.add(url)) and bool(
            sender.notify(
                title=title,
                body=body,
                notify_type=apprise.NotifyType.WARNING,
                body_format=apprise.NotifyFormat.TEXT,
            )
        )
    except Exception:  # whatever it is, it may quote the URL
        good = False
    finally:
        delivered.put(place if good else -1 - place)


def _kind(url: str) -> str:
    found = _SCHEME.match(url)
    return found[0] if found else "not a URL"
