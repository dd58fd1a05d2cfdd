"""Dagster's SQLite stores with connections that stay open.

Dagster makes an engine and a connection for each event that it writes and each row that it reads,
which is most of the fixed cost of a run. These classes keep one engine per file, by overriding the
method of each store that opens it; Dagster has no setting for that. Nor do they load all of
Dagster's migrations each time they open a file that has its tables.

They also do not wait for the disk at each commit (`synchronous=NORMAL`). In WAL mode the files stay
consistent; after a power loss the last events may be missing. The ledgers, not these files, say
what was published.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import sqlalchemy as sa

# Private, because Dagster exports no storage classes; `dagster.yaml` names them by these paths.
from dagster._core.storage.event_log import EventLogStorage
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import create_db_conn_string
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

_BUSY_SECONDS = 60
"""How long a statement waits for another process's lock on the file."""
_OPEN_LOGS = 16
"""Event files, one per run, that stay open; the least recently used one is closed first."""


def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS})
    sa.event.listen(engine, "connect", _without_waiting_for_the_disk)
    return engine


def _url(folder: str, name: str) -> str:
    """Return the URL of a store's file, in a folder that is created if it does not exist."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return create_db_conn_string(folder, name)


def _without_waiting_for_the_disk(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous = NORMAL")


def _has_tables(engine: sa.Engine, *others: str) -> bool:
    """Return whether Dagster has created the file's tables and recorded their revision.

    It then has nothing to do at opening, but would first load every migration to find that out.
    """
    with engine.connect() as connection:
        present = set(sa.inspect(connection).get_table_names())
        if not {"alembic_version", *others} <= present:
            return False
        return bool(connection.scalar(sa.text("SELECT version_num FROM alembic_version")))


class EventLog(SqliteEventLogStorage):
    """Dagster's event log: one file per run, and an index."""

    def _initdb(self, engine: sa.Engine, for_index_shard: bool = False) -> None:
        if not _has_tables(engine):
            super()._initdb(engine, for_index_shard)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sa.Connection]:
        with self._db_lock:
            engine = self._open(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.begin() as connection:
                yield connection

    @cached_property
    def _engines(self) -> OrderedDict[str, sa.Engine]:
        return OrderedDict()

    def _open(self, shard: str) -> sa.Engine:
        if shard not in self._engines:
            self._engines[shard] = _engine(self.conn_string_for_shard(shard))
        self._engines.move_to_end(shard)
        while len(self._engines) > _OPEN_LOGS:
            self._engines.popitem(last=False)[1].dispose()
        return self._engines[shard]

    def close(self, run_id: str) -> None:
        """Close the event file of a run."""
        with self._db_lock:
            if run_id in self._engines:
                self._engines.pop(run_id).dispose()
            self._initialized_dbs.discard(run_id)

    def dispose(self) -> None:
        """Close all files."""
        super().dispose()
        with self._db_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()


def delete_event_file(storage: EventLogStorage, run_id: str) -> None:
    """Delete the event file of a run, where events are in SQLite: `delete_run` only empties it."""
    if isinstance(storage, EventLog):
        storage.close(run_id)
    if isinstance(storage, SqliteEventLogStorage):
        for ending in ("", "-wal", "-shm"):
            Path(storage.path_for_shard(run_id) + ending).unlink(missing_ok=True)


class _OneFile:
    """A store in one file, whose engine stays open."""

    _conn_string: str

    @cached_property
    def _engine(self) -> sa.Engine:
        return _engine(self._conn_string)

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction, which commits at the end of the block."""
        with self._engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close the file."""
        super().dispose()  # type: ignore[misc]
        self._engine.dispose()


class Runs(_OneFile, SqliteRunStorage):
    """Dagster's records of runs."""

    @classmethod
    def from_local(cls, base_dir: str, inst_data: ConfigurableClassData | None = None) -> Runs:
        """Open the file in the folder; create it, with its tables, if it does not exist."""
        store = cls(_url(base_dir, "runs"), inst_data)
        if _has_tables(store._engine, "instance_info"):
            return store
        store._engine.dispose()
        return super().from_local(base_dir, inst_data)


class Schedules(_OneFile, SqliteScheduleStorage):
    """Dagster's records of ticks, and the state of schedules and sensors."""

    @classmethod
    def from_local(cls, base_dir: str, inst_data: ConfigurableClassData | None = None) -> Schedules:
        """Open the file in the folder; create it, with its tables, if it does not exist."""
        store = cls(_url(base_dir, "schedules"), inst_data)
        if _has_tables(store._engine):
            return store
        store._engine.dispose()
        super().from_local(base_dir, inst_data)
        return cls(_url(base_dir, "schedules"), inst_data)


class SqliteStorage(DagsterSqliteStorage):
    """The three stores, in the files where Dagster's own class keeps them."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        # Not DagsterSqliteStorage's own: it would open its stores as well.
        super(DagsterSqliteStorage, self).__init__()  # type: ignore[no-untyped-call]
        folder = Path(base_dir)
        self.base_dir = base_dir
        self._inst_data = inst_data
        self._run_storage = Runs.from_local(str(folder / "history"))
        self._event_log_storage = EventLog(str(folder / "history" / "runs"))
        self._schedule_storage = Schedules.from_local(str(folder / "schedules"))
