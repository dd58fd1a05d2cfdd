"""Keep before-images of the rows that a publish changes, in its own transaction, and forget those
that are too old or too large.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.mirror.ledger import Ledger, Rescued
from dbsync_pipeline.mirror.rescue import tables
from dbsync_pipeline.mirror.rescue.tables import DELETED, INSERTED, REPLACED, same_key
from dbsync_pipeline.settings import Settings


def save(dialect: Dialect, publish: int, table: Table) -> Rescued:
    """Keep the rows that the staged changes delete or replace, and the keys that they insert;
    return the counts.

    Call it within the publishing transaction, before the live table changes.
    """
    stored = tables.prepared(dialect, table)
    names = [column.name for column in table.columns]
    keys = [column.name for column in table.key]
    with dialect.doing("rescue rows"):
        for columns, rows in (
            (names, _changed_rows(dialect, publish, table)),
            (keys, _new_keys(dialect, publish, table)),
        ):
            into = stored.insert().from_select(["dbsync_publish", "dbsync_change", *columns], rows)
            dialect.connection.execute(into)
    rescued = _counted(dialect, publish, table, stored)
    Ledger(dialect).note_rescue(rescued)
    return rescued


def prune(dialect: Dialect, settings: Settings) -> None:
    """Forget before-images older than DBSYNC_RESCUE_DAYS, and the oldest beyond DBSYNC_RESCUE_MB
    (1,000,000 bytes each).

    Call it within the publishing transaction.
    """
    ledger = Ledger(dialect)
    oldest = dt.datetime.now(dt.UTC) - dt.timedelta(days=settings.rescue_days)
    for publish in ledger.superfluous(oldest, settings.rescue_mb * 1_000_000):
        _forget(dialect, publish, ledger)


def _changed_rows(dialect: Dialect, publish: int, table: Table) -> sa.Select[tuple[object, ...]]:
    """The live rows that will be deleted or replaced, as they are now."""
    live, (new, gone) = dialect.live(table), dialect.staged(table)
    columns = (live.c[column.name] for column in table.columns)
    rows: sa.FromClause = live
    change: sa.ColumnElement[str] = sa.literal(DELETED)
    if not table.keyless:  # a join, since servers run a subquery of a column once for every row
        rows = live.outerjoin(new, same_key(table, new, live))
        change = sa.case((new.c[table.key[0].name].is_not(None), REPLACED), else_=DELETED)
    staged = sa.exists(
        sa.select(sa.literal(1)).select_from(gone).where(dialect.same_row(table, gone, live))
    )
    return (
        sa.select(sa.literal(publish), change, *columns)
        .select_from(rows)
        .where(staged.correlate(live))
    )


def _new_keys(dialect: Dialect, publish: int, table: Table) -> sa.Select[tuple[object, ...]]:
    """The keys of the staged rows that replace no live row; whole rows of a keyless table."""
    new, gone = dialect.staged(table)
    columns = (new.c[column.name] for column in table.key)
    if table.keyless:
        return sa.select(sa.literal(publish), sa.literal(INSERTED), *columns)
    return sa.select(sa.literal(publish), sa.literal(INSERTED), *columns).where(
        ~sa.exists().where(same_key(table, gone, new)).correlate(new)
    )


def _counted(dialect: Dialect, publish: int, table: Table, stored: sa.TableClause) -> Rescued:
    size = sum(
        (sa.func.coalesce(dialect.octets(stored.c[column.name]), 0) for column in table.columns),
        start=sa.literal(0),
    )
    query = (
        sa.select(stored.c.dbsync_change, sa.func.count(), sa.func.sum(size))
        .where(stored.c.dbsync_publish == publish)
        .group_by(stored.c.dbsync_change)
    )
    with dialect.doing("rescue rows"):
        groups = dialect.connection.execute(query).all()
    rows = {change: count for change, count, _ in groups}
    deleted, replaced, inserted = (rows.get(change, 0) for change in (DELETED, REPLACED, INSERTED))
    total = int(sum(group_bytes or 0 for _, _, group_bytes in groups))
    return Rescued(publish, table.name, stored.name, deleted, replaced, inserted, total)


def _forget(dialect: Dialect, publish: int, ledger: Ledger) -> None:
    for rescued in ledger.rescues(publish):
        stored = sa.table(
            rescued.stored_in, sa.column("dbsync_publish"), schema=dialect.ledger_schema
        )
        with dialect.doing("forget rescued rows"):
            dialect.connection.execute(stored.delete().where(stored.c.dbsync_publish == publish))
    ledger.forget(publish)
