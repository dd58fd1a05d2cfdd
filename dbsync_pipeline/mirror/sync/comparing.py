"""Comparing one table of both sides, and staging the rows that differ."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from dbsync_pipeline.dialects.digests import Digests, Form
from dbsync_pipeline.dialects.staging import Moved
from dbsync_pipeline.dialects.table import RowKey, Table
from dbsync_pipeline.dialects.values import shown_key
from dbsync_pipeline.errors import NotProved
from dbsync_pipeline.mirror import compare, drift, guard
from dbsync_pipeline.mirror.guard import Risk, TablePlan
from dbsync_pipeline.mirror.ledger.stamps import SIDES, Side
from dbsync_pipeline.mirror.look import DIGESTS, PROOFS, Known, Look, Survey, Written
from dbsync_pipeline.mirror.report.file import Report
from dbsync_pipeline.mirror.sync.opening import Opened
from dbsync_pipeline.mirror.sync.task import TableDiff, Task
from dbsync_pipeline.mirror.written import WrittenChanges
from dbsync_pipeline.text import count


@dataclass
class Comparison:
    """One table's part of a sync, from its comparison until it is recorded.

    The digests of a side that has no rows, or was not digested yet, are those of an empty table.
    The looks say how they were proved. While `written` is set, the source's digests are those of
    the last publish, and these rows show what changed since. `touched` has the buckets that differ,
    `moved` what was carried, `seconds` the time it took.
    """

    table: Table
    form: Form
    plan: TablePlan
    source: Digests
    target: Digests
    source_look: Look | None = None
    target_look: Look | None = None
    written: Written | None = None
    touched: list[int] = field(default_factory=list)
    moved: Moved = field(default_factory=Moved)
    seconds: float = 0.0

    @classmethod
    def of(cls, table: Table, form: Form, source_rows: int, target_rows: int) -> Comparison:
        """A comparison at its beginning: all that is known are the numbers of rows."""
        empty = Digests.gather(form, ())
        new = source_rows if target_rows == 0 else 0
        plan = TablePlan(table.name, source_rows, target_rows, new, 0, 0)
        return cls(table, form, plan, empty, empty)

    def seen(self, source: Look, target: Look) -> Comparison:
        """The comparison with the digests of both sides."""
        return replace(
            self,
            source=source.digests,
            target=target.digests,
            source_look=source,
            target_look=target,
        )

    @property
    def proof(self) -> str:
        """How the sides were looked at: the dearer proof of the two, and why it was needed."""
        looks = {"source": self.source_look, "target": self.target_look}
        dearest = max(
            ((PROOFS.index(look.proof), look, side) for side, look in looks.items() if look),
            key=lambda pair: pair[0],
            default=None,
        )
        if dearest is None:
            return ""
        _, look, side = dearest
        return f"{look.proof}: {look.why} ({side})" if look.why else look.proof

    @property
    def fills(self) -> bool:
        """Whether the target's table is empty, so that the rows go straight into it."""
        return self.plan.target_rows == 0 and self.plan.source_rows > 0

    @property
    def diff(self) -> TableDiff:
        """What the table needs, for the caller of the sync."""
        plan = self.plan
        return TableDiff(
            plan.table,
            plan.source_rows,
            plan.insert,
            plan.update,
            plan.delete,
            self.moved.bytes,
            self.seconds,
        )

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time spent within to `seconds`."""
        started = time.monotonic()
        yield
        self.seconds += time.monotonic() - started


def compare_table(
    task: Task, opened: Opened, table: Table, *, staging: bool, report: Report | None = None
) -> Comparison:
    """Compare one table bucket by bucket; with `staging`, stage the rows that differ, and with a
    `report`, report them.

    A table of which one side may hide rows is not read: the guards refuse that plan.
    """
    if opened.hides(table.name):
        return Comparison.of(table, _form(opened, table, 0), 0, 0)
    started = time.monotonic()
    task.observe(table.name, "compare", 0, None)
    comparison = _looked_at(opened, table) or _counted(opened, table)
    if comparison.plan.target_rows:
        _compare_rows(task, opened, comparison, staging, report)
    elif report is not None:
        report.new_table(table)
    comparison.seconds = time.monotonic() - started
    rows = comparison.plan.source_rows
    task.observe(table.name, "stage" if staging else "compare", rows, rows)
    return comparison


def _looked_at(opened: Opened, table: Table) -> Comparison | None:
    """Compare with what is known of a table that was published before, at the lowest price.

    None if nothing is known of it, or if its rows no longer fit the buckets of its last publish.
    """
    published = _published(opened, table)
    if published is None:
        return None
    form = _form_of(published, table)
    known = [_known(opened, published, table, side) for side in SIDES]
    source, target = compare.both(
        lambda: opened.source_view.survey(table, form, known[0]),
        lambda: opened.target_view.survey(table, form, known[1]),
    )
    rows = source.rows, target.rows
    if not compare.serves(form.buckets, max(rows)):
        return None
    comparison = Comparison.of(table, form, *rows)
    if _shows_changes(source, target):
        return replace(comparison.seen(source.look, target.look), written=source.written)
    return comparison.seen(
        *compare.both(
            lambda: opened.source_view.complete(table, source),
            lambda: opened.target_view.complete(table, target),
        )
    )


def _shows_changes(source: Survey, target: Survey) -> bool:
    """Whether the rows written to the source since the last publish are all that differs."""
    if source.written is None or source.written.young is None:
        return False
    return target.written is None and target.look.proof != DIGESTS and target.rows > 0


def _counted(opened: Opened, table: Table) -> Comparison:
    """Compare by digests of all rows, unless the target has none."""
    rows = compare.both(lambda: opened.source_view.count(table), lambda: opened.target.count(table))
    form = _form(opened, table, max(rows))
    comparison = Comparison.of(table, form, *rows)
    if not comparison.plan.target_rows:
        return comparison
    return comparison.seen(
        *compare.both(
            lambda: opened.source_view.look(table, form),
            lambda: opened.target_view.look(table, form),
        )
    )


def _known(opened: Opened, published: Digests, table: Table, side: Side) -> Known | None:
    """What is known of one side of a table since its last publish.

    Of a source only while it has the claim of that publish: a database that was restored from
    files, or is a copy of another's files, issues the numbers of transactions again.
    """
    stamp = opened.stamps.get((table.name, side))
    if stamp is None or (side == "source" and stamp.claim not in opened.claims):
        return None
    return Known(published, stamp)


def all_new(opened: Opened, table: Table) -> Comparison:
    """The comparison of a table that the target does not have yet."""
    rows = 0 if opened.hides(table.name) else opened.source.count(table)
    return Comparison.of(table, _form(opened, table, rows), rows, 0)


def _published(opened: Opened, table: Table) -> Digests | None:
    """The digests of the last publish, if both sides still compute digests in that format."""
    published = opened.published(table.name) if opened.target_ledger.last else None
    if published is None or published.form.digest_format != opened.digest_format:
        return None
    return published


def _form_of(published: Digests, table: Table) -> Form:
    """The form of the last publish, for the columns that the models have now."""
    return replace(published.form, columns=table.signatures)


def _form(opened: Opened, table: Table, rows: int) -> Form:
    """The form of the last publish while it fits, so that its digests remain comparable."""
    published = _published(opened, table)
    if published is not None and compare.serves(published.form.buckets, rows):
        return _form_of(published, table)
    return Form(opened.digest_format, compare.buckets_for(rows), table.signatures)


def _compare_rows(
    task: Task, opened: Opened, comparison: Comparison, staging: bool, report: Report | None
) -> None:
    table, form = comparison.table, comparison.form
    written = comparison.written
    buckets = written.buckets if written else comparison.source.differing(comparison.target)
    if not buckets.size:
        return
    tally, stage = _Tally(comparison, _local_writes(opened, comparison)), _Stage(opened, comparison)
    if staging:
        opened.target.create_staging(table)
    for changes in _changes(opened, comparison, buckets):
        tally.add(changes)
        comparison.touched.append(changes.bucket)
        if staging:
            stage.add(changes)
        if report is not None:
            report.bucket(table, form, changes)
        task.observe(table.name, "stage", tally.new + tally.changed, None)
    stage.flush()
    tally.require_all_explained(table, comparison.source.differing(comparison.target))
    comparison.plan = tally.completed(comparison.plan)


def _changes(
    opened: Opened, comparison: Comparison, buckets: np.ndarray
) -> Iterator[compare.Changes]:
    """The changes in these buckets; afterwards the digests of the source are up to date."""
    if comparison.written is not None:
        return _written_changes(opened, comparison, comparison.written)
    rows = compare.row_digests(
        opened.source, opened.target, comparison.table, comparison.form, buckets
    )
    return compare.changes(comparison.table, *rows)


def _written_changes(
    opened: Opened, comparison: Comparison, written: Written
) -> Iterator[compare.Changes]:
    table, look, stamps = comparison.table, comparison.source_look, opened.target_view.stamps
    assert look is not None and stamps is not None
    started = time.monotonic()
    changes = WrittenChanges(
        opened.source, opened.target, stamps, table, comparison.source, written
    )
    yield from (bucket for bucket in changes if bucket.any)
    comparison.source, comparison.written = changes.digests, None
    share = len(changes.compared) / comparison.form.buckets
    effort = opened.source_view.effort(
        table, bool(changes.compared), look.digests.total, share, started
    )
    comparison.source_look = replace(
        look,
        digests=comparison.source,
        digested=int(written.buckets.size),
        effort=look.effort.plus(effort),
    )
    opened.source_view.keep(table, comparison.source_look)


@dataclass(frozen=True)
class _LocalWrites:
    """The buckets with rows that no publish wrote; None if every bucket may have some."""

    buckets: frozenset[int] | None
    unattributable: bool = False

    def __contains__(self, bucket: int) -> bool:
        return self.buckets is None or bucket in self.buckets


def _local_writes(opened: Opened, comparison: Comparison) -> _LocalWrites:
    """The target's buckets that are not as last published.

    All rows of a table that no publish included are local writes. None are if nothing was ever
    published: another guard is about that.
    """
    if opened.target_ledger.last is None:
        return _LocalWrites(frozenset())
    published = opened.published(comparison.table.name)
    match drift.since_publish(opened.target, comparison.table, published, comparison.target):
        case drift.Unchanged():
            return _LocalWrites(frozenset())
        case drift.Changed() as changed:
            buckets = changed.buckets_in(comparison.form)
            return _LocalWrites(None if buckets is None else frozenset(buckets.tolist()))
        case drift.Unknowable(why):
            return _LocalWrites(None, why is drift.Why.INCOMPARABLE)


class _Tally:
    """Counts the rows that differ, and those of them that are local writes at risk."""

    def __init__(self, comparison: Comparison, local_writes: _LocalWrites) -> None:
        self._table, self._form = comparison.table, comparison.form
        self._local_writes = local_writes
        self.new = self.changed = self.gone = self.at_risk = self.explained = 0
        self.keys_at_risk: list[RowKey] = []

    def add(self, changes: compare.Changes) -> None:
        self.new += len(changes.new)
        self.changed += len(changes.changed)
        self.gone += len(changes.gone)
        self.explained += changes.any
        if changes.bucket in self._local_writes:
            lost = changes.changed + changes.gone
            self.at_risk += len(lost)
            first = lost[: guard.FIRST_KEYS - len(self.keys_at_risk)]
            native = self._form.native
            self.keys_at_risk += [shown_key(self._table, key, native=native) for key in first]

    def require_all_explained(self, table: Table, differing: np.ndarray) -> None:
        if self.explained != differing.size:
            raise NotProved(
                f"the digests of {count(differing.size, 'bucket')} differ, but rows that differ "
                f"were found in {self.explained} only",
                operation="compare",
                table=table.name,
                remedy="this is a defect of dbsync: report it; `dbsync verify` compares in another "
                "way",
            )

    def completed(self, plan: TablePlan) -> TablePlan:
        risk = Risk(self.at_risk, tuple(self.keys_at_risk), self._local_writes.unattributable)
        return replace(plan, insert=self.new, update=self.changed, delete=self.gone, risk=risk)


class _Stage:
    """Gathers the keys of rows that differ, and stages them in batches."""

    def __init__(self, opened: Opened, comparison: Comparison) -> None:
        self._opened, self._comparison = opened, comparison
        self._to_insert: list[RowKey] = []
        self._to_delete: list[RowKey] = []

    def add(self, changes: compare.Changes) -> None:
        self._to_insert += changes.new + changes.changed
        self._to_delete += changes.gone + changes.changed
        gathered = len(self._to_insert) + len(self._to_delete)
        if gathered >= self._opened.target.keys_per_load:
            self.flush()

    def flush(self) -> None:
        """Stage what was gathered; does nothing if nothing was."""
        table, form, moved = self._comparison.table, self._comparison.form, self._comparison.moved
        source, target = self._opened.source, self._opened.target
        if self._to_insert:
            batch = target.stage_rows(table, source, self._to_insert, form)
            moved.rows += batch.rows
            moved.bytes += batch.bytes
        if self._to_delete:
            target.stage_keys(table, self._to_delete, form)
        self._to_insert, self._to_delete = [], []
