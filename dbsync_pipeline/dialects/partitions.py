"""The partitions of a table, as one database has them and another one can be given them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Partition:
    """One partition, of a table or of another partition; names are as the engine writes them.

    `bound` says which rows it takes, and `condition` the same as a condition on a row of the table;
    empty if it holds in one database only. `statements` create it with the constraints and indexes
    that its table does not have.
    """

    name: str
    parent: str
    bound: str
    condition: str
    statements: tuple[str, ...]


@dataclass(frozen=True)
class Partitioning:
    """How a table is divided: `by` what, and its partitions, each after the one that it divides."""

    by: str
    partitions: tuple[Partition, ...]
