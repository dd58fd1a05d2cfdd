"""Take in standbys whose rows another tool copied: replication that was stopped, a dump, a script.

A standby is taken in by its first sync. Nothing that is equal is sent, the guards decide about what
differs, and the publish writes the digests by which local writes are known from then on. Adopting
compares beforehand, so that a person sees how far the two are apart while nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dagster import DagsterInstance

from dbsync_pipeline.defs.run_tags import COMMAND_LINE
from dbsync_pipeline.errors import DatabaseError
from dbsync_pipeline.mirror import guard, schema
from dbsync_pipeline.mirror.database import Database, database
from dbsync_pipeline.mirror.fanout import PerDatabase, one_by_one
from dbsync_pipeline.mirror.guard import Finding, Plan
from dbsync_pipeline.mirror.ledger import Ledger, Publish
from dbsync_pipeline.mirror.model import Model, configured_model
from dbsync_pipeline.mirror.sync.session import Observer
from dbsync_pipeline.request import SyncRequest
from dbsync_pipeline.runs import launch
from dbsync_pipeline.runs.history import Run
from dbsync_pipeline.runs.planning import plan_sync
from dbsync_pipeline.settings import Settings


@dataclass(frozen=True)
class Adoption:
    """What was found of one standby, and what became of it.

    `known` is the last publish of a standby that was taken in earlier; nothing was done then, and
    `plan` is None. Otherwise `plan` says how far the standby was apart, `findings` why it was
    refused, and `run` is the sync that took it in, None if it was refused. `unnumbered` says why
    the source could not get a ledger, in which it numbers what it sends; it is empty if it has one.
    """

    known: Publish | None
    plan: Plan | None = None
    findings: tuple[Finding, ...] = ()
    run: Run | None = None
    unnumbered: str = ""

    @property
    def outcome(self) -> str:
        """`known`, `refused`, `adopted`, or `failed` if its sync did not end well."""
        if self.known is not None:
            return "known"
        if self.run is None:
            return "refused"
        return "adopted" if self.run.succeeded else "failed"


def adopt(
    instance: DagsterInstance,
    settings: Settings,
    model: Model,
    request: SyncRequest,
    observer: Callable[[str], Observer | None] = lambda _: None,
    launched_by: str = COMMAND_LINE,
) -> PerDatabase[Adoption]:
    """Take in each target of the request, in turn; the failure of one does not stop the others.

    Each is compared in snapshots that change nothing, and then synced, which compares once more.
    The source gets a ledger before that, if its role may create one. A second call reads the
    ledgers and changes nothing. The error of a target is in the result.
    """

    def adopt_one(target: str) -> Adoption:
        known = _last_publish(settings, target)
        if known is not None:
            return Adoption(known)
        plan, _ = plan_sync(settings, model, request, target)
        plan = replace(plan, verb="adopt")
        findings = guard.review(plan, request.overrides.applied_to(settings.policy))
        if findings:
            return Adoption(None, plan, findings)
        unnumbered = _give_ledger(database(settings, request.source).at_once, model)
        alone = replace(request, targets=(target,))
        (run,) = launch.sync_all(instance, alone, observer, launched_by)
        return Adoption(None, plan, (), run, unnumbered)

    return one_by_one(request.targets, adopt_one)


def adopt_all(settings: Settings, request: SyncRequest, launched_by: str) -> PerDatabase[Adoption]:
    """As `adopt`, for a process that has neither the models nor the store of Dagster's runs."""
    model = configured_model(settings)
    with launch.dagster_instance(settings) as instance:
        return adopt(instance, settings, model, request, launched_by=launched_by)


def _give_ledger(source: Database, model: Model) -> str:
    """Create the source's ledger; return why its database refuses that, empty if it does not.

    A source may be one that is only read. A second call changes nothing.
    """
    try:
        schema.ensure(source, model)
    except DatabaseError as error:
        return error.cause
    return ""


def _last_publish(settings: Settings, name: str) -> Publish | None:
    with database(settings, name).at_once.connect() as dialect:
        return Ledger(dialect).last()
