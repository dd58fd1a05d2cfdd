"""Pages whose commands run: every `sh` block of a page, in order, in one folder, as readers do.

A command whose line ends in `# exits with N` must end with that status, one that ends in `# prints
TEXT` must print it; all others must succeed. Blocks in other languages (`bash`, `text`) are not
run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from dbsync_pipeline_tests import forked
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.versions import programs
from dbsync_pipeline_tests.worlds import content, execute

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
pytestmark = pytest.mark.system

PAGES = (
    "tutorial.md",
    "how-to/your-own-database.md",
    "how-to/adopt-a-standby.md",
    "how-to/add-a-table.md",
    "how-to/add-a-database.md",
    "how-to/monthly-checklist.md",
)

SYNCED = "dbsync sync --quiet >/dev/null"
BEFORE = {
    "how-to/azure-sql.md": "true",
    "how-to/ci.md": SYNCED,
    "how-to/schedules-and-alerts.md": SYNCED,
    "how-to/leave-azure-sql-data-sync.md": """
dbsync tables create
sqlite3 .dbsync/linux.db "INSERT INTO users (id, email, name, password_hash, is_active, created_at)
    VALUES (999, 'z@example.org', 'a row of a member', 'x', 1, '2026-01-31 12:00:00+00:00')"
""",
}
"""Pages of people who have databases already, with the commands that bring the sample there."""

SQLITE3 = """#!/bin/sh
exec {python} -I -S -c '
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30)
for row in connection.execute(sys.argv[2]):
    print("|".join(map(str, row)))
connection.commit()
' "$@"
"""
"""What a page uses of the program `sqlite3`, which a machine may lack."""

DBSYNC = """#!/bin/sh
exec {python} -m dbsync_pipeline.cli.entry "$@"
"""
"""The program, forked instead of started."""

NEWEST = (
    "dbsync history --limit 1 --json | python -c "
    "\"import json, sys; print(json.load(sys.stdin)[0]['run_id'])\""
)
Reader = Callable[[str], "subprocess.CompletedProcess[str]"]

_BLOCK = re.compile(r"^( *)```sh\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_STATUS = re.compile(r"^(.*?)\s+# exits with (\d+)$")
_PRINTS = re.compile(r"^(.*?)\s+# prints (.+)$")


def script(page: Path) -> str:
    """The page's commands as one bash script, which ends at the first that fails the page."""
    blocks = [
        textwrap.dedent(match[2]) for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]
    assert blocks, f"{page} has no commands"
    lines = [_checked(line) for block in blocks for line in block.splitlines()]
    return "\n".join(["set -euo pipefail", *lines])


def _checked(line: str) -> str:
    if match := _STATUS.match(line):
        return f"{{ {match[1]}; }} && exit 99 || test $? -eq {match[2]}"
    if match := _PRINTS.match(line):
        return f'test "$({match[1]})" = "{match[2]}"'
    return line


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Runs a bash script in an empty folder, with no setting of this process."""
    for name in [name for name in os.environ if name.startswith(("DBSYNC_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    programs, place = tmp_path / "programs", tmp_path / "place"
    programs.mkdir()
    place.mkdir()
    python = shlex.join(forked.python())
    (programs / "sqlite3").write_text(SQLITE3.format(python=shlex.quote(sys.executable)))
    (programs / "dbsync").write_text(DBSYNC.format(python=python))
    for program in programs.iterdir():
        program.chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])

    def run(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-xc", text],
            cwd=place,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_runs(page: str, reader: Reader) -> None:
    done = reader(script(DOCS / page))
    assert done.returncode == 0, f"{page} ended with {done.returncode}:\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", BEFORE)
def test_every_command_of_the_page_runs_on_databases_in_use(
    page: str, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Places(tmp_path / "place", monkeypatch)
    assert reader(f"set -e\n{BEFORE[page]}").returncode == 0
    done = reader(script(DOCS / page))
    assert done.returncode == 0, f"{page} ended with {done.returncode}:\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "sqlite"])
def test_the_first_sync_of_the_azure_page_on_a_server(
    engine: str,
    reader: Reader,
    new_database: NewDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SQL Server where there is one to test on; PostgreSQL needs the same four commands."""
    places = Places(tmp_path / "place", monkeypatch)
    azure = new_database(engine, "azure")
    for name, one in (("WINDOWS", places.named("windows")), ("AZURE", azure)):
        places.set(**{f"DBSYNC_{name}_URL": one.url.render_as_string(hide_password=False)})
    done = reader(script(DOCS / "how-to/azure-sql.md"))
    assert done.returncode == 0, done.stderr[-4000:]
    assert content(azure) == content(places.named("windows"))


SHOP = """
CREATE TABLE customers (id bigserial PRIMARY KEY, email varchar(320) NOT NULL UNIQUE, since timestamptz NOT NULL);
CREATE TABLE orders (
    id bigserial PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers, total numeric(12, 2) NOT NULL
);
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO customers (email, since) SELECT i || '@example.org', '2026-01-31' FROM generate_series(1, 3000) i;
INSERT INTO orders (customer_id, total) SELECT 1 + i % 3000, i FROM generate_series(1, 20000) i;
"""
MINUTES = 15
"""How long the owner's road may take; the page says so."""


def test_an_owner_of_two_live_databases_gets_to_the_first_schedule(
    reader: Reader, new_database: NewDatabase
) -> None:
    """The copy is older: it lacks the newest orders, and has a customer that the primary deleted."""
    main, spare = new_database("postgresql", "main", 0), new_database("postgresql", "spare", 1)
    for place in (main, spare):
        execute(place, SHOP)
    execute(spare, "DELETE FROM orders WHERE id > 19900")
    execute(main, "DELETE FROM orders WHERE customer_id = 7; DELETE FROM customers WHERE id = 7")
    commands = script(DOCS / "how-to" / "owners-road.md")
    for place in (main, spare):
        written = f"postgresql://dbsync:secret@{place.name}-db:5432/shop"
        assert written in commands
        commands = commands.replace(written, place.url.render_as_string(hide_password=False))
    started_at = time.monotonic()
    done = reader(commands)
    seconds = time.monotonic() - started_at
    print(f"the owner's road took {seconds:.1f} seconds")
    minutes = seconds / 60
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert minutes < MINUTES, f"{minutes:.1f} minutes"
    orders = "SELECT count(*), sum(total) FROM orders"
    with main.connect() as here, spare.connect() as there:
        count, total = here.connection.execute(sa.text(orders)).one()
        assert there.connection.execute(sa.text(orders)).one() == (count, total)
        assert 19_900 < count < 20_000
    assert "Schedule: every_6_hours [RUNNING]" in done.stdout, done.stdout


def test_a_standby_that_another_tool_filled_in_parallel_is_taken_in(
    reader: Reader, new_database: NewDatabase
) -> None:
    """The application goes on between the copy and the first sync."""
    main, spare = new_database("postgresql", "main", 0), new_database("postgresql", "spare", 1)
    execute(main, SHOP)
    commands = script(DOCS / "how-to" / "large-first-load.md")
    for place in (main, spare):
        written = f"postgresql://dbsync:secret@{place.name}-db:5432/shop"
        assert written in commands
        commands = commands.replace(written, place.url.render_as_string(hide_password=False))
    done = reader(f"PATH={shlex.quote(str(programs()))}:$PATH\n{commands}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    orders = sa.text("SELECT count(*), sum(total), min(total) FROM orders")
    with main.connect() as here, spare.connect() as there:
        expected = here.connection.execute(orders).one()
        assert there.connection.execute(orders).one() == expected
        assert expected[0] == 20_000 and expected[2] == 0
    assert "1 row changed" in done.stdout + done.stderr


def test_the_commands_for_dg_launch_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dg` wants to run in the checkout; the databases are elsewhere."""
    page = (DOCS / "how-to" / "ci.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^dg launch --job .*$", page, re.MULTILINE)
    places = Places(tmp_path, monkeypatch)
    home = {"DBSYNC_HOME": str(tmp_path / ".dbsync"), "DAGSTER_HOME": str(places.dagster_home)}
    program = str(Path(sys.executable).with_name("dg"))
    done = subprocess.run(
        [program, *shlex.split(command)[1:]],
        cwd=ROOT,
        env={**os.environ, **home},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert content(places.named("azure")) == content(places.named("windows"))


def test_the_readme_shows_what_the_commands_print(reader: Reader) -> None:
    assert reader("dbsync demo").returncode == 0
    for command, shown in transcript((ROOT / "README.md").read_text(encoding="utf-8")):
        if command.startswith("dbsync undo"):
            command = f'dbsync undo "$({NEWEST})" --yes'
        done = reader(command)
        assert done.returncode == 0, done.stderr
        printed = {steady(line) for line in (done.stdout + done.stderr).splitlines()}
        assert [line for line in shown if steady(line) not in printed] == [], done.stdout


def transcript(text: str) -> list[tuple[str, list[str]]]:
    """The commands of the page's `console` blocks, each with the lines shown below it."""
    block = "".join(re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    parts = [part.splitlines() for part in block.split("$ ")[1:]]
    shown = [(part[0], [line for line in part[1:] if line.strip()]) for part in parts]
    return [(command, lines) for command, lines in shown if not command.startswith("source ")]


def steady(line: str) -> str:
    """The line without what differs at every run: ids, seconds, and blanks at its end."""
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+\.\d s", "*", line).strip()


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        ("false  # exits with 1", True),
        ("true  # exits with 1", False),
        ("false", False),
        ("echo a b  # prints a b", True),
        ("echo a  # prints b", False),
    ],
)
def test_a_page_that_does_not_do_what_it_says_fails(tmp_path: Path, line: str, runs: bool) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```bash\nexit 7\n```\n\n```sh\n{line}\n```\n")
    done = subprocess.run(["bash", "-c", script(page)], capture_output=True)
    assert (done.returncode == 0) is runs
