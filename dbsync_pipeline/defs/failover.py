"""Failover and failback as Dagster runs them: sensors that look and request a run, and jobs that do the work.

A sensor's code is run for real by Dagster's *test sensor* button, so a sensor changes nothing: it probes, counts in its cursor, and requests
a run of a job, which probes again before it acts. What a person has to know of a run is its tag `dbsync/note`.
"""

# No `from __future__ import annotations` here: Dagster reads the ops' annotations as objects.
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from dagster import (
    AssetMaterialization,
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    Failure,
    MetadataValue,
    OpExecutionContext,
    Output,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    job,
    op,
    sensor,
)

from dbsync_pipeline.defs.alerts import failure_alert
from dbsync_pipeline.defs.assets import Permissions, asset_key, publication_metadata, table_metadata
from dbsync_pipeline.defs.resources import OBSERVER, as_dagster_failure, watched
from dbsync_pipeline.defs.run_tags import NOTE_TAG, SOURCE_TAG, TARGET_TAG
from dbsync_pipeline.mirror.database import databases
from dbsync_pipeline.mirror.failover import failover as mirror
from dbsync_pipeline.mirror.failover.failover import Observation, Outage
from dbsync_pipeline.mirror.ledger import Publish
from dbsync_pipeline.mirror.model import load_model
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.settings import Settings, load

MODE_TAG = "dbsync/failover"
"""`alert` on a run that shall say what is to be done, and not do it."""

OUTAGE_TAG = "dbsync/outage"
"""Since when the primary has not answered, on a run that the sensor asked for."""

_ATTEMPTS = 3
"""So many runs are asked for in one outage, each after the one before failed."""

REPORT = "report"
"""The metadata that holds what a run saw and did, as JSON."""

_NOTHING = "nothing"
"""A cursor without an outage: Dagster keeps the former one in the place of an empty one."""

_LONGEST_PROBE = 20.0
"""Seconds: a sensor that takes a minute is ended by Dagster."""


# The jobs ---------------------------------------------------------------------------------------------------------------


@op
def fail_over(context: OpExecutionContext) -> Output[None]:
    """Probe again, bring the other standbys up to the newest, and promote it where it holds writes of its own and a majority answers."""
    act = context.run.tags.get(MODE_TAG) != "alert"
    with as_dagster_failure(), _cancelling(context) as begun:
        settings = load()
        report = mirror.failover(
            settings,
            load_model(settings.models, settings.revisions),
            context.run_id,
            act=act,
            watch=begun,
        )
    _note_publications(context, report.published)
    if report.matters:
        _tell(context, report.note)
    if report.failed or (report.matters and not act):
        raise Failure(
            description=report.note, metadata={REPORT: _json(report)}, allow_retries=False
        )
    return Output(None, metadata={REPORT: _json(report), "note": report.note})


@op
def fail_back(context: OpExecutionContext, config: Permissions) -> Output[None]:
    """Sync the configured primary from the primary of now while nobody can write there, and make it the primary again."""
    with as_dagster_failure(), _cancelling(context) as begun:
        settings = load()
        model, policy = (
            load_model(settings.models, settings.revisions),
            config.applied_to(settings.policy),
        )
        done = mirror.failback(
            settings, model, context.run_id, policy=policy, observe=OBSERVER.get(), watch=begun
        )
    _note_publications(context, [done.publication])
    _tell(context, done.note)
    return Output(None, metadata={REPORT: _json(done), "note": done.note})


@op
def report_primary_back(context: OpExecutionContext) -> None:
    """Say that the configured primary answers again, and what stands in the way of its writes."""
    with as_dagster_failure():
        settings = load()
        note = mirror.back_note(_probe(settings), settings)
    if note:
        _tell(context, note)


@job(
    description="When the primary does not answer: bring the standbys up to the newest one, and promote it where the application writes.",
    hooks={failure_alert()},
)
def failover_job() -> None:
    fail_over()


@job(
    description="Give the configured primary its place back: sync it from the primary of now under a lock, with the next term.",
    hooks={failure_alert()},
)
def failback_job() -> None:
    fail_back()


@job(
    description="Tell that the configured primary is back while another database is the primary.",
    hooks={failure_alert()},
)
def primary_back_job() -> None:
    report_primary_back()


@contextmanager
def _cancelling(context: OpExecutionContext) -> Iterator[Callable[[Session], None]]:
    """Sessions that are told to it stop when somebody cancels the run."""
    ended = list[Any]()
    try:
        yield lambda session: ended.append(watched(context, session))
    finally:
        for event in ended:
            event.set()


def _note_publications(context: OpExecutionContext, published: Sequence[Publish]) -> None:
    """The tables' partitions, and history, show what was published, as after a sync."""
    if not published:
        return
    targets = ", ".join(one.target for one in published)
    context.instance.add_run_tags(
        context.run_id, {SOURCE_TAG: published[0].source, TARGET_TAG: targets}
    )
    for one in published:
        for table, result in one.tables.items():
            metadata = {**table_metadata(table, result), **publication_metadata(one, "standby")}
            context.log_event(
                AssetMaterialization(asset_key(table), metadata=metadata, partition=one.target)
            )


def _tell(context: OpExecutionContext, note: str) -> None:
    context.instance.add_run_tags(context.run_id, {NOTE_TAG: note})
    context.log.warning(note)


def _json(value: Any) -> MetadataValue[Any]:
    return MetadataValue.json(json.loads(json.dumps(dataclasses.asdict(value), default=_plain)))


def _plain(value: Any) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


# The sensors ------------------------------------------------------------------------------------------------------------


def sensors(settings: Settings) -> list[SensorDefinition]:
    """The failover sensor and the one that tells when the configured primary is back; both probe every `failover_probe_seconds`."""

    @sensor(
        job=failover_job,
        name="failover",
        minimum_interval_seconds=settings.failover_probe_seconds,
        default_status=DefaultSensorStatus.RUNNING,
        description="Requests a run of failover_job for each outage of the primary, and another where that one failed, three in all.",
    )
    def failover_sensor(context: SensorEvaluationContext) -> SensorResult:
        now = load()
        if now.failover == "off":
            return SensorResult(skip_reason="DBSYNC_FAILOVER is off", cursor=_NOTHING)
        return outage(
            _probe(now),
            now,
            context.cursor,
            datetime.now(UTC),
            lambda since: _failed(context.instance, since),
        )

    @sensor(
        job=primary_back_job,
        name="primary_back",
        minimum_interval_seconds=settings.failover_probe_seconds,
        default_status=DefaultSensorStatus.RUNNING,
        description="Tells, once for each return, that the configured primary answers while another database is the primary.",
    )
    def primary_back_sensor(context: SensorEvaluationContext) -> SensorResult:
        now = load()
        return back(_probe(now), now, context.cursor, datetime.now(UTC))

    return [failover_sensor, primary_back_sensor]


def _failed(instance: DagsterInstance, since: str) -> int:
    """How many runs of that outage failed at what they were to do; one that was only to tell fails always."""
    failures = RunsFilter(
        job_name=failover_job.name,
        tags={OUTAGE_TAG: since, MODE_TAG: "auto"},
        statuses=[DagsterRunStatus.FAILURE],
    )
    return instance.get_runs_count(failures)


def outage(
    seen: Sequence[Observation],
    settings: Settings,
    cursor: str | None,
    now: datetime,
    failed: Callable[[str], int],
) -> SensorResult:
    """What the failover sensor does: count in the cursor, and request a run when the outage is long enough.

    Its key is the outage's, so that it is run once, and has the number of those that `failed`, so that another is tried, to a limit.
    """
    before = Outage.from_text(cursor) if cursor not in (None, _NOTHING) else None
    found = mirror.tally(before, seen, settings, now)
    if found is None:
        return SensorResult(skip_reason=mirror.decided(seen, settings).why, cursor=_NOTHING)
    if not mirror.due(found, settings, now):
        return SensorResult(skip_reason=str(found), cursor=found.to_text())
    since = found.since.isoformat()
    attempt = min(failed(since), _ATTEMPTS - 1)
    key = f"{found.primary} {since}" + (f" {attempt + 1}" if attempt else "")
    request = RunRequest(run_key=key, tags={MODE_TAG: settings.failover, OUTAGE_TAG: since})
    return SensorResult(run_requests=[request], cursor=found.to_text())


def back(
    seen: Sequence[Observation], settings: Settings, cursor: str | None, now: datetime
) -> SensorResult:
    """What the other sensor does: the cursor holds the moment of the return, until the primary falls silent or has its place back."""
    note = mirror.back_note(seen, settings)
    if note is None:
        return SensorResult(
            skip_reason=f"{settings.primary} is the primary, or does not answer", cursor=_NOTHING
        )
    since = cursor if cursor not in (None, _NOTHING) else now.isoformat()
    return SensorResult(
        run_requests=[RunRequest(run_key=f"{settings.primary} {since}")], cursor=since
    )


def _probe(settings: Settings) -> tuple[Observation, ...]:
    return mirror.probe(databases(settings), min(settings.connect_seconds, _LONGEST_PROBE))
