"""Memory does not depend on a table's size: more is moved than the process may take for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import execute, prepare, user

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the peak is read from Linux's /proc"
)
MOST_MB = 56
"""What a sync may take beyond what the program has when it begins; each test moves more, even as the bytes alone."""

VALUE_MB = 100
"""One value of a single row."""

ROWS = 100_000
"""How many rows of a report differ."""

# The peak of the program's own memory: getrusage would count the process that it was forked from.
SYNC = """
import re, sys
from pathlib import Path
import sqlalchemy as sa
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.settings import Settings
from dbsync_pipeline_tests.worlds import sync
source, target = (Database(name, sa.make_url(url)) for name, url in zip(("windows", "linux"), sys.argv[1:]))
patient = Settings(lock_seconds=30)  # a vacuum that follows a large load gives way after a second
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
before = peak()
changed = sync(source, target, settings=patient).changed
print(changed, peak() - before)
"""


REPORT = """
import re, sys
from pathlib import Path
import sqlalchemy as sa
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.report.file import opened
from dbsync_pipeline_tests.worlds import session
source, target = (Database(name, sa.make_url(url)) for name, url in zip(("windows", "linux"), sys.argv[1:]))
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
before = peak()
with opened(Path(sys.argv[3]), with_values=True, targets=1) as report, session(source, target) as one:
    plan, _ = one.plan(report)
print(plan.tables["users"].update, peak() - before)
"""


def synced(source: Database, target: Database) -> tuple[int, int]:
    """Rows changed by a sync in a process of its own, and by how many MB it raised the peak of the process's resident memory."""
    urls = [database.url.render_as_string(hide_password=False) for database in (source, target)]
    done = subprocess.run(
        [sys.executable, "-c", SYNC, *urls], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    changed, taken = done.stdout.split()
    return int(changed), int(taken)


def test_documents_of_many_megabytes_between_engines(new_database: NewDatabase) -> None:
    source, between, target = (
        new_database("postgresql", "windows"),
        new_database("sqlite", "linux"),
        new_database("postgresql", "azure"),
    )
    prepare(source, {"users": [user(1)]})
    execute(
        source,
        "INSERT INTO documents SELECT gen_random_uuid(), 1, NULL, 'f', 't', decode(repeat(md5(n::text), 100000), 'hex'), 1, 's', now() "
        "FROM generate_series(1, 50) n",  # 1.6 MB each, 80 MB in all, twice that as text
    )
    for one, other in ((source, between), (between, target)):
        changed, taken = synced(one, other)
        assert changed == 51
        assert taken < MOST_MB


def test_a_large_table_within_one_engine_and_all_of_it_changed(new_database: NewDatabase) -> None:
    source, target = (
        new_database("postgresql", "windows"),
        new_database("postgresql", "linux", server=1),
    )
    prepare(source, {})
    execute(
        source,
        "INSERT INTO users SELECT n, repeat('e', 300) || n, repeat('n', 200), repeat('h', 255), true, NULL, now(), NULL "
        "FROM generate_series(1, 160000) n",  # 124 MB of text, of which half is changed below
    )
    assert synced(source, target)[1] < MOST_MB
    execute(source, "UPDATE users SET name = 'changed' WHERE id % 2 = 0")
    changed, taken = synced(source, target)
    assert (changed, taken < MOST_MB) == (80_000, True)


@pytest.mark.parametrize("values", [1, 4])
def test_values_of_100_megabytes(values: int, new_database: NewDatabase) -> None:
    """The process holds one of them at a time, three times, and however many there are."""
    source, target = (
        new_database("postgresql", "windows"),
        new_database("postgresql", "linux", server=1),
    )
    prepare(source, {"users": [user(1)]})
    execute(
        source,
        "INSERT INTO documents SELECT gen_random_uuid(), 1, NULL, 'f', 't', "
        "decode(repeat(md5(n::text), 6250000), 'hex'), 1, 's', now() "
        f"FROM generate_series(1, {values}) n",
    )
    changed, taken = synced(source, target)
    assert changed == values + 1
    execute(source, "UPDATE documents SET content = content || 'x'::bytea")
    again, taken_again = synced(source, target)
    assert again == values
    print(f"{values} values of {VALUE_MB} MB: {taken} and {taken_again} MB")
    assert max(taken, taken_again) < 4 * VALUE_MB, (taken, taken_again)


@pytest.fixture(scope="module")
def differing(shared_database: NewDatabase) -> tuple[Database, Database]:
    """Two databases in which every row differs."""
    source, target = (
        shared_database("postgresql", "windows"),
        shared_database("postgresql", "linux", server=1),
    )
    for database in (source, target):
        prepare(database, {})
        execute(
            database,
            f"INSERT INTO users SELECT n, repeat('e', 100) || n, '{database.name}', repeat('h', 255), true, NULL, now(), NULL "
            f"FROM generate_series(1, {ROWS}) n",
        )
    return source, target


@pytest.mark.parametrize("name", ["r.csv", "r.sql", "r.html"])
def test_a_report_of_many_rows_that_differ(
    name: str, differing: tuple[Database, Database], tmp_path: Path
) -> None:
    """The values of every row are written from both sides."""
    urls = [database.url.render_as_string(hide_password=False) for database in differing]
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *urls, str(tmp_path / name)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows, taken = map(int, done.stdout.split())
    print(f"{name}: {rows} rows, {taken} MB")
    assert (rows, taken < MOST_MB) == (ROWS, True), taken
