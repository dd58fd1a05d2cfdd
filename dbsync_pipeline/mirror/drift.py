"""Whether a table is still as it was last published: the one place that decides it.

The database digests every row of the table in the format that the ledger has, and the digests are
compared with the ledger's bucket by bucket. The guard against local writes, undo, failover and
migrate all use it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import Digests, Form
from dbsync_pipeline.dialects.stamps import Stamp
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.mirror.look import Known, Vantage


class Why(enum.Enum):
    """Why drift cannot be determined."""

    NEVER_PUBLISHED = "the ledger has no digests of the table"
    INCOMPARABLE = "the models, or the engine, compute other digests than at the last publish"


@dataclass(frozen=True)
class Unchanged:
    """The table is as published. `now` is equal to the published digests."""

    now: Digests


@dataclass(frozen=True)
class Changed:
    """Rows were written since the publish, in these buckets of the published form."""

    published: Digests
    now: Digests

    @cached_property
    def buckets(self) -> np.ndarray:
        """The numbers of the buckets that changed, ascending (int64)."""
        return self.published.differing(self.now)

    def buckets_in(self, form: Form) -> np.ndarray | None:
        """The changed buckets as buckets of `form`; None if `form` distributes rows differently."""
        same = replace(self.published.form, columns=form.columns) == form
        return self.buckets if same else None


@dataclass(frozen=True)
class Unknowable:
    """Drift cannot be determined."""

    why: Why


Drift = Unchanged | Changed | Unknowable


def since_publish(
    dialect: Dialect,
    table: Table,
    published: Digests | None,
    now: Digests | None = None,
    *,
    stamp: Stamp | None = None,
) -> Drift:
    """Compare a table with the digests that it was published with (`Ledger.digests`).

    Reads every row in the open transaction, unless `now` has digests of the published form that
    were computed in it already, or `stamp` is of a moment at which `published` held
    (`Ledger.stamp`). Changes nothing.
    """
    if published is None:
        return Unknowable(Why.NEVER_PUBLISHED)
    if now is None or now.form != published.form:
        then = dialect.comparable_table(table, published.form)
        if then is None:
            return Unknowable(Why.INCOMPARABLE)
        now = _digests(dialect, then, published, stamp)
    drift = Changed(published, now)
    return drift if drift.buckets.size else Unchanged(now)


def _digests(dialect: Dialect, table: Table, published: Digests, stamp: Stamp | None) -> Digests:
    if stamp is None:
        return dialect.digests(table, published.form)
    known = Known(published, stamp)
    return Vantage.of(dialect, [table]).look(table, published.form, known).digests
