"""What an engine must do to take part in a mirror, in ten roles, each in the file of its name.

    translation  a driver's errors mean one of the project's
    session      a session is opened, interrupted and ended
    connection   it has transactions, locks and marks
    comparison   rows are digested where the data lives
    source       rows are read, in a snapshot
    staging      rows are held beside the live tables
    target       the live tables are locked and published to
    schema       a structure is read and created
    migration    a structure is altered
    script       names and values are written for people

Four more are only for engines that can do it: `optional` and `partitioned`.

A `Dialect` is one open connection to one database, and fills all ten. Everything that differs
between engines is in a dialect; no module above knows an engine.

Methods are called by one thread at a time. They raise `Unavailable`, `Busy` or `DatabaseError`,
never a driver's own exception: every public method of a dialect is `translated`.
"""

from __future__ import annotations

from dbsync_pipeline.dialects.contract.label import LABEL, labelled
from dbsync_pipeline.dialects.contract.migration import Migration
from dbsync_pipeline.dialects.contract.optional import Addressed, ProvesFirst, SharesSnapshots
from dbsync_pipeline.dialects.contract.partitioned import Partitioned
from dbsync_pipeline.dialects.contract.schema import Schema
from dbsync_pipeline.dialects.contract.script import Script
from dbsync_pipeline.dialects.contract.target import Target
from dbsync_pipeline.dialects.contract.translated import translated

__all__ = [
    "LABEL",
    "Addressed",
    "Dialect",
    "Partitioned",
    "ProvesFirst",
    "SharesSnapshots",
    "labelled",
    "translated",
]


class Dialect(Target, Schema, Migration, Script):
    """One open connection in every role. An engine is a subclass in a folder of its own."""
