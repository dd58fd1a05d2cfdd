"""The moments at which the digests held, so that the next look at a table need not read its rows."""

from __future__ import annotations

import datetime as dt
from typing import Literal

import sqlalchemy as sa

from dbsync_pipeline.dialects.stamps import Moment, Stamp
from dbsync_pipeline.mirror.ledger.facts import Facts

Side = Literal["source", "target"]
"""Of which database a stamp is: the source of the last publish, or the target, whose ledger it is."""
SIDES: tuple[Side, Side] = ("source", "target")


class Stamped(Facts):
    """The stamps that belong to the newest digests of each table."""

    def stamp(self, table: str, side: Side) -> Stamp | None:
        """Return the stamp beside the newest digests of a table; None if there is none."""
        stamps = self._t.stamps
        if ("stamps", None) in self._lacking:  # no sync upgrades a source's ledger
            return None
        row = self._row(
            sa.select(stamps).where(stamps.c.table_name == table, stamps.c.side == side)
        )
        if row is None:
            return None
        moment = Moment(row.identity, row.horizon, row.snapshot)
        return Stamp(moment, row.fingerprint, row.digested_at.astimezone(dt.UTC))

    def keep_stamp(self, table: str, side: Side, stamp: Stamp | None) -> None:
        """Replace the stamp beside the newest digests of a table, in the open transaction; None
        deletes it.
        """
        stamps = self._t.stamps
        with self._dialect.doing("write the ledger"):
            self._connection.execute(
                stamps.delete().where(stamps.c.table_name == table, stamps.c.side == side)
            )
            if stamp is not None:
                self._connection.execute(
                    stamps.insert().values(
                        table_name=table,
                        side=side,
                        identity=stamp.moment.identity,
                        horizon=stamp.moment.horizon,
                        snapshot=stamp.moment.snapshot,
                        fingerprint=stamp.fingerprint,
                        digested_at=stamp.digested_at,
                    )
                )

    def _forget_stamps(self, table: str) -> None:
        """Stamps belong to digests: other digests have none until they are given some."""
        for side in SIDES:
            self.keep_stamp(table, side, None)
