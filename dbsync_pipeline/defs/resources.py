"""The one resource of a sync, and the one place where a failure becomes Dagster's.

A run has one source snapshot and one target transaction, so its ops share one session, which only the in-process executor allows.
The session is opened by the first op, never when the resource is made: Dagster makes its resources a second time after a success. The
source is the resource's only field; URLs are read from the settings by the first op, so that no launchpad and no run ever shows one.

What a person allows beyond the guards is the config of the first op, which hands it on: see `Permissions`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from dagster import (
    ConfigurableResource,
    DagsterInstance,
    DagsterRunStatus,
    Failure,
    InitResourceContext,
    MetadataValue,
    OpExecutionContext,
)
from pydantic import Field, PrivateAttr

from dbsync_pipeline import redact
from dbsync_pipeline.defs.run_tags import ALIVE_TAG, SOURCE_TAG, TARGET_TAG, automatic
from dbsync_pipeline.errors import DbsyncError, Refused, SettingsError, Transient, Unavailable
from dbsync_pipeline.mirror import database, pausing, schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.ledger import Publish, TableResult
from dbsync_pipeline.mirror.model import Model, load_model
from dbsync_pipeline.mirror.sync.session import Observer, Session, TableDiff
from dbsync_pipeline.policy import Overrides
from dbsync_pipeline.settings import Settings, load

GUARDS = "guards"
"""The metadata of a failure that has what each guard found."""

_LOOK_SECONDS = 2.0
_SIGN_SECONDS = 30.0

OBSERVER: ContextVar[Observer | None] = ContextVar("dbsync_observer", default=None)
"""Who watches the session's progress; the command line sets it around a run in its own process."""


class Cancellable(Protocol):
    """What can be told, from another thread, to stop the statement that it waits for."""

    def cancel(self) -> None: ...


class Work(Protocol):
    """What the ops of a run ask for, in this order."""

    def ensure_schema(self) -> list[str]: ...
    def copy(self, table: str) -> TableDiff: ...
    def publish(self) -> Publish: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...


class Sync(ConfigurableResource[None]):
    """One run's work on one target, shared by its ops."""

    source: str = Field(default="", description="The database to copy from. Empty: the primary.")

    _work: Work | None = PrivateAttr(default=None)
    _ended: threading.Event = PrivateAttr(default_factory=threading.Event)
    _role: str = PrivateAttr(default="standby")
    _diffs: dict[str, TableDiff] = PrivateAttr(default_factory=dict)

    def open(
        self, context: OpExecutionContext, tables: Sequence[str], overrides: Overrides
    ) -> Work:
        """Start the run's work on the partition's database, and tag the run with source and target so that history finds it.

        Raises SettingsError when the run names no database, an unknown one, or the same one twice.
        """
        settings = load()
        wanted = partition(context, settings)
        primary = term.primary(settings) if self.source in ("", wanted) else ""
        names = {SOURCE_TAG: self.source or primary, TARGET_TAG: wanted}
        context.instance.add_run_tags(context.run_id, names)
        source, target = ends(settings, names[SOURCE_TAG], wanted, primary)
        _refuse_held(context.run.tags, target)
        model = load_model(settings.models, settings.revisions)
        if source.name == target.name:
            self._role, self._work = (
                "primary",
                PrimaryReading(target, model, tuple(tables), context.run_id),
            )
        else:
            policy = overrides.applied_to(settings.policy)
            self._work = Session(
                source,
                target,
                model,
                tables,
                run_id=context.run_id,
                settings=settings,
                policy=policy,
                observe=OBSERVER.get(),
            )
        self._ended = watched(context, self._work)
        return self._work

    @property
    def work(self) -> Work:
        """The work that the first op started; raises SettingsError when it did not run in this process."""
        if self._work is None:
            raise SettingsError(
                "this step runs without the run's first step: the session is not open",
                remedy="run all steps, in one process (re-execute with *all steps*; keep the in-process executor)",
            )
        return self._work

    def copy(self, table: str) -> TableDiff:  # type: ignore[override]
        """Compare and stage one table; what was found is kept in `diffs`."""
        self._diffs[table] = self.work.copy(table)
        return self._diffs[table]

    @property
    def diffs(self) -> dict[str, TableDiff]:
        """What the copies of this run found, by table."""
        return self._diffs

    @property
    def role(self) -> str:
        """`primary` when the run only reads the primary's own partition, else `standby`."""
        return self._role

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        if self._work is not None:
            self._ended.set()
            with as_dagster_failure():
                self._work.close()
            self._work = None


@dataclass
class PrimaryReading:
    """The primary's own partition: its structure is checked and its rows are counted; nothing is copied."""

    primary: Database
    model: Model
    tables: tuple[str, ...]
    run_id: str
    rows: dict[str, int] = field(default_factory=dict)
    read_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0

    def ensure_schema(self) -> list[str]:
        started = time.monotonic()
        self.rows = schema.primary_rows(self.primary, self.model)
        self.seconds = time.monotonic() - started
        return []

    def copy(self, table: str) -> TableDiff:
        return TableDiff(
            table=table, rows=self.rows[table], insert=0, update=0, delete=0, bytes=0, seconds=0.0
        )

    def publish(self) -> Publish:
        return Publish(
            number=0,  # the primary receives no publishes
            run_id=self.run_id,
            source=self.primary.name,
            target=self.primary.name,
            snapshot_at=self.read_at,
            published_at=self.read_at,
            tables={
                table: TableResult(
                    rows=self.rows[table],
                    inserted=0,
                    updated=0,
                    deleted=0,
                    bytes=0,
                    digest="",
                    seconds=0.0,
                )
                for table in self.tables
            },
            seconds={"count": self.seconds},
        )

    def cancel(self) -> None:
        """Counting ends by itself."""

    def close(self) -> None:
        """Nothing is held open."""


def watched(context: OpExecutionContext, work: Cancellable) -> threading.Event:
    """Give signs of life, and cancel the work when somebody cancels the run, until the event that is returned is set."""
    ended = threading.Event()
    threading.Thread(
        target=_watch, args=(context.instance, context.run_id, work, ended), daemon=True
    ).start()
    return ended


def _watch(
    instance: DagsterInstance, run_id: str, work: Cancellable, ended: threading.Event
) -> None:
    """Until the work has ended: give a sign of life, and when somebody cancels the run, stop the statement that it waits for.

    Dagster interrupts the process, but a process that waits for a database hears of it only when the database answers.
    """
    signed = -_SIGN_SECONDS
    while not ended.wait(_LOOK_SECONDS):
        with contextlib.suppress(Exception):  # a store that does not answer now may the next time
            if time.monotonic() - signed >= _SIGN_SECONDS:
                signed = time.monotonic()
                instance.add_run_tags(run_id, {ALIVE_TAG: datetime.now(UTC).isoformat()})
            run = instance.get_run_by_id(run_id)
            if run is not None and run.status in (
                DagsterRunStatus.CANCELING,
                DagsterRunStatus.CANCELED,
            ):
                work.cancel()


def _refuse_held(tags: Mapping[str, str], target: Database) -> None:
    """What no person asked for leaves a held target alone; the tick that asked may have been before it was held."""
    held = None
    if automatic(tags):
        with contextlib.suppress(Unavailable):  # it is said by the first step that needs it
            held = pausing.paused(target)
    if held is not None:
        raise Refused(
            f"held: {held}",
            operation="sync",
            database=target.name,
            remedy=f"dbsync release {target.name}",
        )


def ends(settings: Settings, source: str, target: str, primary: str) -> tuple[Database, Database]:
    """Source and target by name; the same one twice only for the primary's own partition. Raises SettingsError otherwise."""
    found = database.database(settings, source), database.database(settings, target)
    if target == source != primary:
        raise SettingsError(
            f"source and target are the same database, {target}: nothing can be copied",
            operation="sync",
            remedy="name another source, or another target",
        )
    return found


def partition(context: OpExecutionContext, settings: Settings) -> str:
    """The target: the run's partition. Raises SettingsError when the run has none, or several."""
    if not context.has_partition_key:
        raise SettingsError(
            f"the run names no target database; they are: {', '.join(settings.names)}",
            operation="sync",
            remedy=f"""give it a partition: --tags '{{"dagster/partition": "{settings.names[-1]}"}}'""",
        )
    return context.partition_key


@contextmanager
def as_dagster_failure() -> Iterator[None]:
    """Turn every exception into a Failure that Dagster can store: no traceback of a driver, no chain, no secret, no row."""
    try:
        yield
    except DbsyncError as error:
        findings = (
            [dict(finding) for finding in error.findings] if isinstance(error, Refused) else []
        )
        metadata = {GUARDS: MetadataValue.json(findings)} if findings else {}
        raise Failure(
            description=str(error), metadata=metadata, allow_retries=isinstance(error, Transient)
        ) from None
    except Exception as error:
        raise Failure(description=redact.text(error), allow_retries=False) from None
