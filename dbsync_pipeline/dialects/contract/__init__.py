"""What an engine must do to take part in a mirror, in eight roles.

    connection  Session is opened, interrupted and ended; Connection has transactions
    source      Source is only read, in a snapshot
    target      Staging holds rows beside the live tables; Target is locked and published to
    schema      Schema is read and compared, Migration alters it; Script writes values for people

Four more are only for engines that can do it: `optional`.

A `Dialect` is one open connection to one database, and fills all eight. Everything that differs
between engines is in a dialect; no module above knows an engine.

Methods are called by one thread at a time. They raise `Unavailable`, `Busy` or `DatabaseError`,
never a driver's own exception: every public method of a dialect is `translated`.
"""

from __future__ import annotations

from dbsync_pipeline.dialects.contract.connection import LABEL, labelled
from dbsync_pipeline.dialects.contract.optional import (
    Addressed,
    Partitioned,
    ProvesFirst,
    SharesSnapshots,
)
from dbsync_pipeline.dialects.contract.schema import Migration, Schema, Script
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
