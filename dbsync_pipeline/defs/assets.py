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
from typing import Any

import sqlalchemy as sa
from dagster import (
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSpec,
    AssetsDefinition,
    Config,
    DependencyDefinition,
    GraphDefinition,
    In,
    MetadataValue,
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
    TableColumn,
    TableColumnConstraints,
    TableConstraints,
    TableSchema,
    op,
)

from dbsync_pipeline import notify
from dbsync_pipeline.defs.failures import as_dagster_failure
from dbsync_pipeline.defs.keys import asset_key, slug
from dbsync_pipeline.defs.resources import Sync
from dbsync_pipeline.errors import NotProved
from dbsync_pipeline.mirror.ledger import Publish, TableResult
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.sync.session import TableDiff
from dbsync_pipeline.policy import Overrides
from dbsync_pipeline.settings import load


class OverridesConfig(Overrides, Config):
    """What a person allows for this run. A field that is absent has the value of its setting."""


Event = Output[None] | AssetCheckResult

CHECK = "equals_source"
"""The name of each table's check."""


def table_assets(model: Model, databases: Sequence[str]) -> AssetsDefinition:
    """Return every table of the model as an asset with one partition per database.

    Foreign keys are the lineage.
    """
    partitions = StaticPartitionsDefinition(list(databases))
    names = model.names
    return AssetsDefinition.from_graph(
        _graph(model),
        keys_by_output_name={_published(name): asset_key(name) for name in names},
        internal_asset_deps={
            _published(name): {asset_key(parent) for parent in model.parents(name)}
            for name in names
        },
        descriptions_by_output_name={
            _published(name): _description(model.table(name).sa) for name in names
        },
        metadata_by_output_name={
            _published(name): {
                "dagster/table_name": name,
                "dagster/column_schema": _columns(model.table(name).sa),
            }
            for name in names
        },
        group_name="tables",
        partitions_def=partitions,
        check_specs=[_check(name, partitions) for name in names],
        can_subset=True,
    )


def _graph(model: Model) -> GraphDefinition:
    names = model.names
    copies = {name: _copy_op(name, place) for place, name in enumerate(names)}
    ready: dict[str, dict[str, Any]] = {
        copy.name: {"ready": DependencyDefinition("ensure_schema", _ready(name))}
        for name, copy in copies.items()
    }
    copied = MultiDependencyDefinition(
        [DependencyDefinition(copy.name, "copied") for copy in copies.values()]
    )
    return GraphDefinition(
        name="sync",
        node_defs=[_ensure_schema_op(names), *copies.values(), _publish_op(names)],
        dependencies={**ready, "publish": {"copied": copied}},
        output_mappings=[
            OutputMapping(
                graph_output_name=output, mapped_node_name="publish", mapped_node_output_name=output
            )
            for output in _outputs(names)
        ],
    )


def _ensure_schema_op(names: Sequence[str]) -> OpDefinition:
    @op(out={_ready(name): Out(Nothing, is_required=False) for name in names})
    def ensure_schema(
        context: OpExecutionContext, config: OverridesConfig, sync: Sync
    ) -> Iterator[Output[None]]:
        """Lock the target, create its missing tables, refuse other differences, open the source's
        snapshot."""
        tables = _selected(context, names)
        with as_dagster_failure(context):
            created = sync.open(context, tables, config).ensure_schema()
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


def _publish_op(names: Sequence[str]) -> OpDefinition:
    @op(
        ins={"copied": In(Nothing)},
        out={output: Out(Nothing, is_required=False) for output in _outputs(names)},
    )
    def publish(context: OpExecutionContext, sync: Sync) -> Iterator[Event]:
        """Apply all tables in one transaction, which commits once the target is proved equal to the
        source's snapshot."""
        if not context.selected_asset_keys:
            yield from _compared(context, sync.diffs)
            return
        with as_dagster_failure(context):
            try:
                published = sync.work.publish()
            except NotProved as error:
                yield from _result(context, error.table, False, {"reason": error.cause})
                raise
        if sync.role == "standby":
            notify.heartbeat(load(), context.log.warning)
        yield from _publish_events(context, published, sync.role, names)

    return publish


def _publish_events(
    context: OpExecutionContext, published: Publish, role: str, names: Sequence[str]
) -> Iterator[Event]:
    common = publish_metadata(published, role)
    # In the models' order: Dagster refuses an asset that comes before one that it depends on.
    for table in names:
        result = published.tables.get(table)
        if result is None:
            continue
        if asset_key(table) in context.selected_asset_keys:
            yield Output(
                None, _published(table), metadata={**table_metadata(table, result), **common}
            )
        if role == "standby":  # the primary is compared with nothing
            proof = {"rows": result.rows, "publish_number": published.number}
            yield from _result(context, table, True, {**proof, **_digest(result)})


def _compared(context: OpExecutionContext, diffs: Mapping[str, TableDiff]) -> Iterator[Event]:
    for table, diff in diffs.items():
        changes = {"insert": diff.insert, "update": diff.update, "delete": diff.delete}
        equal = not any(changes.values())
        yield from _result(context, table, equal, {"rows": diff.rows, **changes})


def _result(
    context: OpExecutionContext, table: str | None, equal: bool, metadata: dict[str, Any]
) -> Iterator[AssetCheckResult]:
    """Yield the result of the table's check if the run selects it."""
    key = asset_key(table) if table else None
    if key and AssetCheckKey(key, CHECK) in context.selected_asset_check_keys:
        yield AssetCheckResult(passed=equal, check_name=CHECK, asset_key=key, metadata=metadata)


def table_metadata(table: str, result: TableResult) -> dict[str, Any]:
    """Return the metadata of a table's materialization; Dagster plots the keys under `dagster/`."""
    return {
        "dagster/row_count": result.rows,
        "dagster/partition_row_count": result.rows,
        "dagster/table_name": table,
        "inserted": result.inserted,
        "updated": result.updated,
        "deleted": result.deleted,
        "bytes moved": result.bytes,
        "seconds": round(result.seconds, 3),
        **_digest(result),
        **({"proof": result.proof} if result.proof else {}),
    }


def _digest(result: TableResult) -> dict[str, str]:
    return {"digest": result.digest} if result.digest else {}


def publish_metadata(published: Publish, role: str) -> dict[str, Any]:
    """Return the metadata that all materializations of one publish share."""
    return {
        "role": role,
        "source": published.source,
        "target": published.target,
        "partial": published.partial,
        "source snapshot": MetadataValue.timestamp(published.snapshot_at),
        **({"publish number": published.number} if published.number else {}),
        **{f"seconds {phase}": round(seconds, 3) for phase, seconds in published.seconds.items()},
    }


def _selected(context: OpExecutionContext, names: Sequence[str]) -> list[str]:
    """Return the run's tables: those whose asset is selected or, if none is, whose check is."""
    keys = context.selected_asset_keys or {
        check.asset_key for check in context.selected_asset_check_keys
    }
    return [name for name in names if asset_key(name) in keys]


def _check(table: str, partitions: PartitionsDefinition[str]) -> AssetCheckSpec:
    with warnings.catch_warnings():
        # Without partitions a check would show one database's result for all of them.
        warnings.simplefilter("ignore", PreviewWarning)
        return AssetCheckSpec(
            CHECK,
            asset=asset_key(table),
            description="Every row of the target equals the source's snapshot. A publish proves it "
            "by digests before it commits; a run of checks alone compares and changes nothing.",
            partitions_def=partitions,
        )


def _description(table: sa.Table) -> str:
    return (
        table.comment
        or f"Table {table.key}: one partition per database, each a past state of the primary."
    )


def _columns(table: sa.Table) -> TableSchema:
    return TableSchema(
        columns=[_column(column) for column in table.columns],
        constraints=TableConstraints(
            other=[f"primary key ({', '.join(column.name for column in table.primary_key)})"]
        ),
    )


def _column(column: sa.Column[Any]) -> TableColumn:
    references = [f"references {key.target_fullname}" for key in column.foreign_keys]
    key = ["primary key"] if column.primary_key else []
    constraints = TableColumnConstraints(
        nullable=bool(column.nullable), unique=bool(column.unique), other=key + references
    )
    return TableColumn(
        column.name, type=_type(column), description=column.comment, constraints=constraints
    )


def _type(column: sa.Column[Any]) -> str:
    return repr(column.type)


# Names of outputs must differ from names that Dagster reserves, hence the endings.


def _ready(table: str) -> str:
    return f"{slug(table)}_ready"


def _published(table: str) -> str:
    return f"{slug(table)}_published"


def _outputs(names: Sequence[str]) -> list[str]:
    return [*map(_published, names), *(f"{slug(name)}_{CHECK}" for name in names)]
