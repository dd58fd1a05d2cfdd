"""A source behind PgBouncer: session mode is as without it, and no sync goes on in a mixed-up session."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from dbsync_pipeline.dialects.postgresql import readers
from dbsync_pipeline.errors import DatabaseError
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.sync.rounds import Round
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.versions import since
from dbsync_pipeline_tests.worlds import SETTINGS, content, execute, prepare, small_world, sync

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")

Pooled = Callable[[Database, str], Database]


@pytest.fixture
def pooled(tmp_path: Path) -> Iterator[Pooled]:
    """A function that leads to a database through a PgBouncer of its own, in the given mode."""
    with ExitStack() as stack:

        def start(database: Database, mode: str) -> Database:
            return stack.enter_context(closing(_Bouncer(database, mode, tmp_path / mode))).database

        yield start


class _Bouncer:
    def __init__(self, database: Database, mode: str, folder: Path) -> None:
        folder.mkdir()
        folder.chmod(0o755)
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        url = database.url
        host = url.query.get("host") or url.host or "127.0.0.1"
        login = f"user={url.username}" + (f" password={url.password}" if url.password else "")
        lines = [
            "[databases]",
            f"* = host={host} port={url.port or 5432} {login}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {port}",
            "unix_socket_dir =",
            "auth_type = any",
            f"pool_mode = {mode}",
        ]
        (folder / "pgbouncer.ini").write_text("\n".join(lines))
        (folder / "pgbouncer.ini").chmod(0o644)
        command = [str(PROGRAM), str(folder / "pgbouncer.ini")]
        if os.getuid() == 0:  # it refuses to run as root; the owner may use the server's socket
            command += ["-u", Path(host).owner() if Path(host).exists() else "nobody"]
        self._process = subprocess.Popen(command, stderr=(folder / "log").open("w"))
        through = url.set(host="127.0.0.1", port=port).difference_update_query(["host"])
        self.database = Database(database.name, through)
        while True:
            assert self._process.poll() is None, (folder / "log").read_text()
            try:
                return socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                time.sleep(0.05)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture
def source(new_database: NewDatabase) -> Database:
    database = new_database("postgresql", "windows")
    prepare(database, small_world(300))
    return database


@since(14)
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_round_reads_one_state_through_a_pooler(
    source: Database,
    new_database: NewDatabase,
    pooled: Pooled,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In transaction mode too, while nobody else takes the connections to the server."""
    monkeypatch.setattr(readers, "SHARED_BYTES", 0)
    several = SETTINGS.model_copy(update={"connections": 3})
    through = pooled(source, mode)
    standbys = [new_database("postgresql", name, server=1) for name in ("linux", "azure")]
    with Round() as shared:
        for standby in standbys:
            publish = sync(through, standby, shared=shared, settings=several)
            assert {table.carried for table in publish.tables.values()} == {"3 connections"}
            execute(source, "UPDATE users SET name = name || 'x'")
    assert content(standbys[0]) == content(standbys[1]) != content(source)
    for standby in standbys:
        sync(through, standby)
        assert content(standby) == content(source)


@pytest.mark.parametrize("begin", ["snapshot", "begin"])
def test_a_transaction_without_the_settings_of_its_session_is_refused(
    source: Database, pooled: Pooled, begin: str
) -> None:
    """Another client has taken the connection to the server, and a new one has not the settings."""
    through = pooled(source, "transaction")
    with through.connect("dbsync") as ours, through.engine().connect() as theirs:
        theirs.exec_driver_sql("SELECT 1")
        with pytest.raises(DatabaseError, match="a pooler gave this transaction another") as raised:
            ours.snapshot() if begin == "snapshot" else ours.begin((), wait_seconds=1)
    assert "DBSYNC_WINDOWS_URL" in str(raised.value) and "session mode" in str(raised.value)
