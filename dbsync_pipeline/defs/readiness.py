"""Whether each standby could take over now, for the pages and for alerts, checked by a schedule of
its own, whether or not syncs run.

One asset, with one partition per database and one check per requirement. A scheduled run checks all
databases and reports on all partitions, so a standby's age is noticed even if nothing else runs;
materializing one partition by hand checks that database. The last report is read back from Dagster,
so an alert is sent only when something changes.
"""

# No `from __future__ import annotations` here: Dagster reads the ops' annotations as objects.
import datetime as dt
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    AssetsDefinition,
    DagsterInstance,
    GraphDefinition,
    JobDefinition,
    MaterializeResult,
    MetadataValue,
    OpDefinition,
    OpExecutionContext,
    PreviewWarning,
    StaticPartitionsDefinition,
    asset,
    in_process_executor,
    op,
)

# Private, because Dagster exports no way to say which materialization a check outside of its step
# is about.
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from dbsync_pipeline import notify
from dbsync_pipeline.defs.connections import settings_of
from dbsync_pipeline.defs.failures import as_dagster_failure
from dbsync_pipeline.defs.run_tags import STANDBY
from dbsync_pipeline.mirror import ready
from dbsync_pipeline.mirror.database import databases
from dbsync_pipeline.mirror.model import configured_model
from dbsync_pipeline.mirror.ready import Report
from dbsync_pipeline.settings import Settings

KEY = AssetKey(list(STANDBY))
REASONS = "reasons"
_SECONDS = 600.0  # checking the foreign keys of large tables reads them whole


def standby_asset(names: Sequence[str]) -> AssetsDefinition:
    """Return the asset `dbsync/standby`, with one partition per database."""
    partitions = StaticPartitionsDefinition(list(names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)  # checks with partitions are a preview
        specs = [
            AssetCheckSpec(name, asset=KEY, description=text, partitions_def=partitions)
            for name, text in ready.CHECKS.items()
        ]

    @asset(
        key=KEY,
        partitions_def=partitions,
        check_specs=specs,
        group_name="standbys",
        required_resource_keys=set(names),
    )
    def standby(context: AssetExecutionContext) -> Iterator[MaterializeResult[None]]:
        """Check whether the application could write to the database now. Copy nothing."""
        with as_dagster_failure(context):
            reports = _survey(settings_of(context.resources, names))
        (report,) = (report for report in reports if report.name == context.partition_key)
        results = [
            AssetCheckResult(check_name=name, passed=passed, description=why)
            for name, passed, why in _checks(report)
        ]
        yield MaterializeResult(metadata=_metadata(report), check_results=results)

    return standby


def _check_standbys_op(names: Sequence[str]) -> OpDefinition:
    @op(required_resource_keys=set(names))
    def check_standbys(context: OpExecutionContext) -> None:
        """Check all databases, report on every partition, and send an alert of each change."""
        with as_dagster_failure(context):
            settings = settings_of(context.resources, names)
            reports = _survey(settings)
        for report in reports:
            last = last_check(context.instance, report.name)
            before = last.reasons if last else {}
            context.log_event(
                AssetMaterialization(KEY, partition=report.name, metadata=_metadata(report))
            )
            # Dagster ignores a check of anything but the latest materialization.
            target = _latest(context.instance, report.name)
            for name, passed, why in _checks(report):
                evaluation = AssetCheckEvaluation(
                    KEY, name, passed, {}, target, description=why, partition=report.name
                )
                # `log_event` accepts evaluations; its annotation omits them.
                context.log_event(evaluation)  # type: ignore[arg-type]
            for title, body in news(report, before, settings.primary):
                notify.send(settings, title, body, context.log.warning)

    return check_standbys


def readiness_job(names: Sequence[str]) -> JobDefinition:
    """Return the job that checks all databases in one run, as DBSYNC_READINESS_SCHEDULE says."""
    return GraphDefinition(name="readiness", node_defs=[_check_standbys_op(names)]).to_job(
        name="readiness_job",
        executor_def=in_process_executor,
        description="Check of each standby whether it could take over now; send an alert of each "
        "change.",
    )


def news(
    report: Report, before: Mapping[str, str], configured: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (title, body) of each alert: reasons that are new since the last report, or all of them
    gone.

    `before` has the last report's reasons by check; `configured` is the primary that the settings
    name.
    """
    new = {check: why for check, why in report.reasons.items() if check not in before}
    gone = set(before) - set(report.reasons)
    if new:
        lines = [
            f"{why}\nRemedy: {ready.remedy(check, report.name, configured)}"
            for check, why in new.items()
        ]
        yield f"dbsync: {report.name} {_state(report)}", "\n".join(lines)
    elif gone and not report.reasons:
        what = "the primary answers again" if report.primary else "it is ready and up to date again"
        yield (
            f"dbsync: {report.name} is well again",
            f"{report.name}: {what} (was: {'; '.join(before.values())})",
        )


def _state(report: Report) -> str:
    if report.primary:
        return "(the primary) does not answer"
    if not report.ready:
        return "could not take over now"
    return "is older than it should be"


def _survey(settings: Settings) -> list[Report]:
    return ready.survey(
        databases(settings),
        settings,
        configured_model(settings),
        seconds=_SECONDS,
    )


@dataclass(frozen=True)
class LastCheck:
    """What the last check of a database found: whether it was ready, why not or what else is wrong,
    by check, and when that was (UTC).
    """

    ready: bool
    reasons: Mapping[str, str]
    checked_at: dt.datetime


def last_check(instance: DagsterInstance, name: str) -> LastCheck | None:
    """Return the last report on the database, read from Dagster's records; None if it was never
    checked. No database is asked."""
    records = instance.fetch_materializations(
        AssetRecordsFilter(KEY, asset_partitions=[name]), limit=1
    ).records
    last = records[0].asset_materialization if records else None
    if last is None or "ready" not in last.metadata:
        return None
    reasons: Any = last.metadata[REASONS].value if REASONS in last.metadata else {}
    checked_at = dt.datetime.fromtimestamp(records[0].timestamp, dt.UTC)
    return LastCheck(bool(last.metadata["ready"].value), dict(reasons), checked_at)


def _latest(instance: DagsterInstance, name: str) -> AssetCheckEvaluationTargetMaterializationData:
    (record,) = instance.fetch_materializations(
        AssetRecordsFilter(KEY, asset_partitions=[name]), limit=1
    ).records
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
    )


def _checks(report: Report) -> Iterator[tuple[str, bool, str]]:
    """Yield (check, passed, why) of every check.

    If the database does not answer, all fail as unknown. The primary passes all but the first.
    """
    unreachable = report.reasons.get(ready.REACHABLE)
    for name, text in ready.CHECKS.items():
        if unreachable is not None:
            why = unreachable if name == ready.REACHABLE else f"not known: {unreachable}"
            yield name, False, why
        elif report.primary and name != ready.REACHABLE:
            yield name, True, "the application writes here: it is the primary"
        else:
            yield name, name not in report.reasons, report.reasons.get(name, text)


def _metadata(report: Report) -> dict[str, Any]:
    last = report.last
    return {
        "role": "primary" if report.primary else "standby",
        "ready": report.ready,
        REASONS: MetadataValue.json(dict(report.reasons)),
        **(
            {
                "publish_number": last.number,
                "source_snapshot": MetadataValue.timestamp(last.as_of),
            }
            if last
            else {}
        ),
        **(
            {"age_hours": round(report.age_seconds / 3600, 2)}
            if report.age_seconds is not None
            else {}
        ),
    }
