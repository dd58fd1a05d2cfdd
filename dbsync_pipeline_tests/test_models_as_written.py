"""Models are taken as people write them, and only the tables that are meant are mirrored."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from dbsync_pipeline.errors import NotProved, SettingsError
from dbsync_pipeline.mirror import ready, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.doctor import examine
from dbsync_pipeline.mirror.model import Model, load_model
from dbsync_pipeline.mirror.selection import TableFilter
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.test_cli import Dbsync, dbsync, places  # noqa: F401
from dbsync_pipeline_tests.worlds import ANYTHING, content, execute, session, sync

_SQLMODEL = """
from sqlmodel import Field, SQLModel

class Customer(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str

class Purchase(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    customer_id: int = Field(foreign_key="customer.id")
"""
_FLASK = """
from flask_sqlalchemy import SQLAlchemy

db = SQLAlchemy()

class Customer(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String(80), nullable=False)

class Purchase(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    customer_id = db.Column(db.ForeignKey("customer.id"), nullable=False)
"""
_PARENT = """
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Entity(DeclarativeBase):
    pass

class Customer(Entity):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
"""
_CHILD = """
import sqlalchemy as sa
tables = sa.MetaData()
sa.Table("purchase", tables, sa.Column("id", sa.Integer, primary_key=True),
         sa.Column("customer_id", sa.ForeignKey("customer.id"), nullable=False))
"""
_REFLECTED = """
import sqlalchemy as sa
catalogue = sa.MetaData()
catalogue.reflect(sa.create_engine({url!r}))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def written(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text)
    sys.modules.pop(name, None)
    return name


def fill(database: Database, model: Model) -> None:
    schema.ensure(database, model)
    execute(
        database,
        "INSERT INTO customer (id, name) VALUES (1, 'Ada'), (2, 'Grace')",
        "INSERT INTO purchase (id, customer_id) VALUES (7, 2)",
    )


@pytest.mark.parametrize(
    "models",
    ["sqlmodel", "flask", "two modules", "attributes"],
)
def test_models_are_taken_as_they_are(
    models: str, folder: Path, new_database: NewDatabase, request: pytest.FixtureRequest
) -> None:
    match models:
        case "sqlmodel":
            named = written(folder, "with_sqlmodel", _SQLMODEL)
            request.addfinalizer(lambda: sys.modules["sqlmodel"].SQLModel.metadata.clear())
        case "flask":
            named = written(folder, "with_flask", _FLASK)
        case "two modules":
            parent = written(folder, "parent_models", _PARENT)
            named = f"{parent}, {written(folder, 'child_models', _CHILD)}"
        case _:
            named = (
                f"{written(folder, 'parent_base', _PARENT)}:Entity, "
                f"{written(folder, 'child_tables', _CHILD)}:tables"
            )
    model = load_model(named)
    assert model.names == ("customer", "purchase")
    windows, linux = new_database("sqlite", "windows"), new_database("sqlite", "linux")
    fill(windows, model)
    sync(windows, linux, model=model)
    assert content(linux, model) == content(windows, model)
    assert content(linux, model)["customer"] == [(1, "Ada"), (2, "Grace")]


def test_a_metadata_that_a_module_reflects_is_taken(
    folder: Path, new_database: NewDatabase
) -> None:
    windows, linux = new_database("sqlite", "windows"), new_database("sqlite", "linux")
    both = f"{written(folder, 'parent_r', _PARENT)}, {written(folder, 'child_r', _CHILD)}"
    fill(windows, load_model(both))
    url = windows.url.render_as_string(hide_password=False)
    model = load_model(
        written(folder, "reflected_tables", _REFLECTED.format(url=url)),
        selection=TableFilter.of("customer purchase", ""),
    )
    assert model.names == ("customer", "purchase")
    sync(windows, linux, model=model)
    assert content(linux, model) == content(windows, model)


def test_two_modules_with_one_table_are_refused(folder: Path) -> None:
    named = f"{written(folder, 'one_m', _CHILD)},{written(folder, 'other_m', _CHILD)}"
    with pytest.raises(SettingsError, match="one_m and other_m both have a table purchase"):
        load_model(named)


def test_an_attribute_without_tables_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="has no Base with tables") as refused:
        load_model(f"{written(folder, 'baseless', _CHILD)}:Base")
    assert "package.module:attribute" in (refused.value.remedy or "")


_SHOP = """
import sqlalchemy as sa
metadata = sa.MetaData()
for name in ("alembic_version", "audit_2024", "audit_2025", "customer", "purchase"):
    sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True))
sa.Table("customer", metadata, schema="crm", *[sa.Column("id", sa.Integer, primary_key=True)])
"""


@pytest.mark.parametrize(
    ("tables", "skip", "names"),
    [
        ("", "", ["audit_2024", "audit_2025", "crm.customer", "customer", "purchase"]),
        ("", "audit_*", ["crm.customer", "customer", "purchase"]),
        ("customer", "", ["crm.customer", "customer"]),
        ("crm.*", "", ["crm.customer"]),
        ("public.customer, purchase", "", ["customer", "purchase"]),
        ("*", "*.customer", ["alembic_version", "audit_2024", "audit_2025", "purchase"]),
        ("alembic_version purchase", "", ["alembic_version", "purchase"]),
    ],
)
def test_the_settings_choose_tables_by_name_or_pattern(
    tables: str, skip: str, names: list[str], folder: Path
) -> None:
    model = load_model(
        written(folder, "chosen_shop", _SHOP), selection=TableFilter.of(tables, skip)
    )
    assert sorted(model.names) == names
    everything = {"alembic_version", "audit_2024", "audit_2025", "customer", "purchase"}
    assert set(model.skipped) == (everything | {"crm.customer"}) - set(names)


@pytest.mark.parametrize(
    ("tables", "skip", "why"),
    [
        ("custommer", "", "DBSYNC_TABLES names custommer, and there is no such table"),
        ("", "audits", "DBSYNC_SKIP_TABLES names audits"),
        ("*", "*", "no table is left: .*DBSYNC_SKIP_TABLES"),
    ],
)
def test_a_choice_that_chooses_nothing_is_refused(
    tables: str, skip: str, why: str, folder: Path
) -> None:
    with pytest.raises(SettingsError, match=why):
        load_model(written(folder, "refused_shop", _SHOP), selection=TableFilter.of(tables, skip))


def test_tables_that_are_left_out_are_said(
    places: Places,  # noqa: F811
    dbsync: Dbsync,  # noqa: F811
) -> None:
    places.set(DBSYNC_SKIP_TABLES="user_mem*")
    assert dbsync("sync", "--quiet").status == 0
    assert dbsync("plan", "--json").json["skipped"] == {"user_memory": "DBSYNC_SKIP_TABLES"}
    said = "not mirrored: user_memory (DBSYNC_SKIP_TABLES)"
    for verb in ("plan", "status", "doctor"):
        assert said in dbsync(verb).out, verb
    assert "user_memory" not in dbsync("plan", "--json").json["targets"][0]["tables"]


_OUTSIDE = """
import sqlalchemy as sa
metadata = sa.MetaData()
sa.Table("profile", metadata, sa.Column("id", sa.Integer, primary_key=True),
         sa.Column("owner", sa.Integer, sa.ForeignKey("account.number")))
"""


_ACCOUNT = "CREATE TABLE account (number INTEGER NOT NULL PRIMARY KEY)"


def with_accounts(database: Database) -> None:
    with database.connect(create=True):
        pass
    execute(database, _ACCOUNT)


@pytest.fixture
def profiles(folder: Path, twins: tuple[Database, Database]) -> Model:
    """A table that refers to one that the models do not have, which the source has."""
    model = load_model(written(folder, "profile_models", _OUTSIDE))
    assert model.names == ("profile",)
    with_accounts(twins[0])
    schema.ensure(twins[0], model)
    execute(
        twins[0],
        "INSERT INTO account (number) VALUES (1)",
        "INSERT INTO profile (id, owner) VALUES (5, 1)",
    )
    return model


def foreign_keys(database: Database) -> int:
    with database.engine().connect() as connection:
        return len(sa.inspect(connection).get_foreign_keys("profile"))


def test_a_key_to_a_table_outside_of_the_models_is_checked_where_that_table_is(
    profiles: Model, twins: tuple[Database, Database]
) -> None:
    source, target = twins
    with_accounts(target)
    with session(source, target, model=profiles) as planned:
        (finding,) = planned.plan()[1]
    assert (finding.guard, finding.table) == ("foreign key", "profile")
    assert "1 value of profile (owner) would not be in account of linux" in finding.found
    with pytest.raises(NotProved, match="would not hold"):
        sync(source, target, model=profiles)
    assert content(target, profiles) == {"profile": []} and foreign_keys(target) == 1
    execute(target, "INSERT INTO account (number) VALUES (1)")
    with session(source, target, model=profiles) as planned:
        assert planned.plan()[1] == ()
    assert sync(source, target, model=profiles).tables["profile"].inserted == 1
    assert content(target, profiles) == {"profile": [(5, 1)]}


def test_a_key_to_a_table_that_the_target_lacks_is_left_out_and_said(
    profiles: Model, twins: tuple[Database, Database]
) -> None:
    source, target = twins
    assert sync(source, target, model=profiles).tables["profile"].inserted == 1
    assert foreign_keys(target) == 0
    assert schema.check(target, profiles) == {"profile": []}
    with target.connect() as dialect:
        facts = ready.read(dialect, profiles)
    assert facts.structure == () and facts.orphans == ()
    (said,) = [
        check
        for check in examine(target, profiles, is_primary=False)
        if check.name == "foreign keys"
    ]
    assert said.state == "warning" and "profile (owner) to account" in said.detail
    sync(source, target, model=profiles)


# Constructs of declarative models -------------------------------------------------------------------


class Base(DeclarativeBase):
    """Naming conventions, as Alembic's users have them."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Trimmed(TypeDecorator[str]):
    """A type of an application, which stores something else than it returns."""

    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        return None if value is None else value.strip().upper()

    def process_result_value(self, value: str | None, dialect: object) -> str | None:
        return None if value is None else value.lower()


class Nested(TypeDecorator[str]):
    """A TypeDecorator around another one."""

    impl = Trimmed
    cache_ok = True


class Employee(Base):
    """The parent of a joined inheritance; its key is declared unique once more."""

    __tablename__ = "employee"
    __table_args__ = (sa.UniqueConstraint("id"), sa.CheckConstraint("age > 0", name="adult"))
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(20))
    name: Mapped[str] = mapped_column(Trimmed)
    nick: Mapped[str | None] = mapped_column("nick_name", Nested, index=True)
    mood: Mapped[str] = mapped_column(
        sa.Enum("sad", "it's ok", name="mood", native_enum=False), server_default="sad"
    )
    age: Mapped[int] = mapped_column(server_default="18")
    doubled: Mapped[int] = mapped_column(sa.Computed("age * 2"))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}


class Engineer(Employee):
    """Its row is in two tables, the second without a number of its own."""

    __tablename__ = "engineer"
    id: Mapped[int] = mapped_column(sa.ForeignKey("employee.id"), primary_key=True)
    language: Mapped[str | None] = mapped_column(sa.String(20), unique=True)
    boss_id: Mapped[int | None] = mapped_column(sa.ForeignKey("engineer.id"))
    __mapper_args__ = {
        "polymorphic_identity": "engineer",
        "inherit_condition": id == Employee.__table__.c.id,
    }


def test_declarative_models_with_inheritance_and_types_of_their_own_are_mirrored(
    pair: tuple[Database, Database],
) -> None:
    source, target = pair
    model = load_model(f"{__name__}:Base")
    assert model.names == ("employee", "engineer") and not model.table("engineer").keyless
    schema.ensure(source, model)
    with Session(source.engine()) as orm, orm.begin():
        ada = Engineer(name=" Ada ", nick="A", language="Ada", mood="it's ok")
        orm.add_all([ada, Employee(name="bob"), Engineer(name="Cy", language=None)])
        orm.flush()
        orm.add(Engineer(name="Dee", language="D", boss_id=ada.id))
    sync(source, target, model=model)
    with Session(source.engine()) as orm, orm.begin():
        dee = orm.scalars(sa.select(Engineer).where(Engineer.language == "D")).one()
        dee.name, dee.boss_id, dee.mood = "Dora", None, "it's ok"
        orm.delete(orm.scalars(sa.select(Employee).where(Employee.name == "BOB")).one())
    sync(source, target, model=model, policy=ANYTHING)
    assert content(target, model) == content(source, model)
    assert all(verdict.equal for verdict in verify(source, target, model))
    with Session(target.engine()) as orm:
        names = orm.scalars(sa.select(Employee.name).order_by(Employee.id)).all()
        assert names == ["ada", "cy", "dora"]
        assert [type(each) for each in orm.scalars(sa.select(Employee))] == [Engineer] * 3
