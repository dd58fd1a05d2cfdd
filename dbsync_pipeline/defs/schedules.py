"""When syncs run by themselves: every six hours, and daily at two for those who switch that on; one run for each target.

A tick decides from what the databases say then: the primary by its term is nobody's target, a held target is left alone, and one whose
last run is still going is not given a second. A database that does not answer is given its run, which fails by its own words; no tick
waits for one longer than its deadline. Of the ticks that a daemon missed while it was down, Dagster makes up for the last alone
(schedules without a partition set are not caught up with).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dagster import (
    DefaultScheduleStatus,
    JobDefinition,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
)
from dagster._utils.schedules import is_valid_cron_schedule

from dbsync_pipeline.defs.run_tags import JOB, active_run
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror import pausing
from dbsync_pipeline.mirror.database import databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.settings import Settings, load

DAILY = "0 2 * * *"
READINESS = "*/15 * * * *"
RETENTION = "30 3 * * *"


def sync_schedules(settings: Settings) -> list[ScheduleDefinition]:
    """The six-hourly schedule, which runs as soon as the daemon does, and the daily one, which is off until it is switched on.

    Raises SettingsError where DBSYNC_SCHEDULE is none: only Dagster can tell, and the settings are read without it.
    """
    if not is_valid_cron_schedule(settings.schedule):
        raise SettingsError(
            "wrong settings: DBSYNC_SCHEDULE (not a cron expression of five fields, as in 0 */6 * * *)",
            remedy="mend it in the environment or in .env",
        )
    return [
        _schedule("every_6_hours", settings.schedule, settings, DefaultScheduleStatus.RUNNING),
        _schedule("daily_at_two", DAILY, settings, DefaultScheduleStatus.STOPPED),
    ]


def upkeep_schedules(
    readiness: JobDefinition, retention: JobDefinition, settings: Settings
) -> list[ScheduleDefinition]:
    """What looks after the syncs; both run as soon as the daemon does."""
    zone, on = settings.timezone, DefaultScheduleStatus.RUNNING
    return [
        ScheduleDefinition(
            name="readiness",
            job=readiness,
            cron_schedule=READINESS,
            execution_timezone=zone,
            default_status=on,
        ),
        ScheduleDefinition(
            name="retention",
            job=retention,
            cron_schedule=RETENTION,
            execution_timezone=zone,
            default_status=on,
        ),
    ]


def _schedule(
    name: str, cron: str, settings: Settings, status: DefaultScheduleStatus
) -> ScheduleDefinition:
    return ScheduleDefinition(
        name=name,
        job_name=JOB,
        cron_schedule=cron,
        execution_timezone=settings.timezone,
        default_status=status,
        description="One sync for each standby, from the primary of then.",
        execution_fn=tick,
    )


def tick(context: ScheduleEvaluationContext) -> Iterator[RunRequest | SkipReason]:
    """A run for each target that is due. What is left out, and why, is in the tick's log; where nothing is due it is the tick's reason."""
    settings = load()
    among = databases(settings)
    primary = term.standing(among, settings).primary
    busy = {
        name: run.run_id for name in settings.names if (run := active_run(context.instance, name))
    }
    reasons = ask(among, pausing.paused, settings.answer_seconds)
    held = {name: why for name, why in reasons.good.items() if why is not None}
    due, left = sort_out(settings.names, primary, held, busy)
    for why in left:
        context.log.info(why)
    at = context.scheduled_execution_time.isoformat()
    # The key keeps a tick that is taken up again after a crash from asking twice.
    for name in due:
        yield RunRequest(run_key=f"{at} {name}", partition_key=name)
    if not due:
        yield SkipReason("; ".join(left) or f"there is no database but the primary, {primary}")


def sort_out(
    names: Iterable[str], primary: str, held: Mapping[str, str], busy: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """The targets that are due, and a sentence for each that is not."""
    due, left = list[str](), list[str]()
    for name in names:
        if name == primary:
            continue
        if name in held:
            left.append(f"{name} is held: {held[name]} (`dbsync release {name}`)")
        elif name in busy:
            left.append(f"{name} is skipped: run {busy[name]} for it has not ended yet")
        else:
            due.append(name)
    return due, left
