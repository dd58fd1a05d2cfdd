"""A random walk of syncs, undos and writes on both sides, beside a model of it in dictionaries.

After every step the source, the target, and every single rescued row are what the model says; and no row that somebody wrote to the
target is lost: it stands there still, or in a rescue table. The tables are small and hard: a cycle of NOT NULL references, references
to the own table, a key that is a reference too, unique values that swap. A failure names its seed and step, and runs again the same.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.columns import distinct
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DbsyncError, NotProved, Refused
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.tables import DELETED, INSERTED, REPLACED
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.policy import Policy
from dbsync_pipeline.settings import Settings
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase


def _reference(column: str, name: str) -> sa.ForeignKey:
    return sa.ForeignKey(column, name=name, deferrable=True, initially="DEFERRED")


def _model(*leads_are_people: sa.ForeignKey) -> Model:
    metadata = sa.MetaData()
    sa.Table(
        "teams",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("lead_id", sa.Integer, *leads_are_people, nullable=False),
        sa.Column("name", sa.Unicode(50), nullable=False, unique=True),
    )
    sa.Table(
        "people",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("team_id", sa.Integer, _reference("teams.id", "fk_team"), nullable=False),
        sa.Column("boss_id", sa.Integer, _reference("people.id", "fk_boss")),
        sa.Column("nick", sa.Unicode(50), nullable=False, unique=True),
        sqlite_autoincrement=True,
    )
    sa.Table(
        "badges",
        metadata,
        sa.Column(
            "person_id",
            sa.Integer,
            _reference("people.id", "fk_badge"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("code", sa.Unicode(50), nullable=False, unique=True),
    )
    sa.Table(
        "notes",
        metadata,
        sa.Column(
            "person_id",
            sa.Integer,
            _reference("people.id", "fk_note"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("title", distinct(50), primary_key=True),
        sa.Column("body", sa.UnicodeText),
    )
    return Model(metadata)


MODEL = _model(_reference("people.id", "fk_lead"))
WITHOUT_CYCLE = _model()
"""For SQL Server, whose applications could not write to the cycle: keys are never deferred there."""
SETTINGS = Settings(lock_seconds=5)

Row = tuple[Any, ...]
Rows = dict[Row, Row]
"""A table: rows by key."""
State = dict[str, Rows]
TEXTS = ["", "a", "A", "ä", "a  b", "'", '"', "%s", "\\N", "🙂", "~|", None]
PARTS = {table.name: len(table.key) for table in MODEL.tables}


def put(state: State, table: str, row: Row) -> None:
    state[table][row[: PARTS[table]]] = row


def whole(state: State, model: Model) -> bool:
    """Every reference of that model leads somewhere."""
    return all(
        row[place] is None or (row[place],) in state[parent]
        for child in model.tables
        for place, column in enumerate(child.sa.columns)
        for parent in (key.column.table.name for key in column.foreign_keys)
        for row in state[child.name].values()
    )


# -- what an application does to a state; every one of these leaves a state whole


def _fresh(state: State, table: str, place: int, rng: random.Random) -> str:
    taken = {row[place] for row in state[table].values()}
    return next(
        name
        for name in (f"{rng.choice('xyz')}{rng.randrange(10**6)}" for _ in range(100))
        if name not in taken
    )


def _people(state: State) -> list[int]:
    return [key[0] for key in state["people"]]


def add_person(state: State, rng: random.Random) -> None:
    number = rng.randrange(1, 100)
    boss = rng.choice([None, number, *_people(state)])
    if (number,) not in state["people"]:
        put(
            state,
            "people",
            (number, rng.choice(list(state["teams"]))[0], boss, _fresh(state, "people", 3, rng)),
        )


def add_team(state: State, rng: random.Random) -> None:
    number = rng.randrange(1, 50)
    lead = rng.choice(_people(state))
    if (number,) not in state["teams"]:
        put(state, "teams", (number, lead, _fresh(state, "teams", 2, rng)))


def swap_nicks(state: State, rng: random.Random) -> None:
    people = list(state["people"].values())
    chosen = rng.sample(people, min(len(people), rng.choice([2, 3])))
    for person, other in zip(chosen, chosen[1:] + chosen[:1], strict=True):
        put(state, "people", (*person[:3], other[3]))


def move_bosses(state: State, rng: random.Random) -> None:
    for key in rng.sample(list(state["people"]), 1):
        person = state["people"][key]
        put(
            state,
            "people",
            (
                person[0],
                rng.choice(list(state["teams"]))[0],
                rng.choice([None, *_people(state)]),
                person[3],
            ),
        )


def swap_leads(state: State, rng: random.Random) -> None:
    team = rng.choice(list(state["teams"].values()))
    put(state, "teams", (team[0], rng.choice(_people(state)), team[2]))


def move_badges(state: State, rng: random.Random) -> None:
    """Badges go round among people, one-to-one keys and unique codes at once."""
    codes = [row[1] for row in state["badges"].values()] + (
        [_fresh(state, "badges", 1, rng)] if rng.random() < 0.5 else []
    )
    rng.shuffle(codes)
    holders = rng.sample(_people(state), min(len(codes), len(_people(state))))
    state["badges"] = {}
    for holder, code in zip(holders, codes, strict=False):
        put(state, "badges", (holder, code))


def write_note(state: State, rng: random.Random) -> None:
    put(
        state,
        "notes",
        (
            rng.choice(_people(state)),
            rng.choice([text for text in TEXTS if text is not None]),
            rng.choice(TEXTS),
        ),
    )


def drop_note(state: State, rng: random.Random) -> None:
    for key in rng.sample(list(state["notes"]), min(1, len(state["notes"]))):
        del state["notes"][key]


def drop_person(state: State, rng: random.Random) -> None:
    if len(state["people"]) < 2:
        return
    gone = rng.choice(_people(state))
    rest = [number for number in _people(state) if number != gone]
    del state["people"][(gone,)]
    state["badges"].pop((gone,), None)
    state["notes"] = {key: row for key, row in state["notes"].items() if key[0] != gone}
    for person in list(state["people"].values()):
        if person[2] == gone:
            put(state, "people", (*person[:2], rng.choice([None, *rest]), person[3]))
    for team in list(state["teams"].values()):
        if team[1] == gone:
            put(state, "teams", (team[0], rng.choice(rest), team[2]))


def drop_team(state: State, rng: random.Random) -> None:
    if len(state["teams"]) < 2:
        return
    (gone,) = rng.choice(list(state["teams"]))
    del state["teams"][(gone,)]
    for person in list(state["people"].values()):
        if person[1] == gone:
            put(state, "people", (person[0], rng.choice(list(state["teams"]))[0], *person[2:]))


def begin_anew(state: State, rng: random.Random) -> None:
    """Everything goes, and one or two people in one team come instead, or nobody at all."""
    for table in state:
        state[table] = {}
    number = rng.randrange(1, 50)
    if rng.random() < 0.7:
        put(state, "teams", (number, number, f"team {number}"))
        put(state, "people", (number, number, number, f"first {number}"))


CHANGES: Sequence[Callable[[State, random.Random], None]] = (
    *(
        add_person,
        add_team,
        swap_nicks,
        move_bosses,
        swap_leads,
        move_badges,
        write_note,
        drop_note,
        drop_person,
        drop_team,
    )
    * 3,
    begin_anew,
)


def changed(state: State, rng: random.Random) -> State:
    """The state after a few changes."""
    after = copy.deepcopy(state)
    for _ in range(rng.choice([1, 1, 2, 4])):
        (rng.choice(CHANGES) if after["people"] and after["teams"] else begin_anew)(after, rng)
    return after


# -- the databases


class Place:
    """A database whose state is read and written as an application would."""

    def __init__(self, database: Database, model: Model) -> None:
        self.database = database
        self._model = model
        schema.ensure(database, model)
        self._engine = database.engine("application")
        self._prefix = "dbsync_" if database.engine_name == "sqlite" else "dbsync."

    def write(self, old: State, new: State) -> None:
        """In an order that keys which are not deferred accept too, and so that unique values may swap."""
        with self._engine.begin() as connection:
            for name in ("badges", "notes"):
                self._delete(
                    connection,
                    name,
                    [key for key, row in old[name].items() if new[name].get(key) != row],
                )
            self._write_people(connection, old, new)
            for name in ("people", "teams"):
                self._delete(connection, name, [key for key in old[name] if key not in new[name]])
            for name in ("badges", "notes"):
                for _, row in _differing(old[name], new[name]):
                    self._insert(connection, name, row)

    def _write_people(self, connection: sa.Connection, old: State, new: State) -> None:
        """First without nicks and bosses of their own, then in their teams, then with their bosses, who are all there by now."""
        for key, row in old["people"].items():
            if new["people"].get(key) != row:
                self._update(connection, "people", (*row[:2], None, f"once {key[0]}"))
        for name in ("teams", "people"):
            for key, row in _differing(old[name], new[name]):
                free = (*row[:2], None, row[3]) if name == "people" else row
                (self._update if key in old[name] else self._insert)(connection, name, free)
        for _, row in _differing(old["people"], new["people"]):
            if row[2] is not None:
                self._update(connection, "people", row)

    def _insert(self, connection: sa.Connection, name: str, row: Row) -> None:
        table = self._model.table(name)
        connection.execute(table.sa.insert().values(_values(table, row)))

    def _update(self, connection: sa.Connection, name: str, row: Row) -> None:
        table = self._model.table(name)
        values = _values(table, row)
        parts = {column.name: values.pop(column.name) for column in table.key}
        connection.execute(table.sa.update().filter_by(**parts).values(values))

    def _delete(self, connection: sa.Connection, name: str, keys: Sequence[Row]) -> None:
        table = self._model.table(name)
        for key in keys:
            parts = {column.name: part for column, part in zip(table.key, key, strict=True)}
            connection.execute(table.sa.delete().filter_by(**parts))

    def read(self) -> State:
        state: State = {}
        with self._engine.connect() as connection:
            for table in self._model.tables:
                state[table.name] = {}
                for row in connection.execute(sa.select(table.sa)):
                    put(state, table.name, tuple(row))
        return state

    def rescued(self) -> dict[tuple[int, str], list[tuple[str, Row]]]:
        """By publish and table what stands in the rescue tables; of an inserted row its key is kept."""
        found: dict[tuple[int, str], list[tuple[str, Row]]] = {}
        with self._engine.connect() as connection:
            stored = dict(
                connection.execute(
                    sa.text(f"SELECT DISTINCT table_name, stored_in FROM {self._prefix}rescues")
                ).all()
            )
            for name, place in stored.items():
                columns = ", ".join(_names(self._model.table(name)))
                place = place if self._prefix == "dbsync_" else f"dbsync.{place}"
                for number, change, *row in connection.execute(
                    sa.text(f"SELECT dbsync_publish, dbsync_change, {columns} FROM {place}")
                ):
                    kept = tuple(row[: PARTS[name]] if change == INSERTED else row)
                    found.setdefault((number, name), []).append((change, kept))
        return {place: sorted(rows, key=repr) for place, rows in found.items()}

    def forget(self) -> None:
        """As new: neither rows nor a ledger's entries."""
        self.write(self.read(), _nothing())
        with self._engine.begin() as connection:
            for place in connection.scalars(
                sa.text(f"SELECT DISTINCT stored_in FROM {self._prefix}rescues")
            ).all():
                connection.execute(
                    sa.text(
                        f"DROP TABLE {place if self._prefix == 'dbsync_' else f'dbsync.{place}'}"
                    )
                )
            for table in ("publishes", "digests", "rescues"):
                connection.execute(sa.text(f"DELETE FROM {self._prefix}{table}"))
            connection.execute(
                sa.text(
                    f"DELETE FROM {self._prefix}facts WHERE name NOT IN ('version', 'identity')"
                )
            )


def _differing(old: Rows, new: Rows) -> list[tuple[Row, Row]]:
    """The rows that are new or changed, with their keys."""
    return [(key, row) for key, row in new.items() if old.get(key) != row]


def _values(table: Table, row: Row) -> dict[str, Any]:
    """NULL as a word: an UPDATE with None for a parameter undoes on Babelfish what the transaction did before."""
    return {
        name: sa.null() if value is None else value
        for name, value in zip(_names(table), row, strict=True)
    }


def _names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def _nothing() -> State:
    return {name: {} for name in PARTS}


class Checked(Session):
    """A session whose structure was found equal when the walk began: to find that again at every step takes most of its time."""

    def ensure_schema(self) -> list[str]:
        self._connect()
        self.target.begin(self._tables, wait_seconds=self._settings.lock_seconds)
        self._read_snapshot()
        return []


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


@dataclass
class Walk:
    """The two places, the model of both, and what was done so far."""

    source: Place
    target: Place
    model: Model
    rng: random.Random
    here: State = field(default_factory=_nothing)
    there: State = field(default_factory=_nothing)
    published: dict[str, Rows | None] = field(default_factory=lambda: dict.fromkeys(PARTS))
    log: list[Entry] = field(default_factory=list)
    foreign: set[tuple[str, Row]] = field(default_factory=set)
    trail: list[str] = field(default_factory=list)
    runs: int = 0

    # the steps

    def change_source(self) -> None:
        after = changed(self.here, self.rng)
        self.source.write(self.here, after)
        self.here = after

    def write_to_target(self) -> None:
        after = changed(self.there, self.rng)
        self.target.write(self.there, after)
        were, are = _flat(self.there), _flat(after)
        self.foreign = (self.foreign - (were - are)) | (are - were)
        self.there = after

    def write_the_same_to_both(self) -> None:
        """A foreign write that the source has too."""
        if all(self.here[name] == self.there[name] for name in PARTS):
            after = changed(self.here, self.rng)
            self.source.write(self.here, after)
            self.target.write(self.there, after)
            self.here, self.there = after, copy.deepcopy(after)

    def sync(self, overwrite: bool = False, part: bool = False) -> None:
        tables = self.rng.sample(list(PARTS), self.rng.choice([1, 2, 3])) if part else list(PARTS)
        expected, self.runs = self._expected_of_sync(tables, overwrite), self.runs + 1
        run_id = f"run-{self.runs}"
        policy = Policy(overwrite=overwrite, max_change_fraction=1)
        with (
            self._expecting(expected),
            Checked(
                self.source.database,
                self.target.database,
                self.model,
                tables if part else (),
                run_id=run_id,
                settings=SETTINGS,
                policy=policy,
            ) as session,
        ):
            session.ensure_schema()
            for table in self.model.select(tables):
                session.copy(table.name)
            number = session.publish().number
        if expected is None:
            self._note_sync(tables, number, run_id)

    def undo(self, overwrite: bool = False, any_run: bool = False) -> None:
        if not self.log:
            return
        newest, last = self.log[-1], self._last()
        entry = self.rng.choice(self.log) if any_run else self.rng.choice([newest, last or newest])
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
        self.trail.append(f"expecting {error.__name__ if error else 'success'}")
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
        differing = [name for name in tables if self.here[name] != self.there[name]]
        if (
            not overwrite
            and self._last() is None
            and differing
            and any(self.there[name] for name in tables)
        ):
            return Refused
        if (
            not overwrite
            and self._last() is not None
            and any(self._at_risk(name) for name in differing)
        ):
            return Refused
        after = {**self.there, **{name: self.here[name] for name in tables}}
        return None if whole(after, self.model) else NotProved

    def _at_risk(self, name: str) -> bool:
        """Rows would be changed or deleted in a table that is not as last published."""
        would = any(self.here[name].get(key) != row for key, row in self.there[name].items())
        return would and self.published[name] != self.there[name]

    def _note_sync(self, tables: Sequence[str], number: int, run_id: str) -> None:
        entry = Entry(
            number,
            run_id,
            {name: self.there[name] for name in tables},
            {name: self.published[name] for name in tables},
        )
        entry.touched = tuple(name for name in tables if self.here[name] != self.there[name])
        entry.filled = tuple(name for name in entry.touched if not self.there[name])
        for name in entry.touched:
            if name not in entry.filled:
                new = {
                    key: row
                    for key, row in self.here[name].items()
                    if self.there[name].get(key) != row
                }
                gone = [
                    key for key, row in self.there[name].items() if self.here[name].get(key) != row
                ]
                entry.rescued[name] = _rescued(self.there[name], new, gone)
        for name in tables:
            self.there[name] = dict(self.here[name])
            self.published[name] = dict(self.here[name])
        self.log.append(entry)

    # what must come of an undo

    def _expected_of_undo(self, entry: Entry, overwrite: bool) -> type[DbsyncError] | None:
        if entry not in (self.log[-1], self._last()):
            return Refused
        known = {name: rows for name in entry.before if (rows := self.published[name]) is not None}
        if not overwrite and any(rows != self.there[name] for name, rows in known.items()):
            return Refused
        after = {**self.there, **{name: self._put_back(entry, name)[2] for name in entry.touched}}
        former = all(after[name] == entry.before[name] for name in entry.touched)
        return None if former and whole(after, self.model) else DbsyncError

    def _put_back(self, entry: Entry, name: str) -> tuple[Rows, list[Row], Rows]:
        """Rows that come back, keys that go, and the table afterwards."""
        live = self.there[name]
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
            {name: self.there[name] for name in names},
            {name: self.published[name] for name in names},
        )
        mine.touched, mine.undoes = entry.touched, entry.number
        for name in entry.touched:
            back, gone, after = self._put_back(entry, name)
            mine.rescued[name] = _rescued(self.there[name], back, gone)
            self.there[name] = after
        self.published.update(entry.published_before)
        self.log.append(mine)

    # what must be so after every step

    def check(self) -> None:
        assert self.source.read() == self.here
        assert self.target.read() == self.there
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
        assert self.foreign <= _flat(self.there) | kept, (
            "a row that was written to the target is lost"
        )


def _flat(state: State) -> set[tuple[str, Row]]:
    return {(name, row) for name, rows in state.items() for row in rows.values()}


def _rescued(live: Rows, new: Rows, gone: Sequence[Row]) -> list[tuple[str, Row]]:
    old = [(REPLACED if key in new else DELETED, live[key]) for key in gone]
    return sorted([*old, *((INSERTED, key) for key in new if key not in gone)], key=repr)


STEPS: Sequence[tuple[int, str, Callable[[Walk], None]]] = (
    (6, "the source changes", Walk.change_source),
    (3, "the target is written to", Walk.write_to_target),
    (1, "both are written to alike", Walk.write_the_same_to_both),
    (5, "sync", Walk.sync),
    (3, "sync --overwrite", lambda walk: walk.sync(overwrite=True)),
    (2, "partial sync", lambda walk: walk.sync(part=True)),
    (1, "partial sync --overwrite", lambda walk: walk.sync(part=True, overwrite=True)),
    (3, "undo", Walk.undo),
    (1, "undo --overwrite", lambda walk: walk.undo(overwrite=True)),
    (1, "undo of any run", lambda walk: walk.undo(any_run=True)),
)

PAIRS = ["postgresql-postgresql", "sqlite-sqlite", "postgresql-sqlite", "sqlite-postgresql"]
PAIRS += ["postgresql-mssql", "mssql-postgresql", "mssql-mssql"] if "mssql" in ENGINES else []
EPISODES = {"postgresql-postgresql": (4, 50), "sqlite-sqlite": (8, 50)}
FEWER = (1, 50)
FEWEST = (1, 15)
"""With SQL Server, since each step opens several connections, and a stand-in for it may take a second for one."""


@pytest.mark.parametrize("engines", PAIRS)
def test_whatever_happens_the_target_is_what_it_must_be_and_no_row_is_lost(
    engines: str, new_database: NewDatabase
) -> None:
    one, other = engines.split("-")
    model = WITHOUT_CYCLE if "mssql" in engines else MODEL
    source, target = (
        Place(new_database(one, "windows", server=0), model),
        Place(new_database(other, "linux", server=1), model),
    )
    episodes, steps = EPISODES.get(engines, FEWEST if "mssql" in engines else FEWER)
    weights, names, acts = zip(*STEPS, strict=True)
    for seed in range(episodes):
        rng = random.Random(f"{engines} {seed}")
        walk = Walk(source, target, model, rng)
        for step in range(steps):
            (chosen,) = rng.choices(range(len(STEPS)), weights)
            walk.trail.append(names[chosen])
            try:
                acts[chosen](walk)
                walk.check()
            except (Exception, pytest.fail.Exception) as error:
                raise AssertionError(
                    f"seed {seed}, step {step}: {'; '.join(walk.trail[-25:])}"
                ) from error
        source.forget()
        target.forget()
