"""The values that the ledger stores."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, order=True)
class Term:
    """Who the primary is: `n` counts the promotions, `primary` names the primary of this term.

    `after` names the former primary during a failback; the term is valid only once that database
    has accepted it too.
    """

    n: int
    primary: str
    after: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"term {self.n} ({self.primary})"

    def to_text(self) -> str:
        """Return the term as the ledger stores it, such as `3 linux`."""
        return " ".join(filter(None, (str(self.n), self.primary, self.after)))

    @classmethod
    def from_text(cls, text: str) -> Term:
        """Return the term that `to_text` wrote."""
        n, *names = text.split(" ")
        return cls(int(n), *names)


@dataclass(frozen=True)
class TableResult:
    """What a publish did to one table.

    `rows` is the table's size afterwards, `bytes` moved between the databases, and `seconds` cover
    compare, staging and publishing. `digest` is the table's digest afterwards and `before` the one
    before; `filled` is true if the table was empty before. `proof` says how both sides
    were looked at: `snapshot`, `row headers`, or `digests` with the reason. To compare, the source
    read `rows_read` rows, by their headers or whole and counted for each pass, and `bytes_read` of
    its disk (None if it does not tell), in `read_seconds`; None where nothing was compared.
    `carried` says over how many connections a first load read a large table, and why over fewer
    than allowed.
    """

    rows: int
    inserted: int
    updated: int
    deleted: int
    bytes: int
    digest: str
    seconds: float
    before: str = ""
    filled: bool = False
    proof: str = ""
    rows_read: int | None = None
    bytes_read: int | None = None
    read_seconds: float | None = None
    carried: str = ""

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> TableResult:
        """Return the result that a ledger stores, without what a later version added to it."""
        known = {column.name for column in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})


@dataclass(frozen=True)
class Publish:
    """A publish as recorded in the ledger.

    `number` counts the publishes of one primary to all its standbys, so the standby with the higher
    number is newer. `state` is the number under which the primary first published these rows: the
    same as `number`, unless a standby passed on exactly what it had received. `snapshot_at` is the
    time of that state (UTC), and `numbered` is true if the primary recorded its number too.
    `partial` marks a sync of some tables only. `undoes` is the number of the publish that this one
    undid. `seconds` are by phase. `round` is the same for all targets of one request, schedule tick
    or backfill, in which the primary's state was copied; None in a ledger of a former version.
    Later syncs that found nothing to do are `confirmations`: the source's state of `confirmed_at`
    (UTC) was the same, and `round` is that of the last of them. Only the last publish has them.
    `renewed` is the last of them of which the source has a record; 0 if it has none.
    """

    number: int
    run_id: str
    source: str
    target: str
    snapshot_at: dt.datetime
    published_at: dt.datetime
    tables: Mapping[str, TableResult]
    seconds: Mapping[str, float]
    partial: bool = False
    undoes: int | None = None
    numbered: bool = False
    state: int = 0
    round: str | None = None
    confirmed_at: dt.datetime | None = None
    confirmations: int = 0
    renewed: int = 0

    @property
    def as_of(self) -> dt.datetime:
        """The newest time at which the source is known to have had these rows (UTC)."""
        return self.confirmed_at or self.snapshot_at

    @property
    def changed(self) -> int:
        """Rows inserted, updated and deleted, in all tables."""
        return sum(table.inserted + table.updated + table.deleted for table in self.tables.values())


@dataclass(frozen=True)
class Rescued:
    """The before-images that one publish kept of one table, in numbers of rows.

    `stored_in` names the table that has them: rows that the publish deleted or replaced, as they
    were before, and the keys of rows that it inserted.
    """

    publish: int
    table: str
    stored_in: str
    deleted: int
    replaced: int
    inserted: int
    bytes: int


@dataclass(frozen=True)
class Numbers:
    """The numbers of the states that a database knows.

    It knows all numbers up to `highest` except the ranges in `unknown` (first and last of each). A
    source that was restored from a backup continues above the numbers of its standbys, but does not
    have what was published under those.
    """

    highest: int
    unknown: tuple[tuple[int, int], ...] = ()

    def __contains__(self, number: int) -> bool:
        return number <= self.highest and not any(
            first <= number <= last for first, last in self.unknown
        )

    @classmethod
    def read(cls, highest: int, unknown: str | None) -> Numbers:
        """Return the numbers up to `highest` without the ranges that `written` returned."""
        ranges = (
            (int(first), int(last))
            for first, _, last in (part.partition("-") for part in (unknown or "").split())
        )
        return cls(highest, tuple(ranges))

    @property
    def written(self) -> str | None:
        """The unknown ranges as the ledger stores them, `6-9 12-12`; None if there are none."""
        return " ".join(f"{first}-{last}" for first, last in self.unknown) or None
