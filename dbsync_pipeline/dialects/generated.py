"""How a database computes a column."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Generated:
    """A computed column: its expression as the engine writes it, always in the same way, and its
    definition after its name in ALTER TABLE … ADD COLUMN.
    """

    expression: str
    definition: str
