"""Whether the application could write to a standby now: facts read from the database, and one pure function that judges them.

Only the database itself is asked, so that the answer is there when the primary is not. To try a write, one row is inserted into each
table and rolled back.
"""

from __future__ import annotations

import datetime as dt
import decimal
import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import Column, Kind, Table, kind_of
from dbsync_pipeline.errors import Busy, DbsyncError
from dbsync_pipeline.mirror import guard, pausing, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.fanout import ask
from dbsync_pipeline.mirror.ledger import Ledger, Publish
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.settings import Settings

REACHABLE, STRUCTURE, KEYS, COUNTERS, WRITES, WHOLE, RELEASED, AGE = (
    "reachable",
    "structure",
    "foreign_keys",
    "counters",
    "writes",
    "whole",
    "released",
    "age",
)

CHECKS: Mapping[str, str] = {
    REACHABLE: "It answers.",
    STRUCTURE: "Every table is there and equal to the models.",
    KEYS: "Every foreign key holds.",
    COUNTERS: "The next number that the database gives to a new row is free.",
    WRITES: "A row could be inserted into every table (it was rolled back).",
    WHOLE: "It holds one past state of the primary for all tables together.",
    RELEASED: "It is not held: schedules may sync it.",
    AGE: "Its state is no older than DBSYNC_MAX_AGE_HOURS.",
}
"""What is looked at, in words; `reasons` has a key of these for each that is not so."""

_REMEDIES: Mapping[str, str] = {
    REACHABLE: "see that its server runs and that its URL is right",
    STRUCTURE: "`dbsync tables check --database {}` lists all differences",
    KEYS: "`dbsync sync --target {} --overwrite`, or mend the rows",
    COUNTERS: "`dbsync sync --target {}` moves the counters",
    WRITES: "let the role that the application uses write there",
    WHOLE: "`dbsync sync --target {}`",
    RELEASED: "`dbsync release {}`",
    AGE: "`dbsync sync --target {}`; see that Dagster's daemon runs, or why its runs fail: `dbsync history --target {}`",
}

_WAIT_SECONDS = 2


@dataclass(frozen=True)
class Facts:
    """What was found. Where the structure differs, nothing that depends on it was looked at.

    `structure` has the differences in words, `orphans` the foreign keys that do not hold, `taken` the tables whose next number is taken,
    `unwritable` why a table cannot be written. `last` is the publish that stands there, `age_seconds` counts from its source's snapshot.
    """

    structure: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    unwritable: tuple[str, ...] = ()
    last: Publish | None = None
    age_seconds: float | None = None
    held: str | None = None


@dataclass(frozen=True)
class Readiness:
    """`ready`: the application could write there now. `reasons` is by check; a standby that is only old is ready, with an old state."""

    ready: bool
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """What a survey found of one database; of the primary, that it answers, for it is not the one to take over."""

    name: str
    primary: bool
    ready: bool
    reasons: Mapping[str, str]
    last: Publish | None = None
    age_seconds: float | None = None


def survey(
    among: Sequence[Database], settings: Settings, model: Model, *, seconds: float
) -> list[Report]:
    """A report on each database, in their order; all are asked at the same time, and within `seconds` each. Changes nothing."""
    primary = term.standing(among, settings).primary
    answers = ask(among, lambda one: _report(one, one.name == primary, settings, model), seconds)
    return [
        _unreached(name, name == primary, answer) if isinstance(answer, DbsyncError) else answer
        for name, answer in answers.items()
    ]


def _report(database: Database, primary: bool, settings: Settings, model: Model) -> Report:
    with database.connect() as dialect:
        if primary:
            return Report(database.name, True, True, {})
        facts = read(dialect, model)
    verdict = judge(facts, settings.max_age_seconds)
    return Report(
        database.name, False, verdict.ready, verdict.reasons, facts.last, facts.age_seconds
    )


def _unreached(name: str, primary: bool, error: DbsyncError) -> Report:
    return Report(name, primary, False, {REACHABLE: error.cause})


def remedy(check: str, name: str, configured: str | None = None) -> str:
    """What mends a check that failed on the standby of that name; `configured` is the primary that the settings name.

    Where that one is the standby, another took its place: a sync would be refused for the rows that it still has of its own.
    """
    found = _REMEDIES[check]
    if name == configured and "`dbsync sync" in found:
        return guard.failback(name)
    return found.replace("{}", name)


def judge(facts: Facts, max_age_seconds: float) -> Readiness:
    """The verdict on a standby."""
    found = dict(_reasons(facts, max_age_seconds))
    return Readiness(not set(found) - {AGE}, found)


def _reasons(facts: Facts, max_age_seconds: float) -> Iterator[tuple[str, str]]:
    if facts.structure:
        yield STRUCTURE, "; ".join(facts.structure)
    if facts.orphans:
        yield KEYS, f"these foreign keys do not hold: {', '.join(facts.orphans)}"
    if facts.taken:
        yield COUNTERS, f"the next number is taken in {', '.join(facts.taken)}"
    if facts.unwritable:
        yield WRITES, "; ".join(facts.unwritable)
    if facts.last is None:
        yield WHOLE, "it was never published to"
    elif facts.last.partial:
        yield WHOLE, "mixed: its last publish was of some tables only"
    if facts.held is not None:
        yield RELEASED, f"held: {facts.held}"
    if facts.age_seconds is not None and facts.age_seconds > max_age_seconds:
        yield (
            AGE,
            f"its state is {facts.age_seconds / 3600:.1f} hours old, {max_age_seconds / 3600:g} are allowed",
        )


def read(dialect: Dialect, model: Model) -> Facts:
    """The facts of one database, on an open connection outside of transactions; leaves none open and nothing changed.

    Reads every foreign key's columns. Raises DbsyncError where the database cannot be asked.
    """
    differences = schema.differences(dialect, model)
    structure = tuple(
        f"table {table}: {word}" for table, words in differences.items() for word in words
    )
    last, held = _ledger(dialect)
    age = None if last is None else (dt.datetime.now(dt.UTC) - last.snapshot_at).total_seconds()
    if structure:
        return Facts(structure, last=last, age_seconds=age, held=held)
    orphans = tuple(_orphans(dialect, model))
    taken = tuple(
        counter.name for counter in dialect.counters(model.tables) if counter.next_is_taken
    )
    dialect.connection.rollback()
    return Facts((), orphans, taken, tuple(unwritable(dialect, model)), last, age, held)


def _ledger(dialect: Dialect) -> tuple[Publish | None, str | None]:
    ledger = Ledger(dialect)
    found = (ledger.last(), ledger.fact(pausing.FACT)) if ledger.exists() else (None, None)
    dialect.connection.rollback()
    return found


def _orphans(dialect: Dialect, model: Model) -> Iterator[str]:
    for table in model.tables:
        for key in table.sa.foreign_key_constraints:
            with dialect.doing("look at the foreign keys"):
                if dialect.connection.execute(_orphan(key)).first() is not None:
                    yield f"{table.name} ({', '.join(key.column_keys)})"


def _orphan(key: sa.ForeignKeyConstraint) -> sa.Select[Any]:
    """A row that refers to none; one with a NULL in the key refers to nothing and needs none."""
    child, parent = key.table, key.referred_table.alias("parent")
    pairs = [(element.parent, parent.c[element.column.key]) for element in key.elements]
    there = sa.exists().where(*(theirs == ours for ours, theirs in pairs)).correlate(child)
    return (
        sa.select(sa.literal(1))
        .select_from(child)
        .where(*(ours.is_not(None) for ours, _ in pairs), ~there)
        .limit(1)
    )


# A write that is rolled back -------------------------------------------------------------------------------------------


def unwritable(dialect: Dialect, model: Model) -> Iterator[str]:
    """Per table why no row can be written. Whoever holds a lock writes there himself, which shows that one can."""
    dialect.limit_lock_wait(_WAIT_SECONDS)
    for table in model.tables:
        try:
            why = _refusal(dialect, table)
        except Busy:
            why = None
        finally:
            dialect.connection.rollback()
        if why is not None:
            yield f"table {table.name}: {why}"


def _refusal(dialect: Dialect, table: Table) -> str | None:
    """What the database says against a row. Constraints that refuse the values that were made up were reached: the write was begun."""
    try:
        with dialect.connection.begin() as transaction:
            dialect.connection.execute(table.sa.insert().values(_made_up(table)))
            transaction.rollback()
    except (sa.exc.IntegrityError, sa.exc.DataError):
        return None
    except dialect.driver_errors as error:
        told = dialect.translate(error, dialect.name, "write")
        if isinstance(told, Busy):
            raise told from None
        return getattr(told, "cause", str(told))
    except sa.exc.StatementError:  # a type of the models' own that no value could be made up for
        return None
    return None


def _made_up(table: Table) -> dict[str, Any]:
    """A row of values that are as good as any, with a number that is given by hand where the database allows it, to use none up."""
    values: dict[str, Any] = {}
    for column in table.columns:
        live = table.sa_column(column.name)
        if column == table.counter or live.identity is not None:
            if live.identity is None or not live.identity.always:
                values[
                    live.key
                ] = -1  # a higher one than the last would move the counter on SQL Server, rolled back or not
        elif not column.nullable or column in table.key:
            values[live.key] = _value(column)
    return values


def _value(column: Column) -> Any:
    if isinstance(column.type, sa.Enum):
        return (
            next(iter(column.type.enum_class)) if column.type.enum_class else column.type.enums[0]
        )
    if isinstance(column.type, sa.JSON):
        return {}
    return _VALUES[kind_of(column.type)](column)


def _text(column: Column) -> str:
    return secrets.token_hex(16)[: column.length]


_VALUES: Mapping[Kind, Callable[[Column], Any]] = {
    Kind.BOOLEAN: lambda _: False,
    Kind.INTEGER: lambda _: 0,
    Kind.NUMERIC: lambda _: decimal.Decimal(0),
    Kind.TEXT: _text,
    Kind.UUID: lambda column: (
        uuid.uuid4() if getattr(column.type, "as_uuid", True) else str(uuid.uuid4())
    ),
    Kind.INSTANT: lambda _: dt.datetime.now(dt.UTC),
    Kind.DATETIME: lambda _: dt.datetime.now(),
    Kind.DATE: lambda _: dt.date.today(),
    Kind.TIME: lambda _: dt.time(),
    Kind.FLOAT: lambda _: 0.0,
    Kind.BYTES: lambda _: b"",
    Kind.OPAQUE: lambda _: None,
}
