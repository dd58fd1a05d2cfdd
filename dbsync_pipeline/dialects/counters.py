"""Counters: identity columns, sequences and AUTOINCREMENT, and how far a standby's are moved.

A standby's counters run ahead of the source's by a gap, so that rows written on both sides of an
outage do not share numbers. The gap shrinks where a counter or its column would end before it.
"""

from __future__ import annotations

from dataclasses import dataclass

_SHARE = 10
"""The gap takes at most a tenth of the numbers that are left."""


@dataclass(frozen=True)
class Counter:
    """One counter of a database, as it stands.

    `name` is the same in every database: `table.column`, or `sequence name` for a sequence that
    fills no column. `handle` is the engine's own name for it.

    `last` is the last number that it gave, None before the first. `highest` is the furthest number
    in the columns that it fills, None if they are empty or unknown. `step` is its increment, which
    may be negative. `end` is the furthest number that both it and its column can hold. A counter
    that follows the rows by itself is not `movable`.
    """

    name: str
    handle: str
    last: int | None
    highest: int | None
    step: int = 1
    end: int = 2**63 - 1
    movable: bool = True
    sequence: bool = True

    @property
    def position(self) -> int:
        """The furthest number that is in use: of the counter or of the rows; 0 if there is none."""
        used = [number for number in (self.last, self.highest) if number is not None]
        return self.furthest(*used) if used else 0

    @property
    def next_is_taken(self) -> bool:
        """Whether the rows are ahead of the counter, so that a number would be given twice."""
        if not self.movable or self.highest is None:
            return False
        return self.last is None or self._is_ahead(self.highest, self.last)

    def target(self, source: Counter | None, gap: int) -> int | None:
        """Return the number to move this standby's counter to; None if it is far enough already.

        That is `gap` numbers past the furthest number in use on the source, or here if the source
        has no such counter.
        """
        if not self.movable:
            return None
        issued = self.position if source is None else source.position
        if source is None and not self.next_is_taken:
            return None
        issued = self.furthest(issued, self.highest) if self.highest is not None else issued
        left = abs(self.end - issued) if self._is_ahead(self.end, issued) else 0
        steps = -(-min(gap, max(left // _SHARE, min(left, 1))) // abs(self.step))
        moved = issued + steps * self.step
        if self._is_ahead(moved, self.end):
            moved = self.end
        return moved if self._is_ahead(moved, self.position) or self.next_is_taken else None

    def _is_ahead(self, number: int, other: int) -> bool:
        return number > other if self.step > 0 else number < other

    def furthest(self, *numbers: int) -> int:
        """Return the last of these numbers in the direction of the counter."""
        return max(numbers) if self.step > 0 else min(numbers)
