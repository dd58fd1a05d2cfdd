"""What Dagster's pages show of a table: kinds, owners, columns, lineage, and each publish.

Keys under `dagster/` are Dagster's own, so that its pages and plots understand them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from dagster import (
    AssetKey,
    MetadataValue,
    TableColumn,
    TableColumnConstraints,
    TableColumnDep,
    TableColumnLineage,
    TableConstraints,
    TableSchema,
)

from dbsync_pipeline.mirror.ledger import Publish, TableResult
from dbsync_pipeline.mirror.model import Model

_MOST_KINDS = 3
"""The most kinds that Dagster shows for an asset."""


def definition(model: Model, table: str, keys: Mapping[str, AssetKey]) -> dict[str, Any]:
    """Return the metadata of the table's asset.

    Foreign keys are column lineage, not dependencies of the asset: Dagster would call a table stale
    after each sync of a parent alone.
    """
    sa_table = model.table(table).sa
    lineage = _lineage(sa_table, keys)
    return {
        "dagster/table_name": table,
        "dagster/column_schema": _schema(sa_table),
        **({"dagster/column_lineage": lineage} if lineage else {}),
    }


def kinds(engines: Sequence[str]) -> dict[str, str]:
    """Return the tags that show the databases' engines, and that the asset is a table."""
    names = [*dict.fromkeys(engines), "table"]
    return {f"dagster/kind/{name}": "" for name in names[:_MOST_KINDS]}


def description(table: sa.Table) -> str:
    """Return the table's comment, and what its partitions are."""
    columns = f"{len(table.columns)} columns, key {', '.join(c.name for c in table.primary_key)}"
    parents = sorted({key.column.table.fullname for key in table.foreign_keys} - {table.fullname})
    references = f" It references {', '.join(parents)}." if parents else ""
    return (
        f"{table.comment or f'The table {table.fullname}.'}\n\n"
        f"{columns}.{references} One partition per database: the primary's own rows, and on each "
        "standby one past state of the primary, the same for all tables."
    )


def materialization(table: str, result: TableResult) -> dict[str, Any]:
    """Return the metadata of one table of a publish."""
    return {
        # A partition is the whole table of one database, so the asset as a whole has no count.
        "dagster/partition_row_count": result.rows,
        "dagster/table_name": table,
        "inserted": result.inserted,
        "updated": result.updated,
        "deleted": result.deleted,
        "bytes_moved": result.bytes,
        "seconds": round(result.seconds, 3),
        **digest(result),
        **({"proof": result.proof} if result.proof else {}),
        **({"carried": result.carried} if result.carried else {}),
        **{name: value for name, value in _effort(result).items() if value is not None},
    }


def _effort(result: TableResult) -> dict[str, int | float | None]:
    return {
        "rows_read": result.rows_read,
        "bytes_read": result.bytes_read,
        "read_seconds": result.read_seconds,
    }


def digest(result: TableResult) -> dict[str, str]:
    """Return the table's digest if the publish has one."""
    return {"digest": result.digest} if result.digest else {}


def publish(published: Publish, role: str) -> dict[str, Any]:
    """Return the metadata that all materializations of one publish share."""
    return {
        "role": role,
        "source": published.source,
        "target": published.target,
        "partial": published.partial,
        "source_snapshot": MetadataValue.timestamp(published.as_of),
        **({"publish_number": published.number} if published.number else {}),
        **{f"seconds_{phase}": round(seconds, 3) for phase, seconds in published.seconds.items()},
    }


def _schema(table: sa.Table) -> TableSchema:
    names = ", ".join(column.name for column in table.primary_key)
    return TableSchema(
        columns=[_column(column) for column in table.columns],
        constraints=TableConstraints(other=[f"primary key ({names})"] if names else []),
    )


def _column(column: sa.Column[Any]) -> TableColumn:
    references = [
        f"references {'.'.join(filter(None, key.target_tokens))}" for key in column.foreign_keys
    ]
    key = ["primary key"] if column.primary_key else []
    constraints = TableColumnConstraints(
        nullable=bool(column.nullable), unique=bool(column.unique), other=key + references
    )
    return TableColumn(
        column.name, type=repr(column.type), description=column.comment, constraints=constraints
    )


def _lineage(table: sa.Table, keys: Mapping[str, AssetKey]) -> TableColumnLineage | None:
    deps = {
        column.name: [
            TableColumnDep(keys[key.column.table.fullname], key.column.name)
            for key in column.foreign_keys
            if key.column.table.fullname in keys
        ]
        for column in table.columns
    }
    known = {column: list_ for column, list_ in deps.items() if list_}
    return TableColumnLineage(known) if known else None
