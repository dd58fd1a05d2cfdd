"""A role that may not switch foreign keys off publishes in an order that satisfies them, or not at all."""

from __future__ import annotations

import itertools
import random

import pytest
import sqlalchemy as sa

from dbsync_pipeline.columns import distinct
from dbsync_pipeline.errors import StructureError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.roles import Roles, administer, name, one
from dbsync_pipeline_tests.worlds import ANYTHING, SETTINGS, content, execute, sync

_metadata = sa.MetaData()
sa.Table(
    "shops",
    _metadata,
    sa.Column("name", distinct(40), primary_key=True),
    sa.Column("code", distinct(40), unique=True),
)
sa.Table(
    "people",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(
        "shop",
        distinct(40),
        sa.ForeignKey("shops.name", ondelete="SET NULL", onupdate="CASCADE"),
    ),
    sa.Column("boss_id", sa.Integer, sa.ForeignKey("people.id")),
    sa.Column("name", sa.Unicode(40)),
)
sa.Table(
    "orders",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column(
        "person_id",
        sa.Integer,
        sa.ForeignKey("people.id", ondelete="CASCADE", onupdate="CASCADE"),
        nullable=False,
    ),
    sa.Column("place", sa.Integer, nullable=False),
    sa.UniqueConstraint("person_id", "place", name="uq_place"),
)
sa.Table(
    "lines",  # without a key
    _metadata,
    sa.Column("order_id", sa.Integer, sa.ForeignKey("orders.id", ondelete="RESTRICT")),
    sa.Column("what", sa.Unicode(40)),
)
MODEL = Model(_metadata)
shops, people, orders, lines = (
    MODEL.table(table).sa for table in ("shops", "people", "orders", "lines")
)


@pytest.fixture
def source(new_database: NewDatabase) -> Database:
    made = new_database("postgresql", "windows")
    schema.ensure(made, MODEL)
    execute(
        made,
        (shops.insert(), [{"name": f"s{n}", "code": f"c{n}"} for n in range(4)]),
        (people.insert(), [{"id": n, "shop": f"s{n % 4}", "name": "a"} for n in range(1, 21)]),
        people.update().where(people.c.id > 3).values(boss_id=people.c.id % 3 + 1),
        (orders.insert(), [{"id": n, "person_id": 1 + n % 20, "place": n} for n in range(60)]),
        (lines.insert(), [{"order_id": n % 60, "what": f"w{n % 5}"} for n in range(150)]),
    )
    return made


@pytest.fixture
def superuser(new_database: NewDatabase, source: Database) -> Database:
    made = new_database("postgresql", "linux", server=1)
    sync(source, made, model=MODEL)
    return made


@pytest.fixture
def target(superuser: Database, roles: Roles) -> Database:
    """The standby as the role that owns its tables sees it."""
    owner = roles.new(superuser)
    administer(
        superuser,
        *(f"ALTER TABLE {table} OWNER TO {name(owner)}" for table in MODEL.names),
        f"GRANT ALL ON SCHEMA dbsync, public TO {name(owner)}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA dbsync TO {name(owner)}",
    )
    return owner


def test_writes_at_random_reach_a_standby_whose_keys_stay_on(
    source: Database, target: Database
) -> None:
    chance, numbers = random.Random(11), itertools.count(1_000)
    for turn in range(30):
        before = content(target, MODEL)
        for _ in range(chance.randrange(1, 5)):
            execute(source, *_change(chance, next(numbers)))
        publish = sync(source, target, model=MODEL, policy=ANYTHING)
        assert content(target, MODEL) == content(source, MODEL), f"turn {turn}"
        if chance.random() < 0.3 and publish.changed:
            undo(target, MODEL, publish.run_id, by=f"undo-{turn}", settings=SETTINGS)
            assert content(target, MODEL) == before
            sync(source, target, model=MODEL, policy=ANYTHING)
            assert content(target, MODEL) == content(source, MODEL)


def _change(chance: random.Random, number: int) -> list[object]:
    """Statements that an application may run on the source, whose keys are checked there."""
    person, order = chance.randrange(1, 21), chance.randrange(60)
    match chance.randrange(8):
        case 0:  # everything that is new refers to something new
            return [
                shops.insert().values(name=f"s{number}", code=f"c{number}"),
                people.insert().values(id=number, shop=f"s{number}", boss_id=number, name="new"),
                orders.insert().values(id=number, person_id=number, place=number),
                lines.insert().values(order_id=number, what="new"),
            ]
        case 1:
            return [people.update().where(people.c.id == person).values(name=f"n{number}")]
        case 2:  # rows leave what goes
            gone = f"s{chance.randrange(4)}"
            return [
                people.update().where(people.c.shop == gone).values(shop=None),
                # to a mirror one shop goes and another one takes its code
                shops.update().where(shops.c.name == gone).values(name=f"s{number}"),
            ]
        case 3:
            return [
                lines.delete().where(lines.c.order_id == order),
                orders.delete().where(orders.c.id == order),
            ]
        case 4:  # a person goes, and what refers to that person with it
            of_person = sa.select(orders.c.id).where(orders.c.person_id == person)
            return [
                people.update().where(people.c.boss_id == person).values(boss_id=None),
                lines.delete().where(lines.c.order_id.in_(of_person)),
                people.delete().where(people.c.id == person),
            ]
        case 5:  # orders get another person
            return [
                people.insert().values(id=number, name="heir"),
                orders.update().where(orders.c.person_id == person).values(person_id=number),
            ]
        case 6:
            return [
                lines.update().where(lines.c.order_id == order).values(what=f"w{number % 3}"),
                lines.insert().from_select(
                    ["order_id", "what"], sa.select(lines.c.order_id, lines.c.what).limit(3)
                ),
            ]
        case _:
            return [shops.update().where(shops.c.name == "s1").values(code=f"new {number}")]


def test_rows_that_no_order_can_write_are_refused_with_the_keys(
    source: Database, target: Database
) -> None:
    """Two shops exchange a unique code, and people refer to both."""
    before = content(target, MODEL)
    for code, shop in (("spare", "s1"), ("c1", "s2"), ("c2", "s1")):
        execute(source, shops.update().where(shops.c.name == shop).values(code=code))
    with pytest.raises(StructureError, match="a constraint refuses") as refused:
        sync(source, target, model=MODEL)
    assert "session_replication_role" in (refused.value.remedy or "")
    assert content(target, MODEL) == before


def test_rows_of_a_table_that_is_not_mirrored_do_not_follow_a_delete(
    source: Database, target: Database, superuser: Database
) -> None:
    administer(
        superuser,
        "CREATE TABLE notes (person_id int REFERENCES people ON DELETE CASCADE, note text)",
        "INSERT INTO notes VALUES (20, 'kept'), (1, 'kept')",
        f"GRANT SELECT ON notes TO {name(target)}",
    )
    before = content(target, MODEL)
    of_person = sa.select(orders.c.id).where(orders.c.person_id == 20)
    execute(
        source,
        lines.delete().where(lines.c.order_id.in_(of_person)),
        people.delete().where(people.c.id == 20),
        people.update().where(people.c.id == 1).values(name="new"),
    )
    with pytest.raises(StructureError, match="a constraint refuses"):
        sync(source, target, model=MODEL)
    assert content(target, MODEL) == before and one(superuser, "SELECT count(*) FROM notes") == 2
    administer(superuser, "DELETE FROM notes WHERE person_id = 20")
    sync(source, target, model=MODEL)
    assert content(target, MODEL) == content(source, MODEL)
    assert one(superuser, "SELECT count(*) FROM notes") == 1
