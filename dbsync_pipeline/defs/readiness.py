"""Whether each standby could take over now, for the UI and for alerts: asked every quarter of an hour, whatever syncs do or do not run.

One asset, one partition per database, one check per thing that must be so. A scheduled run asks all databases and reports on all
partitions, so that a standby's age goes stale by itself; materializing one partition by hand asks again about that one. What an
earlier report said is read back from Dagster, so that an alert is sent when something becomes so, and not every time.
"""

# No `from __future__ import annotations` here: Dagster reads the ops' annotations as objects.
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
    JobDefinition,
    MaterializeResult,
    MetadataValue,
    OpExecutionContext,
    PreviewWarning,
    StaticPartitionsDefinition,
    asset,
    in_process_executor,
    job,
    op,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from dbsync_pipeline import notify
from dbsync_pipeline.defs.resources import as_dagster_failure
from dbsync_pipeline.defs.run_tags import STANDBY
from dbsync_pipeline.mirror import ready
from dbsync_pipeline.mirror.database import databases
from dbsync_pipeline.mirror.model import load_model
from dbsync_pipeline.mirror.ready import Report
from dbsync_pipeline.settings import Settings, load

KEY = AssetKey(list(STANDBY))
REASONS = "reasons"
_SECONDS = 600.0  # foreign keys of large tables are read whole


def standby_asset(names: Sequence[str]) -> AssetsDefinition:
    """One partition per database."""
    partitions = StaticPartitionsDefinition(list(names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)  # of checks with partitions
        specs = [
            AssetCheckSpec(name, asset=KEY, description=text, partitions_def=partitions)
            for name, text in ready.CHECKS.items()
        ]

    @asset(key=KEY, partitions_def=partitions, check_specs=specs, group_name="standbys")
    def standby(context: AssetExecutionContext) -> Iterator[MaterializeResult[None]]:
        """Whether the application could write to the database now. Nothing is copied."""
        with as_dagster_failure():
            (report,) = (one for one in _survey(load()) if one.name == context.partition_key)
        results = [
            AssetCheckResult(check_name=name, passed=passed, description=why)
            for name, passed, why in _checks(report)
        ]
        yield MaterializeResult(metadata=_metadata(report), check_results=results)

    return standby


@op
def look_at_standbys(context: OpExecutionContext) -> None:
    """Ask all databases, report on every partition, and send an alert of what has become so since the last report."""
    settings = load()
    with as_dagster_failure():
        reports = _survey(settings)
    for report in reports:
        before = _reported(context.instance, report.name)
        context.log_event(
            AssetMaterialization(KEY, partition=report.name, metadata=_metadata(report))
        )
        target = _latest(
            context.instance, report.name
        )  # what was logged just now: a check of anything older does not count
        for name, passed, why in _checks(report):
            evaluation = AssetCheckEvaluation(
                KEY, name, passed, {}, target, description=why, partition=report.name
            )
            context.log_event(evaluation)  # type: ignore[arg-type]  # it takes them, though its annotation does not say so
        for title, body in news(report, before, settings.primary):
            notify.send(settings, title, body, context.log.warning)


def readiness_job() -> JobDefinition:
    """All databases, in one run."""

    @job(
        name="readiness_job",
        executor_def=in_process_executor,
        description="Say of each standby whether it could take over now, and send an alert of what has changed.",
    )
    def look() -> None:
        look_at_standbys()

    return look


def news(
    report: Report, before: Mapping[str, str], configured: str | None = None
) -> Iterator[tuple[str, str]]:
    """(title, body) of what is worth telling since the report before: what has become wrong, what is right again, a primary that is back.

    `configured` is the primary that the settings name.
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
        load_model(settings.models, settings.revisions),
        seconds=_SECONDS,
    )


def _reported(instance: DagsterInstance, name: str) -> dict[str, str]:
    found = instance.fetch_materializations(
        AssetRecordsFilter(KEY, asset_partitions=[name]), limit=1
    ).records
    last = found[0].asset_materialization if found else None
    said: Any = last.metadata[REASONS].value if last and REASONS in last.metadata else {}
    return dict(said)


def _latest(instance: DagsterInstance, name: str) -> AssetCheckEvaluationTargetMaterializationData:
    (record,) = instance.fetch_materializations(
        AssetRecordsFilter(KEY, asset_partitions=[name]), limit=1
    ).records
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
    )


def _checks(report: Report) -> Iterator[tuple[str, bool, str]]:
    """(check, passed, why) of every check; nothing is known of a database that does not answer, and the primary needs to take over nothing."""
    silent = report.reasons.get(ready.REACHABLE)
    for name, text in ready.CHECKS.items():
        if silent is not None:
            yield name, False, silent if name == ready.REACHABLE else f"not known: {silent}"
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
                "publish number": last.number,
                "source snapshot": MetadataValue.timestamp(last.snapshot_at),
            }
            if last
            else {}
        ),
        **(
            {"age in hours": round(report.age_seconds / 3600, 2)}
            if report.age_seconds is not None
            else {}
        ),
    }
