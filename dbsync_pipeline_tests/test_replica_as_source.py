"""A physical replica as the source: it is only read, all standbys of a round get its one state, and several readers share it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.postgresql import readers
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.sync.rounds import Round
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.versions import named_servers, programs
from dbsync_pipeline_tests.worlds import SETTINGS, content, execute, prepare, small_world, sync

pytestmark = pytest.mark.skipif(
    bool(named_servers("postgresql")) or not shutil.which("pg_basebackup", path=programs()),
    reason="the replica is of a server that the tests start, by its pg_basebackup",
)


@pytest.fixture
def primary(new_database: NewDatabase) -> Database:
    database = new_database("postgresql", "windows")
    name = database.url.database
    execute(
        database, f"ALTER DATABASE {name} SET synchronous_commit = on"
    )  # what is committed is sent
    prepare(database, small_world(300))
    return database


@pytest.fixture
def replica(primary: Database) -> Iterator[Database]:
    """A replica of the whole server, beside its data."""
    socket_of_primary = Path(str(primary.url.query["host"]))
    data = socket_of_primary.with_name("replica")
    as_owner: dict[str, Any] = {"cwd": "/", "stderr": subprocess.DEVNULL}
    if os.getuid() == 0:  # the server refuses to run as root
        owner = socket_of_primary.stat()
        as_owner |= {"user": owner.st_uid, "group": owner.st_gid}
        data.mkdir(mode=0o700)
        os.chown(data, owner.st_uid, owner.st_gid)
    copy = [programs() / "pg_basebackup", "-h", socket_of_primary, "-U", primary.url.username]
    subprocess.run([*copy, "-D", data, "-R", "-c", "fast"], check=True, **as_owner)
    for left in data.glob(".s.PGSQL.*"):  # the primary's socket and its lock
        left.unlink()
    settings = ["-c", "listen_addresses=", "-c", "hot_standby_feedback=on"]
    server = subprocess.Popen(
        [programs() / "postgres", "-D", data, "-k", data, *settings], **as_owner
    )
    try:
        reached = Database(
            "windows", primary.url.update_query_dict({"host": str(data)}), start_seconds=30
        )
        _caught_up(primary, reached)
        yield reached
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(data)


def _caught_up(primary: Database, replica: Database) -> None:
    with primary.engine().connect() as connection:
        written = connection.scalar(sa.text("SELECT pg_current_wal_flush_lsn()::text"))
    query = sa.text(f"SELECT pg_last_wal_replay_lsn() >= '{written}'")
    for _ in range(600):
        try:
            with replica.engine().connect() as connection:
                if connection.scalar(query):
                    return
        except sa.exc.OperationalError:  # it starts
            pass
        time.sleep(0.1)
    raise AssertionError("the replica does not catch up")


def test_a_round_reads_one_state_of_a_replica_over_several_connections(
    primary: Database,
    replica: Database,
    new_database: NewDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readers, "SHARED_BYTES", 0)
    several = SETTINGS.model_copy(update={"connections": 3})
    standbys = [new_database("postgresql", name, server=1) for name in ("linux", "azure")]
    with Round() as shared:
        for standby in standbys:
            publish = sync(replica, standby, shared=shared, settings=several)
            assert {table.carried for table in publish.tables.values()} == {"3 connections"}
            execute(primary, "UPDATE users SET name = name || 'x'")
            _caught_up(primary, replica)
    assert content(standbys[0]) == content(standbys[1]) != content(primary)
    for standby in standbys:
        again = sync(replica, standby)
        assert content(standby) == content(primary)
        assert "the server is a replica" in again.tables["users"].proof
