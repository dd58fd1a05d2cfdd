"""The progress of a sync on stderr: one moving block at a terminal, one line per table in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dbsync_pipeline.cli.render.base import ERR

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.sync.task import Observer

MOST_LINES = 8
"""How many tables the block shows: those that moved last."""


@contextmanager
def watching(quiet: bool = False) -> Iterator[Callable[[str], Observer]]:
    """Yield a function that returns the observer of a target, which shows its progress."""
    if quiet:
        yield lambda _: _nothing
    elif not ERR.is_terminal:
        yield _lines
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), Rows(), TimeRemainingColumn())
        with Progress(*columns, console=ERR, transient=True) as progress:
            yield lambda target: Block(progress, target)


class Rows(ProgressColumn):
    """The rows done of all rows, and the rate."""

    def render(self, task: Task) -> Text:
        """Return `12,000 of 20,000 rows  8,500/s`, as far as it is known."""
        of = f" of {task.total:,.0f}" if task.total is not None else ""
        rate = f"  {task.speed:,.0f}/s" if task.speed else ""
        return Text(f"{task.completed:,.0f}{of} rows{rate}")


class Block:
    """The tables of one target as lines of a block that stays in place."""

    def __init__(self, progress: Progress, target: str) -> None:
        self._progress, self._target = progress, target
        self._phases: dict[str, str] = {}
        self._lines: dict[str, TaskID] = {}

    def __call__(self, table: str, phase: str, done: int, total: int | None) -> None:
        """Show that this many rows of a table are done in a phase; `total` is None if unknown."""
        text = f"{escape(self._target)}  {escape(table)}  {phase}"
        line = self._lines.pop(table, None)
        if line is None:
            line = self._progress.add_task(text, total=total)
        self._lines[table] = line  # the last one moved last
        if self._phases.get(table) != phase:  # the rate is that of a phase
            self._phases[table] = phase
            self._progress.reset(line, total=total, description=text)
        self._progress.update(line, completed=done, total=total, visible=True)
        for hidden in list(self._lines.values())[:-MOST_LINES]:
            self._progress.update(hidden, visible=False)


def _lines(target: str) -> Observer:
    shown: set[str] = set()

    def observe(table: str, phase: str, done: int, total: int | None) -> None:
        if table not in shown:
            shown.add(table)
            sys.stderr.write(f"{target}  {table}\n")

    return observe


def _nothing(table: str, phase: str, done: int, total: int | None) -> None:
    """Show no progress."""
