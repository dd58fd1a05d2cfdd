"""What both doors answer, as JSON: `dbsync … --json` and the HTTP API say the same of the same thing.

The shapes are a contract, docs/json.md; each function whose name ends in `_json` makes one.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror.migrate.revisions import Revision
from dbsync_pipeline.mirror.rescue.rescue import plain
from dbsync_pipeline.request import SyncRequest

if TYPE_CHECKING:
    from dbsync_pipeline.runs.history import Run


MOST_RUNS = 1_000_000
"""So many runs are listed at most: every engine takes this number."""


def text(value: Any) -> str:
    """The value as JSON; dataclasses become objects, moments ISO 8601 in UTC. ASCII, so that any terminal's encoding holds it."""
    return json.dumps(value, indent=2, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def error_json(error: DbsyncError) -> dict[str, str | None]:
    """Where it happened, why, and what mends it; what is not known is null."""
    return {
        "operation": error.operation,
        "database": error.database,
        "table": error.table,
        "cause": error.cause,
        "remedy": error.remedy,
    }


def result_json(word: str, result: Any) -> dict[str, Any]:
    """`{word: result, "error": null}`, or `{word: null, "error": {…}}`."""
    failed = isinstance(result, DbsyncError)
    return {word: None if failed else result, "error": error_json(result) if failed else None}


def applied_json(result: Any) -> dict[str, Any]:
    return result_json(
        "applied",
        result if isinstance(result, DbsyncError) else [_revision_json(one) for one in result],
    )


def revisions_json(line: Sequence[Revision], lacking: Mapping[str, Any]) -> dict[str, Any]:
    short = {
        name: found if isinstance(found, DbsyncError) else [one.number for one in found]
        for name, found in lacking.items()
    }
    return {
        "revisions": [_revision_json(one) for one in line],
        "databases": [
            {"database": name, **result_json("lacking", found)} for name, found in short.items()
        ],
    }


def _revision_json(revision: Revision) -> dict[str, Any]:
    return {"number": revision.number, "title": revision.title, "path": revision.path}


def outcomes_json(choice: SyncRequest, outcomes: Sequence[Run]) -> dict[str, Any]:
    return {
        "source": choice.source,
        "equal": all(run.succeeded for run in outcomes),
        "runs": list(outcomes),
    }


def plans_json(choice: SyncRequest, plans: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source": choice.source,
        "targets": [{"target": name, **_plan_json(plan)} for name, plan in plans.items()],
    }


def _plan_json(result: Any) -> dict[str, Any]:
    if isinstance(result, DbsyncError):
        return {"equal": None, "refusals": [], **result_json("tables", result)}
    plan, findings = result
    tables = {
        name: {
            "rows": table.source_rows,
            "insert": table.insert,
            "update": table.update,
            "delete": table.delete,
        }
        for name, table in plan.tables.items()
    }
    return {"equal": plan.empty, "refusals": list(findings), **result_json("tables", tables)}


def check_json(result: Any) -> dict[str, Any]:
    failed = isinstance(result, DbsyncError)
    return {
        "available": not failed,
        "equal": not failed and not differs(result),
        **result_json("tables", result),
    }


def verdicts_json(result: Any) -> dict[str, Any]:
    failed = isinstance(result, DbsyncError)
    return {
        "equal": not failed and all(verdict.equal for verdict in result),
        **result_json("tables", result),
    }


def rows_json(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rescued rows as JSON objects: what JSON has no form for as text, NaN and infinities too."""
    return [{name: _cell(value) for name, value in row.items()} for row in rows]


def _cell(value: Any) -> Any:
    exact = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if exact else plain(value)


def refused(result: Any) -> bool:
    """Whether the guards would hold the planned sync back."""
    return not isinstance(result, DbsyncError) and bool(result[1])


def differs(result: Any) -> bool:
    """Whether a database's structure, as checked, differs from the models'."""
    return not isinstance(result, DbsyncError) and any(result.values())
