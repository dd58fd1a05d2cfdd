"""Rows that a publish takes away or replaces, kept on the target in the publishing transaction, and put back by an undo.

Beside the ledger each mirrored table has a table of the same columns and of their exact types. A row there is one that a publish
`deleted` or `replaced`, as it was before, or the key of one that it `inserted`. An undo is a publish of its own: it rescues what it takes
away, so it can be undone too.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy as sa

from dbsync_pipeline import extras
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import Digests, Form
from dbsync_pipeline.dialects.table import Column, Kind, RowKey, Table
from dbsync_pipeline.errors import NotProved, Refused, SettingsError, Unavailable
from dbsync_pipeline.mirror import drift, pausing, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger, Publish, Rescued, TableResult
from dbsync_pipeline.mirror.model import RESERVED, Model
from dbsync_pipeline.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

DELETED, REPLACED, INSERTED = "deleted", "replaced", "inserted"


def save(dialect: Dialect, publish: int, table: Table) -> Rescued:
    """Within the publishing transaction and before it changes the live table, keep what the staged changes take away. Returns counts."""
    stored = _stored_in(dialect, table)
    live, (new, gone) = table.sa, dialect.staged(table)
    replaces = sa.exists().where(_same_key(table, new, live)).correlate(live)
    change = sa.case((replaces, REPLACED), else_=DELETED)
    names = [column.name for column in table.columns]
    old = sa.select(sa.literal(publish), change, *(live.c[name] for name in names)).where(
        sa.exists().where(_same_key(table, gone, live)).correlate(live)
    )
    keys = [column.name for column in table.key]
    fresh = sa.select(
        sa.literal(publish), sa.literal(INSERTED), *(new.c[key] for key in keys)
    ).where(~sa.exists().where(_same_key(table, gone, new)).correlate(new))
    with dialect.doing("rescue rows"):
        dialect.connection.execute(
            stored.insert().from_select(["dbsync_publish", "dbsync_change", *names], old)
        )
        dialect.connection.execute(
            stored.insert().from_select(["dbsync_publish", "dbsync_change", *keys], fresh)
        )
        size = sum(
            (sa.func.coalesce(dialect.octets(stored.c[name]), 0) for name in names),
            start=sa.literal(0),
        )
        counted = dialect.connection.execute(
            sa.select(stored.c.dbsync_change, sa.func.count(), sa.func.sum(size))
            .where(stored.c.dbsync_publish == publish)
            .group_by(stored.c.dbsync_change)
        ).all()
    rows = {change: count for change, count, _ in counted}
    deleted, replaced, inserted = (rows.get(change, 0) for change in (DELETED, REPLACED, INSERTED))
    taken = int(sum(size or 0 for _, _, size in counted))
    rescued = Rescued(publish, table.name, stored.name, deleted, replaced, inserted, taken)
    Ledger(dialect).note_rescue(rescued)
    return rescued


def prune(dialect: Dialect, settings: Settings) -> None:
    """Within the publishing transaction, forget rescued rows that are too old, and the oldest of those that are too many bytes."""
    ledger, kept = Ledger(dialect), 0
    oldest = dt.datetime.now(dt.UTC) - dt.timedelta(days=settings.rescue_days)
    published = {entry.number: entry.published_at for entry in ledger.rescuing()}
    for rescued in ledger.rescues():
        kept += rescued.bytes
        if published[rescued.publish] < oldest or kept > settings.rescue_mb * 1_000_000:
            _drop_rows(dialect, rescued.publish, ledger)


def _drop_rows(dialect: Dialect, publish: int, ledger: Ledger) -> None:
    for rescued in ledger.rescues(publish):
        stored = sa.table(
            rescued.stored_in, sa.column("dbsync_publish"), schema=dialect.ledger_schema
        )
        with dialect.doing("forget rescued rows"):
            dialect.connection.execute(stored.delete().where(stored.c.dbsync_publish == publish))
    ledger.forget(publish)


# -- undo


def undo(
    target: Database,
    model: Model,
    run_id: str,
    *,
    by: str,
    settings: Settings,
    overwrite: bool = False,
) -> Publish:
    """Put the target back to the state and the ledger before the publish of `run_id`, in one transaction, and hold its schedule.

    `by` is the run id of this undo, under which it can itself be undone. Raises SettingsError for a run that published nothing here,
    Refused when it is undone already, when others stand on top of it, when the target was written to since (unless `overwrite`), or when
    its rescued rows are gone; NotProved when the state would not be exactly the former.
    """
    with target.connect(f"dbsync run {by}") as dialect:
        schema.require(dialect, model)
        dialect.begin(model.tables, wait_seconds=settings.lock_seconds)
        entry, found = _to_undo(dialect, model, run_id, overwrite)
        tables = [
            model.table(name)
            for name, result in entry.tables.items()
            if result.inserted or result.updated or result.deleted
        ]
        number = Ledger(dialect).number() + 1
        for table in tables:
            _stage_back(dialect, table, entry)
            save(dialect, number, table)
        if tables:
            dialect.suspend_constraints(tables)
        results = _put_back(dialect, model, tables, entry, found)
        if tables:
            dialect.prove_constraints(model.tables)
        publication = _record(dialect, model, entry, number, by, results)
        dialect.commit()
    return publication


def _to_undo(
    dialect: Dialect, model: Model, run_id: str, overwrite: bool
) -> tuple[Publish, dict[str, str]]:
    """The publish to undo, and the digests of its tables as they are now."""
    ledger = Ledger(dialect)
    entry = ledger.of_run(run_id) if ledger.exists() else None
    if entry is None:
        raise SettingsError(
            f"no publish of run {run_id} is in the ledger",
            operation="undo",
            database=dialect.name,
            remedy="`dbsync rescue list` names the runs that can be undone",
        )
    _refuse_out_of_turn(entry, ledger.publishes())
    found: dict[str, str] = {}
    present = {rescued.table: rescued.stored_in for rescued in ledger.rescues(entry.number)}
    for name, result in entry.tables.items():
        if (
            result.updated or result.deleted or (result.inserted and not result.filled)
        ) and name not in present:
            raise Refused(
                "its rescued rows are no longer kept",
                operation="undo",
                database=dialect.name,
                table=name,
            )
        if name in present:
            _refuse_other_columns(dialect, model.table(name), present[name], run_id)
        match drift.since_publish(dialect, model.table(name), ledger.digests(name)):
            case drift.Unknowable():
                found[name] = str(_digests(dialect, model.table(name), entry))
            case drift.Changed() if not overwrite:
                raise Refused(
                    "somebody has written to the table since that publish",
                    operation="undo",
                    database=dialect.name,
                    table=name,
                    remedy=f"if those writes may go into the rescue tables: `dbsync undo {run_id} --database {dialect.name} --overwrite`",
                )
            case drift.Changed(now=now) | drift.Unchanged(now=now):
                found[name] = str(now)
    return entry, found


def _refuse_other_columns(dialect: Dialect, table: Table, stored_in: str, run_id: str) -> None:
    """What a row was before has no value for a column that came since, and has one for a column that went."""
    others = {column.name for column in _as_kept(dialect, stored_in, table).columns} ^ {
        column.name for column in table.columns
    }
    if others:
        raise _changed_since(dialect, table, others, run_id)


def _changed_since(dialect: Dialect, table: Table, columns: Iterable[str], run_id: str) -> Refused:
    return Refused(
        f"the models have changed since that publish, in {', '.join(sorted(columns))}",
        operation="undo",
        database=dialect.name,
        table=table.name,
        remedy=f"`dbsync rescue show {run_id}` and `dbsync rescue export {run_id} DIR` give its rows as they were",
    )


def _refuse_out_of_turn(entry: Publish, entries: Sequence[Publish]) -> None:
    """Refuse what is undone already, and what others stand on top of; `entries` are all publishes of the ledger, newest first.

    The remedy names the publish whose undo comes next on the way there. The newest of all may be an undo, whose own undo leads away.
    """
    turns, by = _turns(entries), _undone(entries).get(entry.number)
    if by is not None:
        first = _next_turn(turns, by)
        raise Refused(
            f"run {entry.run_id} is undone already, by run {by.run_id} at {by.published_at:%Y-%m-%d %H:%M:%S} UTC",
            operation="undo",
            database=entry.target,
            remedy=f"to take that back: `dbsync undo {by.run_id}`"
            if first is by
            else f"to take that back, undo first what stands on top of it, the newest first: `dbsync undo {first.run_id}`",
        )
    if entry not in turns:
        raise Refused(
            f"other publishes stand on top of run {entry.run_id}",
            operation="undo",
            database=entry.target,
            remedy=f"undo them first, the newest first: `dbsync undo {_next_turn(turns, entry).run_id}`",
        )


def _turns(entries: Sequence[Publish]) -> list[Publish]:
    """The publishes that left the state that stands now, newest first: below an undo the one before what it took back, and so on."""
    found: list[Publish] = []
    for entry in entries:
        before = found[-1].undoes if found else None
        if before is None or entry.number < before:
            found.append(entry)
            if entry.undoes is None:
                break
    return found


def _undone(entries: Sequence[Publish]) -> dict[int, Publish]:
    """The undo by number of the publish that it took back, without those that were taken back in turn."""
    found: dict[int, Publish] = {}
    for entry in entries:
        if entry.number not in found and entry.undoes is not None:
            found[entry.undoes] = entry
    return found


def _next_turn(turns: Sequence[Publish], down_to: Publish) -> Publish:
    """The one to undo next on the way down to that one: itself, or the lowest that stands on top."""
    return min((one for one in turns if one.number >= down_to.number), key=lambda one: one.number)


def _stage_back(dialect: Dialect, table: Table, entry: Publish) -> None:
    """Stage the opposite of what the publish did: rows to bring back, and the keys of rows that stand in their place or were inserted."""
    dialect.create_staging(table)
    live, (new, gone) = table.sa, dialect.staged(table)
    keys, names = [column.name for column in table.key], [column.name for column in table.columns]
    with dialect.doing("undo"):
        if entry.tables[table.name].filled:
            dialect.connection.execute(
                gone.insert().from_select(keys, sa.select(*(live.c[key] for key in keys)))
            )
            return
        kept = {
            rescued.table: rescued.stored_in for rescued in Ledger(dialect).rescues(entry.number)
        }
        stored = _clause(dialect, kept[table.name], table)
        mine = stored.c.dbsync_publish == entry.number
        # a join, since a rescue table has no index: each of its rows is looked up in the live table, and not the other way round
        present = sa.select(*(live.c[key] for key in keys)).select_from(
            stored.join(live, _same_key(table, stored, live))
        )
        dialect.connection.execute(gone.insert().from_select(keys, present.where(mine)))
        old = sa.select(*(stored.c[name] for name in names)).where(
            mine, stored.c.dbsync_change != INSERTED
        )
        dialect.connection.execute(new.insert().from_select(names, old))


def _put_back(
    dialect: Dialect,
    model: Model,
    tables: Sequence[Table],
    entry: Publish,
    found: dict[str, str],
) -> dict[str, TableResult]:
    """`found` are the digests of the tables as the undo found them.

    Returns results of all tables of the entry: the ledger goes back for those, too, whose rows it did not change.
    """
    results = {}
    deleted = {table.name: dialect.delete_staged(table) for table in tables}
    inserted = {table.name: dialect.insert_staged(table) for table in tables}
    for table in map(model.table, entry.tables):
        was, now = entry.tables[table.name], _digests(dialect, table, entry)
        if table in tables and was.before and str(now) != was.before:
            raise NotProved(
                "the table would not be what it was before that run",
                operation="undo",
                database=dialect.name,
                table=table.name,
                remedy="the target was written to since; look at the rows with `dbsync rescue show`",
            )
        gone, come = deleted.get(table.name, 0), inserted.get(table.name, 0)
        replaced = min(gone, come)
        results[table.name] = TableResult(
            rows=now.total,
            inserted=come - replaced,
            updated=replaced,
            deleted=gone - replaced,
            bytes=0,
            digest=str(now),
            seconds=0.0,
            before=found[table.name],
        )
    return results


def _digests(dialect: Dialect, table: Table, entry: Publish) -> Digests:
    """The table's digests now, in the form of those in the ledger; after the undo of a first publish there are none but those that it took
    back."""
    ledger = Ledger(dialect)
    known = ledger.digests(table.name) or ledger.digests(table.name, before=entry.number)
    form = known.form if known else Form(dialect.digest_format(), 1)
    then = dialect.comparable_table(table, form)
    if then is None:
        raise _changed_since(
            dialect, table, dict(set(form.columns) ^ set(table.signatures)), entry.run_id
        )
    return dialect.digests(then, form)


def _of_now(dialect: Dialect, table: Table, digests: Digests | None) -> Digests | None:
    """The same digests over the columns that the models have now, where they still are what the table holds."""
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
    ledger, now = Ledger(dialect), dt.datetime.now(dt.UTC)
    for name in entry.tables:
        ledger.keep_digests(
            number,
            name,
            _of_now(dialect, model.table(name), ledger.digests(name, before=entry.number)),
        )
    publication = Publish(
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
    ledger.record(publication, ledger.identity())
    ledger.note(pausing.FACT, f"run {entry.run_id} was undone at {now:%Y-%m-%d %H:%M:%S} UTC")
    return publication


def find(databases: Iterable[Database], run: str) -> tuple[Database, Publish]:
    """The database that received the publish of this run, which may be told by the beginning of its id, and the publish.

    Raises SettingsError when no database that answers has such a run, when more than one run begins so, or when the run published
    to several of these databases.
    """
    found: list[tuple[Database, Publish]] = []
    for database in databases:
        with contextlib.suppress(Unavailable), database.connect() as dialect:
            ledger = Ledger(dialect)
            found += [
                (database, entry) for entry in (ledger.beginning(run) if ledger.exists() else [])
            ]
    if len(found) == 1:
        return found[0]
    names = [database.name for database, _ in found]
    why, remedy = (
        f"no database that answers has a publish of a run {run!r}",
        "`dbsync rescue list` names the runs",
    )
    if len({entry.run_id for _, entry in found}) > 1:
        why = f"{len(found)} runs begin with {run!r}"
    elif found:
        why, remedy = (
            f"run {run} published to {' and '.join(names)}",
            f"name one of them: `--database {names[0]}`",
        )
    raise SettingsError(why, operation="find the run", remedy=remedy)


def kept(target: Database) -> list[tuple[Publish, list[Rescued]]]:
    """The publishes of a target that can still be undone or looked into, newest first, with what is kept of each table."""
    with target.connect() as dialect:
        ledger = Ledger(dialect)
        if not ledger.exists():
            return []
        rescued = ledger.rescues()
        return [
            (entry, [one for one in rescued if one.publish == entry.number])
            for entry in ledger.rescuing()
        ]


# -- looking at rescued rows


def rescued_rows(
    target: Database, model: Model, run_id: str
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(table, rows) of what the publish of `run_id` took away, in lists of at most 100 rows: `dbsync_change`, and the table's columns.

    Values are as the driver gives them, exactly; JSON, and what Python has no form for, as the text that is stored.
    """
    return ((table.name, rows) for table, rows in _rescued(target, model, run_id))


def _rescued(
    target: Database, model: Model, run_id: str
) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    with target.connect() as dialect:
        for table, query in _rescued_queries(dialect, model, run_id):
            names, stored = (
                ["dbsync_change", *(column.name for column in table.columns)],
                query.selected_columns,
            )
            told = query.with_only_columns(
                stored["dbsync_change"],
                *(dialect.displayed(column, stored[column.name]) for column in table.columns),
            )
            with dialect.doing("read rescued rows"):
                result = dialect.connection.execution_options(stream_results=True).execute(told)
                for part in result.partitions(100):
                    yield table, [dict(zip(names, row, strict=True)) for row in part]


def rescued_keys(target: Database, model: Model, run_id: str) -> dict[str, dict[str, list[RowKey]]]:
    """Per table the keys of the rows that the publish of `run_id` `deleted` and `replaced`; numbers as numbers, all else as text."""
    found: dict[str, dict[str, list[RowKey]]] = {}
    with target.connect() as dialect:
        for table, query in _rescued_queries(dialect, model, run_id):
            with dialect.doing("read rescued rows"):
                for change, *key in dialect.connection.execute(_keys_of(table, query)):
                    plain = tuple(part if isinstance(part, int) else str(part) for part in key)
                    found.setdefault(table.name, {DELETED: [], REPLACED: []})[change].append(plain)
    return found


def export(target: Database, model: Model, run_id: str, folder: Path) -> list[Path]:
    """Write the rescued rows of a run as Parquet, one file a table (`<table>.parquet`, blanks and the like as %20); returns the files. Overwrites files of that name.

    A column is text where the table's type, or one of the values, has no exact form in Parquet: JSON, a decimal NaN, an infinite moment.
    """
    extras.require("parquet", "pyarrow", operation="export rescued rows")
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    with contextlib.ExitStack() as open_files:
        writers: dict[str, Any] = {}
        as_text = _without_form(target, model, run_id)
        for table, rows in _rescued(target, model, run_id):
            name = table.name
            if name not in writers:
                schema = _arrow_schema(table, as_text.get(name, set()))
                paths[name] = folder / f"{quote(name, safe='')}.parquet"
                writers[name] = open_files.enter_context(pq.ParquetWriter(paths[name], schema))
            fields = writers[name].schema
            columns = [
                _arrow_values([row[field.name] for row in rows], field.type) for field in fields
            ]
            writers[name].write_table(pa.table(columns, schema=fields))
    return list(paths.values())


def _without_form(target: Database, model: Model, run_id: str) -> dict[str, set[str]]:
    """Per table the columns with a value that their type in Parquet does not hold. A file's types are fixed before its first row."""
    found: dict[str, set[str]] = {}
    for table, rows in _rescued(target, model, run_id):
        for column in table.columns:
            if not all(
                row[column.name] is None or _has_form(column, row[column.name]) for row in rows
            ):
                found.setdefault(table.name, set()).add(column.name)
    return found


def _has_form(column: Column, value: Any) -> bool:
    match column.kind:
        case Kind.INTEGER:
            return isinstance(value, int) and -(2**63) <= value < 2**63
        case Kind.NUMERIC:
            whole = 10 ** (_precision(column) - column.scale)
            return isinstance(value, decimal.Decimal) and value.is_finite() and abs(value) < whole
        case Kind.INSTANT | Kind.DATETIME:
            return isinstance(value, dt.datetime) and (value.tzinfo is not None) == (
                column.kind is Kind.INSTANT
            )
    return column.kind not in _PYTHON or isinstance(value, _PYTHON[column.kind])


_PYTHON: dict[Kind, type] = {
    Kind.BOOLEAN: bool,
    Kind.FLOAT: float,
    Kind.BYTES: bytes,
    Kind.DATE: dt.date,
    Kind.TIME: dt.time,
}


def _precision(column: Column) -> int:
    return int(getattr(column.type, "precision", 0) or 0)


def _arrow_schema(table: Table, as_text: set[str]) -> pa.Schema:
    import pyarrow as pa

    fields = [
        (column.name, pa.string() if column.name in as_text else _arrow_type(column))
        for column in table.columns
    ]
    return pa.schema([("dbsync_change", pa.string()), *fields])


def _arrow_type(column: Column) -> pa.DataType:
    import pyarrow as pa

    if column.kind is Kind.NUMERIC and 0 <= column.scale <= _precision(column) <= 76:
        return (pa.decimal128 if _precision(column) <= 38 else pa.decimal256)(
            _precision(column), column.scale
        )
    types = {
        Kind.INTEGER: pa.int64(),
        Kind.BOOLEAN: pa.bool_(),
        Kind.FLOAT: pa.float64(),
        Kind.BYTES: pa.binary(),
        Kind.INSTANT: pa.timestamp("us", "UTC"),
        Kind.DATETIME: pa.timestamp("us"),
        Kind.DATE: pa.date32(),
        Kind.TIME: pa.time64("us"),
    }
    return types.get(column.kind, pa.string())


def _arrow_values(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    """Exact: what has no type of its own in Arrow goes as text."""
    import pyarrow as pa

    return pa.array(
        [plain(value) for value in values] if pa.types.is_string(type_) else values, type_
    )


def plain(value: Any) -> str | None:
    """A rescued value as text: moments ISO 8601 and instants in UTC, decimals with their digits, bytes in hexadecimal. None stays None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        value = value.astimezone(dt.UTC)
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(decimal.Decimal(value))
    return str(value)


def merge(
    target: Database, model: Model, run_id: str
) -> tuple[dict[str, int], dict[str, list[RowKey]]]:
    """Put back the deleted rows whose keys are free, parents first, in one transaction; returns rows put back, and the keys of the rest.

    The rest are rows whose key is taken, or that another constraint refuses. A second call finds the keys taken. Raises Refused where
    the rows have a column that the models no longer have, whose values would be lost.
    """
    put: dict[str, int] = {}
    rest: dict[str, list[RowKey]] = {}
    with (
        target.connect() as dialect,
        dialect.doing("merge rescued rows"),
        dialect.connection.begin(),
    ):
        for table, query in list(_rescued_queries(dialect, model, run_id)):
            live = model.table(table.name)
            _refuse_lost_columns(dialect, live, table, run_id)
            taken = {tuple(key) for key in dialect.connection.execute(_taken(live, query))}
            kept = [
                (change, tuple(key))
                for change, *key in dialect.connection.execute(_keys_of(live, query))
            ]
            free = [key for change, key in kept if change == DELETED and key not in taken]
            back = set(free)
            if free and not _inserted(dialect, live, query.where(~_is_taken(live, query))):
                back = _inserted_one_by_one(dialect, live, query, free)
            put[table.name] = len(back)
            rest[table.name] = [key for _, key in kept if key not in back]
    return put, {name: keys for name, keys in rest.items() if keys}


def _refuse_lost_columns(dialect: Dialect, live: Table, kept: Table, run_id: str) -> None:
    lost = [
        column.name
        for column in kept.columns
        if column.name not in {one.name for one in live.columns}
    ]
    if lost:
        raise Refused(
            f"the rows have values in {', '.join(lost)}, which the models no longer have",
            operation="merge rescued rows",
            database=dialect.name,
            table=live.name,
            remedy=f"`dbsync rescue show {run_id}` and `dbsync rescue export {run_id} DIR` give the rows as they were",
        )


def _inserted_one_by_one(
    dialect: Dialect, table: Table, query: sa.Select[Any], keys: list[RowKey]
) -> set[RowKey]:
    """Again and again, as long as one goes in: a row may refer to another of its table."""
    back: set[RowKey] = set()
    while True:
        more = [
            key
            for key in keys
            if key not in back and _inserted(dialect, table, query.where(*_is(table, query, key)))
        ]
        if not more:
            return back
        back.update(more)


def _keys_of(table: Table, query: sa.Select[Any]) -> sa.Select[Any]:
    return query.with_only_columns(query.selected_columns["dbsync_change"], *_key_in(table, query))


def _taken(table: Table, query: sa.Select[Any]) -> sa.Select[Any]:
    """The keys of the rescued rows that a row of the live table has."""
    return query.with_only_columns(*_key_in(table, query)).where(_is_taken(table, query))


def _is_taken(table: Table, query: sa.Select[Any]) -> sa.ColumnElement[bool]:
    same = (
        table.sa.c[column.name] == kept
        for column, kept in zip(table.key, _key_in(table, query), strict=True)
    )
    return sa.exists(sa.select(sa.literal(1)).select_from(table.sa).where(*same))


def _is(table: Table, query: sa.Select[Any], key: RowKey) -> list[sa.ColumnElement[bool]]:
    return [column == value for column, value in zip(_key_in(table, query), key, strict=True)]


def _key_in(table: Table, query: sa.Select[Any]) -> list[Any]:
    return [query.selected_columns[column.name] for column in table.key]


def _inserted(dialect: Dialect, table: Table, query: sa.Select[Any]) -> bool:
    """The deleted rows among these rescued ones into the live table, in the database; False, and nothing done, where a constraint refuses one."""
    columns = query.selected_columns
    names = [column.name for column in table.columns if column.name in columns]
    rows = query.with_only_columns(*(columns[name] for name in names)).where(
        columns["dbsync_change"] == DELETED
    )
    try:
        with dialect.connection.begin_nested():
            dialect.connection.execute(table.sa.insert().from_select(names, rows))
    except sa.exc.IntegrityError:
        return False
    return True


def _rescued_queries(
    dialect: Dialect, model: Model, run_id: str
) -> Iterator[tuple[Table, sa.Select[Any]]]:
    ledger = Ledger(dialect)
    entry = ledger.of_run(run_id) if ledger.exists() else None
    if entry is None:
        raise SettingsError(
            f"no publish of run {run_id} is in the ledger",
            operation="rescue",
            database=dialect.name,
            remedy="`dbsync rescue list` names the runs that have rescued rows",
        )
    kept = {rescued.table: rescued.stored_in for rescued in ledger.rescues(entry.number)}
    for whole in model.tables:
        if whole.name in kept:
            table = _as_kept(dialect, kept[whole.name], whole)
            stored = _clause(dialect, kept[table.name], table)
            columns = [stored.c[column.name] for column in table.columns]
            yield (
                table,
                sa.select(stored.c.dbsync_change, *columns).where(
                    stored.c.dbsync_publish == entry.number, stored.c.dbsync_change != INSERTED
                ),
            )


# -- the tables


def _as_kept(dialect: Dialect, name: str, table: Table) -> Table:
    """The table by the columns of the rescue table of that name: without those that came into the models since, with those that went."""
    with dialect.doing("read rescued rows"):
        found = sa.inspect(dialect.connection).get_columns(name, schema=dialect.ledger_schema)
    here = {column["name"]: column["type"] for column in found if column["name"] not in RESERVED}
    if here.keys() == {column.name for column in table.columns}:
        return table
    types = {
        **here,
        **{column.name: column.type for column in table.columns if column.name in here},
    }
    keys = {column.name for column in table.key}
    columns = (
        sa.Column(name, type_, primary_key=name in keys, autoincrement=False)
        for name, type_ in types.items()
    )
    return Table(sa.Table(table.sa.name, sa.MetaData(), *columns, schema=table.sa.schema))


def _stored_in(dialect: Dialect, table: Table) -> sa.TableClause:
    """The rescue table for rows of this structure, made if it is not there yet."""
    name = _name(table, "" if dialect.ledger_schema else "dbsync_")
    with dialect.doing("rescue rows"):
        if not sa.inspect(dialect.connection).has_table(name, schema=dialect.ledger_schema):
            dialect.create_like(name, table)
    return _clause(dialect, name, table)


def _name(table: Table, prefix: str) -> str:
    """Readable, and another one when the columns change."""
    structure = repr([table.name, *((column.name, str(column.type)) for column in table.columns)])
    words = re.sub(r"[^a-z0-9]+", "_", table.name.lower()).strip("_")[:30]
    return f"{prefix}rescued_{words}_{hashlib.sha256(structure.encode()).hexdigest()[:8]}"


def _clause(dialect: Dialect, name: str, table: Table) -> sa.TableClause:
    columns = (sa.column(column.name, column.type) for column in table.columns)
    return sa.table(
        name,
        sa.column("dbsync_publish", sa.BigInteger),
        sa.column("dbsync_change", sa.Unicode),
        *columns,
        schema=dialect.ledger_schema,
    )


def _same_key(table: Table, one: sa.FromClause, other: sa.FromClause) -> sa.ColumnElement[bool]:
    return sa.and_(*(one.c[column.name] == other.c[column.name] for column in table.key))
