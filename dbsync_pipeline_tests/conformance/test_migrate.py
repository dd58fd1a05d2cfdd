"""Revisions bring tables that are there to the models of now, on every engine, whole or not at all, and lose no row."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.columns import NAMING, Instant, Key, distinct, reference
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.errors import Busy, DbsyncError, Refused, SettingsError, StructureError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.failover.observe import local_writes
from dbsync_pipeline.mirror.migrate import revisions
from dbsync_pipeline.mirror.migrate.apply import _ends_transaction, migrate, migrate_each
from dbsync_pipeline.mirror.migrate.autogenerate import ColumnChanges
from dbsync_pipeline.mirror.migrate.write import Written, write
from dbsync_pipeline.mirror.migrate.write import _generate as generate
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import NOON, content, execute, is_babelfish, prepare, sync

Pair = tuple[Database, Database]


def before(folder: Path, key: tuple[str, ...] = ("id",)) -> Model:
    metadata = sa.MetaData(naming_convention=NAMING)
    sa.Table(
        "people",
        metadata,
        sa.Column("id", Key, primary_key=True),
        sa.Column("name", sa.Unicode(50)),
        sa.Column("mail", distinct(50), unique=True, nullable=False, primary_key="mail" in key),
        sa.Column("city", sa.Unicode(50), index=True),
        sa.Column("role", sa.Enum("user", "tool", name="person_role"), nullable=False),
        sa.Column("seen_at", Instant),
        sqlite_autoincrement=True,
    )
    sa.Table(
        "pets",
        metadata,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("owner_id", Key, reference("people.id"), nullable=False),
    )
    return Model(metadata, folder)


def after(folder: Path, firm: bool = True) -> Model:
    """A column has another name and is longer, one went, four came, an enum has one value more, a table came.

    One column takes NULL no more where the models are `firm`.
    """
    metadata = sa.MetaData(naming_convention=NAMING)
    sa.Table(
        "people",
        metadata,
        sa.Column("id", Key, primary_key=True),
        sa.Column("full_name", sa.Unicode(80)),
        sa.Column("mail", distinct(50), unique=True, nullable=False),
        sa.Column("role", sa.Enum("user", "tool", "it's", name="person_role"), nullable=False),
        sa.Column("seen_at", Instant, nullable=not firm),
        sa.Column(
            "tier", sa.Enum("free", "paid", name="tier"), server_default="free", nullable=False
        ),
        sa.Column("phone", distinct(20), index=True),
        sa.Column("boss_id", Key, reference("people.id")),
        sa.Column("born_at", Instant),
        sqlite_autoincrement=True,
    )
    sa.Table(
        "pets",
        metadata,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("owner_id", Key, reference("people.id"), nullable=False),
    )
    sa.Table(
        "tags",
        metadata,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("person_id", Key, reference("people.id"), nullable=False, index=True),
        sa.Column("name", distinct(20), unique=True, nullable=False),
    )
    return Model(metadata, folder)


def grown(folder: Path) -> Model:
    """As `before`, with one column more."""
    model = before(folder)
    model.table("people").sa.append_column(sa.Column("phone", sa.Unicode(20)))
    return Model(model.metadata, folder)


PEOPLE = [
    {
        "id": n,
        "name": f"né {n} ",
        "mail": f"{n}@x",
        "city": "León",
        "role": "user",
        "seen_at": NOON,
        "phone": None,
    }
    for n in range(1, 300)
]


def filled(pair: Pair, folder: Path) -> Pair:
    """Both with the tables of `before`, equal, after a first publish."""
    model = before(folder)
    columns = set(model.table("people").sa.columns.keys())
    rows = [{name: value for name, value in row.items() if name in columns} for row in PEOPLE]
    prepare(pair[0], {"people": rows}, model)
    execute(pair[0], model.table("people").sa.delete().where(model.table("people").sa.c.id == 299))
    sync(*pair, model=model)
    return pair


def apply(database: Database, model: Model) -> list[str]:
    return [revision.number for revision in migrate(database, model, wait_seconds=2)]


def people_of(database: Database, model: Model) -> list[dict[str, Any]]:
    names = [column.name for column in model.table("people").columns]
    return [dict(zip(names, row, strict=True)) for row in content(database, model)["people"]]


def by_hand(written: Written, what: str) -> None:
    """A person writes an empty revision."""
    written.path.write_text(written.path.read_text().replace("    pass", f"    {what}"))


def look(database: Database, look_at: Callable[[Dialect], Any]) -> Any:
    with database.connect() as dialect:
        return look_at(dialect)


def test_one_revision_serves_every_engine_and_loses_nothing(pair: Pair, tmp_path: Path) -> None:
    source, target = filled(pair, tmp_path / "revisions")
    # Babelfish does not let a column of a table that is there change in that
    new = after(tmp_path / "revisions", firm=not any(map(is_babelfish, pair)))
    old = [
        [row[name] for name in ("id", "name", "mail", "role", "seen_at")]
        for row in people_of(source, before(tmp_path))
    ]
    counted = look(source, lambda dialect: dialect.counters([new.table("people")])[0].position)
    # the one of the two that knows enums as types tells of their new values
    teller = source if source.engine_name == "postgresql" else target
    written = write(
        teller,
        new,
        "a new world",
        ColumnChanges(drop=["people.city"], rename={"people.name": "full_name"}),
    )
    assert written.number == "0001" and written.left == ()
    for database in pair:
        with pytest.raises(
            StructureError, match=r"0001 \(a new world\)(.|\n)*dbsync migrate --database"
        ):
            schema.ensure(database, new)
        assert apply(database, new) == ["0001"] and apply(database, new) == []
        assert not any(schema.check(database, new).values())
        rows = people_of(database, new)
        assert [
            [row[name] for name in ("id", "full_name", "mail", "role", "seen_at")] for row in rows
        ] == old
        assert {row["tier"] for row in rows} == {"free"}
        assert look(database, lambda dialect: revisions.pending(dialect, new)) == ()
    assert (
        look(source, lambda dialect: dialect.counters([new.table("people")])[0].position) == counted
    ), "299 was given once"
    assert sync(source, target, model=new).changed == 0
    people = new.table("people").sa
    execute(
        source,
        people.insert().values(
            id=500, mail="new", role="it's", seen_at=NOON, tier="paid", boss_id=1, born_at=NOON
        ),
    )
    assert sync(source, target, model=new).changed == 1
    assert content(target, new) == content(source, new)
    with pytest.raises(sa.exc.DBAPIError):
        execute(source, people.insert().values(mail="1@x", role="user", seen_at=NOON))


def test_what_a_revision_does_to_rows_is_nobodys_write(twins: Pair, tmp_path: Path) -> None:
    source, target = filled(twins, tmp_path / "revisions")
    model = grown(tmp_path / "revisions")
    write(source, model, "phone", ColumnChanges())
    by_hand(
        write_after(source, model, "all to Paris"),
        "op.execute(\"UPDATE people SET city = 'Paris' WHERE id < 200\")",
    )
    assert apply(source, model) == ["0001", "0002"] == apply(target, model)
    assert local_writes(target, model) == (), (
        "or the application would be taken to have moved there"
    )
    people = model.table("people").sa
    execute(source, people.update().where(people.c.id == 7).values(city="Roma"))
    assert sync(source, target, model=model).changed == 1


def write_after(database: Database, model: Model, title: str) -> Written:
    """An empty revision after one that was written and not applied yet."""
    with database.connect() as dialect:
        number = f"{len(revisions.line(model)) + 1:04}"
        return Written(number, generate(dialect, model, None, number, title, []), ())


def test_what_somebody_wrote_before_a_revision_is_still_seen(twins: Pair, tmp_path: Path) -> None:
    source, target = filled(twins, tmp_path / "revisions")
    model = grown(tmp_path / "revisions")
    people = model.table("people").sa
    execute(target, people.update().where(people.c.id == 250).values(name="precious"))
    by_hand(
        write(source, model, "all to Paris"),
        "op.add_column('people', sa.Column('phone', sa.Unicode(20)))\n    op.execute(\"UPDATE people SET city = 'Paris'\")",
    )
    assert apply(source, model) == ["0001"] == apply(target, model)
    assert local_writes(target, model) == ("people",)
    with pytest.raises(Refused, match=r"were written since .* with keys 250 \(local writes\)"):
        sync(source, target, model=model)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("op.execute('UPDATE nowhere SET a = 1')", "migrate, revision 0001 (broken)"),
        ("raise ValueError('hm')", "ValueError: hm"),
        ("op.add_column('people', sa.Column('other', sa.Integer()))", "column phone is missing"),
        (
            "op.create_unique_constraint('uq_city', 'people', ['city'])",
            "migrate, revision 0001 (broken)",
        ),
    ],
)
def test_a_revision_that_fails_changes_nothing(
    twins: Pair, tmp_path: Path, what: str, told: str
) -> None:
    source, _ = filled(twins, tmp_path / "revisions")
    model, old = grown(tmp_path / "revisions"), content(source, before(tmp_path))
    by_hand(
        write(source, model, "broken"),
        f"op.execute(\"UPDATE people SET city = 'Paris'\")\n    {what}",
    )
    with pytest.raises(DbsyncError) as refusal:
        apply(source, model)
    assert told in str(refusal.value) and "database windows" in str(refusal.value)
    assert content(source, before(tmp_path)) == old and not any(
        schema.check(source, before(tmp_path)).values()
    )
    assert look(source, revisions.noted) == "base"


def test_the_first_that_fails_is_the_last_that_is_tried(twins: Pair, tmp_path: Path) -> None:
    filled(twins, tmp_path / "revisions")
    model = grown(tmp_path / "revisions")
    by_hand(write(twins[0], model, "broken"), "raise ValueError('hm')")
    found = migrate_each(twins, model, wait_seconds=2)
    assert "windows comes first and failed" in str(found.failed["linux"])
    assert look(twins[1], revisions.noted) == "base"


def test_nobody_writes_while_a_revision_is_applied(twins: Pair, tmp_path: Path) -> None:
    source, _ = filled(twins, tmp_path / "revisions")
    model = grown(tmp_path / "revisions")
    write(source, model, "phone", ColumnChanges())
    with source.connect() as dialect:
        dialect.begin(before(tmp_path).tables, wait_seconds=1)
        with pytest.raises(Busy):
            apply(source, model)
    assert apply(source, model) == ["0001"]


def test_a_new_database_has_all_revisions(
    twins: Pair, tmp_path: Path, new_database: NewDatabase
) -> None:
    source, _ = filled(twins, tmp_path / "revisions")
    model = grown(tmp_path / "revisions")
    write(source, model, "phone", ColumnChanges())
    for name, make in (("made", apply), ("ensured", schema.ensure), ("recreated", schema.recreate)):
        database = new_database(source.engine_name, name)
        with database.connect(create=True):
            make(database, model)
        assert look(
            database, lambda dialect: (revisions.noted(dialect), revisions.pending(dialect, model))
        ) == ("0001", ())
        with pytest.raises(StructureError, match="nothing to write"):
            write(database, model, "again", ColumnChanges())


def test_whether_rows_had_a_revision_is_asked_where_nothing_is_noted(
    twins: Pair, tmp_path: Path
) -> None:
    source, _ = twins
    model = before(tmp_path / "revisions")
    with source.connect(create=True) as dialect, dialect.connection.begin():
        model.metadata.create_all(dialect.connection)
    by_hand(write(source, model, "a wrong one"), "raise ValueError('never run')")
    with pytest.raises(
        StructureError,
        match=r"no record of whether it had 0001(.|\n)*--as-applied(.|\n)*--from-start",
    ):
        apply(source, model)
    with pytest.raises(StructureError, match="never run"):
        migrate(source, model, wait_seconds=2, how="from-start")
    assert [str(one) for one in migrate(source, model, wait_seconds=2, how="as-applied")] == [
        "0001 (a wrong one)"
    ]
    assert look(source, revisions.noted) == "0001" and apply(source, model) == []


def test_a_database_that_lacks_a_revision_is_not_synced(twins: Pair, tmp_path: Path) -> None:
    """Nor where its structure is that of the models: the rows would be those of before and of after."""
    source, target = filled(twins, tmp_path / "revisions")
    model = before(tmp_path / "revisions")
    apply(source, model)
    by_hand(
        write(source, model, "all to Paris"), "op.execute(\"UPDATE people SET city = 'Paris'\")"
    )
    for database in twins:
        with pytest.raises(
            StructureError, match=r"0001 \(all to Paris\)(.|\n)*dbsync migrate --database"
        ):
            sync(source, target, model=model)
        assert apply(database, model) == ["0001"]
    assert sync(source, target, model=model).changed == 0


def test_a_database_of_later_revisions_is_reported(twins: Pair, tmp_path: Path) -> None:
    source, _ = filled(twins, tmp_path / "revisions")
    model = grown(tmp_path / "revisions")
    write(source, model, "phone", ColumnChanges())
    apply(source, model)
    with source.connect() as dialect, dialect.connection.begin():
        sa_note = "UPDATE dbsync.facts" if dialect.ledger_schema else "UPDATE dbsync_facts"
        dialect.connection.execute(sa.text(f"{sa_note} SET value = '0007' WHERE name = 'revision'"))
    with pytest.raises(
        StructureError, match="it has revision 0007, which is unknown here: the newest is 0001"
    ):
        apply(source, model)


def test_a_new_value_of_an_enum_is_used_by_the_next_revision(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    """PostgreSQL does not let the transaction that adds a value use it: a standby that lacks both revisions could never have them."""
    source = new_database("postgresql", "windows")
    others = [new_database("postgresql", "linux"), new_database("sqlite", "azure")]
    model = before(tmp_path / "revisions")
    filled((source, others[0]), tmp_path / "revisions")
    sync(source, others[1], model=model)
    model.table("people").sa.columns["role"].type = sa.Enum(
        "user", "tool", "it's :z 100%", name="person_role"
    )
    write(source, model, "a role", ColumnChanges())
    by_hand(
        write_after(source, model, "used"),
        "op.execute(r\"UPDATE people SET role = 'it''s \\:z 100%'\")",
    )
    for database in (source, *others):
        assert apply(database, model) == ["0001", "0002"]
        assert {row["role"] for row in people_of(database, model)} == {"it's :z 100%"}
        assert database is source or local_writes(database, model) == ()


@pytest.mark.parametrize(
    ("statement", "ends"),
    [
        ("UPDATE t SET a = 'x; COMMIT'", False),
        ("UPDATE t SET a = 1; COMMIT", True),
        ("COMMIT /* TO */", True),
        ("ABORT", True),
        ("ROLLBACK TO SAVEPOINT s", False),
        ("CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM u; END", False),
        ("DO $$ BEGIN PERFORM 1; END $$", False),
        ("SELECT 1; END", True),
    ],
)
def test_a_statement_that_ends_the_transaction_is_known(statement: str, ends: bool) -> None:
    assert _ends_transaction(statement) is ends


def test_a_new_table_uses_an_enum_that_is_there(new_database: NewDatabase, tmp_path: Path) -> None:
    source, _ = filled(
        (new_database("postgresql", "windows"), new_database("sqlite", "linux")),
        tmp_path / "revisions",
    )
    model = before(tmp_path / "revisions")
    for name in ("one", "two"):
        sa.Table(
            name,
            model.metadata,
            sa.Column("id", sa.Uuid, primary_key=True),
            sa.Column("role", sa.Enum("user", "tool", name="person_role")),
            sa.Column("kind", sa.Enum("a", "b", name="kind")),
        )
    model = Model(model.metadata, model.revisions)
    write(source, model, "tables", ColumnChanges())
    assert apply(source, model) == ["0001"]


def test_an_enum_is_made_by_one_revision_and_has_a_value_more_by_the_next(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    """Another connection, which adds the values that an open transaction could not use, does not see the type that it has made."""
    source, behind = filled(
        (new_database("postgresql", "windows"), new_database("postgresql", "linux")),
        tmp_path / "revisions",
    )
    for kinds in (("a", "b"), ("a", "b", "c")):
        metadata = before(tmp_path / "revisions").metadata
        kind = sa.Column("kind", sa.Enum(*kinds, name="kind"), nullable=False)
        sa.Table("one", metadata, sa.Column("id", sa.Uuid, primary_key=True), kind)
        model = Model(metadata, tmp_path / "revisions")
        write(source, model, "kinds", ColumnChanges())
        apply(source, model)
    by_hand(
        write_after(source, model, "used"),
        f"op.execute(\"INSERT INTO one VALUES ('{uuid.UUID(int=1)}', 'c')\")",
    )
    assert apply(source, model) == ["0003"] and apply(behind, model) == ["0001", "0002", "0003"]
    assert content(behind, model)["one"] == content(source, model)["one"] != []


# What a person is asked; the engine does not matter ----------------------------------------------------------------------


@pytest.fixture
def windows(new_database: NewDatabase, tmp_path: Path) -> Database:
    """A SQLite database with the tables of `before` and rows in them."""
    return filled(
        (new_database("sqlite", "windows"), new_database("sqlite", "linux")), tmp_path / "revisions"
    )[0]


def without(model: Model, column: str) -> Model:
    table = model.table("people").sa
    table.indexes = {index for index in table.indexes if column not in index.columns}
    table._columns.remove(table.columns[column])  # type: ignore[attr-defined]
    return Model(model.metadata, model.revisions)


def test_values_go_only_where_somebody_says_so(windows: Database, tmp_path: Path) -> None:
    model = without(grown(tmp_path / "revisions"), "name")
    with pytest.raises(
        StructureError,
        match=r"people\.name is not in the models(.|\n)*--rename people\.name=NEW(.|\n)*--drop people\.name",
    ):
        write(windows, model, "less", ColumnChanges())
    for wanted in (
        ColumnChanges(drop=["people.mail"]),
        ColumnChanges(rename={"people.name": "nobody"}),
        ColumnChanges(drop=["name"]),
    ):
        with pytest.raises(SettingsError):
            write(windows, model, "less", wanted)
    assert not (tmp_path / "revisions").exists(), "what is refused writes no file"
    assert (
        "op.drop_column('people', 'name')"
        in write(windows, model, "less", ColumnChanges(drop=["people.name"])).path.read_text()
    )


def test_a_column_that_rows_would_have_no_value_for_is_refused(
    windows: Database, tmp_path: Path
) -> None:
    model = before(tmp_path / "revisions")
    model.table("people").sa.append_column(sa.Column("age", sa.Integer, nullable=False))
    with pytest.raises(StructureError, match=r"people\.age .*(.|\n)*server_default"):
        write(windows, Model(model.metadata, model.revisions), "age", ColumnChanges())


def test_a_type_that_values_would_be_made_into_is_for_a_person(
    windows: Database, tmp_path: Path
) -> None:
    for type_ in (sa.Integer(), sa.Unicode(10), sa.Date()):
        model = without(before(tmp_path / "revisions"), "city")
        model.table("people").sa.append_column(sa.Column("city", type_))
        with pytest.raises(
            StructureError, match=r"people\.city is VARCHAR\(50\) here and (.|\n)*--empty"
        ):
            write(windows, Model(model.metadata, model.revisions), "type", ColumnChanges())


def test_defaults_are_written_for_every_engine(windows: Database, tmp_path: Path) -> None:
    model = before(tmp_path / "revisions")
    for name, type_, default in (
        ("at", sa.DateTime(), sa.func.now()),
        ("on", sa.Boolean(), sa.true()),
        ("off", sa.Boolean(), sa.false()),
        ("word", sa.Text(), "it's"),
    ):
        model.table("people").sa.append_column(
            sa.Column(name, type_, nullable=False, server_default=default)
        )
    text = write(
        windows, Model(model.metadata, model.revisions), 'say """x\\', ColumnChanges()
    ).path.read_text()
    for written in ("sa.func.now()", "sa.true()", "sa.false()", '"it\'s"'):
        assert f"server_default={written}" in text
    assert apply(windows, Model(model.metadata, model.revisions)) == ["0001"]
    assert revisions.line(model)[0].title == 'say """x\\'
    (tmp_path / "revisions").joinpath("0001_say_x.py").rename(
        tmp_path / "revisions" / "0001_again.py"
    )
    assert revisions.next_number(model) == "0002"


def test_what_the_models_do_not_have_is_left_and_reported(
    windows: Database, tmp_path: Path
) -> None:
    execute(windows, sa.text("CREATE INDEX own ON people (role)"))
    written = write(windows, grown(tmp_path / "revisions"), "phone", ColumnChanges())
    assert written.left == ("people has the index own, which the models do not have",)
    assert "'own'" not in written.path.read_text()


def test_a_new_key_is_for_a_person_to_write(windows: Database, tmp_path: Path) -> None:
    model = before(tmp_path / "revisions", key=("id", "mail"))
    with pytest.raises(
        StructureError,
        match=r"a person has to write the difference: people: the primary key is \(id\) here(.|\n)*--empty",
    ):
        write(windows, model, "key", ColumnChanges())


def test_a_second_revision_waits_for_the_first(windows: Database, tmp_path: Path) -> None:
    model = grown(tmp_path / "revisions")
    write(windows, model, "phone", ColumnChanges())
    with pytest.raises(StructureError, match=r"it lacks 0001 \(phone\)"):
        write(windows, model, "more", ColumnChanges())


_ONE = "revision = '{}'\ndown_revision = {}\ndef upgrade(): pass\n"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"env.py": ""}, "belongs to another program"),
        ({"0001_a.py": "def ("}, "SyntaxError"),
        (
            {"0001_a.py": _ONE.format("0001", None), "0001_b.py": _ONE.format("0001", None)},
            "present more than once",
        ),
        (
            {"0001_a.py": _ONE.format("0001", None), "0002_b.py": _ONE.format("0002", None)},
            "0001 and 0002 are both the newest",
        ),
        ({"0002_b.py": _ONE.format("0002", "'0001'")}, "0001"),
        ({"0001_a.py": "revision = '0001'\ndown_revision = None\n"}, "upgrade"),
    ],
)
def test_files_that_are_no_line_are_reported(
    tmp_path: Path, files: dict[str, str], told: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=re.escape(told)):
        revisions.line(before(tmp_path))


# SQLite makes tables anew -----------------------------------------------------------------------------------------------


def test_what_hangs_on_a_sqlite_table_is_carried_over(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    windows, model = new_database("sqlite", "windows"), after(tmp_path / "revisions")
    with windows.connect(create=True) as dialect, dialect.connection.begin():
        for statement in (
            "CREATE TABLE people (id INTEGER PRIMARY KEY AUTOINCREMENT, name VARCHAR(50), mail VARCHAR(50) NOT NULL CHECK (mail <> ''), "
            "city VARCHAR(50), role VARCHAR(4) NOT NULL, seen_at VARCHAR(32), CONSTRAINT uq_people_mail UNIQUE (mail))",
            "CREATE INDEX by_lower ON people (lower(mail))",
            "CREATE INDEX partly ON people (mail) WHERE role = 'user'",
            "CREATE TABLE seen (id INTEGER)",
            "CREATE TRIGGER watch AFTER DELETE ON people BEGIN INSERT INTO seen VALUES (OLD.id); END",
            "INSERT INTO people VALUES (1, 'a', 'a@x', NULL, 'user', '2026-01-01 00:00:00.000000+00:00'), (9, 'b', 'b@x', NULL, 'user', '')",
            "DELETE FROM people WHERE id = 9",
        ):
            dialect.connection.exec_driver_sql(statement)
    schema.ensure(windows, Model(pets_only(), tmp_path / "others"))
    write(
        windows,
        model,
        "world",
        ColumnChanges(drop=["people.city"], rename={"people.name": "full_name"}),
    )
    apply(windows, model)
    with windows.engine().begin() as connection:
        insert = "INSERT INTO people (mail, role, seen_at) VALUES ('{}', 'user', '')"
        connection.exec_driver_sql(insert.format("c@x"))
        assert connection.exec_driver_sql("SELECT max(id) FROM people").scalar_one() == 10
        connection.exec_driver_sql("DELETE FROM people WHERE id = 10")
        assert connection.exec_driver_sql("SELECT id FROM seen").scalars().all() == [9, 10]
        names = (
            connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE tbl_name = 'people'")
            .scalars()
            .all()
        )
        assert {"by_lower", "partly", "watch", "ix_people_phone"} <= set(names)
        with pytest.raises(sa.exc.IntegrityError, match="CHECK"):
            connection.exec_driver_sql(insert.format(""))


def pets_only() -> sa.MetaData:
    metadata = sa.MetaData(naming_convention=NAMING)
    sa.Table("people", metadata, sa.Column("id", Key, primary_key=True))
    sa.Table(
        "pets", metadata, *[column._copy() for column in before(Path()).table("pets").sa.columns]
    )
    metadata.remove(metadata.tables["people"])
    return metadata


REMADE = "op.alter_column('people', 'seen_at', existing_type=sa.Unicode(32), nullable=False)"


@pytest.mark.parametrize(
    ("first", "what", "told"),
    [
        ("ALTER TABLE people ADD COLUMN nick TEXT COLLATE NOCASE", REMADE, "would lose COLLATE"),
        ("ALTER TABLE people ADD COLUMN nick TEXT CHECK/**/(nick <> ':x')", REMADE, "would lose"),
        (
            "UPDATE people SET seen_at = NULL WHERE id = 7",
            REMADE,
            "NOT NULL constraint failed: people.seen_at",
        ),
        (
            "SELECT 1",
            "op.alter_column('people', 'city', type_=sa.Integer())",
            "city is INTEGER here",
        ),
        (
            "UPDATE people SET city = '12'",
            "op.alter_column('people', 'city', type_=sa.Integer())",
            "would change values",
        ),
        ("SELECT 1", "op.get_bind().commit()", "cannot commit"),
        ("SELECT 1", "op.execute(' rollback')", "cannot commit"),
        ("SELECT 1", "op.execute('-- x\\nCOMMIT')", "cannot commit"),
        ("SELECT 1", "op.execute('/* x */ end')", "cannot commit"),
        ("SELECT 1", "raise SystemExit(0)", "SystemExit"),
        (
            "ALTER TABLE people ADD COLUMN nick TEXT COLLATE NOCASE",
            "op.drop_constraint('uq_people_mail', 'people', type_='unique')",
            "lose COLLATE",
        ),
        ("SELECT 1", "op.batch_alter_table('people')", "not needed"),
    ],
)
def test_what_would_be_lost_on_sqlite_is_refused(
    windows: Database, tmp_path: Path, first: str, what: str, told: str
) -> None:
    execute(windows, sa.text(first.replace(":x", r"\:x")))
    old = look(
        windows, lambda dialect: list(dialect.connection.connection.driver_connection.iterdump())
    )  # type: ignore[union-attr]
    model = grown(tmp_path / "revisions")
    by_hand(
        write(windows, model, "risky"),
        f"op.add_column('people', sa.Column('phone', sa.Unicode(20)))\n    {what}",
    )
    with pytest.raises(StructureError, match=told):
        apply(windows, model)
    assert (
        look(
            windows,
            lambda dialect: list(dialect.connection.connection.driver_connection.iterdump()),
        )
        == old
    )  # type: ignore[union-attr]


def test_a_sqlite_table_keeps_what_others_say_of_it(windows: Database, tmp_path: Path) -> None:
    """A view, another table's trigger and key, an index with a collation, a default with a colon; and a new name reaches them."""
    for statement in (
        "ALTER TABLE people ADD COLUMN extra TEXT DEFAULT '{\"a\"\\:1}'",
        "CREATE VIEW named AS SELECT name FROM people",
        "CREATE TABLE seen (id INTEGER REFERENCES people (id))",
        "CREATE TRIGGER noted AFTER INSERT ON seen BEGIN UPDATE people SET name = 'seen' WHERE id = NEW.id; END",
        "CREATE TRIGGER changed AFTER UPDATE ON people WHEN NEW.name <> OLD.name BEGIN DELETE FROM pets; END",
        "CREATE UNIQUE INDEX nocase ON people (name COLLATE NOCASE DESC)",
    ):
        execute(windows, sa.text(statement))
    model = before(tmp_path / "revisions")
    people = model.table("people").sa
    people._columns.remove(people.columns["name"])  # type: ignore[attr-defined]
    people.append_column(sa.Column("full_name", sa.Unicode(80)))
    people.append_column(sa.Column("extra", sa.Text))
    people.columns["seen_at"].nullable = False
    model = Model(model.metadata, model.revisions)
    write(windows, model, "names", ColumnChanges(rename={"people.name": "full_name"}))
    assert apply(windows, model) == ["0001"]
    with windows.engine().begin() as connection:
        connection.exec_driver_sql("INSERT INTO seen VALUES (3)")
        assert (
            connection.exec_driver_sql(
                "SELECT count(*) FROM named WHERE full_name = 'seen'"
            ).scalar_one()
            == 1
        )
        connection.exec_driver_sql(
            "INSERT INTO people (id, mail, role, seen_at) VALUES (900, 'x', 'user', '')"
        )
        assert (
            connection.exec_driver_sql("SELECT extra FROM people WHERE id = 900").scalar_one()
            == '{"a":1}'
        )
        with pytest.raises(sa.exc.IntegrityError, match="UNIQUE"):
            connection.exec_driver_sql("UPDATE people SET full_name = 'SEEN' WHERE id = 4")


def test_a_key_that_would_not_hold_is_refused_on_sqlite(windows: Database, tmp_path: Path) -> None:
    model = grown(tmp_path / "revisions")
    model.table("people").sa.append_column(sa.Column("boss_id", Key, reference("people.id")))
    written = write(windows, Model(model.metadata, model.revisions), "boss", ColumnChanges())
    text = written.path.read_text()
    written.path.write_text(
        text.replace(
            "    op.create_foreign_key",
            "    op.execute('UPDATE people SET boss_id = 999')\n    op.create_foreign_key",
        )
    )
    with pytest.raises(DbsyncError, match="rows would refer to no row of people"):
        apply(windows, Model(model.metadata, model.revisions))
