"""Which databases the failover sensors probe: the known primary, and all only when necessary.

A standby that sleeps while nobody uses it (a serverless database) would never sleep if it were
probed every minute. A sensor therefore remembers in its cursor who the primary is. It probes all
databases if that one does not answer or was replaced, and every six hours, because another primary
may have been promoted without the knowledge of those two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dagster import SensorResult

from dbsync_pipeline.mirror.database import databases
from dbsync_pipeline.mirror.failover.observe import (
    Observation,
    answers,
    probe,
    probe_known,
    standing,
)
from dbsync_pipeline.settings import Settings

ALL_EVERY = timedelta(hours=6)
_NEVER = datetime.min.replace(tzinfo=UTC)
_LONGEST_PROBE = 20.0
"""Seconds. Dagster ends a sensor that takes a minute."""

Evaluate = Callable[[Sequence[Observation], "str | None"], SensorResult]
"""A sensor's decision from what was seen and its own part of the cursor."""


@dataclass(frozen=True)
class Cursor:
    """The primary at the last probe, empty if it did not answer; when all databases were last
    probed; and what the sensor itself keeps."""

    primary: str = ""
    all_at: datetime = _NEVER
    own: str | None = None

    def to_text(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {"primary": self.primary, "all_at": self.all_at.isoformat(), "own": self.own}
        )

    @classmethod
    def from_text(cls, text: str | None) -> Cursor:
        """The inverse of `to_text`. A cursor of a former version is all the sensor's own."""
        if not text or not text.startswith("{"):
            return cls(own=text)
        fields = json.loads(text)
        return cls(fields["primary"], datetime.fromisoformat(fields["all_at"]), fields["own"])


def evaluate(settings: Settings, text: str | None, now: datetime, decide: Evaluate) -> SensorResult:
    """Probe the databases that the cursor makes necessary, and return the decision with the next
    cursor. Changes nothing."""
    cursor = Cursor.from_text(text)
    among = databases(settings)
    seconds = min(settings.connect_seconds, _LONGEST_PROBE)
    if cursor.primary in settings.names and now - cursor.all_at < ALL_EVERY:
        seen = probe_known(among, settings, seconds, cursor.primary)
    else:
        seen = probe(among, seconds)
    result = decide(seen, cursor.own)
    primary = standing(seen, settings).primary
    following = Cursor(
        primary if answers(seen, primary) else "",
        now if len(seen) == len(among) else cursor.all_at,
        result.cursor,
    )
    return result._replace(cursor=following.to_text())
