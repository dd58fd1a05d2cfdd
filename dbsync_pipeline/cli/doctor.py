"""The verb doctor: is everything in place for a sync, and how to fix what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbsync_pipeline.cli.common import configured, starting_dagster
from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.output.doctor import Diagnosis

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.doctor import Check
    from dbsync_pipeline.mirror.model import Model
    from dbsync_pipeline.settings import Settings

_SECONDS = 30.0
"""How long the checks of one database may take after the connection."""


def doctor() -> Diagnosis:
    """Check settings, drivers, connections, rights, isolation, clocks and Dagster's home.

    Shows how to fix what is not in place. Changes no row; the exit status is 1 if a check failed.
    """
    from dbsync_pipeline.mirror.doctor import Check

    try:
        settings, model = configured(fresh=True)
        settings.database(settings.primary)
    except DbsyncError as error:
        return Diagnosis([Check("settings", None, "failed", error.cause, error.remedy)])
    return Diagnosis(
        [*_settings(settings, model), *_databases(settings, model), *_dagster(settings)]
    )


def _settings(settings: Settings, model: Model) -> list[Check]:
    from dbsync_pipeline.mirror.doctor import Check
    from dbsync_pipeline.mirror.selection import described
    from dbsync_pipeline.text import count

    databases, tables = count(len(settings.names), "database"), count(len(model.tables), "table")
    checks = [Check("settings", None, "ok", f"{databases}, {tables}")]
    if model.skipped:
        checks.append(Check("tables", None, "ok", f"not mirrored: {described(model.skipped)}"))
    if len(settings.names) < 2:
        detail, remedy = "there is no standby", "set DBSYNC_<NAME>_URL for one"
        checks.append(Check("standbys", None, "failed", detail, remedy))
    if not settings.alert_urls.get_secret_value():
        detail, remedy = "nobody is alerted about failures", "set DBSYNC_ALERT_URLS"
        checks.append(Check("alerts", None, "warning", detail, remedy))
    return checks


def _databases(settings: Settings, model: Model) -> list[Check]:
    from dbsync_pipeline.mirror.database import databases
    from dbsync_pipeline.mirror.doctor import Check, examine
    from dbsync_pipeline.mirror.failover import term
    from dbsync_pipeline.mirror.fanout import ask

    primary = term.primary(settings)
    seconds = settings.answer_seconds + _SECONDS
    results = ask(
        databases(settings),
        lambda database: examine(database, model, is_primary=database.name == primary),
        seconds,
    )
    checks: list[Check] = []
    for name in results.names:
        if name in results.failed:
            error = results.failed[name]
            checks.append(Check("connection", name, "failed", error.cause, error.remedy))
        else:
            checks += results.good[name]
    return checks


def _dagster(settings: Settings) -> list[Check]:
    with starting_dagster():
        from dbsync_pipeline.runs.doctor import examine
    return list(examine(settings))
