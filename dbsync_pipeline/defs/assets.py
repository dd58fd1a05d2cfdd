"""The tables as Dagster assets: one per table, partitioned by target database, made by ops that
share one session.

    ensure_schema ─► copy_users ────┐
                  ─► copy_chats ────┼─► publish ─► assets users, chats, …, each with its checks
                  ─► copy_… ────────┘

One transaction publishes all tables, so no table's asset comes from an op of its own: `publish`
yields them all, after its commit. A selection of assets runs the same ops: `ensure_schema` yields
one output per selected table, and Dagster skips a copy without that output. A run of checks alone
compares and publishes nothing.
"""

# No `from __future__ import annotations` here: Dagster reads the ops' annotations as objects.
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from dagster import (
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSpec,
    AssetKey,
    AssetsDefinition,
    Config,
    DependencyDefinition,
    GraphDefinition,
    In,
    MultiDependencyDefinition,
    Nothing,
    OpDefinition,
    OpExecutionContext,
    Out,
    Output,
    OutputMapping,
    PartitionsDefinition,
    PreviewWarning,
    StaticPartitionsDefinition,
    op,
)

from dbsync_pipeline import notify
from dbsync_pipeline.defs import retention, table_metadata
from dbsync_pipeline.defs.connections import settings_of
from dbsync_pipeline.defs.failures import as_dagster_failure
from dbsync_pipeline.defs.keys import asset_keys, slug
from dbsync_pipeline.defs.resources import SYNC, Sync
from dbsync_pipeline.errors import NotProved
from dbsync_pipeline.mirror.ledger import Publish
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.sync.session import TableDiff
from dbsync_pipeline.policy import Overrides
from dbsync_pipeline.settings import load


class OverridesConfig(Overrides, Config):
    """What a person allows for this run. A field that is absent has the value of its setting."""


Event = Output[None] | AssetCheckResult

CHECK = "equals_source"
"""The name of each table's check."""


Keys = Mapping[str, AssetKey]
"""The asset key of each table, parents first."""


def table_assets(
    model: Model,
    databases: Sequence[str],
    *,
    prefix: str = "",
    engines: Sequence[str] = (),
    owners: Sequence[str] = (),
    tags: Mapping[str, str] = MappingProxyType({}),
) -> AssetsDefinition:
    """Return every table of the model as an asset with one partition per database.

    `prefix` is as in DBSYNC_ASSET_PREFIX; `engines` are shown as the kinds of the assets.
    """
    partitions = StaticPartitionsDefinition(list(databases))
    keys = asset_keys(model.names, prefix)
    outputs = {name: _published(name) for name in keys}
    shown = {**tags, **table_metadata.kinds(engines)}
    return AssetsDefinition.from_graph(
        _graph(keys, databases),
        keys_by_output_name={outputs[name]: key for name, key in keys.items()},
        internal_asset_deps={output: set() for output in outputs.values()},
        descriptions_by_output_name={
            output: table_metadata.description(model.table(name).sa)
            for name, output in outputs.items()
        },
        metadata_by_output_name={
            output: table_metadata.definition(model, name, keys) for name, output in outputs.items()
        },
        owners_by_output_name={output: list(owners) for output in outputs.values()},
        tags_by_output_name={output: shown for output in outputs.values()},
        group_name="tables",
        partitions_def=partitions,
        check_specs=[_check(key, partitions) for key in keys.values()],
        can_subset=True,
    )


def _graph(keys: Keys, databases: Sequence[str]) -> GraphDefinition:
    copies = {name: _copy_op(name, place) for place, name in enumerate(keys)}
    ready: dict[str, dict[str, Any]] = {
        copy.name: {"ready": DependencyDefinition("ensure_schema", _ready(name))}
        for name, copy in copies.items()
    }
    copied = MultiDependencyDefinition(
        [DependencyDefinition(copy.name, "copied") for copy in copies.values()]
    )
    return GraphDefinition(
        name="sync",
        node_defs=[_ensure_schema_op(keys, databases), *copies.values(), _publish_op(keys)],
        dependencies={**ready, "publish": {"copied": copied}},
        output_mappings=[
            OutputMapping(
                graph_output_name=output, mapped_node_name="publish", mapped_node_output_name=output
            )
            for output in _outputs(keys)
        ],
    )


def _ensure_schema_op(keys: Keys, databases: Sequence[str]) -> OpDefinition:
    @op(
        out={_ready(name): Out(Nothing, is_required=False) for name in keys},
        required_resource_keys={SYNC, *databases},
    )
    def ensure_schema(
        context: OpExecutionContext, config: OverridesConfig
    ) -> Iterator[Output[None]]:
        """Lock the target, create its missing tables, refuse other differences, open the source's
        snapshot."""
        tables = _selected(context, keys)
        with as_dagster_failure(context):
            settings = settings_of(context.resources, databases)
            work = getattr(context.resources, SYNC).open(context, settings, tables, config)
            created = work.ensure_schema()
        for table in tables:
            yield Output(None, _ready(table), metadata={"created": table in created})

    return ensure_schema


def _copy_op(table: str, place: int) -> OpDefinition:
    @op(
        name=f"copy_{slug(table)}",
        ins={"ready": In(Nothing)},
        out={"copied": Out(Nothing)},
        tags={"dagster/priority": str(-place)},
    )
    def copy(context: OpExecutionContext, sync: Sync) -> Output[None]:
        """Compare the table with the source's, and stage the rows that differ. The live table stays
        as it is."""
        with as_dagster_failure(context):
            diff = sync.copy(table)
        return Output(None, "copied", metadata={**asdict(diff), "table": table})

    return copy


def _publish_op(keys: Keys) -> OpDefinition:
    @op(
        ins={"copied": In(Nothing)},
        out={output: Out(Nothing, is_required=False) for output in _outputs(keys)},
    )
    def publish(context: OpExecutionContext, sync: Sync) -> Iterator[Event]:
        """Apply all tables in one transaction, which commits once the target is proved equal to the
        source's snapshot."""
        if not context.selected_asset_keys:
            yield from _compared(context, keys, sync.diffs)
            return
        with as_dagster_failure(context):
            try:
                published = sync.work.publish()
            except NotProved as error:
                yield from _result(
                    context, keys.get(error.table or ""), False, {"reason": error.cause}
                )
                raise
        if sync.role == "standby":
            retention.mark_quiet(context, published)
            notify.heartbeat(load(), context.log.warning)
        yield from _publish_events(context, published, sync.role, keys)

    return publish


def _publish_events(
    context: OpExecutionContext, published: Publish, role: str, keys: Keys
) -> Iterator[Event]:
    common = table_metadata.publish(published, role)
    for table, result in published.tables.items():
        key = keys[table]
        if key in context.selected_asset_keys:
            metadata = {**table_metadata.materialization(table, result), **common}
            yield Output(None, _published(table), metadata=metadata)
        if role == "standby":  # the primary is compared with nothing
            proof = {"rows": result.rows, "publish_number": published.number}
            yield from _result(context, key, True, {**proof, **table_metadata.digest(result)})


def _compared(
    context: OpExecutionContext, keys: Keys, diffs: Mapping[str, TableDiff]
) -> Iterator[Event]:
    for table, diff in diffs.items():
        changes = {"insert": diff.insert, "update": diff.update, "delete": diff.delete}
        equal = not any(changes.values())
        yield from _result(context, keys[table], equal, {"rows": diff.rows, **changes})


def _result(
    context: OpExecutionContext, key: AssetKey | None, equal: bool, metadata: dict[str, Any]
) -> Iterator[AssetCheckResult]:
    """Yield the result of a table's check if the run selects it."""
    if key and AssetCheckKey(key, CHECK) in context.selected_asset_check_keys:
        yield AssetCheckResult(passed=equal, check_name=CHECK, asset_key=key, metadata=metadata)


def _selected(context: OpExecutionContext, keys: Keys) -> list[str]:
    """Return the run's tables: those whose asset is selected or, if none is, whose check is."""
    selected = context.selected_asset_keys or {
        check.asset_key for check in context.selected_asset_check_keys
    }
    return [name for name, key in keys.items() if key in selected]


def _check(key: AssetKey, partitions: PartitionsDefinition[str]) -> AssetCheckSpec:
    with warnings.catch_warnings():
        # Without partitions a check would show one database's result for all of them.
        warnings.simplefilter("ignore", PreviewWarning)
        return AssetCheckSpec(
            CHECK,
            asset=key,
            description="Every row of the target equals the source's snapshot. A publish proves it "
            "by digests before it commits; a run of checks alone compares and changes nothing.",
            partitions_def=partitions,
        )


# Names of outputs must differ from names that Dagster reserves, hence the endings.


def _ready(table: str) -> str:
    return f"{slug(table)}_ready"


def _published(table: str) -> str:
    return f"{slug(table)}_published"


def _outputs(keys: Keys) -> list[str]:
    checks = (f"{key.to_python_identifier()}_{CHECK}" for key in keys.values())
    return [*map(_published, keys), *checks]
