"""How long the primary has not answered, counted probe by probe, and whether that is long enough to
act.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dbsync_pipeline.mirror.failover.observe import Observation, answers, standing
from dbsync_pipeline.settings import Settings
from dbsync_pipeline.text import count


@dataclass(frozen=True)
class Outage:
    """The primary has failed `failures` probes in a row, the first of them at `since` (UTC)."""

    primary: str
    failures: int
    since: dt.datetime

    def to_text(self) -> str:
        """One line of JSON, for a sensor's cursor."""
        return json.dumps([self.primary, self.failures, self.since.isoformat()])

    @classmethod
    def from_text(cls, text: str) -> Outage:
        """The inverse of `to_text`."""
        primary, failures, since = json.loads(text)
        return cls(primary, failures, dt.datetime.fromisoformat(since))

    def __str__(self) -> str:
        return (
            f"{self.primary} did not answer {count(self.failures, 'probe')} in a row, "
            f"since {self.since:%Y-%m-%d %H:%M:%S} UTC"
        )


def count_probe(
    before: Outage | None, seen: Sequence[Observation], settings: Settings, now: dt.datetime
) -> Outage | None:
    """Return the outage after one more probe of all databases at `now`; None if there is no outage.

    There is none if the primary answers or is not configured, and none that can be seen if no
    database answers.
    """
    primary = standing(seen, settings).primary
    configured = any(database.name == primary for database in seen)
    any_answers = any(database.answers for database in seen)
    if not configured or not any_answers or answers(seen, primary):
        return None
    if before is None or before.primary != primary:
        return Outage(primary, 1, now)
    return replace(before, failures=before.failures + 1)


def is_due(outage: Outage, settings: Settings, now: dt.datetime) -> bool:
    """Whether enough probes failed, over a long enough time, to run a failover."""
    seconds = (now - outage.since).total_seconds()
    return (
        outage.failures >= settings.failover_after_failures
        and seconds >= settings.failover_grace_seconds
    )
