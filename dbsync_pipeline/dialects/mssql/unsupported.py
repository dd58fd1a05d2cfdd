"""What SQL Server offers for a table or column and a mirror cannot carry: why, and what helps."""

from __future__ import annotations

from dataclasses import dataclass

from dbsync_pipeline.dialects.mssql.tsql import quote, quote_table
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import StructureError


@dataclass(frozen=True)
class _Feature:
    """Why it is refused, and the remedy, for `{table}` and `{column}`; if not `reading`, only
    where rows are written.
    """

    why: str
    remedy: str
    reading: bool = False


_FEATURES = {
    "encrypted": _Feature(
        "is encrypted by Always Encrypted, so the server cannot compute a digest of it",
        "take the table out of the models, or store the column unencrypted",
        reading=True,
    ),
    "period": _Feature(
        "is set by the server, as a period of a temporal table",
        "while other databases are copied to it: `ALTER TABLE {table} SET (SYSTEM_VERSIONING = "
        "OFF); ALTER TABLE {table} DROP PERIOD FOR SYSTEM_TIME`",
    ),
    "ledger": _Feature(
        "is set by the server, as that of a ledger table, whose rows cannot be replaced",
        "take the table out of the models, or make it an ordinary one there",
    ),
    "column set": _Feature(
        "is a set of sparse columns, which are copied one by one",
        "take it out of the models and of the table: `ALTER TABLE {table} DROP COLUMN {column}`",
    ),
    "typed XML": _Feature(
        "is XML with a schema collection, which a temporary table cannot have",
        "`ALTER TABLE {table} ALTER COLUMN {column} XML`",
    ),
    "in memory": _Feature(
        "it is memory-optimized, so it cannot be locked against writers",
        "make it an ordinary table there",
    ),
}


def refusal(database: str, table: Table, column: str, what: str) -> StructureError:
    """Return the error for a feature that `catalog.UNSUPPORTED` names; the column may be empty."""
    feature = _FEATURES[what]
    places = {"table": quote_table(table.sa), "column": quote(column)}
    return StructureError(
        f"column {column} {feature.why}" if column else feature.why,
        operation="structure",
        database=database,
        table=table.name,
        remedy=feature.remedy.format(**places),
    )


def matters(table: Table, column: str, what: str, *, writing: bool) -> bool:
    """Return whether the feature stands in the way: of a column that is copied, or of the table."""
    is_copied = not column or column in {copied.name for copied in table.columns}
    return is_copied and (writing or _FEATURES[what].reading)
