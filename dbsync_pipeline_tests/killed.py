"""The verbs that commit, as a process of its own runs them until it is killed; imported by that process too, so kept small."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database, database
from dbsync_pipeline.mirror.failover.failback import failback
from dbsync_pipeline.mirror.failover.promote import promote
from dbsync_pipeline.mirror.migrate.apply import migrate
from dbsync_pipeline.mirror.model import Model, load_model
from dbsync_pipeline.mirror.rescue.merge import merge
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.settings import DatabaseSetting, Settings
from dbsync_pipeline_tests.worlds import ANYTHING, sync


@dataclass(frozen=True)
class Call:
    """What a verb is called with: the URLs by database, a run to refer to, and a module with models."""

    urls: Mapping[str, str]
    run_id: str = ""
    models: str = "dbsync_pipeline.models"
    revisions: str = ""

    @property
    def settings(self) -> Settings:
        places = tuple(
            DatabaseSetting(name=name, url=SecretStr(url)) for name, url in self.urls.items()
        )
        return Settings(lock_seconds=20, databases=places)

    @property
    def model(self) -> Model:
        return load_model(self.models, Path(self.revisions) if self.revisions else None)

    def named(self, name: str) -> Database:
        return database(self.settings, name)


def _new_run() -> str:
    return uuid.uuid4().hex


def _sync(call: Call) -> None:
    sync(call.named("windows"), call.named("linux"), policy=ANYTHING)


def _undo(call: Call) -> None:
    undo(call.named("linux"), call.model, call.run_id, by=_new_run(), settings=call.settings)


def _merge(call: Call) -> None:
    merge(call.named("linux"), call.model, call.run_id)


def _promote(call: Call) -> None:
    promote(call.settings, "linux")


def _failback(call: Call) -> None:
    failback(call.settings, call.model, _new_run(), policy=ANYTHING)


def _migrate(call: Call) -> None:
    migrate(call.named("linux"), call.model, wait_seconds=20)


def _recreate(call: Call) -> None:
    schema.recreate(call.named("linux"), call.model)


VERBS: dict[str, Callable[[Call], None]] = {
    "sync": _sync,
    "undo": _undo,
    "merge": _merge,
    "promote": _promote,
    "failback": _failback,
    "migrate": _migrate,
    "recreate": _recreate,
}


def run(verb: str, call: Call) -> None:
    VERBS[verb](call)
