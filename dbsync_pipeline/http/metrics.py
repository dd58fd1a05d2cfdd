"""`GET /metrics`: what a Prometheus server reads, from the ledgers and the store of Dagster's runs.

A scrape connects to every database and reads a few rows of its ledger; it compares no data. Scrapes
within CACHE_SECONDS of each other get the same values. Whether a standby is ready comes from its
last check, which Dagster runs by a schedule, because the check reads whole tables.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from dbsync_pipeline.defs.readiness import last_check
from dbsync_pipeline.defs.run_tags import TARGET_TAG
from dbsync_pipeline.mirror import pausing
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.mirror.ledger import Ledger, Publish
from dbsync_pipeline.runs import launch
from dbsync_pipeline.settings import Settings

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
CACHE_SECONDS = 10.0


@dataclass(frozen=True)
class Metric:
    """One metric: its name, its unit, what it says, and its labels. All are gauges."""

    name: str
    unit: str
    text: str
    labels: tuple[str, ...] = ("database",)


METRICS = (
    Metric("dbsync_up", "0 or 1", "1 if the database answered."),
    Metric("dbsync_primary", "0 or 1", "1 for the primary."),
    Metric("dbsync_term", "number", "The highest term that the database recorded."),
    Metric("dbsync_paused", "0 or 1", "1 if schedules and sensors leave the database alone."),
    Metric(
        "dbsync_standby_age_seconds",
        "seconds",
        "The age of the primary's state that the standby holds.",
    ),
    Metric(
        "dbsync_last_publish_timestamp_seconds",
        "seconds since 1970",
        "When the standby received its last publish.",
    ),
    Metric("dbsync_last_publish_number", "number", "The number of the last publish."),
    Metric(
        "dbsync_last_publish_seconds",
        "seconds",
        "How long the last publish took, all phases together.",
    ),
    Metric("dbsync_last_publish_bytes", "bytes", "How many bytes the last publish sent."),
    Metric(
        "dbsync_last_publish_changed_rows",
        "rows",
        "How many rows the last publish inserted, updated or deleted.",
    ),
    Metric("dbsync_partial", "0 or 1", "1 if the last publish was of some tables only."),
    Metric(
        "dbsync_table_rows",
        "rows",
        "How many rows a table of the standby had after its last publish.",
        ("database", "table"),
    ),
    Metric(
        "dbsync_ready",
        "0 or 1",
        "1 if the application could have written to the standby at its last check.",
    ),
    Metric(
        "dbsync_ready_checked_timestamp_seconds",
        "seconds since 1970",
        "When that check was; Dagster's daemon runs it every 15 minutes by default.",
    ),
    Metric(
        "dbsync_failed_runs",
        "runs",
        "How many syncs to the standby failed, of those that Dagster still keeps "
        "(`DBSYNC_HISTORY_DAYS`).",
    ),
)
"""Every metric, in the order of the page."""

_BY_NAME = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True)
class LedgerFacts:
    """What one ledger knows: the newest publish, and why the database is paused, if it is."""

    last: Publish | None
    paused: str | None


class Metrics:
    """The current metrics as text. One thread at a time reads the databases."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._text, self._read_at = b"", -CACHE_SECONDS

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        with self._lock:
            if time.monotonic() - self._read_at >= CACHE_SECONDS:
                registry = CollectorRegistry()
                registry.register(_Families(list(_families(self._settings))))
                self._text, self._read_at = generate_latest(registry), time.monotonic()
            return self._text


class _Families(Collector):
    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> list[GaugeMetricFamily]:
        return self._families


def _families(settings: Settings) -> Iterator[GaugeMetricFamily]:
    among = [database.at_once for database in databases(settings)]
    standing = term.standing(among, settings)
    facts = ask(among, _read, settings.answer_seconds)
    standbys = {
        name: ledger.last
        for name, ledger in facts.good.items()
        if ledger.last is not None and not standing.is_primary(name)
    }
    yield _gauge(
        "dbsync_up",
        {name: float(name in facts.good) for name in facts.names},
    )
    yield _gauge(
        "dbsync_primary",
        {name: float(standing.is_primary(name)) for name in facts.names},
    )
    yield _gauge(
        "dbsync_term",
        {name: float(taken.n) for name, taken in standing.taken.items() if taken},
    )
    yield _gauge(
        "dbsync_paused",
        {name: float(ledger.paused is not None) for name, ledger in facts.good.items()},
    )
    yield from _last_publishes(standbys)
    with launch.dagster_instance(settings) as instance:
        yield from _of_dagster(instance, [name for name in facts.names if name in standbys])


def _read(database: Database) -> LedgerFacts:
    with database.connect() as dialect:
        ledger = Ledger(dialect)
        last = ledger.last() if ledger.exists() else None
        return LedgerFacts(last, pausing.reason(ledger))


def _last_publishes(standbys: dict[str, Publish]) -> Iterator[GaugeMetricFamily]:
    now = dt.datetime.now(dt.UTC)
    numbers: dict[str, Callable[[Publish], float]] = {
        "dbsync_standby_age_seconds": lambda last: (now - last.as_of).total_seconds(),
        "dbsync_last_publish_timestamp_seconds": lambda last: last.published_at.timestamp(),
        "dbsync_last_publish_number": lambda last: last.number,
        "dbsync_last_publish_seconds": lambda last: sum(last.seconds.values()),
        "dbsync_last_publish_bytes": lambda last: sum(
            table.bytes for table in last.tables.values()
        ),
        "dbsync_last_publish_changed_rows": lambda last: last.changed,
        "dbsync_partial": lambda last: float(last.partial),
    }
    for name, value in numbers.items():
        yield _gauge(name, {standby: value(last) for standby, last in standbys.items()})
    rows = _family("dbsync_table_rows")
    for standby, last in standbys.items():
        for table, result in last.tables.items():
            rows.add_metric([standby, table], result.rows)
    yield rows


def _of_dagster(instance: DagsterInstance, standbys: list[str]) -> Iterator[GaugeMetricFamily]:
    checks = {name: last_check(instance, name) for name in standbys}
    known = {name: check for name, check in checks.items() if check is not None}
    yield _gauge(
        "dbsync_ready",
        {name: float(check.ready) for name, check in known.items()},
    )
    yield _gauge(
        "dbsync_ready_checked_timestamp_seconds",
        {name: check.checked_at.timestamp() for name, check in known.items()},
    )
    yield _gauge(
        "dbsync_failed_runs",
        {name: _failed(instance, name) for name in standbys},
    )


def _failed(instance: DagsterInstance, target: str) -> float:
    failed = RunsFilter(statuses=[DagsterRunStatus.FAILURE], tags={TARGET_TAG: target})
    return instance.get_runs_count(failed)


def _gauge(name: str, values: dict[str, float]) -> GaugeMetricFamily:
    family = _family(name)
    for database, value in values.items():
        family.add_metric([database], value)
    return family


def _family(name: str) -> GaugeMetricFamily:
    metric = _BY_NAME[name]
    return GaugeMetricFamily(name, metric.text, labels=metric.labels)
