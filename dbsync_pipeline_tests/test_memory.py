"""Memory does not depend on a table's size: more is moved than the process may hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.worlds import execute, prepare, user

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
MOST_MB = 300

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
changed = sync(source, target, settings=patient).changed
print(changed, int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def synced(source: Database, target: Database) -> tuple[int, int]:
    """Rows changed, and the peak of resident memory in MB, of a sync in a process of its own."""
    urls = [database.url.render_as_string(hide_password=False) for database in (source, target)]
    done = subprocess.run([sys.executable, "-c", SYNC, *urls], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    changed, peak = done.stdout.split()
    return int(changed), int(peak)


def test_documents_of_many_megabytes_between_engines(new_database: NewDatabase) -> None:
    source, between, target = (
        new_database("postgresql", "windows"),
        new_database("sqlite", "linux"),
        new_database("postgresql", "azure"),
    )
    prepare(source, {"users": [user(1)]})
    execute(
        source,
        "INSERT INTO documents SELECT gen_random_uuid(), 1, NULL, 'f', 't', decode(repeat(md5(n::text), 800000), 'hex'), 1, 's', now() "
        "FROM generate_series(1, 16) n",  # 12.8 MB each, twice that as COPY has them
    )
    for one, other in ((source, between), (between, target)):
        changed, peak = synced(one, other)
        assert changed == 17
        assert peak < MOST_MB


def test_a_large_table_within_one_engine_and_all_of_it_changed(new_database: NewDatabase) -> None:
    source, target = new_database("postgresql", "windows"), new_database("postgresql", "linux", server=1)
    prepare(source, {})
    execute(
        source,
        "INSERT INTO users SELECT n, n || '@example.org', repeat('n', 200), repeat('h', 255), true, NULL, now(), NULL "
        "FROM generate_series(1, 300000) n",
    )
    assert synced(source, target)[1] < MOST_MB
    execute(source, "UPDATE users SET name = 'changed' WHERE id % 2 = 0")
    changed, peak = synced(source, target)
    assert (changed, peak < MOST_MB) == (150_000, True)
