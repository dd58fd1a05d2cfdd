"""Put a target back to its state before a publish, from its before-images.

An undo is a publish of its own: it keeps before-images of what it changes, so it can be undone too.
Publishes are undone newest first.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Addressed, Dialect
from dbsync_pipeline.dialects.digests import Digests, Form
from dbsync_pipeline.dialects.staging import Written
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import NotProved, Refused, SettingsError
from dbsync_pipeline.mirror import drift, outcome, pausing, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger, Publish, TableResult
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.save import save
from dbsync_pipeline.mirror.rescue.tables import INSERTED, as_stored, clause, same_key
from dbsync_pipeline.settings import Settings


@dataclass(frozen=True)
class _Undoable:
    """A publish that can be undone, and the digests (as text) of its tables as they are now."""

    publish: Publish
    digests: dict[str, str]


def undo(
    target: Database,
    model: Model,
    run_id: str,
    *,
    by: str,
    settings: Settings,
    overwrite: bool = False,
) -> Publish:
    """Put the target and its ledger back to before the publish of `run_id`, in one transaction, and
    pause the target.

    `by` is the run id of this undo, by which it can be undone itself. Raises SettingsError if the
    run published nothing here; Refused if it is already undone, if newer publishes stand on top of
    it, if the target has local writes since (unless `overwrite`), or if its before-images are gone;
    NotProved if the result would not be exactly the former state.
    """
    with target.connect(f"dbsync run {by}") as dialect:
        schema.require(dialect, model)
        dialect.begin(model.tables, wait_seconds=settings.lock_seconds)
        undoable = _require_undoable(dialect, model, run_id, overwrite)
        entry = undoable.publish
        tables = [
            model.table(name)
            for name, result in entry.tables.items()
            if result.inserted or result.updated or result.deleted
        ]
        number = Ledger(dialect).number() + 1
        for table in tables:
            _stage_opposite(dialect, table, entry)
            save(dialect, number, table)
        if tables:
            dialect.suspend_constraints(tables)
        results = _put_back(dialect, model, tables, undoable)
        if tables:
            dialect.prove_constraints(model.tables)
        publish = _record(dialect, model, entry, number, by, results)
        outcome.commit(
            dialect,
            target,
            lambda again: Ledger(again).of_run(by) is not None,
            operation="undo",
        )
    return publish


def require_undoable(
    target: Database, model: Model, run_id: str, *, overwrite: bool = False
) -> None:
    """Raise what `undo` would raise for this run now, before anybody is asked to confirm it.

    Reads every row of the tables that the run published, in one snapshot; locks and changes
    nothing.
    """
    with target.connect() as dialect:
        schema.require(dialect, model)
        dialect.snapshot()
        _require_undoable(dialect, model, run_id, overwrite)


def _require_undoable(dialect: Dialect, model: Model, run_id: str, overwrite: bool) -> _Undoable:
    """Return the publish of that run; raise if it cannot be undone."""
    ledger = Ledger(dialect)
    entry = ledger.of_run(run_id)
    if entry is None:
        raise SettingsError(
            f"no publish of run {run_id} is in the ledger",
            operation="undo",
            database=dialect.name,
            remedy="`dbsync rescue list` lists the runs that can be undone",
        )
    _require_newest(entry, ledger.since(entry))
    stored_in = {rescued.table: rescued.stored_in for rescued in ledger.rescues(entry.number)}
    digests = {}
    for name, result in entry.tables.items():
        table = model.table(name)
        _require_images(dialect, table, result, stored_in.get(name), run_id)
        digests[name] = _require_unchanged(dialect, table, entry, overwrite)
    return _Undoable(entry, digests)


def _require_images(
    dialect: Dialect, table: Table, result: TableResult, stored_in: str | None, run_id: str
) -> None:
    """Refuse if the before-images of a changed table are gone, or have other columns than the
    models have now.
    """
    needed = result.updated or result.deleted or (result.inserted and not result.filled)
    if needed and stored_in is None:
        raise Refused(
            "its rescued rows are no longer kept",
            operation="undo",
            database=dialect.name,
            table=table.name,
        )
    if stored_in is not None:
        stored = {column.name for column in as_stored(dialect, stored_in, table).columns}
        if different := stored ^ {column.name for column in table.columns}:
            raise _models_changed(dialect, table, different, run_id)


def _require_unchanged(dialect: Dialect, table: Table, entry: Publish, overwrite: bool) -> str:
    """Return the digest of the table now; refuse local writes since the publish, unless
    `overwrite`.
    """
    published = Ledger(dialect).digests(table.name)
    stamp = Ledger(dialect).stamp(table.name, "target")
    match drift.since_publish(dialect, table, published, stamp=stamp):
        case drift.Changed() if not overwrite:
            raise Refused(
                "the table has local writes since that publish",
                operation="undo",
                database=dialect.name,
                table=table.name,
                remedy="to move those writes to the rescue tables: "
                f"`dbsync undo {entry.run_id} --database {dialect.name} --overwrite`",
            )
        case drift.Changed(now=now) | drift.Unchanged(now=now):
            return str(now)
    return str(_digests(dialect, table, entry))


def _models_changed(dialect: Dialect, table: Table, columns: Iterable[str], run_id: str) -> Refused:
    return Refused(
        f"the models have changed since that publish, in {', '.join(sorted(columns))}",
        operation="undo",
        database=dialect.name,
        table=table.name,
        remedy=f"`dbsync rescue show {run_id}` and `dbsync rescue export {run_id} DIR` "
        "give its rows as they were",
    )


def _require_newest(entry: Publish, entries: Sequence[Publish]) -> None:
    """Refuse a publish that is already undone, or that newer ones stand on top of. `entries` are
    this publish and all later ones, newest first.

    The remedy names the publish to undo next on the way there. The newest of all may be an undo,
    whose own undo leads away from it.
    """
    effective, by = _effective(entries), _undone_by(entries).get(entry.number)
    if by is not None:
        first = _next_to_undo(effective, by)
        raise Refused(
            f"run {entry.run_id} is already undone, by run {by.run_id} at "
            f"{by.published_at:%Y-%m-%d %H:%M:%S} UTC",
            operation="undo",
            database=entry.target,
            remedy=f"to reverse that undo: `dbsync undo {by.run_id}`"
            if first is by
            else "to reverse that undo, first undo what stands on top of it, newest first: "
            f"`dbsync undo {first.run_id}`",
        )
    if entry not in effective:
        raise Refused(
            f"other publishes stand on top of run {entry.run_id}",
            operation="undo",
            database=entry.target,
            remedy="undo them first, newest first: "
            f"`dbsync undo {_next_to_undo(effective, entry).run_id}`",
        )


def _effective(entries: Sequence[Publish]) -> list[Publish]:
    """The publishes on which the present state rests, newest first: below an undo follows the
    publish before the one that it undid.
    """
    result: list[Publish] = []
    for entry in entries:
        before = result[-1].undoes if result else None
        if before is None or entry.number < before:
            result.append(entry)
            if entry.undoes is None:
                break
    return result


def _undone_by(entries: Sequence[Publish]) -> dict[int, Publish]:
    """The newest undo of each publish, by the number of that publish."""
    result: dict[int, Publish] = {}
    for entry in entries:
        if entry.number not in result and entry.undoes is not None:
            result[entry.undoes] = entry
    return result


def _next_to_undo(effective: Sequence[Publish], down_to: Publish) -> Publish:
    """The publish to undo next on the way down to that one: itself, or the lowest on top of it."""
    above = (entry for entry in effective if entry.number >= down_to.number)
    return min(above, key=lambda entry: entry.number)


def _stage_opposite(dialect: Dialect, table: Table, entry: Publish) -> None:
    """Stage the opposite of what the publish did: the rows to bring back, and the keys of those it
    replaced or inserted.
    """
    dialect.create_staging(table)
    live, (new, gone) = dialect.live(table), dialect.staged(table)
    keys, names = [column.name for column in table.key], [column.name for column in table.columns]
    with dialect.doing("undo"):
        if entry.tables[table.name].filled:
            dialect.stage_everything(table)
            return
        stored_in = {
            rescued.table: rescued.stored_in for rescued in Ledger(dialect).rescues(entry.number)
        }
        stored = clause(dialect, stored_in[table.name], table)
        of_publish = stored.c.dbsync_publish == entry.number
        if table.keyless:
            assert isinstance(dialect, Addressed), "else its structure is refused"
            dialect.stage_equal(table, stored_in[table.name], entry.number)
        else:
            # A join, since a rescue table has no index: look up each of its rows in the live
            # table, and not the other way round.
            present = sa.select(*(live.c[key] for key in keys)).select_from(
                stored.join(live, same_key(table, stored, live))
            )
            dialect.connection.execute(gone.insert().from_select(keys, present.where(of_publish)))
        old = sa.select(*(stored.c[name] for name in names)).where(
            of_publish, stored.c.dbsync_change != INSERTED
        )
        dialect.connection.execute(new.insert().from_select(names, old))


def _put_back(
    dialect: Dialect, model: Model, tables: Sequence[Table], undoable: _Undoable
) -> dict[str, TableResult]:
    """Apply the staged rows, and prove that the tables are what they were.

    Return a result for every table of the publish: the ledger goes back for those, too, whose rows
    it did not change.
    """
    entry, results = undoable.publish, {}
    written = dialect.write_staged(tables) if tables else {}
    for table in map(model.table, entry.tables):
        before, now = entry.tables[table.name].before, _digests(dialect, table, entry)
        if table in tables and before and str(now) != before:
            raise NotProved(
                "the table would not be what it was before that run",
                operation="undo",
                database=dialect.name,
                table=table.name,
                remedy="the target has local writes since then; "
                f"`dbsync rescue show {entry.run_id}` shows the rows as they were",
            )
        rows = written.get(table.name, Written(0, 0))
        gone, come = rows.deleted, rows.inserted
        replaced = min(gone, come, entry.tables[table.name].updated)
        results[table.name] = TableResult(
            rows=now.total,
            inserted=come - replaced,
            updated=replaced,
            deleted=gone - replaced,
            bytes=0,
            digest=str(now),
            seconds=0.0,
            before=undoable.digests[table.name],
        )
    return results


def _digests(dialect: Dialect, table: Table, entry: Publish) -> Digests:
    """Return the table's digests now, in the form of those in the ledger, so that the two can be
    compared.

    After the undo of a first publish the ledger has no digests but those that the undo took back.
    """
    ledger = Ledger(dialect)
    known = ledger.digests(table.name) or ledger.digests(table.name, before=entry.number)
    form = known.form if known else Form(dialect.digest_format(), 1)
    then = dialect.comparable_table(table, form)
    if then is None:
        different = set(form.columns) ^ set(table.signatures)
        raise _models_changed(dialect, table, dict(different), entry.run_id)
    return dialect.digests(then, form)


def _in_current_form(dialect: Dialect, table: Table, digests: Digests | None) -> Digests | None:
    """Return the digests over the columns that the models have now, if they still describe what the
    table holds.
    """
    if digests is None or digests.form.columns in ((), table.signatures):
        return digests
    match drift.since_publish(dialect, table, digests):
        case drift.Unchanged():
            return dialect.digests(table, replace(digests.form, columns=table.signatures))
    return digests


def _record(
    dialect: Dialect,
    model: Model,
    entry: Publish,
    number: int,
    by: str,
    results: dict[str, TableResult],
) -> Publish:
    """Write the undo as a publish, bring the former digests back, and pause the target."""
    ledger, now = Ledger(dialect), dt.datetime.now(dt.UTC)
    for name in entry.tables:
        former = ledger.digests(name, before=entry.number)
        ledger.keep_digests(number, name, _in_current_form(dialect, model.table(name), former))
    publish = Publish(
        number,
        by,
        entry.source,
        entry.target,
        entry.snapshot_at,
        now,
        results,
        {},
        undoes=entry.number,
        state=number,
    )
    ledger.record(publish, ledger.identity())
    reason = f"run {entry.run_id} was undone at {now:%Y-%m-%d %H:%M:%S} UTC"
    ledger.note(pausing.FACT, reason)
    return publish
