"""Everything that Dagster loads, on one page: `dagster dev -m dbsync_pipeline.definitions`."""

from __future__ import annotations

from dagster import AssetSelection, Definitions, define_asset_job, in_process_executor

from dbsync_pipeline.defs import alerts, failover, readiness, reaper, retention, schedules
from dbsync_pipeline.defs.assets import table_assets
from dbsync_pipeline.defs.connections import connections
from dbsync_pipeline.defs.resources import SYNC, Sync
from dbsync_pipeline.mirror.database import databases
from dbsync_pipeline.mirror.model import configured_model
from dbsync_pipeline.settings import load

_settings = load()

tables = table_assets(
    configured_model(_settings),
    _settings.names,
    prefix=_settings.asset_prefix,
    engines=[database.engine_name for database in databases(_settings)],
    owners=_settings.asset_owners.split(),
    tags=dict(tag.split("=") for tag in _settings.asset_tags.split()),
)
standbys = readiness.standby_assets(_settings.names)

sync_job = define_asset_job(
    "sync_job",
    selection=AssetSelection.assets(tables),
    description="Make one database, the run's partition, equal to the source: "
    "all tables, or those selected.",
    tags={"dagster/retry_strategy": "ALL_STEPS"},
)
readiness_job = define_asset_job(
    "readiness_job",
    selection=AssetSelection.assets(standbys),
    description="Check of each database whether the application could write there now; send an "
    "alert of each change.",
)

defs = Definitions(
    assets=[tables, standbys],
    jobs=[
        sync_job,
        readiness_job,
        retention.retention_job(),
        *failover.jobs(_settings.names),
    ],
    schedules=[
        *schedules.sync_schedules(_settings),
        *schedules.upkeep_schedules(_settings),
    ],
    sensors=[
        *alerts.sensors(),
        reaper.reaper_sensor(),
        retention.folding_sensor(_settings.names),
        *failover.sensors(_settings),
    ],
    resources={SYNC: Sync(), **connections(_settings)},
    # The ops of a run share one session, hence one process. A launcher spreads runs over machines.
    executor=in_process_executor,
)
