"""Opening the two connections of a sync, and reading once what the rest of it needs to know."""

from __future__ import annotations

import datetime as dt
import logging
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import Digests
from dbsync_pipeline.dialects.stamps import Stamp
from dbsync_pipeline.errors import Busy, DatabaseError, DbsyncError, StructureError
from dbsync_pipeline.mirror import compare, computed, differences, partitions, schema
from dbsync_pipeline.mirror.known_structure import KnownStructure
from dbsync_pipeline.mirror.ledger import Ledger, Numbers, Publish, Term
from dbsync_pipeline.mirror.ledger.stamps import Side
from dbsync_pipeline.mirror.look import Looks, Vantage
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.sync.task import Task

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceLedger:
    """What the source's ledger says. `numbers` is None if the source has no ledger, `newness` how
    new its own last publish is.

    `knows_target` is true if the source has or had the state that the target holds, and no older
    one than the one that confirmed it.
    """

    identity: str
    numbers: Numbers | None
    knows_target: bool
    last: Publish | None
    newness: int
    term: Term | None


@dataclass(frozen=True)
class TargetLedger:
    """What the target's ledger says: its last publish and how new it is, the highest number that
    it knows, its term.
    """

    last: Publish | None
    newness: int
    highest: int
    term: Term | None


@dataclass(frozen=True)
class Opened:
    """Both connections, each in its transaction, and what was read at the beginning.

    `snapshot_at` is the time of the source's snapshot (UTC). The views are of each side's
    transaction at that time, the target's after it was locked; `stamps` are of the last publish,
    `claims` those of the stamps that the source still has. `structure` is what is known of both.
    `ledger` is the target's, in the publishing transaction. `hidden` has (database, table) for
    every table of which that side may not show or accept all rows. `tables` are those of the sync.
    """

    source: Dialect
    target: Dialect
    digest_format: str
    snapshot_at: dt.datetime
    same_database: bool
    ledger: Ledger
    source_ledger: SourceLedger
    target_ledger: TargetLedger
    hidden: tuple[tuple[str, str], ...]
    source_view: Vantage
    target_view: Vantage
    stamps: Mapping[tuple[str, Side], Stamp]
    claims: frozenset[str]
    tables: tuple[str, ...]
    structure: KnownStructure

    @cached_property
    def _published(self) -> dict[str, Digests | None]:
        return self.ledger.newest_digests(self.tables)

    def published(self, table: str) -> Digests | None:
        """Return a table's digests on the target as last published; those of all are read once."""
        return self._published[table]

    @property
    def unknown_state(self) -> int | None:
        """The number of the target's state, if the source should know that state and does not.

        None if the state was never numbered, or the source has no ledger.
        """
        last, source = self.target_ledger.last, self.source_ledger
        if last is None or not last.numbered or source.numbers is None or source.knows_target:
            return None
        return last.state

    def hides(self, table: str) -> bool:
        """Return whether either side may hide rows of the table."""
        return any(table == hidden for _, hidden in self.hidden)


class Opening:
    """The connections of one sync from before they are opened until after they are closed."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._dialects: list[Dialect] = []
        self._opened: Opened | None = None

    @property
    def opened(self) -> Opened:
        """What was opened. Raises DbsyncError if nothing was, or if it is closed."""
        if self._opened is None:
            raise DbsyncError(
                "the session is not open: its first step did not run in this process",
                operation="sync",
                remedy="run the whole sync again",
            )
        return self._opened

    def open_for_writing(self) -> list[str]:
        """Create the target's missing tables and partitions, check both structures, lock the
        target, open the source's snapshot; return the names of what was created.
        """
        task = self._task
        if task.shared is not None:
            task.shared.make_way()
        compare.require_carried(task.source.engine_name, task.target.engine_name, task.tables)
        source, target = self._connect(create=True)
        structure, created = KnownStructure.read(task.model, source, target), list[str]()
        if not structure.equal:
            with self._naming_own_revisions():
                schema.require(source, task.model)
                self._give_source_ledger(source)
                created = schema.ensure_on(target, task.target, task.model)
            target = self._opened_again(target)
            computed.require_equal(source, target, task.model)
            created += partitions.ensure(source, target, task.target, task.model)
            target = self._opened_again(target)
            if created:  # the marks are of the structure before; the next sync notes the new ones
                structure = KnownStructure(None, False)
        self._require_supported(source, target)
        target.begin(task.tables, wait_seconds=task.settings.lock_seconds)
        self._opened = _read(task, source, target, structure)
        return created

    def open_for_reading(self) -> frozenset[str]:
        """Open a snapshot of each side; return the names of the tables that the target lacks."""
        task = self._task
        compare.require_carried(task.source.engine_name, task.target.engine_name, task.tables)
        source, target = self._connect()
        structure, missing = KnownStructure.read(task.model, source, target), set[str]()
        if not structure.equal:
            with self._naming_own_revisions():
                schema.require(source, task.model)
                missing = _missing(target, task.model)
            computed.require_equal(source, target, task.model)
            partitions.missing(source, target, task.model)
        self._require_supported(source, target, missing)
        target.snapshot([table for table in task.tables if table.name not in missing])
        self._opened = _read(task, source, target, structure, missing)
        return frozenset(missing)

    def cancel(self) -> None:
        """Stop the statements that run now; for another thread."""
        for dialect in list(self._dialects):
            dialect.cancel()

    def close(self) -> None:
        """Roll back what was not committed and close both connections; a second call is safe."""
        while self._dialects:
            self._dialects.pop(0).close()
        self._opened = None

    @contextmanager
    def _naming_own_revisions(self) -> Iterator[None]:
        """Add to a difference in structure what the application's own migrations recorded."""
        task = self._task
        try:
            yield
        except StructureError as error:
            error.cause += revisions.of_both_sides(task.source, task.target, task.model)
            raise

    def _give_source_ledger(self, opened: Dialect) -> None:
        """Create the source's ledger, if it has none and its role may.

        A source without one can be restored from a backup unnoticed, and a sync reads all its rows.
        It is committed by a connection of its own: a source may be one that is only read.
        """
        task = self._task
        try:
            if schema.has_ledger(opened, task.model, equal=True):
                return
            with task.source.at_once.connect(task.label) as source:
                source.limit_lock_wait(task.settings.lock_seconds)
                source.prepare()
                schema.create_ledger(source, task.source, task.model, equal=True)
        except (DatabaseError, Busy) as error:
            _log.warning("%s: it cannot get a ledger: %s", task.source.name, error.cause)

    def _require_supported(
        self, source: Dialect, target: Dialect, missing: Collection[str] = ()
    ) -> None:
        """Refuse by name what cannot be carried. Leaves no transaction open."""
        tables = self._task.tables
        source.require_supported(tables, writing=False)
        present = [table for table in tables if table.name not in missing]
        target.require_supported(present, writing=True)
        for side in (source, target):
            side.rollback()

    def _connect(self, *, create: bool = False) -> tuple[Dialect, Dialect]:
        """Open both; `create` as in `Database.open`, for the target. The source is closed last."""
        source = self._task.source.open(self._task.label)
        self._dialects.append(source)
        source.limit_lock_wait(self._task.settings.lock_seconds)
        target = self._task.target.open(self._task.label, create=create)
        self._dialects.insert(0, target)
        return source, target

    def _opened_again(self, target: Dialect) -> Dialect:
        """The target's connection, or a new one if it was lost while the structure was created."""
        if not target.connection.closed:
            return target
        self._dialects.remove(target)
        another = self._task.target.open(self._task.label)
        self._dialects.insert(0, another)
        return another


def _missing(target: Dialect, model: Model) -> set[str]:
    """The names of the tables that the target lacks. Raise StructureError if others differ."""
    differing = differences.find(target, model)
    missing = {name for name, texts in differing.items() if texts == [differences.MISSING]}
    if not missing:
        schema.refuse(target, model, differing)
    return missing


def _read(
    task: Task,
    source: Dialect,
    target: Dialect,
    structure: KnownStructure,
    missing: Collection[str] = (),
) -> Opened:
    """Begin the source's snapshot and read what must be known before anything is compared."""
    digest_format = compare.digest_format_of(source, target, task.tables)
    snapshot_at, looks = _begin_snapshot(task, source, target)
    mark = secrets.randbits(62)
    source.set_marker(mark)
    same_database = type(source) is type(target) and target.sees_marker(mark)
    ledger, of_source = Ledger(target), Ledger(source)
    with ledger.read_once(), of_source.read_once():
        target_ledger = TargetLedger(*ledger.held(), ledger.number(), ledger.term())
        source_ledger = _source_ledger(of_source, target_ledger)
        stamps = ledger.stamps()
        claims = _claims(of_source, stamps.values())
        revisions.require_up(source, task.model, of_source)
        revisions.require_up(target, task.model, ledger)
    present = [table for table in task.tables if table.name not in missing]
    full_every = dt.timedelta(days=task.settings.full_every)
    sides = ((source, task.tables), (target, present))
    return Opened(
        source,
        target,
        digest_format,
        snapshot_at,
        same_database,
        ledger,
        source_ledger,
        target_ledger,
        tuple((side.name, table) for side, tables in sides for table in side.hidden(tables)),
        Vantage.of(source, task.tables, full_every, looks),
        Vantage.of(target, present, full_every),
        stamps,
        claims,
        tuple(table.name for table in task.tables),
        structure,
    )


def _begin_snapshot(
    task: Task, source: Dialect, target: Dialect
) -> tuple[dt.datetime, Looks | None]:
    """Begin the source's snapshot; return its time, and the looks that others share."""
    if task.shared is None:
        return source.snapshot(task.tables), None
    snapshot_at = task.shared.begin(task.source, source, target, task.tables)
    return snapshot_at, task.shared.looks


def _claims(ledger: Ledger, stamps: Iterable[Stamp]) -> frozenset[str]:
    claims = {stamp.claim for stamp in stamps if stamp.claim}
    return frozenset(claim for claim in claims if ledger.has_claim(claim))


def _source_ledger(ledger: Ledger, target: TargetLedger) -> SourceLedger:
    numbers, received = ledger.numbers() if ledger.exists() else None, target.last
    return SourceLedger(
        ledger.identity(),
        numbers,
        received is not None
        and ledger.knows(received, numbers)
        and not ledger.is_older_than(received, target.newness),
        *ledger.held(),
        ledger.term(),
    )
