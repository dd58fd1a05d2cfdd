"""One sync of one target: one source snapshot, one target transaction, and the steps between them.

    ensure_schema   make and check the tables; take the target's locks; open the source's snapshot
    copy(table)     compare, and stage what differs; live tables are not touched
    publish         review the plan, write it, prove the target equal to the snapshot, write the ledger, commit

Whatever goes wrong before the commit leaves the target as it was: `close` rolls back.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import Digests, Form
from dbsync_pipeline.dialects.staging import Moved
from dbsync_pipeline.dialects.table import RowKey, Table
from dbsync_pipeline.errors import (
    Busy,
    DatabaseError,
    DbsyncError,
    NotProved,
    Refused,
    SettingsError,
)
from dbsync_pipeline.mirror import compare, drift, guard, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.guard import Plan, Risk, TablePlan
from dbsync_pipeline.mirror.ledger import Ledger, Publish, TableResult, Term
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue import rescue
from dbsync_pipeline.policy import Policy
from dbsync_pipeline.settings import Settings
from dbsync_pipeline.text import count

Observer = Callable[[str, str, int, "int | None"], None]
"""Told of progress: table, phase (compare, stage, publish, prove), rows done, rows in all where known."""

_STAGED_KEYS = 5_000
_EMPTY = "0:" + "0" * 32


@dataclass(frozen=True)
class TableDiff:
    """What one table needs: rows of the source, rows to insert, update and delete, bytes staged, seconds taken."""

    table: str
    rows: int
    insert: int
    update: int
    delete: int
    bytes: int
    seconds: float


@dataclass
class _Work:
    """One table's part of the sync, from its comparison to its publication."""

    table: Table
    form: Form
    plan: TablePlan
    ours: Digests | None = None
    theirs: Digests | None = None
    unattributable: bool = False
    touched: list[int] = field(default_factory=list)
    moved: Moved = field(default_factory=Moved)
    seconds: float = 0.0

    @property
    def fills(self) -> bool:
        """The target's table is empty, so the rows go straight into it."""
        return self.plan.target_rows == 0 and self.plan.source_rows > 0

    @property
    def diff(self) -> TableDiff:
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


class Session:
    """A sync of `tables` (all, where none is named) from `source` to `target`. A context manager; used once, by one thread at a time.

    `fence` is a transaction of the caller's that keeps writers out of the source; the publish's number is noted in it. `reign` is the term
    that the target takes with the publish; without it the source's.

    Raises SettingsError when source and target bear one name.
    """

    def __init__(
        self,
        source: Database,
        target: Database,
        model: Model,
        tables: Sequence[str] = (),
        *,
        run_id: str,
        settings: Settings,
        policy: Policy | None = None,
        observe: Observer | None = None,
        fence: Dialect | None = None,
        new_term: Term | None = None,
    ) -> None:
        if source.name == target.name:
            raise SettingsError(
                "source and target are the same database",
                operation="sync",
                database=source.name,
                remedy="name another target, or another source",
            )
        self._source_database, self._target_database = source, target
        self._model, self._tables = model, model.select(tables)
        self._run_id, self._settings = run_id, settings
        self._policy = policy or settings.policy
        self._observe = observe or (lambda table, phase, done, total: None)
        self._fence, self._new_term = fence, new_term
        self._source: Dialect | None = None
        self._target: Dialect | None = None
        self._works: dict[str, _Work] = {}
        self._seconds: dict[str, float] = {}

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Roll back what was not committed and give both connections up. A second call does nothing."""
        for dialect in (self._target, self._source):
            if dialect is not None:
                dialect.close()
        self._source = self._target = None

    def cancel(self) -> None:
        """Stop the statements that run now; for another thread. The step that waits for them fails, and `close` rolls back."""
        for dialect in (self._target, self._source):
            if dialect is not None:
                dialect.cancel()

    # -- the steps

    def ensure_schema(self) -> list[str]:
        """Create the target's missing tables, check the structure of both sides, lock the target, open the source's snapshot.

        Returns the names of the created tables. Raises StructureError, Unavailable, or Busy naming who holds the lock.
        """
        with self._timed("schema"):
            compare.require_carried(
                self._source_database.engine_name, self._target_database.engine_name, self._tables
            )
            with self._source_database.connect() as source:
                source.limit_lock_wait(self._settings.lock_seconds)
                schema.require(source, self._model)
            created = schema.ensure(self._target_database, self._model)
            self._connect()
            self.target.begin(self._tables, wait_seconds=self._settings.lock_seconds)
            self._read_snapshot()
        return created

    def copy(self, name: str) -> TableDiff:
        """Compare one table and stage the rows that differ, in the target's transaction and away from its live tables.

        A second call compares and stages anew. Raises DbsyncError where a value cannot be held by the target.
        """
        table = self._model.table(name)
        with self._timed("compare"):
            self.target.create_staging(table)
            work = self._compare(table, staging=True)
        self._works[name] = work
        return work.diff

    def publish(self) -> Publish:
        """Carry the plan out in the target's transaction, prove the target equal to the source's snapshot, write the ledger, commit.

        Nothing is written that the guards have not seen. Returns the publication, also where there was nothing to do. Raises Refused with
        the reasons, NotProved, or what the database says; the target is then as it was.
        """
        self._refuse_if_found(self._review())
        works = list(self._works.values())
        changing = [work for work in works if not work.plan.empty]
        with self._timed("publish"):
            self._claim_number()
            staged = [work for work in changing if not work.fills]
            for work in staged:
                rescue.save(self.target, self._number, work.table)
            if changing:
                self.target.suspend_constraints([work.table for work in changing])
            self._write_staged(staged)
            stripped = self._fill([work for work in changing if work.fills])
            self._move_counters()
        with self._timed("prove"):
            self._prove(changing, stripped)
            if changing:
                self.target.prove_constraints(self._model.tables)
        publication = self._record(works)
        rescue.prune(self.target, self._settings)
        self._commit()
        return publication

    def plan(self) -> tuple[Plan, tuple[guard.Finding, ...]]:
        """What a sync would do now, and what the guards say of it. Reads one snapshot of each side, locks nothing, changes nothing."""
        with self._source_database.connect() as source:
            schema.require(source, self._model)
        self._connect()
        missing = {
            name
            for name, words in schema.differences(self.target, self._model).items()
            if words == [schema.MISSING]
        }
        if not missing:
            schema.require(self.target, self._model)
        self.target.snapshot()
        self._read_snapshot(missing)
        for table in self._tables:
            self._works[table.name] = (
                self._absent(table)
                if table.name in missing
                else self._compare(table, staging=False)
            )
        plan = self._final_plan()
        return plan, guard.review(plan, self._policy)

    # -- opening

    @property
    def source(self) -> Dialect:
        return self._opened(self._source)

    @property
    def target(self) -> Dialect:
        return self._opened(self._target)

    def _opened(self, dialect: Dialect | None) -> Dialect:
        if dialect is None:
            raise DbsyncError(
                "the session is not open: its first step did not run in this process",
                operation="sync",
                remedy="run the whole sync again",
            )
        return dialect

    def _connect(self) -> None:
        label = f"dbsync run {self._run_id}"
        self._target = self._target_database.open(label)
        self._source = self._source_database.open(label)
        self._source.limit_lock_wait(self._settings.lock_seconds)
        self._family = compare.digest_format_of(self._source, self._target, self._tables)

    def _read_snapshot(self, missing: Collection[str] = ()) -> None:
        """The source's snapshot, and what must be known before anything is compared."""
        self._snapshot_at = self.source.snapshot()
        mark = secrets.randbits(62)
        self.source.set_marker(mark)
        self._same_database = type(self.source) is type(self.target) and self.target.sees_marker(
            mark
        )
        self._ledger, ours = Ledger(self.target), Ledger(self.source)
        known = self._ledger.exists()
        self._last = self._ledger.last() if known else None
        self._highest = self._ledger.number() if known else 0
        self._target_term = self._ledger.term() if known else None
        known = ours.exists()
        self._source_identity = ours.identity()
        self._source_numbers = ours.numbers() if known else None
        self._source_knows = self._last is not None and known and ours.knows(self._last)
        self._source_last = ours.last() if known else None
        self._source_term = ours.term() if known else None
        for side in (self.source, self.target):
            revisions.require_up(side, self._model)
        present = [table for table in self._tables if table.name not in missing]
        sides = ((self.source, self._tables), (self.target, present))
        self._hidden = tuple(
            (side.name, table) for side, tables in sides for table in side.hidden(tables)
        )

    # -- comparing

    def _compare(self, table: Table, *, staging: bool) -> _Work:
        if self._hides(table):
            return self._unseen(table)
        started = time.monotonic()
        self._observe(table.name, "compare", 0, None)
        ours, theirs = compare.both(
            lambda: self.source.count(table), lambda: self.target.count(table)
        )
        work = _Work(
            table,
            self._form(table, max(ours, theirs)),
            TablePlan(table.name, ours, theirs, ours if theirs == 0 else 0, 0, 0),
        )
        if theirs:
            self._compare_rows(work, staging)
        work.seconds = time.monotonic() - started
        self._observe(table.name, "stage" if staging else "compare", ours, ours)
        return work

    def _hides(self, table: Table) -> bool:
        return any(table.name == hidden for _, hidden in self._hidden)

    def _unseen(self, table: Table) -> _Work:
        """A table that a side may not show whole is not looked at; the guards refuse the plan."""
        return _Work(table, self._form(table, 0), TablePlan(table.name, 0, 0, 0, 0, 0))

    def _absent(self, table: Table) -> _Work:
        if self._hides(table):
            return self._unseen(table)
        rows = self.source.count(table)
        return _Work(table, self._form(table, rows), TablePlan(table.name, rows, 0, rows, 0, 0))

    def _form(self, table: Table, rows: int) -> Form:
        """The form of the last publish where it still serves, so that its digests can be compared with today's."""
        last = self._ledger.digests(table.name) if self._last else None
        if (
            last is not None
            and last.form.digest_format == self._family
            and compare.serves(last.form.buckets, rows)
        ):
            return replace(last.form, columns=table.signatures)
        return Form(self._family, compare.buckets_for(rows), table.signatures)

    def _compare_rows(self, work: _Work, staging: bool) -> None:
        table, form = work.table, work.form
        ours, theirs = compare.both(
            lambda: self.source.digests(table, form), lambda: self.target.digests(table, form)
        )
        work.ours, work.theirs = ours, theirs
        differing = ours.differing(theirs)
        if not differing.size:
            return
        foreign = self._foreign(work)
        stage = _Stage(self.source, self.target, work)
        new = changed = gone = risk = explained = 0
        risky: list[RowKey] = []
        for found in compare.changes(self.source, self.target, table, form, differing):
            new, changed, gone = (
                new + len(found.new),
                changed + len(found.changed),
                gone + len(found.gone),
            )
            explained += found.any
            work.touched.append(found.bucket)
            if foreign is None or found.bucket in foreign:
                risk += len(found.changed) + len(found.gone)
                risky += (found.changed + found.gone)[: guard.FIRST_KEYS - len(risky)]
            if staging:
                stage.add(found)
            self._observe(table.name, "stage", new + changed, None)
        if explained != differing.size:
            raise NotProved(
                f"the digests of {count(differing.size, 'group')} of rows differ, and rows that differ were found in {explained} only",
                operation="compare",
                table=table.name,
                remedy="this is a defect of dbsync: report it; `dbsync verify` compares in another way",
            )
        if staging:
            stage.flush()
        work.plan = replace(
            work.plan,
            insert=new,
            update=changed,
            delete=gone,
            risk=Risk(risk, tuple(risky), work.unattributable),
        )

    def _foreign(self, work: _Work) -> frozenset[int] | None:
        """The target's buckets that are not as last published; None when that cannot be told bucket by bucket and some are not.

        Rows in a table that was left out of every publish so far were all written by somebody else.
        """
        if self._last is None:
            return frozenset()
        published = self._ledger.digests(work.table.name)
        match drift.since_publish(self.target, work.table, published, work.theirs):
            case drift.Unchanged():
                return frozenset()
            case drift.Changed() as changed:
                buckets = changed.buckets_in(work.form)
                return None if buckets is None else frozenset(buckets.tolist())
            case drift.Unknowable(why):
                work.unattributable = why is drift.Why.INCOMPARABLE
        return None

    @property
    def _unknown(self) -> int | None:
        """The number of the target's state, if the source should know it and does not; of one that is not numbered it never heard."""
        if self._last is None or not self._last.numbered or self._source_numbers is None:
            return None
        return None if self._source_knows else self._last.state

    # -- publishing

    def _final_plan(self) -> Plan:
        left_out = [table.name for table in self._tables if table.name not in self._works]
        if left_out:
            raise DbsyncError(
                f"these tables were not compared: {', '.join(left_out)}",
                operation="publish",
                remedy="run the whole sync again",
            )
        return Plan(
            self._source_database.name,
            self._target_database.name,
            self._same_database,
            self._last is not None,
            {name: work.plan for name, work in self._works.items()},
            self._unknown,
            self._source_term,
            self._target_term,
            self._returning(),
            self._hidden,
            tuple(name for name in self._model.names if name not in self._works),
            self._new_term is not None,
        )

    def _returning(self) -> bool:
        """Whether the target is the configured primary, while the source knows another one by its term."""
        mine = self._source_term
        return (
            mine is not None
            and self._target_database.name == self._settings.primary != mine.primary
        )

    def _review(self) -> tuple[guard.Finding, ...]:
        return guard.review(self._final_plan(), self._policy)

    def _refuse_if_found(self, findings: tuple[guard.Finding, ...]) -> None:
        if findings:
            raise Refused(
                "; ".join(f"{finding.found} ({finding.guard})" for finding in findings),
                findings=[asdict(finding) for finding in findings],
                operation="sync",
                database=self._target_database.name,
                table=findings[0].table,
                remedy=findings[0].remedy,
            )

    def _claim_number(self) -> None:
        """The publish's number, noted by the source before the target has it: a source that was restored from a backup will not know it.

        A standby that passes on what it received notes nothing: the state has its number. Where the source cannot be written, the
        number goes on from the target's, and that guard is off.
        """
        received = self._source_last
        passes_on = received is not None and self._passes_on(received)
        self._number, self._numbered = self._highest + 1, False
        if self._fence is not None:
            ledger = Ledger(self._fence)
            number = ledger.inherited_number(self._highest)
            self._number, self._numbered = (
                number or max(self._highest, ledger.number()) + 1,
                number is not None,
            )
        elif self._source_numbers is not None and not passes_on:
            self._number_by_source()
        self._state = self._number
        if received is not None and passes_on:
            self._state, self._numbered, self._snapshot_at = (
                received.state,
                received.numbered,
                received.snapshot_at,
            )

    def _number_by_source(self) -> None:
        # at once, since the target's writers wait meanwhile
        with (
            suppress(DatabaseError, Busy),
            self._source_database.at_once.connect(f"dbsync run {self._run_id}") as source,
        ):
            source.limit_lock_wait(self._settings.lock_seconds)
            ledger = Ledger(source)
            self._number, self._numbered = (
                ledger.claim_number(self._highest, self._snapshot_at),
                True,
            )
            self._source_numbers = ledger.numbers()

    def _passes_on(self, received: Publish) -> bool:
        """Is the source a standby that holds just what it received? What it sends then is that state, not a new one."""
        return not received.partial and all(
            self._is_as_received(work) for work in self._works.values()
        )

    def _is_as_received(self, work: _Work) -> bool:
        received = Ledger(self.source).digests(work.table.name)
        now = drift.since_publish(self.source, work.table, received, work.ours)
        return isinstance(now, drift.Unchanged)

    def _write_staged(self, works: Sequence[_Work]) -> None:
        """Everything that is gone or replaced goes first, in all tables; then everything that is new or replaces comes."""
        for work in works:
            expected = work.plan.update + work.plan.delete
            self._expect(
                work, "deleted", self.target.delete_staged(work.table) if expected else 0, expected
            )
        for work in works:
            started = time.monotonic()
            expected = work.plan.insert + work.plan.update
            self._expect(
                work, "inserted", self.target.insert_staged(work.table) if expected else 0, expected
            )
            work.seconds += time.monotonic() - started
            self._observe(work.table.name, "publish", expected, expected)

    def _fill(self, works: Sequence[_Work]) -> list[str]:
        """First loads; returns what was stripped from the tables and is to be restored."""
        stripped = self.target.strip(self._tables) if works and self._virgin else []
        for work in works:
            started = time.monotonic()
            self._observe(work.table.name, "publish", 0, work.plan.insert)
            work.moved = self.target.fill(work.table, self.source, work.form)
            self._expect(work, "inserted", work.moved.rows, work.plan.insert)
            work.seconds += time.monotonic() - started
            self._observe(work.table.name, "publish", work.plan.insert, work.plan.insert)
        return stripped

    @property
    def _virgin(self) -> bool:
        """Nobody can be reading this target for its rows: it never had any."""
        return self._last is None and all(
            work.plan.target_rows == 0 for work in self._works.values()
        )

    def _expect(self, work: _Work, what: str, found: int, expected: int) -> None:
        if found != expected:
            raise NotProved(
                f"{count(found, 'row')} {what} where the plan has {expected}",
                operation="publish",
                database=self.target.name,
                table=work.table.name,
                remedy="run the sync again; if it happens again, report it",
            )

    def _move_counters(self) -> None:
        """Past every key that the source has given, with a gap, so that rows written on both sides of an outage do not share keys."""
        for table in self._tables:
            theirs = self.target.counter(table)
            ours = self.source.counter(table) if theirs is not None else None
            if theirs is not None and ours is not None and theirs < ours + self._settings.key_gap:
                self.target.move_counter(table, ours + self._settings.key_gap)

    def _prove(self, works: Sequence[_Work], stripped: Sequence[str]) -> None:
        filled = [work for work in works if work.fills]

        def source_digests() -> list[Digests]:
            return [self.source.digests(work.table, work.form) for work in filled]

        def target_digests() -> list[Digests]:
            self.target.restore(stripped)
            return [self.target.digests(work.table, work.form) for work in filled]

        for work, ours, theirs in zip(
            filled, *compare.both(source_digests, target_digests), strict=True
        ):
            work.ours = ours
            self._proved(work, ours.differing(theirs).size)
        for work in works:
            if not work.fills:
                assert work.ours is not None
                touched = np.array(work.touched, np.int64)
                theirs = work.ours.replaced(
                    touched, self.target.digests(work.table, work.form, touched)
                )
                self._proved(work, work.ours.differing(theirs).size)

    def _proved(self, work: _Work, differing: int) -> None:
        if differing:
            raise NotProved(
                f"after the changes {differing} of {work.form.buckets} groups of rows differ from the source",
                operation="publish",
                database=self.target.name,
                table=work.table.name,
                remedy="run the sync again; if it happens again, report it",
            )
        self._observe(work.table.name, "prove", work.plan.source_rows, work.plan.source_rows)

    def _record(self, works: Sequence[_Work]) -> Publish:
        for work in works:
            digests = work.ours or Digests.gather(work.form, ())
            last = self._ledger.digests(work.table.name)
            if last is None or last.form != digests.form or last.differing(digests).size:
                self._ledger.keep_digests(self._number, work.table.name, digests)
        results = {work.table.name: _result(work) for work in works}
        publication = Publish(
            self._number,
            self._run_id,
            self._source_database.name,
            self._target_database.name,
            self._snapshot_at,
            dt.datetime.now(dt.UTC),
            results,
            {phase: round(seconds, 3) for phase, seconds in self._seconds.items()},
            partial=len(works) < len(self._model.tables),
            numbered=self._numbered,
            state=self._state,
        )
        self._ledger.record(publication, self._source_identity)
        self._ledger.forget_given()
        if self._source_numbers is not None:
            self._ledger.record_unknown(self._source_numbers)
        self._carry_term()
        return publication

    def _carry_term(self) -> None:
        """The target takes the source's term where that is higher, in the publishing transaction."""
        term = self._new_term or (self._source_term and replace(self._source_term, after=None))
        if term is not None and not self._ledger.take_term(term) and self._new_term:
            raise Refused(
                "somebody else gave it a term meanwhile",
                operation="failback",
                database=self.target.name,
            )

    def _commit(self) -> None:
        """After a commit whose answer was lost, the ledger says whether it was made."""
        try:
            self.target.commit()
        except DbsyncError:
            with self._target_database.connect() as again:
                if Ledger(again).of_run(self._run_id) is None:
                    raise

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.monotonic() - started


class _Stage:
    """Gathers keys of rows that differ and stages them in batches."""

    def __init__(self, source: Dialect, target: Dialect, work: _Work) -> None:
        self._source, self._target, self._work = source, target, work
        self._wanted: list[RowKey] = []
        self._unwanted: list[RowKey] = []

    def add(self, found: compare.Changes) -> None:
        self._wanted += found.new + found.changed
        self._unwanted += found.gone + found.changed
        if len(self._wanted) + len(self._unwanted) >= _STAGED_KEYS:
            self.flush()

    def flush(self) -> None:
        table, form = self._work.table, self._work.form
        if self._wanted:
            moved = self._target.stage_rows(table, self._source, self._wanted, form)
            self._work.moved.rows += moved.rows
            self._work.moved.bytes += moved.bytes
        if self._unwanted:
            self._target.stage_keys(table, self._unwanted, form)
        self._wanted, self._unwanted = [], []


def _result(work: _Work) -> TableResult:
    plan = work.plan
    digest = str(work.ours) if work.ours is not None else _EMPTY
    before = str(work.theirs) if work.theirs is not None else _EMPTY
    return TableResult(
        plan.source_rows,
        plan.insert,
        plan.update,
        plan.delete,
        work.moved.bytes,
        digest,
        round(work.seconds, 3),
        before,
        work.fills,
    )
