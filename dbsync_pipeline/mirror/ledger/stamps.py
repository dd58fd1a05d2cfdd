"""The moments at which digests held, so that the next look need not read all rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal

import sqlalchemy as sa

from dbsync_pipeline.dialects.stamps import Moment, Stamp
from dbsync_pipeline.mirror.ledger.facts import Facts

Side = Literal["source", "target"]
"""Of which database a stamp is: the source of the last publish, or this one, its target."""
SIDES: tuple[Side, Side] = ("source", "target")


class Stamped(Facts):
    """The stamps that belong to the newest digests of each table."""

    def stamps(self) -> dict[tuple[str, Side], Stamp]:
        """Return the stamps beside the newest digests of all tables, by table and side."""
        if ("stamps", None) in self._lacking:  # no sync upgrades a source's ledger
            return {}
        rows = self._rows(sa.select(self._t.stamps))
        return {(row.table_name, row.side): _stamp(row) for row in rows}

    def keep_stamps(self, kept: Mapping[tuple[str, Side], Stamp | None]) -> None:
        """Replace the stamps of these tables and sides, in the open transaction; None deletes."""
        stamps = self._t.stamps
        with self._dialect.doing("write the ledger"):
            named = {side: [name for name, of in kept if of == side] for side in SIDES}
            if named["source"] == named["target"]:
                of_both = stamps.c.table_name.in_(named["target"])
                self._connection.execute(stamps.delete().where(of_both))
            else:
                for side, names in named.items():
                    if names:
                        of_side = (stamps.c.side == side, stamps.c.table_name.in_(names))
                        self._connection.execute(stamps.delete().where(*of_side))
            rows = [_row(*key, stamp) for key, stamp in kept.items() if stamp is not None]
            if rows:
                self._connection.execute(stamps.insert(), rows)

    def stamp(self, table: str, side: Side) -> Stamp | None:
        """Return the stamp beside the newest digests of one table; None if there is none."""
        return self.stamps().get((table, side))

    def _forget_stamps(self, table: str) -> None:
        """Stamps belong to digests: other digests have none until they are given some."""
        self.keep_stamps({(table, side): None for side in SIDES})


def _stamp(row: sa.Row[Any]) -> Stamp:
    moment = Moment(row.identity, row.horizon, row.snapshot)
    return Stamp(moment, row.fingerprint, row.digested_at.astimezone(dt.UTC), row.claim)


def _row(table: str, side: Side, stamp: Stamp) -> dict[str, Any]:
    return {
        "table_name": table,
        "side": side,
        "identity": stamp.moment.identity,
        "horizon": stamp.moment.horizon,
        "snapshot": stamp.moment.snapshot,
        "fingerprint": stamp.fingerprint,
        "digested_at": stamp.digested_at,
        "claim": stamp.claim,
    }
