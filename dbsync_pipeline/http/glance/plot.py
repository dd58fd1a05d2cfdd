"""The sizes of the last syncs of one standby as bars over time, in coordinates of an SVG.

The height is the logarithm of the number of rows changed, since a first sync moves a million and
the next one three. All standbys share one window of time, so that a missing sync shows as a gap.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass

from dbsync_pipeline.runs.history import Run

WIDTH, HEIGHT = 360, 124
LEFT, RIGHT, TOP, BASE = 30, 352, 10, 98
MOST_LINES = 3
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_WINDOWS = (
    *(minutes * _MINUTE for minutes in (10, 30)),
    *(hours * _HOUR for hours in (1, 2, 4, 6, 12)),
    *(days * _DAY for days in (1, 2, 4, 7, 14, 30, 60, 90, 180, 365)),
)


@dataclass(frozen=True)
class Bar:
    """One sync: where it stands, how high it is, and which run it is. `failed` has no height."""

    x: float
    y: float
    height: float
    failed: bool
    run: Run


@dataclass(frozen=True)
class Plot:
    """The bars, the horizontal lines as (y, rows), and the moments on the axis as (x, moment)."""

    bars: tuple[Bar, ...]
    lines: tuple[tuple[float, int], ...]
    ticks: tuple[tuple[float, dt.datetime], ...]
    seconds: int


def window(runs: Sequence[Run], now: dt.datetime) -> int:
    """Return the shortest window, in seconds, that holds at least four of five of the runs."""
    ages = sorted((now - run.started_at).total_seconds() for run in runs)
    if not ages:
        return _WINDOWS[0]
    needed = ages[math.ceil(0.8 * len(ages)) - 1]
    return next((seconds for seconds in _WINDOWS if seconds >= needed), _WINDOWS[-1])


def draw(runs: Sequence[Run], now: dt.datetime, seconds: int) -> Plot:
    """Return the plot of these ended syncs in the last `seconds`."""
    start = now - dt.timedelta(seconds=seconds)
    shown = [run for run in runs if start <= run.started_at <= now]
    most = max((run.changed for run in shown), default=0)
    decades = max(2, math.ceil(math.log10(most + 1)))

    def x(moment: dt.datetime) -> float:
        return round(LEFT + (moment - start).total_seconds() / seconds * (RIGHT - LEFT), 1)

    def height(rows: int) -> float:
        return round(math.log10(rows + 1) / decades * (BASE - TOP), 1)

    bars = tuple(
        Bar(x(run.started_at), BASE - height(run.changed), height(run.changed), False, run)
        if run.published
        else Bar(x(run.started_at), BASE, 0, True, run)
        for run in shown
    )
    step = math.ceil(decades / MOST_LINES)
    rows = [10**decade for decade in range(step, decades + 1, step)]
    lines = tuple((round(BASE - height(number), 1), number) for number in rows)
    moments = [start + dt.timedelta(seconds=seconds * part / 2) for part in range(3)]
    return Plot(bars, lines, tuple((x(moment), moment) for moment in moments), seconds)
