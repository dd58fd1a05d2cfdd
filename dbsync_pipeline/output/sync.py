"""Results of `demo`, `sync`, `plan`, `adopt`, `verify`, `status` and `history`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dbsync_pipeline.errors import Transient
from dbsync_pipeline.output.base import Json, Result, per_database

if TYPE_CHECKING:
    from dbsync_pipeline.demo.fill import DemoReport
    from dbsync_pipeline.mirror.fanout import PerDatabase
    from dbsync_pipeline.mirror.guard import Finding, Plan
    from dbsync_pipeline.mirror.status import DatabaseStatus
    from dbsync_pipeline.mirror.verify import TableVerdict
    from dbsync_pipeline.request import SyncRequest
    from dbsync_pipeline.runs.adopt import Adoption
    from dbsync_pipeline.runs.history import Past, Run


@dataclass(frozen=True)
class Synced(Result):
    """One run per target."""

    request: SyncRequest
    runs: Sequence[Run]

    def json(self) -> Json:
        """Return `{source, equal, runs}`."""
        return {"source": self.request.source, "equal": self.ok, "runs": list(self.runs)}

    @property
    def ok(self) -> bool:
        """Whether every target is equal to the source."""
        return all(run.succeeded for run in self.runs)

    @property
    def unknown(self) -> bool:
        """Whether a run does not know if it published."""
        return any(run.unknown for run in self.runs)

    @property
    def transient(self) -> bool:
        """Whether a run failed, and a retry can help each one that did."""
        return not self.ok and all(run.succeeded or run.transient for run in self.runs)


@dataclass(frozen=True)
class DemoSynced(Result):
    """The demo's rows, the syncs that copied them, and a command that changes one row."""

    report: DemoReport
    synced: Synced
    edit: str

    def json(self) -> Json:
        """Return `{created, rows}` and the fields of the sync."""
        return {"created": self.report.created, "rows": self.report.rows, **self.synced.json()}

    @property
    def ok(self) -> bool:
        """Whether every target is equal to the source."""
        return self.synced.ok

    @property
    def unknown(self) -> bool:
        """Whether a run does not know if it published."""
        return self.synced.unknown


@dataclass(frozen=True)
class Planned(Result):
    """What a sync to each target would do, what the guards object to, and tables left out.

    `report` is the file with the rows that differ, None if none was asked for.
    """

    request: SyncRequest
    plans: PerDatabase[tuple[Plan, tuple[Finding, ...]]]
    skipped: Mapping[str, str] = field(default_factory=dict)
    report: Path | None = None

    def json(self) -> Json:
        """Return `{source, targets, skipped, report}`."""
        failed: Json = {"equal": None, "refusals": [], "tables": None}
        targets = per_database(self.plans, _plan_json, failed, "target")
        return {
            "source": self.request.source,
            "targets": targets,
            "skipped": dict(self.skipped),
            "report": self.report,
        }

    @property
    def refused(self) -> bool:
        """Whether a guard would refuse the sync to a target."""
        return any(findings for _, findings in self.plans.good.values())

    @property
    def empty(self) -> bool:
        """Whether every target could be compared and is equal to the source."""
        return not self.plans.failed and all(plan.empty for plan, _ in self.plans.good.values())

    @property
    def ok(self) -> bool:
        """Whether every target could be compared and no guard would refuse the sync."""
        return not self.plans.failed and not self.refused


def _plan_json(planned: tuple[Plan, tuple[Finding, ...]]) -> Json:
    plan, findings = planned
    tables = {
        name: {
            "rows": table.source_rows,
            "insert": table.insert,
            "update": table.update,
            "delete": table.delete,
        }
        for name, table in plan.tables.items()
    }
    return {"equal": plan.empty, "refusals": list(findings), "tables": tables}


@dataclass(frozen=True)
class Adopted(Result):
    """How far each standby was apart from the source, and whether it was taken in."""

    source: str
    adoptions: PerDatabase[Adoption]

    def json(self) -> Json:
        """Return `{source, targets}`."""
        failed: Json = {
            "outcome": "failed",
            "number": None,
            "tables": None,
            "refusals": [],
            "run": None,
        }
        targets = per_database(self.adoptions, _adoption_json, failed, "target")
        return {"source": self.source, "targets": targets}

    @property
    def ok(self) -> bool:
        """Whether every standby is taken in, now or earlier."""
        outcomes = {adoption.outcome for adoption in self.adoptions.good.values()}
        return not self.adoptions.failed and outcomes <= {"adopted", "known"}

    @property
    def warnings(self) -> Sequence[str]:
        """One line for each standby whose source could not get a ledger."""
        return [
            f"{self.source} has no ledger, so a restore of {self.source} from a backup is not "
            f"noticed on {target}: {adoption.unnumbered}"
            for target, adoption in self.adoptions.good.items()
            if adoption.unnumbered
        ]

    @property
    def unknown(self) -> bool:
        """Whether a sync does not know if it published."""
        runs = (adoption.run for adoption in self.adoptions.good.values())
        return any(run is not None and run.unknown for run in runs)

    @property
    def transient(self) -> bool:
        """Whether a standby was not taken in, and a retry can help each one that was not."""
        failed = [
            adoption
            for adoption in self.adoptions.good.values()
            if adoption.outcome not in ("adopted", "known")
        ]
        return (
            not self.ok
            and all(isinstance(error, Transient) for error in self.adoptions.failed.values())
            and all(adoption.run and adoption.run.transient for adoption in failed)
        )


def _adoption_json(adoption: Adoption) -> Json:
    number = adoption.known.number if adoption.known else adoption.run and adoption.run.number
    tables = adoption.plan and {
        name: {
            "source_rows": table.source_rows,
            "target_rows": table.target_rows,
            "only_in_source": table.insert,
            "only_in_target": table.delete,
            "different": table.update,
        }
        for name, table in adoption.plan.tables.items()
    }
    return {
        "outcome": adoption.outcome,
        "number": number,
        "tables": tables,
        "refusals": list(adoption.findings),
        "run": adoption.run,
    }


@dataclass(frozen=True)
class Verified(Result):
    """How each target compares with the source, row by row."""

    source: str
    verdicts: PerDatabase[Sequence[TableVerdict]]

    def json(self) -> list[Json]:
        """Return one object per target."""
        failed = {"equal": False, "tables": None}
        targets = per_database(self.verdicts, _verdict_json, failed, "target")
        return [{"source": self.source, **target} for target in targets]

    @property
    def ok(self) -> bool:
        """Whether every target could be compared and is equal."""
        equal = (_verdict_json(tables)["equal"] for tables in self.verdicts.good.values())
        return not self.verdicts.failed and all(equal)


def _verdict_json(tables: Sequence[TableVerdict]) -> Json:
    return {"equal": all(table.equal for table in tables), "tables": list(tables)}


@dataclass(frozen=True)
class Statuses(Result):
    """The status of every database; `configured` is the primary according to the settings.

    `skipped` has the tables that are not mirrored, each with the reason.
    """

    databases: Sequence[DatabaseStatus]
    configured: str
    skipped: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> list[DatabaseStatus]:
        """Return one object per database."""
        return list(self.databases)


@dataclass(frozen=True)
class Listed(Result):
    """The runs of `dbsync history`, newest first, and which ledgers could not be read."""

    past: Past

    def json(self) -> list[Run]:
        """Return the runs."""
        return list(self.past.runs)

    @property
    def warnings(self) -> Sequence[str]:
        """One line for each ledger that could not be read."""
        return [
            f"{error.database}: its ledger could not be read, so its publishes may be missing here:"
            f" {error.cause}"
            for error in self.past.unread.values()
        ]
