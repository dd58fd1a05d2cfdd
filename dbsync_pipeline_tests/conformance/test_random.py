"""A random walk of syncs, undos and writes on both sides, beside a model of it in dictionaries.

After every step the source, the target, and every single rescued row are what the model says; and no row that somebody wrote to the
target is lost: it stands there still, or in a rescue table. Hypothesis chooses the steps, always the same ones, and shrinks a walk that
fails to the fewest steps that still fail.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import engine
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dbsync_pipeline.errors import DbsyncError, NotProved, Refused
from dbsync_pipeline.mirror.known_structure import KnownStructure
from dbsync_pipeline.mirror.ledger import Publish
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.tables import DELETED, INSERTED, REPLACED
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.mirror.sync import opening
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.policy import Policy
from dbsync_pipeline_tests.conformance.hard_tables import (
    MODEL,
    PARTS,
    SETTINGS,
    WITHOUT_CYCLE,
    Place,
    Row,
    Rows,
    State,
    changed,
    nothing,
    whole,
)
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase

RANDOM = st.randoms(use_true_random=False)
"""What a step decides at random, which Hypothesis shrinks with the rest."""


class Prepared(opening.Opening):
    """Does not look at the structure again: that it is equal was found when the walk began, and takes most of a step's time."""

    def open_for_writing(self) -> list[str]:
        source, target = self._connect()
        target.begin(self._task.tables, wait_seconds=self._task.settings.lock_seconds)
        self._opened = opening._read(self._task, source, target, KnownStructure(None, False))
        return []


class Checked(Session):
    """A session between databases whose structure is known to be equal."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._opening = Prepared(self._task)


# -- the model of a mirror


@dataclass
class Entry:
    """A publish of the model's ledger: what each table was before, as rows and as last published, and what it must have rescued."""

    number: int
    run_id: str
    before: dict[str, Rows]
    published_before: dict[str, Rows | None]
    rescued: dict[str, list[tuple[str, Row]]] = field(default_factory=dict)
    touched: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    undoes: int | None = None


class Walk(RuleBasedStateMachine):
    """The two places, the model of both, and what was done so far."""

    session: type[Session] = Checked

    def __init__(self, source: Place, target: Place, model: Model) -> None:
        super().__init__()
        self.source, self.target, self.model = source, target, model
        self.in_source, self.in_target = nothing(), nothing()
        self.published: dict[str, Rows | None] = dict.fromkeys(PARTS)
        self.log: list[Entry] = []
        self.local_writes: set[tuple[str, Row]] = set()
        self.runs = 0

    def teardown(self) -> None:
        self.source.forget()
        self.target.forget()

    # the steps; a rule that is there twice is chosen twice as often

    @rule(rng=RANDOM)
    def change_the_source(self, rng: random.Random) -> None:
        after = changed(self.in_source, rng)
        self.source.write(self.in_source, after)
        self.in_source = after
        note(f"the source: {after}")

    @rule(rng=RANDOM)
    def change_the_source_again(self, rng: random.Random) -> None:
        self.change_the_source(rng)

    @rule(rng=RANDOM)
    def write_to_the_target(self, rng: random.Random) -> None:
        after = changed(self.in_target, rng)
        self.target.write(self.in_target, after)
        before, now = _flat(self.in_target), _flat(after)
        self.local_writes = (self.local_writes - (before - now)) | (now - before)
        self.in_target = after
        note(f"the target: {after}")

    @precondition(lambda self: self.in_source == self.in_target)
    @rule(rng=RANDOM)
    def write_the_same_to_both(self, rng: random.Random) -> None:
        """A local write that the source has too."""
        after = changed(self.in_source, rng)
        self.source.write(self.in_source, after)
        self.target.write(self.in_target, after)
        self.in_source, self.in_target = after, copy.deepcopy(after)
        note(f"both: {after}")

    @rule()
    def sync(self) -> None:
        self._sync(list(PARTS))

    @rule()
    def sync_again(self) -> None:
        self._sync(list(PARTS))

    @rule()
    def sync_overwriting(self) -> None:
        self._sync(list(PARTS), overwrite=True)

    @rule(rng=RANDOM, overwrite=st.booleans())
    def sync_some_tables(self, rng: random.Random, overwrite: bool) -> None:
        self._sync(rng.sample(list(PARTS), rng.choice([1, 2, 3])), overwrite, part=True)

    @precondition(lambda self: self.log)
    @rule(newest=st.booleans(), overwrite=st.booleans())
    def undo(self, newest: bool, overwrite: bool) -> None:
        entry = None if newest else self._last()
        self._undo(entry or self.log[-1], overwrite)

    @precondition(lambda self: self.log)
    @rule(rng=RANDOM)
    def undo_any_run(self, rng: random.Random) -> None:
        self._undo(rng.choice(self.log))

    def _sync(self, tables: list[str], overwrite: bool = False, part: bool = False) -> None:
        expected, self.runs = self._expected_of_sync(tables, overwrite), self.runs + 1
        run_id = f"run-{self.runs}"
        with self._expecting(expected):
            publish = self._publish(tables, run_id, overwrite, part)
        if expected is None and publish.confirmations:
            assert self._may_confirm(tables) and publish.number == self.log[-1].number
        elif expected is None:
            self._note_sync(tables, publish.number, run_id)

    def _publish(self, tables: list[str], run_id: str, overwrite: bool, part: bool) -> Publish:
        with self.session(
            self.source.database,
            self.target.database,
            self.model,
            tables if part else (),
            run_id=run_id,
            settings=SETTINGS,
            policy=Policy(overwrite=overwrite, max_change_fraction=1),
        ) as session:
            session.ensure_schema()
            for table in self.model.select(tables):
                session.copy(table.name)
            return session.publish()

    def _undo(self, entry: Entry, overwrite: bool = False) -> None:
        expected, self.runs = self._expected_of_undo(entry, overwrite), self.runs + 1
        run_id = f"run-{self.runs}"
        with self._expecting(expected):
            number = undo(
                self.target.database,
                self.model,
                entry.run_id,
                by=run_id,
                settings=SETTINGS,
                overwrite=overwrite,
            ).number
        if expected is None:
            self._note_undo(entry, number, run_id)

    @contextmanager
    def _expecting(self, error: type[DbsyncError] | None) -> Iterator[None]:
        if error is None:
            yield
        else:
            with pytest.raises(error):
                yield

    # what must come of a sync

    def _last(self) -> Entry | None:
        undone: set[int] = set()
        for entry in reversed(self.log):
            if entry.number in undone:
                continue
            if entry.undoes is None:
                return entry
            undone.add(entry.undoes)
        return None

    def _expected_of_sync(self, tables: Sequence[str], overwrite: bool) -> type[DbsyncError] | None:
        differing = [name for name in tables if self.in_source[name] != self.in_target[name]]
        if (
            not overwrite
            and self._last() is None
            and differing
            and any(self.in_target[name] for name in tables)
        ):
            return Refused
        if (
            not overwrite
            and self._last() is not None
            and any(self._at_risk(name) for name in differing)
        ):
            return Refused
        after = {**self.in_target, **{name: self.in_source[name] for name in tables}}
        return None if whole(after, self.model) else NotProved

    def _may_confirm(self, tables: Sequence[str]) -> bool:
        """Nothing differs from the newest publish, which was of all tables and is not undone."""
        last = self._last()
        return (
            last is not None
            and last is self.log[-1]
            and set(last.before) == set(tables) == set(PARTS)
            and all(
                self.in_source[name] == self.in_target[name] == self.published[name]
                for name in tables
            )
        )

    def _at_risk(self, name: str) -> bool:
        """Rows would be changed or deleted in a table that is not as last published."""
        would = any(
            self.in_source[name].get(key) != row for key, row in self.in_target[name].items()
        )
        return would and self.published[name] != self.in_target[name]

    def _note_sync(self, tables: Sequence[str], number: int, run_id: str) -> None:
        entry = Entry(
            number,
            run_id,
            {name: self.in_target[name] for name in tables},
            {name: self.published[name] for name in tables},
        )
        entry.touched = tuple(
            name for name in tables if self.in_source[name] != self.in_target[name]
        )
        entry.filled = tuple(name for name in entry.touched if not self.in_target[name])
        for name in entry.touched:
            if name not in entry.filled:
                new = {
                    key: row
                    for key, row in self.in_source[name].items()
                    if self.in_target[name].get(key) != row
                }
                gone = [
                    key
                    for key, row in self.in_target[name].items()
                    if self.in_source[name].get(key) != row
                ]
                entry.rescued[name] = _rescued(self.in_target[name], new, gone)
        for name in tables:
            self.in_target[name] = dict(self.in_source[name])
            self.published[name] = dict(self.in_source[name])
        self.log.append(entry)

    # what must come of an undo

    def _expected_of_undo(self, entry: Entry, overwrite: bool) -> type[DbsyncError] | None:
        if entry not in (self.log[-1], self._last()):
            return Refused
        known = {name: rows for name in entry.before if (rows := self.published[name]) is not None}
        if not overwrite and any(rows != self.in_target[name] for name, rows in known.items()):
            return Refused
        after = {
            **self.in_target,
            **{name: self._put_back(entry, name)[2] for name in entry.touched},
        }
        former = all(after[name] == entry.before[name] for name in entry.touched)
        return None if former and whole(after, self.model) else DbsyncError

    def _put_back(self, entry: Entry, name: str) -> tuple[Rows, list[Row], Rows]:
        """Rows that come back, keys that go, and the table afterwards."""
        live = self.in_target[name]
        if name in entry.filled:
            return {}, list(live), {}
        kept = entry.rescued[name]
        back = {row[: PARTS[name]]: row for change, row in kept if change != INSERTED}
        gone = [key for _, row in kept if (key := row[: PARTS[name]]) in live]
        return back, gone, {**{key: row for key, row in live.items() if key not in gone}, **back}

    def _note_undo(self, entry: Entry, number: int, run_id: str) -> None:
        names = tuple(entry.before)
        mine = Entry(
            number,
            run_id,
            {name: self.in_target[name] for name in names},
            {name: self.published[name] for name in names},
        )
        mine.touched, mine.undoes = entry.touched, entry.number
        for name in entry.touched:
            back, gone, after = self._put_back(entry, name)
            mine.rescued[name] = _rescued(self.in_target[name], back, gone)
            self.in_target[name] = after
        self.published.update(entry.published_before)
        self.log.append(mine)

    # what must be true after every step

    @invariant()
    def both_databases_and_every_rescued_row_are_what_the_model_says(self) -> None:
        assert self.source.read() == self.in_source
        assert self.target.read() == self.in_target
        rescued = self.target.rescued()
        expected = {
            (entry.number, name): rows
            for entry in self.log
            for name, rows in entry.rescued.items()
            if rows
        }
        assert rescued == expected
        kept = {
            (name, row)
            for (_, name), rows in rescued.items()
            for change, row in rows
            if change != INSERTED
        }
        assert self.local_writes <= _flat(self.in_target) | kept, (
            "a row that was written to the target is lost"
        )


def _flat(state: State) -> set[tuple[str, Row]]:
    return {(name, row) for name, rows in state.items() for row in rows.values()}


def _rescued(live: Rows, new: Rows, gone: Sequence[Row]) -> list[tuple[str, Row]]:
    old = [(REPLACED if key in new else DELETED, live[key]) for key in gone]
    return sorted([*old, *((INSERTED, key) for key in new if key not in gone)], key=repr)


PAIRS = ["postgresql-postgresql", "sqlite-sqlite", "postgresql-sqlite", "sqlite-postgresql"]
PAIRS += ["postgresql-mssql", "mssql-postgresql", "mssql-mssql"] if "mssql" in ENGINES else []
WALKS = {"postgresql-postgresql": (4, 50), "sqlite-sqlite": (8, 50)}
FEWER = (1, 50)
FEWEST = (1, 15)
"""How many walks, of how many steps. With SQL Server, each step opens several connections, and a stand-in for it may take a second for one."""


def _settings(walks: int, steps: int) -> settings:
    """The same walks in every run, and no file of Hypothesis's own."""
    return settings(
        max_examples=walks,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("engines", PAIRS)
def test_whatever_happens_the_target_is_what_it_must_be_and_no_row_is_lost(
    engines: str, new_database: NewDatabase
) -> None:
    first, second = engines.split("-")
    model = WITHOUT_CYCLE if "mssql" in engines else MODEL
    source = Place(new_database(first, "windows", server=0), model)
    target = Place(new_database(second, "linux", server=1), model)
    walks, steps = WALKS.get(engines, FEWEST if "mssql" in engines else FEWER)
    run_state_machine_as_test(lambda: Walk(source, target, model), settings=_settings(walks, steps))


class LosesARow(Checked):
    """A broken mirror: what it published lacks a note."""

    def publish(self) -> Publish:
        published = super().publish()
        with self._task.target.engine().begin() as connection:
            connection.exec_driver_sql(
                "DELETE FROM notes WHERE title = (SELECT min(title) FROM notes)"
            )
        return published


def test_a_mirror_that_loses_a_row_is_found_and_the_walk_is_shrunk(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times only: fifteen bring it down to one change and one sync, and take twice as long."""
    monkeypatch.setattr(engine, "MAX_SHRINKS", 5)
    source = Place(new_database("sqlite", "windows"), MODEL)
    target = Place(new_database("sqlite", "linux"), MODEL)

    class Broken(Walk):
        session = LosesARow

    with pytest.raises(AssertionError) as failed:
        run_state_machine_as_test(lambda: Broken(source, target, MODEL), settings=_settings(9, 20))
    steps = [
        line
        for line in failed.value.__notes__
        if re.match(r"state\.(change|write|sync|undo)", line)
    ]
    assert 2 <= len(steps) <= 15 and "sync" in steps[-1]
