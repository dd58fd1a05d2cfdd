"""Whether each standby could take over now, for the pages and for alerts, checked by a schedule of
its own, whether or not syncs run.

One asset per database, with one check per requirement. It is observed, not materialized: looking
changes nothing. A scheduled run observes all, so a standby's age is noticed even if nothing else
runs; a person can observe one, or run one check. The last report is read back from Dagster, so an
alert is sent only when something changes.
"""

# No `from __future__ import annotations` here: Dagster reads the ops' annotations as objects.
import datetime as dt
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    BetaWarning,
    DagsterInstance,
    MetadataValue,
    ObserveResult,
    multi_observable_source_asset,
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

REASONS = "reasons"
_SECONDS = 600.0  # checking the foreign keys of large tables reads them whole
Event = ObserveResult | AssetCheckResult


def standby_key(name: str) -> AssetKey:
    """Return the key of the database's asset: `dbsync/standby/NAME`."""
    return AssetKey([*STANDBY, name])


def standby_assets(names: Sequence[str]) -> AssetsDefinition:
    """Return an asset to observe for each database, with its checks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BetaWarning)  # assets observed together are in beta
        observable = multi_observable_source_asset(
            specs=[_spec(name) for name in names],
            check_specs=[
                AssetCheckSpec(check, asset=standby_key(name), description=text)
                for name in names
                for check, text in ready.CHECKS.items()
            ],
            can_subset=True,
            required_resource_keys=set(names),
        )

    def check_standbys(context: AssetExecutionContext) -> Iterator[Event]:
        """Check the databases, and send an alert of each change. Copy nothing."""
        with as_dagster_failure(context):
            settings = settings_of(context.resources, names)
            reports = _survey(settings)
        for report in reports:
            last = last_check(context.instance, report.name)
            before = last.reasons if last else {}
            yield from _selected_events(context, report)
            if standby_key(report.name) in context.selected_asset_keys:
                for title, body in news(report, before, settings.primary):
                    notify.send(settings, title, body, context.log.warning)

    assets: AssetsDefinition = observable(check_standbys)
    return assets


def _spec(name: str) -> AssetSpec:
    return AssetSpec(
        standby_key(name),
        group_name="standbys",
        description=f"Could the application write to {name} now? Observing it copies nothing.",
    )


def _selected_events(context: AssetExecutionContext, report: Report) -> Iterator[Event]:
    """Yield what the run selects of the database's report."""
    key = standby_key(report.name)
    if key in context.selected_asset_keys:
        yield ObserveResult(key, metadata=_metadata(report))
    for name, passed, why in _checks(report):
        if AssetCheckKey(key, name) in context.selected_asset_check_keys:
            yield AssetCheckResult(asset_key=key, check_name=name, passed=passed, description=why)


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
    records = instance.fetch_observations(standby_key(name), limit=1).records
    last = records[0].asset_observation if records else None
    if last is None or "ready" not in last.metadata:
        return None
    reasons: Any = last.metadata[REASONS].value if REASONS in last.metadata else {}
    checked_at = dt.datetime.fromtimestamp(records[0].timestamp, dt.UTC)
    return LastCheck(bool(last.metadata["ready"].value), dict(reasons), checked_at)


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
