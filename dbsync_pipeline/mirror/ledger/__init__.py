"""The ledger: what each database records about the mirror, in tables of its own.

It lives in schema `dbsync` (tables with the prefix `dbsync_` on SQLite) and is written in the
publishing transaction. It is therefore the truth about what was published, whatever happened to the
process that published.

    records     the values: Publish, TableResult, Term, Numbers, Rescued
    tables      its tables, their version and their upgrades
    facts       named facts, and whether there is a ledger at all
    publishes   the publishes that this database received
    confirmations  the syncs that confirmed the last of them
    numbers     the states that this database knows
    terms       the term that this database accepted
    digests     the digests of its tables as last published, and its before-images
    stamps      what proves that those digests still hold, without reading the rows
"""

from dbsync_pipeline.mirror.ledger.digests import Digested, Rescues
from dbsync_pipeline.mirror.ledger.numbers import Numbered
from dbsync_pipeline.mirror.ledger.records import Numbers, Publish, Rescued, TableResult, Term
from dbsync_pipeline.mirror.ledger.tables import VERSION
from dbsync_pipeline.mirror.ledger.terms import TERM, Terms

__all__ = [
    "TERM",
    "VERSION",
    "Ledger",
    "Numbers",
    "Publish",
    "Rescued",
    "TableResult",
    "Term",
]


class Ledger(Numbered, Terms, Digested, Rescues):
    """The ledger of one open connection.

    Reads and writes belong to the connection's transaction. A database without a ledger reads as
    one with an empty ledger: every reading method returns what it returns for an empty one.
    """
