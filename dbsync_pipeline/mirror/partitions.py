"""The target's partitions follow the source's, between two databases of one engine.

The models do not know partitions: an application creates them as time goes by, often by a job of
its own. A row for which the target has no partition cannot be published, so a sync creates what is
missing. What only the target has is left, and emptied as any rows are that the source has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from dbsync_pipeline.dialects.contract import Dialect, Partitioned
from dbsync_pipeline.dialects.partitions import Partition, Partitioning
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DatabaseError, StructureError
from dbsync_pipeline.mirror import outcome
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model

_OPERATION = "create partitions"


def ensure(source: Dialect, target: Dialect, database: Database, model: Model) -> list[str]:
    """Create the partitions that the target lacks, all in one transaction; return their names.

    A second call creates none. `database` is the target. Leaves no transaction open. The connection
    is closed if it was lost in a COMMIT that was carried out: see `outcome.usable`. Raise
    StructureError as `missing` does, and if the target cannot have one beside those that it has.
    """
    lacking = missing(source, target, model)
    if not lacking:
        return []
    surplus = [
        each for _, there, here in _divided(source, target, model) for each in _only(here, there)
    ]
    for side in (source, target):
        side.rollback()
    try:
        _create(source, target, database, model, lacking, surplus)
    except (DatabaseError, StructureError):
        if missing(source, target, model):
            raise
        return []  # another sync created them meanwhile
    return [partition.name for partitions in lacking.values() for partition in partitions]


def _create(
    source: Dialect,
    target: Dialect,
    database: Database,
    model: Model,
    lacking: Mapping[str, Sequence[Partition]],
    surplus: Iterable[Partition],
) -> None:
    with outcome.transaction(
        target, database, lambda again: not missing(source, again, model), operation=_OPERATION
    ):
        for table, partitions in lacking.items():
            assert isinstance(target, Partitioned), "else it lacks none"
            try:
                target.create_partitions(partitions)
            except DatabaseError as error:
                raise _refused(error.cause, table, target.name, source.name, surplus) from None


def missing(source: Dialect, target: Dialect, model: Model) -> dict[str, list[Partition]]:
    """Return by table the source's partitions that the target lacks, none for tables that it
    divides otherwise. Leaves no transaction open.

    Raise StructureError, with the statements that correct it, if a partition takes other rows in
    the target, or other partitions there have rows of one that is missing.
    """
    lacking = {}
    for table, there, here in _divided(source, target, model):
        by_name = {partition.name: partition for partition in here.partitions}
        for partition in there.partitions:
            other = by_name.get(partition.name, partition)
            if (partition.parent, partition.bound) != (other.parent, other.bound):
                raise _differs(table, partition, other, source.name, target.name)
        if absent := _only(there, here):
            _require_free(source, target, model.table(table), absent, _only(here, there))
            lacking[table] = absent
    for side in (source, target):
        side.rollback()
    return lacking


def _divided(
    source: Dialect, target: Dialect, model: Model
) -> Iterator[tuple[str, Partitioning, Partitioning]]:
    """Yield (table, the source's partitioning, the target's) of tables that both divide alike."""
    if source.engine_name != target.engine_name:
        return
    if not (isinstance(source, Partitioned) and isinstance(target, Partitioned)):
        return
    there = source.partitions(model.tables)
    here: Mapping[str, Partitioning] = target.partitions(model.tables) if there else {}
    for table, partitioning in there.items():
        if table in here and here[table].by == partitioning.by:
            yield table, partitioning, here[table]


def _only(side: Partitioning, other: Partitioning) -> list[Partition]:
    names = {each.name for each in other.partitions}
    return [each for each in side.partitions if each.name not in names]


def _require_free(
    source: Dialect,
    target: Dialect,
    table: Table,
    absent: Iterable[Partition],
    surplus: Iterable[Partition],
) -> None:
    assert isinstance(target, Partitioned), "else it lacks none"
    for partition in absent:
        if holders := target.holders(table, partition):
            cause = f"rows that belong in {partition.name} are in {', '.join(holders)}"
            raise _refused(cause, table.name, target.name, source.name, surplus)


def _differs(
    table: str, there: Partition, here: Partition, source: str, target: str
) -> StructureError:
    return StructureError(
        f"its partition {there.name} is {_described(here)} here, and {_described(there)} in "
        f"{source}",
        operation=_OPERATION,
        database=target,
        table=table,
        remedy=f"in {target}: ALTER TABLE {here.parent} DETACH PARTITION {here.name}; "
        f"ALTER TABLE {there.parent} ATTACH PARTITION {there.name} {there.bound}; or, losing its "
        f"rows, which the next sync brings again: "
        f"`dbsync tables recreate --database {target} --yes-destroy {target}`",
    )


def _described(partition: Partition) -> str:
    return f"of {partition.parent} {partition.bound}"


def _refused(
    cause: str, table: str, target: str, source: str, surplus: Iterable[Partition]
) -> StructureError:
    detached = "; ".join(
        f"ALTER TABLE {each.parent} DETACH PARTITION {each.name}" for each in surplus
    )
    return StructureError(
        f"it lacks partitions of {source}, and they cannot be created: {cause}",
        operation=_OPERATION,
        database=target,
        table=table,
        remedy=(f"detach what only {target} has: {detached}; or, " if detached else "")
        + f"losing its rows, which the next sync brings again: "
        f"`dbsync tables recreate --database {target} --yes-destroy {target}`",
    )
