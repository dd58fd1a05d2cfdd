"""Tables that are small and hard to mirror, what an application does to them, and a database with them.

A cycle of NOT NULL references, references to the own table, a key that is a reference too, unique values that swap. The state of a
database is kept beside it in dictionaries, and every change leaves it whole.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.columns import distinct
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.tables import INSERTED
from dbsync_pipeline.settings import Settings


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


def start_over(state: State, rng: random.Random) -> None:
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
    start_over,
)


def changed(state: State, rng: random.Random) -> State:
    """The state after a few changes."""
    after = copy.deepcopy(state)
    for _ in range(rng.choice([1, 1, 2, 4])):
        (rng.choice(CHANGES) if after["people"] and after["teams"] else start_over)(after, rng)
    return after


# -- the databases


class Place:
    """A database whose state is read and written as an application would."""

    def __init__(self, database: Database, model: Model) -> None:
        self.database = database
        self._model = model
        schema.ensure(database, model)
        self._engine = database.engine()
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
        self.write(self.read(), nothing())
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


def nothing() -> State:
    return {name: {} for name in PARTS}
