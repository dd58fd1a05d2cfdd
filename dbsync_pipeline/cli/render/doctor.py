"""The text of `dbsync doctor`."""

from __future__ import annotations

from rich.markup import escape

from dbsync_pipeline.cli.render.base import OUT
from dbsync_pipeline.output.doctor import Diagnosis

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def diagnosis(result: Diagnosis) -> None:
    """Print one line per check, and how to fix those that are not ok."""
    for check in result.checks:
        where = f"{check.database}: " if check.database else ""
        text = escape(f"{where}{check.name}: {check.detail}")
        colour = _COLOURS[check.state]
        state = f"[{colour}]{check.state:<8}[/{colour}]"
        OUT.print(f"{state} {text}", highlight=False, soft_wrap=True)
        if check.remedy:
            OUT.print(f"         Remedy: {escape(check.remedy)}", highlight=False, soft_wrap=True)
