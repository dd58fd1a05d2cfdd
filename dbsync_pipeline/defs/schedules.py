"""When syncs run by themselves: every six hours and, if switched on, daily at two; one run per
target.

Each tick asks the databases: the current primary is never a target, a paused target is skipped, and
so is one whose last run has not ended. A database that does not answer still gets its run, which
fails with the cause; no tick waits for it longer than its deadline. Of the ticks that a stopped
daemon missed, Dagster makes up only for the last, because these schedules have no partition set.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Mapping

from dagster import (
    DefaultScheduleStatus,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
)

# Private, because Dagster exports neither a check of a cron expression nor its past ticks; the
# scheduler uses these.
from dagster._utils.schedules import is_valid_cron_schedule, reverse_cron_string_iterator

from dbsync_pipeline.defs.connections import settings_of
from dbsync_pipeline.defs.run_tags import JOB, ROUND_TAG, TARGET_TAG, active_run
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror import pausing
from dbsync_pipeline.mirror.database import databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.settings import Settings

DAILY = "0 2 * * *"
RETENTION = "30 3 * * *"


def sync_schedules(settings: Settings) -> list[ScheduleDefinition]:
    """Return the six-hourly schedule, which starts with the daemon, and the daily one, which is
    off.

    Raise SettingsError if DBSYNC_SCHEDULE is not a cron expression. `settings.load` cannot check
    it, because only Dagster knows the syntax.
    """
    _require_cron("DBSYNC_SCHEDULE", settings.schedule)
    return [
        _schedule("every_6_hours", settings.schedule, settings, DefaultScheduleStatus.RUNNING),
        _schedule("daily_at_two", DAILY, settings, DefaultScheduleStatus.STOPPED),
    ]


def upkeep_schedules(settings: Settings) -> list[ScheduleDefinition]:
    """Return the schedules of the readiness and retention jobs; both start with the daemon.

    Raise SettingsError if DBSYNC_READINESS_SCHEDULE is not a cron expression.
    """
    _require_cron("DBSYNC_READINESS_SCHEDULE", settings.readiness_schedule)
    return [
        ScheduleDefinition(
            name=name,
            job_name=f"{name}_job",
            cron_schedule=cron,
            execution_timezone=settings.timezone,
            default_status=DefaultScheduleStatus.RUNNING,
        )
        for name, cron in (("readiness", settings.readiness_schedule), ("retention", RETENTION))
    ]


def is_check_overdue(checked_at: dt.datetime, now: dt.datetime, settings: Settings) -> bool:
    """Return whether the last check of readiness is older than the last two of its schedule.

    Raise SettingsError if DBSYNC_READINESS_SCHEDULE is not a cron expression.
    """
    _require_cron("DBSYNC_READINESS_SCHEDULE", settings.readiness_schedule)
    past = reverse_cron_string_iterator(
        now.timestamp(), settings.readiness_schedule, settings.timezone
    )
    _last, before = itertools.islice(past, 2)
    return checked_at < before


def _require_cron(variable: str, value: str) -> None:
    if not is_valid_cron_schedule(value):
        raise SettingsError(
            f"wrong settings: {variable} "
            "(not a cron expression of five fields, such as 0 */6 * * *)",
            remedy="fix it in the environment or in .env",
        )


def _schedule(
    name: str, cron: str, settings: Settings, status: DefaultScheduleStatus
) -> ScheduleDefinition:
    names = settings.names

    def run_requests(context: ScheduleEvaluationContext) -> Iterator[RunRequest | SkipReason]:
        yield from tick(context, settings_of(context.resources, names))

    return ScheduleDefinition(
        name=name,
        job_name=JOB,
        cron_schedule=cron,
        execution_timezone=settings.timezone,
        default_status=status,
        description="One sync for each standby, from the database that is then the primary.",
        execution_fn=run_requests,
        required_resource_keys=set(names),
    )


def tick(
    context: ScheduleEvaluationContext, settings: Settings
) -> Iterator[RunRequest | SkipReason]:
    """Request a run for each target that is due.

    The tick's log has the reason for each target that is skipped; if none is due, the reasons are
    the tick's own.
    """
    configured = databases(settings)
    primary = term.standing(configured, settings).primary
    active = {
        name: run.run_id for name in settings.names if (run := active_run(context.instance, name))
    }
    pauses = ask(configured, pausing.paused, settings.answer_seconds)
    paused = {name: why for name, why in pauses.good.items() if why is not None}
    due, skipped = due_targets(settings.names, primary, paused, active)
    for why in skipped:
        context.log.info(why)
    at = context.scheduled_execution_time.isoformat()
    # The key keeps a tick that is repeated after a crash from requesting the same run twice.
    for name in due:
        tags = {TARGET_TAG: name, ROUND_TAG: f"tick {at}"}
        yield RunRequest(run_key=f"{at} {name}", partition_key=name, tags=tags)
    if not due:
        yield SkipReason("; ".join(skipped) or f"the primary, {primary}, is the only database")


def due_targets(
    names: Iterable[str], primary: str, paused: Mapping[str, str], active: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Return the targets that are due, and a sentence for each that is skipped.

    `paused` has the reason of each pause, `active` the id of each unfinished run, both by target.
    """
    due, skipped = list[str](), list[str]()
    for name in names:
        if name == primary:
            continue
        if name in paused:
            skipped.append(f"{name} is paused: {paused[name]} (`dbsync resume {name}`)")
        elif name in active:
            skipped.append(f"{name} is skipped: its run {active[name]} has not ended yet")
        else:
            due.append(name)
    return due, skipped
