"""Find configured names that lead to one database, under two URLs.

Two such standbys would count as two votes and as two copies. Each ledger has a random identity, so
equal identities are suspicious; but a database that was made from another one's backup has the
same. A lock decides: one session takes it, and the other sees it only in the same database.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.fanout import ask


def duplicates(
    among: Sequence[Database], identities: Mapping[str, str], seconds: float
) -> dict[str, str]:
    """Return each database that is the same as an earlier one, with the name of that one.

    `identities` are those of the ledgers, by name; without any two equal ones no database is
    connected to. Pairs that cannot be compared within `seconds` count as different.
    """
    by_name = {database.name: database for database in among}
    same: dict[str, str] = {}
    for first in by_name:
        twins = [
            by_name[other]
            for other in by_name
            if other not in same and _may_be_same(by_name, identities, first, other)
        ]
        same |= dict.fromkeys(_same_as(by_name[first], twins, seconds), first)
    return same


def _may_be_same(
    by_name: Mapping[str, Database], identities: Mapping[str, str], first: str, other: str
) -> bool:
    names = list(by_name)
    return (
        names.index(first) < names.index(other)
        and bool(identities.get(first))
        and identities.get(first) == identities.get(other)
        and by_name[first].engine_name == by_name[other].engine_name
    )


def _same_as(first: Database, others: Sequence[Database], seconds: float) -> list[str]:
    """The names of those that see a mark set in the first one."""
    if not others:
        return []

    def compare(database: Database) -> list[str]:
        mark = secrets.randbits(62)
        with database.connect() as holder, holder.connection.begin():
            holder.set_marker(mark)
            seen = ask(others, lambda other: _sees(other, mark), seconds / 2)
        return [name for name, sees in seen.good.items() if sees]

    return next(iter(ask([first], compare, seconds).good.values()), [])


def _sees(database: Database, mark: int) -> bool:
    with database.connect() as dialect, dialect.connection.begin():
        return dialect.sees_marker(mark)
