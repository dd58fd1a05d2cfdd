"""The digests of each table as last published, and the record of the before-images."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.digests import Digests, Form
from dbsync_pipeline.mirror.ledger.facts import Facts
from dbsync_pipeline.mirror.ledger.records import Rescued
from dbsync_pipeline.mirror.ledger.stamps import Stamped

_MERGED = "merged "
"""Followed by the mark of a merge: the fact that it was committed."""


_MOST_NAMES = 500
"""Of more tables, those of all are read: servers limit the parameters of a query."""


class Digested(Stamped):
    """The digests of tables, one version per publish that changed them."""

    def digests(self, table: str, before: int | None = None) -> Digests | None:
        """Return a table's digests as last published, or as before the publish `before`.

        None if the table was never published.
        """
        digests = self._t.digests
        conditions = [digests.c.table_name == table]
        if before is not None:
            conditions.append(digests.c.publish < before)
        newest_first = digests.c.publish.desc()
        row = self._row(
            sa.select(*self._columns(digests)).where(*conditions).order_by(newest_first).limit(1)
        )
        return None if row is None else _digests(row)

    def newest_digests(self, tables: Sequence[str]) -> dict[str, Digests | None]:
        """Return the digests of these tables as last published, by one query; see `digests`."""
        digests = self._t.digests
        publish = sa.func.max(digests.c.publish).label("publish")
        newest = sa.select(digests.c.table_name, publish).group_by(digests.c.table_name).subquery()
        same = (
            digests.c.table_name == newest.c.table_name,
            digests.c.publish == newest.c.publish,
        )
        query = sa.select(*self._columns(digests)).join(newest, sa.and_(*same))
        if len(tables) <= _MOST_NAMES:
            query = query.where(digests.c.table_name.in_(tables))
        by_table = {row.table_name: _digests(row) for row in self._rows(query)}
        return {name: by_table.get(name) for name in tables}

    def keep_digests(self, publish: int, table: str, value: Digests | None) -> None:
        """Record a table's digests from this publish on; None if it counts as never published.

        The stamps of the former digests are deleted.
        """
        form, data = (value.form, value.to_bytes()) if value is not None else (Form("", 0), None)
        values = {
            "publish": publish,
            "table_name": table,
            "family": form.digest_format,
            "buckets": form.buckets,
            "data": data,
            "columns": json.dumps(form.columns) if form.columns else None,
        }
        stored = {column.name: values[column.name] for column in self._columns(self._t.digests)}
        with self._dialect.doing("write the ledger"):
            self._connection.execute(self._t.digests.insert().values(stored))
        self._forget_stamps(table)

    def replace_digests(self, table: str, value: Digests) -> None:
        """Replace the digests with which the table was last published."""
        digests = self._t.digests
        newest = sa.select(sa.func.max(digests.c.publish)).where(digests.c.table_name == table)
        with self._dialect.doing("write the ledger"):
            publish = self._connection.execute(newest).scalar_one()
            same = (digests.c.table_name == table, digests.c.publish == publish)
            self._connection.execute(digests.delete().where(*same))
            self.keep_digests(publish, table, value)


def _digests(row: sa.Row[Any]) -> Digests | None:
    if row.data is None:
        return None
    columns = json.loads(row._mapping.get("columns") or "[]")
    form = Form(row.family, row.buckets, tuple((name, sign) for name, sign in columns))
    return Digests.from_bytes(form, row.data)


class Rescues(Facts):
    """Which before-images each publish kept."""

    def rescues(self, publish: int | None = None) -> list[Rescued]:
        """Return what one publish, or every publish, kept of each table, newest first."""
        rescues = self._t.rescues
        names = ("publish", "table_name", "stored_in", "deleted", "replaced", "inserted", "bytes")
        query = sa.select(*(rescues.c[name] for name in names))
        if publish is not None:
            query = query.where(rescues.c.publish == publish)
        in_order = query.order_by(rescues.c.publish.desc(), rescues.c.table_name)
        return [Rescued(*tuple(row)) for row in self._rows(in_order)]

    def superfluous(self, before: dt.datetime, most_bytes: float) -> list[int]:
        """Return the publishes whose before-images are from `before` that moment (UTC), or do not
        fit into `most_bytes` together with all newer ones.
        """
        rescues, publishes = self._t.rescues, self._t.publishes
        size = sa.func.sum(rescues.c.bytes).label("size")
        old = (
            sa.select(rescues.c.publish)
            .join(publishes, publishes.c.number == rescues.c.publish)
            .where(publishes.c.published_at < before)
        )
        superfluous = {row.publish for row in self._rows(old.distinct())}
        total = self._row(sa.select(size))
        if total is not None and (total.size or 0) > most_bytes:
            newest_first = rescues.c.publish.desc()
            by_publish = sa.select(rescues.c.publish, size).group_by(rescues.c.publish)
            kept = 0
            for row in self._rows(by_publish.order_by(newest_first)):
                kept += row.size
                if kept > most_bytes:
                    superfluous.add(row.publish)
        return sorted(superfluous)

    def note_rescue(self, rescued: Rescued) -> None:
        """Record what a publish kept of one table, in the open transaction."""
        publish, table, stored_in, deleted, replaced, inserted, size = astuple(rescued)
        with self._dialect.doing("write the ledger"):
            self._connection.execute(
                self._t.rescues.insert().values(
                    publish=publish,
                    table_name=table,
                    stored_in=stored_in,
                    deleted=deleted,
                    replaced=replaced,
                    inserted=inserted,
                    bytes=size,
                )
            )

    def note_merge(self, mark: str) -> None:
        """Record the newest merge of before-images by a mark of its own, in the open transaction.

        The marks of earlier ones are deleted.
        """
        facts = self._t.facts
        with self._dialect.doing("write the ledger"):
            self._connection.execute(facts.delete().where(facts.c.name.startswith(_MERGED)))
            self.note(f"{_MERGED}{mark}", "yes")

    def is_merged(self, mark: str) -> bool:
        """Return whether the merge of that mark was committed, and no later one since."""
        return self.fact(f"{_MERGED}{mark}") is not None

    def forget(self, publish: int) -> None:
        """Forget a publish's before-images, and the digests that only its undo would need."""
        digests, rescues = self._t.digests, self._t.rescues
        later = digests.alias()
        superseded = sa.exists().where(
            later.c.table_name == digests.c.table_name,
            later.c.publish > digests.c.publish,
            later.c.publish <= publish,
        )
        with self._dialect.doing("write the ledger"):
            self._connection.execute(rescues.delete().where(rescues.c.publish == publish))
            self._connection.execute(digests.delete().where(superseded))
