"""History and rescued rows as pandas DataFrames, for a notebook.

Needs the extra `frames`. Nothing else in the project imports pandas: no sync depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from dbsync_pipeline import extras
from dbsync_pipeline.mirror.database import databases
from dbsync_pipeline.mirror.model import configured_model
from dbsync_pipeline.mirror.rescue.read import find, rescued_rows
from dbsync_pipeline.request import HistoryOptions
from dbsync_pipeline.runs import history as record
from dbsync_pipeline.runs import launch
from dbsync_pipeline.settings import load

if TYPE_CHECKING:
    import pandas as pd

_COUNTS = tuple(field.name for field in fields(record.TableCounts))


def history(limit: int = 100) -> pd.DataFrame:
    """Return the newest runs, newest first: one row for each run and table, with row counts.

    A run that published no table has one row without a table. `bytes` is what was sent for the
    table. The columns `status`, `source`, `seconds`, `published`, `number`, `launched_by` and
    `reason` are those of `dbsync history --json`. Raise SettingsError if pandas is not installed or
    a setting is wrong, DbsyncError if a ledger cannot be read: the history would have gaps.
    """
    pandas = _pandas("read history")
    settings = load()
    with launch.dagster_instance(settings) as instance:
        options = HistoryOptions(limit=limit)
        past = record.past(instance, databases(settings), options, seconds=settings.answer_seconds)
    for error in past.unread.values():
        raise error
    return pandas.DataFrame([row for run in past.runs for row in _rows_of(run)])


def _rows_of(run: record.Run) -> Sequence[dict[str, Any]]:
    shared = {
        "run_id": run.run_id,
        "status": run.status,
        "source": run.source,
        "target": run.target,
        "started_at": run.started_at,
        "seconds": run.seconds,
        "published": run.published,
        "number": run.number,
        "launched_by": run.launched_by,
        "reason": run.reason,
    }
    counted = [{"table": name, **vars(counts)} for name, counts in run.tables.items()]
    return [{**shared, **counts} for counts in counted or [dict.fromkeys(("table", *_COUNTS))]]


def rescued(run: str, database: str | None = None) -> dict[str, pd.DataFrame]:
    """Return the before-images of a run, the rows that it deleted or replaced, by table.

    `run` is a run's id or its beginning; `database` names the target if the run published to
    several. The column `dbsync_change` says `deleted` or `replaced`. Values stay exact: every
    column has the dtype `object`, so an integer beside NULL does not become a float. Raise
    SettingsError if pandas is not installed or no publish matches.
    """
    pandas = _pandas("read rescued rows")
    settings = load()
    model = configured_model(settings)
    chosen = [each for each in databases(settings) if database in (None, each.name)]
    target, publish = find(chosen, run)
    rows: dict[str, list[dict[str, Any]]] = {}
    for table, part in rescued_rows(target, model, publish.run_id):
        rows.setdefault(table, []).extend(part)
    return {table: pandas.DataFrame(part, dtype=object) for table, part in rows.items()}


def _pandas(operation: str) -> Any:
    extras.require("frames", "pandas", operation=operation)
    import pandas

    return pandas
