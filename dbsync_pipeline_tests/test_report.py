"""`dbsync plan --report`: what differs, by table and key, escaped, without secrets, and not in memory."""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import html.parser
import io
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.columns import Key, distinct
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.reflect.read import load
from dbsync_pipeline.mirror.report.file import opened
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.processes import dbsync
from dbsync_pipeline_tests.test_postgresql import Ready, rows, run, two  # noqa: F401
from dbsync_pipeline_tests.test_structure import structure
from dbsync_pipeline_tests.worlds import MODEL, execute, insert, prepare, session, sync

Pair = tuple[Database, Database]
PAIRS = (("postgresql", "postgresql"), ("sqlite", "sqlite"), ("postgresql", "sqlite"))

PEOPLE = Model(sa.MetaData())
people = sa.Table(
    "people",
    PEOPLE.metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("name", sa.Unicode(200)),
    sa.Column("password", sa.Unicode(50), info={"secret": True}),
    sa.Column("photo", sa.LargeBinary),
    sa.Column("born", sa.Date),
)
HOSTILE = [
    "<script>alert(1)</script>",
    "</td></tr></table><h1>",
    "' OR 1=1; DROP TABLE people; --",
    '=HYPERLINK("http://x")',
    "@SUM(1)",
    "line\nbreak\r\n-- \\' \\",
    "\u202eevil\u0001",
    '&amp; "quoted" | , ;',
    "%s %(x)s {0}",
]
LINE_ENDS = ["one\\\ntwo", "one\\\r\ntwo", "\\\n" + 5000 * "x"]
"""Texts of which T-SQL would join the lines."""
SECRET = "hunter2"


def person(number: int, name: str | None = None, **given: Any) -> dict[str, Any]:
    row = {"id": number, "name": name, "password": SECRET, "photo": None, "born": None}
    return {**row, **given}


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest, new_database: NewDatabase) -> Pair:
    """Rows of only one side, different rows, equal rows, and hostile texts in all of them."""
    source, target = (
        new_database(engine, name, server=n)
        for n, (engine, name) in enumerate(zip(request.param, ("windows", "linux"), strict=True))
    )
    for database in (source, target):
        schema.ensure(database, PEOPLE)
    equal = [person(number, f"equal {number}") for number in range(1000, 1200)]
    hostile = [person(number, name, photo=b"\0'") for number, name in enumerate(HOSTILE, 1)]
    changed = [person(number, name) for number, name in enumerate(HOSTILE, 101)]
    before = [person(number, f"before {number}") for number in range(101, 101 + len(HOSTILE))]
    gone = [person(number, name) for number, name in enumerate(HOSTILE, 201)]
    password = [person(300, "same", password="hunter22")]
    insert(source, {"people": equal + hostile + changed + password}, PEOPLE)
    insert(target, {"people": equal + before + gone + [person(300, "same")]}, PEOPLE)
    return source, target


def _read(path: Path) -> str:
    """The text of a file with its own line ends."""
    return path.read_bytes().decode()


def report(pair: Pair, path: Path, *, values: bool) -> str:
    with (
        opened(path, with_values=values, targets=1) as file,
        session(*pair, model=PEOPLE) as one,
    ):
        one.plan(file)
    return _read(path)


COUNT = len(HOSTILE)
EXPECTED = {
    ("only in source", *(str(n) for n in range(1, 1 + COUNT))),
    ("different", *(str(n) for n in range(101, 101 + COUNT)), "300"),
    ("only in target", *(str(n) for n in range(201, 201 + COUNT))),
}


def _rows(text: str) -> list[dict[str, str]]:
    """The lines about rows: those about the guards' objections are others."""
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [line["key"] for line in lines if line["change"] == "refused"]
    return [line for line in lines if line["change"] != "refused"]


def by_change(lines: list[dict[str, str]]) -> set[tuple[str, ...]]:
    keys: dict[str, set[str]] = {}
    for line in lines:
        keys.setdefault(line["change"], set()).add(line["key"])
    return {(change, *sorted(found, key=int)) for change, found in keys.items()}


def test_csv_has_every_row_that_differs_by_key_and_no_value(pair: Pair, tmp_path: Path) -> None:
    text = report(pair, tmp_path / "r.csv", values=False)
    lines = _rows(text)
    assert by_change(lines) == EXPECTED and len(lines) == 3 * COUNT + 1
    assert {(line["database"], line["table"]) for line in lines} == {("linux", "people")}
    assert SECRET not in text and "DROP TABLE" not in text and "before" not in text


def test_csv_with_values_is_exact_and_no_formula_and_has_no_secret(
    pair: Pair, tmp_path: Path
) -> None:
    path = tmp_path / "r.csv"
    text = report(pair, path, values=True)
    lines = _rows(text)
    assert by_change(lines) == EXPECTED and SECRET not in text
    names = [line for line in lines if line["column"] == "name" and line["change"] == "different"]
    shown = {line["source"].removeprefix("'") for line in names}
    assert shown == {name.removeprefix("'") for name in HOSTILE}
    assert all(line["target"].startswith("before ") for line in names)
    assert not [cell for line in lines for cell in line.values() if cell[:1] in "=+-@\t\r" and cell]
    assert {line["source"] for line in lines if line["key"] == "300"} == {"(secret)"}
    photos = {line["source"] for line in lines if line["column"] == "photo" and line["source"]}
    assert photos == {"0027"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


class _Tags(html.parser.HTMLParser):
    """Every tag, and the text of every cell, of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("values", [True, False])
def test_html_shows_hostile_texts_as_text(pair: Pair, tmp_path: Path, values: bool) -> None:
    text = report(pair, tmp_path / "r.html", values=values)
    page = _Tags()
    page.feed(text)
    allowed = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p"}
    assert page.tags <= allowed | {"table", "tr", "th", "td", "bdi"}
    assert "<script" not in text and SECRET not in text
    assert ("<script>alert(1)</script>" in page.text) == values
    assert ("DROP TABLE" in page.text) == values
    assert "unknown target" in page.text and f"{COUNT + 1}" in page.text
    assert "\x01" not in text


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "postgresql"])
def test_sql_makes_the_target_equal_but_for_secrets(
    engine: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    model = Model(sa.MetaData())
    columns = (
        sa.Column(c.name, sa.UnicodeText() if c.name == "name" else c.type)
        for c in people.columns
        if c.name not in ("id", "password")
    )
    sa.Table("people", model.metadata, sa.Column("id", Key, primary_key=True), *columns)
    source, target = new_database("postgresql", "windows"), new_database(engine, "linux")
    for database in (source, target):
        schema.ensure(database, model)
    texts = [*HOSTILE, *LINE_ENDS]
    rows = [{"id": n, "name": name, "photo": b"\0'"} for n, name in enumerate(texts, 1)]
    rows += [{"id": n, "name": name, "photo": None} for n, name in enumerate(texts, 101)]
    others = [{"id": n, "name": "x"} for n in (*range(101, 101 + len(texts)), 300)]
    insert(source, {"people": rows}, model)
    insert(target, {"people": others}, model)
    path = tmp_path / "r.sql"
    with (
        opened(path, with_values=True, targets=1) as file,
        session(source, target, model=model) as one,
    ):
        one.plan(file)
    run_script(target, _read(path))
    with session(source, target, model=model) as one:
        assert one.plan()[0].empty


def run_script(target: Database, script: str) -> None:
    """Run it as a person would: whole, on a connection that begins no transaction of its own."""
    if target.engine_name == "sqlite":
        with contextlib.closing(sqlite3.connect(str(target.url.database))) as connection:
            connection.executescript(script)
        return
    raw = target.engine().raw_connection()
    raw.driver_connection.autocommit = True  # type: ignore[union-attr]
    raw.cursor().execute(script)
    raw.close()


@pytest.mark.parametrize("engine", ["postgresql"])
def test_sql_for_postgresql_runs_as_it_stands(
    engine: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    source, target = (new_database(engine, f"db{n}", server=n) for n in range(2))
    model = Model(sa.MetaData())
    sa.Table(
        "t",
        model.metadata,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("text", sa.Unicode(200)),
        sa.Column("at", sa.DateTime(timezone=True)),
        sa.Column("number", sa.Float(53)),
        sa.Column("yes", sa.Boolean),
        sa.Column("data", sa.LargeBinary),
    )
    for database in (source, target):
        schema.ensure(database, model)
    for database, start in ((source, "a"), (target, "b")):
        for name in HOSTILE:
            text = sa.text(
                "INSERT INTO t (text, at, number, yes, data) "
                "VALUES (:text, '2026-01-31 12:00:00.000001+02', 'NaN', true, '\\x0027')"
            )
            execute(database, (text, {"text": start + name}))
    path = tmp_path / "r.sql"
    with (
        opened(path, with_values=True, targets=1) as file,
        session(source, target, model=model) as one,
    ):
        one.plan(file)
    run_script(target, _read(path))
    with session(source, target, model=model) as one:
        assert one.plan()[0].empty


def test_sql_leaves_out_what_is_secret_and_a_line_end_ends_no_comment(
    pair: Pair, tmp_path: Path
) -> None:
    text = report(pair, tmp_path / "r.sql", values=True)
    assert SECRET not in text
    assert text.count("-- no statement for people, only in source") == COUNT
    assert text.count("-- no statement for people, different, key 300: password is secret") == 1
    assert text.count('UPDATE "people" SET "name" = ') == COUNT
    assert text.count('DELETE FROM "people" WHERE "id" = ') == COUNT


def test_a_key_that_is_secret_is_nowhere(new_database: NewDatabase, tmp_path: Path) -> None:
    model = Model(sa.MetaData())
    mail = sa.Column("mail", distinct(50), primary_key=True, info={"secret": True})
    sa.Table("mails", model.metadata, mail, sa.Column("x", sa.Integer))
    source, target = (new_database("sqlite", name) for name in ("windows", "linux"))
    for database, number in ((source, 1), (target, 2)):
        schema.ensure(database, model)
        insert(database, {"mails": [{"mail": SECRET, "x": number}]}, model)
    for name, values in (("a.csv", True), ("b.html", True), ("c.sql", True), ("d.csv", False)):
        with (
            opened(tmp_path / name, with_values=values, targets=1) as file,
            session(source, target, model=model) as one,
        ):
            one.plan(file)
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert SECRET not in text and "secret" in text


@pytest.mark.parametrize(
    ("name", "values", "targets", "cause"),
    [
        ("r.txt", True, 1, "no .html, .csv or .sql"),
        ("r.sql", False, 1, "statements have values"),
        ("r.sql", True, 2, "for one database"),
        ("there.csv", True, 1, "exists already"),
        ("missing/r.csv", True, 1, "cannot be written: No such file"),
    ],
)
def test_a_report_that_cannot_be_made_is_refused_before_anything_is_read(
    name: str, values: bool, targets: int, cause: str, tmp_path: Path
) -> None:
    (tmp_path / "there.csv").write_text("mine")
    with (
        pytest.raises(SettingsError, match=cause),
        opened(tmp_path / name, with_values=values, targets=targets),
    ):
        raise AssertionError("nothing may be read")
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


def test_a_report_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), opened(tmp_path / "r.csv", with_values=True, targets=1):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.system
def test_the_command_writes_it_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(tmp_path, monkeypatch)
    dbsync(places, "tables", "create")
    planned = dbsync(places, "plan", "--target", "linux", "--report", "r.csv")
    assert planned["report"] == "r.csv"
    lines = list(csv.DictReader((tmp_path / "r.csv").open(encoding="utf-8")))
    rows = {name: table["insert"] for name, table in planned["targets"][0]["tables"].items()}
    assert {name: sum(line["table"] == name for line in lines) for name in MODEL.names} == rows


@pytest.mark.parametrize("name", ["r.sql", "r.csv", "r.html"])
def test_values_that_only_postgresql_has_are_in_every_report(
    two: Ready,  # noqa: F811
    tmp_path: Path,
    name: str,
) -> None:
    source, target, model = two(
        "CREATE TABLE t (id int PRIMARY KEY, a numeric(10,2), b numeric, c float8, d timestamptz)"
    )
    run(
        source,
        "INSERT INTO t VALUES (1, 'NaN', 'NaN', 'NaN', NULL), (2, 1, 1, 1, '4713-01-01 BC'), "
        "(4, 1, 1, 1, 'infinity')",
    )
    run(target, "INSERT INTO t VALUES (3, 'NaN', 'NaN', '-Infinity', '4713-01-01 BC')")
    with (
        opened(tmp_path / name, with_values=True, targets=1) as file,
        session(source, target, model=model) as one,
    ):
        plan, _ = one.plan(file)
    assert (plan.tables["t"].insert, plan.tables["t"].delete) == (3, 1)
    text = _read(tmp_path / name)
    assert "NaN" in text
    if name == "r.sql":
        run(target, text)
        assert rows(target, "t") == rows(source, "t") and len(rows(target, "t")) == 3


def test_a_value_that_no_script_can_write_is_named_and_ends_no_report(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    source, target = new_database("postgresql", "windows"), new_database("sqlite", "linux")
    run(source, "CREATE TABLE t (id int PRIMARY KEY, d timestamptz)")
    run(source, "INSERT INTO t VALUES (1, '2026-01-31'), (2, 'infinity')")
    model = Model(load(structure(source).source, "t"))
    schema.ensure(target, model)
    with (
        opened(tmp_path / "r.sql", with_values=True, targets=1) as file,
        session(source, target, model=model) as one,
    ):
        plan, _ = one.plan(file)
    assert plan.tables["t"].insert == 2
    text = _read(tmp_path / "r.sql")
    assert "no literal of d is written" in text and text.endswith("COMMIT;\n")
    assert "2026-01-31" in text


BEYOND = (
    "'infinity', 'infinity', 'infinity', 'Infinity', '24:00'",
    "'-infinity', '-infinity', '-infinity', '-Infinity', '23:59:59.5'",
    "'4713-01-01 00:00:01.25+00 BC', '0001-12-31 BC', '4713-01-01 BC', 'NaN', NULL",
    "'294276-12-31 23:59:59.999999+00', '10000-02-29', '5874897-12-31', 1.5, NULL",
    "'9999-12-31+00', '0001-01-01', '9999-12-31', 0, '00:00'",
)


@pytest.mark.parametrize("name", ["r.csv", "r.html"])
def test_moments_and_numbers_beyond_pythons_are_shown_as_psql_shows_them(
    two: Ready,  # noqa: F811
    tmp_path: Path,
    name: str,
) -> None:
    source, target, model = two(
        "CREATE TABLE t (id date PRIMARY KEY, a timestamptz, b timestamp, c date, d float8, e time)"
    )
    values = [f"(date '2026-01-01' + {n}, {row})" for n, row in enumerate(BEYOND[1:], 1)]
    run(source, f"INSERT INTO t VALUES ('infinity', {BEYOND[0]}), {', '.join(values)}")
    with (
        opened(tmp_path / name, with_values=True, targets=1) as file,
        session(source, target, model=model) as one,
    ):
        one.plan(file)
    page = _Tags()
    page.feed(_read(tmp_path / name))
    for shown in run(
        source,
        "SET timezone TO 'UTC'; SELECT v FROM t, "
        "unnest(ARRAY[id::text, a::text, b::text, c::text, d::text, e::text]) v "
        "WHERE v ~ '[a-zB]|[0-9]{5}-|24:'",
    ):
        assert shown[0] in page.text, shown
    assert "9223372036854775807" not in page.text and "2147483647" not in page.text
    assert "9999-12-31T00:00:00+00:00" in page.text and "inf\n" not in page.text


@pytest.mark.parametrize("target_engine", ["postgresql", "sqlite"])
def test_a_key_that_is_a_day_is_shown_as_one_by_guards_and_verify(
    new_database: NewDatabase, target_engine: str
) -> None:
    model = Model(sa.MetaData())
    sa.Table(
        "days", model.metadata, sa.Column("day", sa.Date, primary_key=True), sa.Column("n", sa.Text)
    )
    source = new_database("postgresql", "windows")
    target = new_database(target_engine, "linux", server=1)
    prepare(source, {"days": [{"day": dt.date(2026, 1, 31), "n": "a"}]}, model)
    sync(source, target, model=model)
    execute(target, "UPDATE days SET n = 'b'")
    with session(source, target, model=model) as one:
        plan, findings = one.plan()
    assert plan.tables["days"].risk.keys == (("2026-01-31",),)
    assert "2026-01-31" in findings[0].found
    assert verify(source, target, model)[0].keys == (("2026-01-31",),)
