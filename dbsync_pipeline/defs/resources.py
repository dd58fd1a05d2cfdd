"""The one resource of a sync.

A run has one source snapshot and one target transaction, so its ops share one session, which only
the in-process executor allows. The first op opens the session, not the resource's setup: Dagster
sets up its resources a second time after a success. The source is the resource's only field; the
databases are resources of their own (`connections.py`).

What a person allows beyond the guards is the config of the first op: see `assets.OverridesConfig`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar

from dagster import ConfigurableResource, InitResourceContext, OpExecutionContext
from pydantic import Field, PrivateAttr

from dbsync_pipeline.defs.failures import as_dagster_failure
from dbsync_pipeline.defs.run_tags import (
    PROGRESS_TAG,
    ROUND_TAG,
    SOURCE_TAG,
    TARGET_TAG,
    is_automatic,
    round_of,
)
from dbsync_pipeline.defs.watcher import Progress, watch
from dbsync_pipeline.defs.work import PrimaryReading, Work
from dbsync_pipeline.errors import Refused, SettingsError, Unavailable
from dbsync_pipeline.mirror import database, pausing
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.model import configured_model
from dbsync_pipeline.mirror.reflect import keep
from dbsync_pipeline.mirror.sync.rounds import Round
from dbsync_pipeline.mirror.sync.session import Observer, Session, TableDiff
from dbsync_pipeline.policy import Overrides
from dbsync_pipeline.settings import Settings

OBSERVER: ContextVar[Observer | None] = ContextVar("dbsync_observer", default=None)
"""Receives the session's progress; the command line sets it around a run in its own process."""

ROUND: ContextVar[Round | None] = ContextVar("dbsync_round", default=None)
"""The source's state that the syncs of one request in this process share."""

SYNC = "sync"
"""The key of the resource."""


class Sync(ConfigurableResource[None]):
    """One run's work on one target, shared by its ops."""

    source: str = Field(default="", description="The database to copy from. Empty: the primary.")

    _work: Work | None = PrivateAttr(default=None)
    _ended: threading.Event = PrivateAttr(default_factory=threading.Event)
    _role: str = PrivateAttr(default="standby")
    _diffs: dict[str, TableDiff] = PrivateAttr(default_factory=dict)

    def open(
        self,
        context: OpExecutionContext,
        settings: Settings,
        tables: Sequence[str],
        overrides: Overrides,
    ) -> Work:
        """Start the run's work on its partition's database; tag the run with source and target.

        `settings` have the databases that the run's resources name.

        Raise SettingsError if the run names no database, an unknown one, or the same one twice.
        Raise Refused if the target is paused and no person launched the run.
        """
        name = target_name(context, settings)
        primary = term.primary(settings) if self.source in ("", name) else ""
        round_id = round_of(context.run)
        tags = {SOURCE_TAG: self.source or primary, TARGET_TAG: name, ROUND_TAG: round_id}
        context.instance.add_run_tags(context.run_id, tags)  # history finds the run by them
        source, target = source_and_target(settings, tags[SOURCE_TAG], name, primary)
        _refuse_paused(context.run.tags, target)
        progress = Progress() if PROGRESS_TAG in context.run.tags else None
        model = configured_model(settings)
        if source.name == settings.primary:
            keep.require_current(settings)
        if source.name == target.name:
            self._role = "primary"
            self._work = PrimaryReading(target, model, tuple(tables), context.run_id)
        else:
            self._work = Session(
                source,
                target,
                model,
                tables,
                run_id=context.run_id,
                settings=settings,
                policy=overrides.applied_to(settings.policy),
                observe=progress or OBSERVER.get(),
                round_id=round_id,
                shared=ROUND.get(),
            )
        self._ended = watch(context, self._work, progress)
        return self._work

    @property
    def work(self) -> Work:
        """The work that the first op started. Raise SettingsError if it ran in another process."""
        if self._work is None:
            raise SettingsError(
                "this step runs without the run's first step: the session is not open",
                remedy="run all steps, in one process "
                "(re-execute with *all steps*; keep the in-process executor)",
            )
        return self._work

    def copy(self, table: str) -> TableDiff:  # type: ignore[override]
        """Compare and stage one table; `diffs` keeps the result."""
        self._diffs[table] = self.work.copy(table)
        return self._diffs[table]

    @property
    def diffs(self) -> dict[str, TableDiff]:
        """The results of this run's copies, by table."""
        return self._diffs

    @property
    def role(self) -> str:
        """`primary` if the run only reads the primary's own partition, else `standby`."""
        return self._role

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        """Close the run's session, however the run ended."""
        if self._work is not None:
            self._ended.set()
            with as_dagster_failure():
                self._work.close()
            self._work = None


def _refuse_paused(tags: Mapping[str, str], target: Database) -> None:
    """Refuse an automatic run on a paused target: the tick may have been before the pause."""
    reason = None
    if is_automatic(tags):
        with contextlib.suppress(Unavailable):  # the first step that needs the target reports it
            reason = pausing.paused(target)
    if reason is not None:
        raise Refused(
            f"paused: {reason}",
            operation="sync",
            database=target.name,
            remedy=f"dbsync resume {target.name}",
        )


def source_and_target(
    settings: Settings, source: str, target: str, primary: str
) -> tuple[Database, Database]:
    """Return source and target by name.

    Raise SettingsError for an unknown name, and for the same name twice unless it is the primary's
    own partition.
    """
    pair = database.database(settings, source), database.database(settings, target)
    if target == source != primary:
        raise SettingsError(
            f"source and target are the same database, {target}: nothing can be copied",
            operation="sync",
            remedy="name another source, or another target",
        )
    return pair


def target_name(context: OpExecutionContext, settings: Settings) -> str:
    """Return the run's partition: the target. Raise SettingsError if there is none or several."""
    if not context.has_partition_key:
        example = f'--tags \'{{"dagster/partition": "{settings.names[-1]}"}}\''
        raise SettingsError(
            f"the run names no target database; they are: {', '.join(settings.names)}",
            operation="sync",
            remedy=f"give it a partition: {example}",
        )
    return context.partition_key
