"""Failover and failback in Dagster: sensors that probe and request a run, and jobs that do the
work.

Dagster's *test sensor* button runs a sensor's code for real, so a sensor changes nothing: it
probes, counts in its cursor, and requests a run of a job, which probes again before it acts. The
run's tag `dbsync/note` holds what a person must know.
"""

# No `from __future__ import annotations` here: Dagster reads the ops' annotations as objects.
import dataclasses
import functools
import json
import threading
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
    GraphDefinition,
    JobDefinition,
    MetadataValue,
    OpDefinition,
    OpExecutionContext,
    Output,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    op,
    sensor,
)

from dbsync_pipeline.defs import table_metadata
from dbsync_pipeline.defs.assets import OverridesConfig
from dbsync_pipeline.defs.connections import settings_of
from dbsync_pipeline.defs.failures import as_dagster_failure
from dbsync_pipeline.defs.keys import asset_keys
from dbsync_pipeline.defs.probing import evaluate
from dbsync_pipeline.defs.resources import OBSERVER
from dbsync_pipeline.defs.run_tags import FAILOVER, NOTE_TAG, SOURCE_TAG, TARGET_TAG
from dbsync_pipeline.defs.watcher import watch
from dbsync_pipeline.mirror.database import databases
from dbsync_pipeline.mirror.failover.decide import decide_for
from dbsync_pipeline.mirror.failover.failback import back_note, failback
from dbsync_pipeline.mirror.failover.observe import Observation, probe
from dbsync_pipeline.mirror.failover.outage import Outage, count_probe, is_due
from dbsync_pipeline.mirror.failover.run import failover
from dbsync_pipeline.mirror.ledger import Publish
from dbsync_pipeline.mirror.model import configured_model
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.settings import Settings

FAILOVER_JOB, FAILBACK_JOB, PRIMARY_BACK_JOB = FAILOVER

MODE_TAG = "dbsync/failover"
"""`alert` on a run that only reports what a person should do."""

OUTAGE_TAG = "dbsync/outage"
"""When the outage began, on a run that the sensor requested."""

REPORT = "report"
"""The metadata that holds what a run saw and did, as JSON."""

_ATTEMPTS = 3
"""Runs per outage at most; each is requested after the one before failed."""

_NO_OUTAGE = "nothing"
"""The sensor's own part of its cursor without an outage."""


# The jobs -----------------------------------------------------------------------------------------


def jobs(names: Sequence[str]) -> list[JobDefinition]:
    """Return the three jobs, each of one op that asks for the databases with these names."""
    return [
        _job(
            FAILOVER_JOB,
            "After an outage of the primary: bring the standbys up to the newest of them, and "
            "promote it if the application already writes there.",
            _fail_over_op(names),
        ),
        _job(
            FAILBACK_JOB,
            "Make the configured primary the primary again: sync it from the current one while "
            "writes there are blocked, and start the next term.",
            _fail_back_op(names),
        ),
        _job(
            PRIMARY_BACK_JOB,
            "Report that the configured primary answers again while another database is the "
            "primary.",
            _report_primary_back_op(names),
        ),
    ]


def _job(name: str, description: str, op: OpDefinition) -> JobDefinition:
    return GraphDefinition(name=name, node_defs=[op]).to_job(name=name, description=description)


def _fail_over_op(names: Sequence[str]) -> OpDefinition:
    @op(required_resource_keys=set(names))
    def fail_over(context: OpExecutionContext) -> Output[None]:
        """Probe again, bring the other standbys up to the newest, and promote it if the application
        already writes there and a majority answers."""
        act = context.run.tags.get(MODE_TAG) != "alert"
        with as_dagster_failure(context), _watched(context) as watch_session:
            settings = settings_of(context.resources, names)
            report = failover(
                settings,
                configured_model(settings),
                context.run_id,
                act=act,
                watch=watch_session,
            )
            _log_publishes(context, report.published)
            if report.matters:
                _log_note(context, report.note)
            if report.failed or (report.matters and not act):
                raise Failure(
                    description=report.note, metadata={REPORT: _json(report)}, allow_retries=False
                )
        return Output(None, metadata={REPORT: _json(report), "note": report.note})

    return fail_over


def _fail_back_op(names: Sequence[str]) -> OpDefinition:
    @op(required_resource_keys=set(names))
    def fail_back(context: OpExecutionContext, config: OverridesConfig) -> Output[None]:
        """Make the configured primary the primary again: sync it from the current one while writes
        there are blocked."""
        with as_dagster_failure(context), _watched(context) as watch_session:
            settings = settings_of(context.resources, names)
            done = failback(
                settings,
                configured_model(settings),
                context.run_id,
                policy=config.applied_to(settings.policy),
                observe=OBSERVER.get(),
                watch=watch_session,
            )
        _log_publishes(context, [done.publication])
        _log_note(context, done.note)
        return Output(None, metadata={REPORT: _json(done), "note": done.note})

    return fail_back


def _report_primary_back_op(names: Sequence[str]) -> OpDefinition:
    @op(required_resource_keys=set(names))
    def report_primary_back(context: OpExecutionContext) -> None:
        """Report that the configured primary answers again, and why its writes are not used."""
        with as_dagster_failure(context):
            settings = settings_of(context.resources, names)
            note = back_note(probe(databases(settings), settings.connect_seconds), settings)
        if note:
            _log_note(context, note)

    return report_primary_back


@contextmanager
def _watched(context: OpExecutionContext) -> Iterator[Callable[[Session], None]]:
    """Yield a function that lets a session be cancelled with the run, until the block ends."""
    ended = list[threading.Event]()
    try:
        yield lambda session: ended.append(watch(context, session))
    finally:
        for event in ended:
            event.set()


def _log_publishes(context: OpExecutionContext, published: Sequence[Publish]) -> None:
    """Record each publish as a sync does: tags and materializations, for pages and history."""
    if not published:
        return
    targets = ", ".join(publish.target for publish in published)
    context.instance.add_run_tags(
        context.run_id, {SOURCE_TAG: published[0].source, TARGET_TAG: targets}
    )
    for publish in published:
        keys = asset_keys(publish.tables)
        for table, result in publish.tables.items():
            metadata = {
                **table_metadata.materialization(table, result),
                **table_metadata.publish(publish, "standby"),
            }
            context.log_event(
                AssetMaterialization(keys[table], metadata=metadata, partition=publish.target)
            )


def _log_note(context: OpExecutionContext, note: str) -> None:
    context.instance.add_run_tags(context.run_id, {NOTE_TAG: note})
    context.log.warning(note)


def _json(value: Any) -> MetadataValue[Any]:
    return MetadataValue.json(json.loads(json.dumps(dataclasses.asdict(value), default=_plain)))


def _plain(value: Any) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


# The sensors --------------------------------------------------------------------------------------


def sensors(settings: Settings) -> list[SensorDefinition]:
    """Return the failover sensor and the one that reports the return of the configured primary.

    Both probe every `failover_probe_seconds`: see `probing.py`.
    """
    names = set(settings.names)

    @sensor(
        job_name=FAILOVER_JOB,
        required_resource_keys=names,
        name="failover",
        minimum_interval_seconds=settings.failover_probe_seconds,
        default_status=DefaultSensorStatus.RUNNING,
        description="Request a run of failover_job for each outage of the primary, and another if "
        "that one failed: three in all.",
    )
    def failover_sensor(context: SensorEvaluationContext) -> SensorResult:
        settings = settings_of(context.resources, names)
        if settings.failover == "off":
            return SensorResult(skip_reason="DBSYNC_FAILOVER is off", cursor=_NO_OUTAGE)
        now = datetime.now(UTC)

        def decide(seen: Sequence[Observation], own: str | None) -> SensorResult:
            failed = functools.partial(_failed_attempts, context.instance)
            return outage(seen, settings, own, now, failed)

        return evaluate(settings, context.cursor, now, decide)

    @sensor(
        job_name=PRIMARY_BACK_JOB,
        required_resource_keys=names,
        name="primary_back",
        minimum_interval_seconds=settings.failover_probe_seconds,
        default_status=DefaultSensorStatus.RUNNING,
        description="Report once per return that the configured primary answers while another "
        "database is the primary.",
    )
    def primary_back_sensor(context: SensorEvaluationContext) -> SensorResult:
        settings = settings_of(context.resources, names)
        now = datetime.now(UTC)

        def decide(seen: Sequence[Observation], own: str | None) -> SensorResult:
            return primary_back(seen, settings, own, now)

        return evaluate(settings, context.cursor, now, decide)

    return [failover_sensor, primary_back_sensor]


def _failed_attempts(instance: DagsterInstance, since: str) -> int:
    """Return how many runs of that outage failed. Runs that only report always fail and do not
    count."""
    failures = RunsFilter(
        job_name=FAILOVER_JOB,
        tags={OUTAGE_TAG: since, MODE_TAG: "auto"},
        statuses=[DagsterRunStatus.FAILURE],
    )
    return instance.get_runs_count(failures)


def outage(
    observed: Sequence[Observation],
    settings: Settings,
    cursor: str | None,
    now: datetime,
    failed_attempts: Callable[[str], int],
) -> SensorResult:
    """Count the failed probes in the cursor; request a run once the outage is long enough.

    The run's key names the outage, so Dagster runs it once; it also has the number of the attempt,
    so another follows a failed one, up to three.
    """
    before = Outage.from_text(cursor) if cursor not in (None, _NO_OUTAGE) else None
    current = count_probe(before, observed, settings, now)
    if current is None:
        return SensorResult(skip_reason=decide_for(observed, settings).why, cursor=_NO_OUTAGE)
    if not is_due(current, settings, now):
        return SensorResult(skip_reason=str(current), cursor=current.to_text())
    since = current.since.isoformat()
    attempt = min(failed_attempts(since), _ATTEMPTS - 1)
    key = f"{current.primary} {since}" + (f" {attempt + 1}" if attempt else "")
    request = RunRequest(run_key=key, tags={MODE_TAG: settings.failover, OUTAGE_TAG: since})
    return SensorResult(run_requests=[request], cursor=current.to_text())


def primary_back(
    observed: Sequence[Observation], settings: Settings, cursor: str | None, now: datetime
) -> SensorResult:
    """Request one run per return of the configured primary.

    The cursor holds the time of the return until that database stops answering or is the primary
    again.
    """
    note = back_note(observed, settings)
    if note is None:
        return SensorResult(
            skip_reason=f"{settings.primary} is the primary, or does not answer", cursor=_NO_OUTAGE
        )
    since = cursor if cursor not in (None, _NO_OUTAGE) else now.isoformat()
    return SensorResult(
        run_requests=[RunRequest(run_key=f"{settings.primary} {since}")], cursor=since
    )
