"""The progress of a sync on stderr: bars at a terminal, lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dbsync_pipeline.cli.render.base import ERR

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.sync.session import Observer


@contextmanager
def watching() -> Iterator[Callable[[str], Observer]]:
    """Yield a function that returns the observer of a target, which shows its progress."""
    if not ERR.is_terminal:
        yield _lines
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=ERR, transient=True) as progress:
        yield lambda target: _bars(progress, target)


def _bars(progress: Progress, target: str) -> Observer:
    bars: dict[str, Any] = {}

    def observe(table: str, phase: str, done: int, total: int | None) -> None:
        if table not in bars:
            bars[table] = progress.add_task("", total=None)
        progress.update(
            bars[table],
            description=f"{escape(target)}  {escape(table)}  {phase}",
            completed=done,
            total=total,
        )

    return observe


def _lines(target: str) -> Observer:
    shown: set[tuple[str, str]] = set()

    def observe(table: str, phase: str, done: int, total: int | None) -> None:
        if (table, phase) not in shown:
            shown.add((table, phase))
            sys.stderr.write(f"{target}  {table}  {phase}\n")

    return observe
