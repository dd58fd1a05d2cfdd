"""Numbers in the sentences that a person reads."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """`1 row`, `25,300 rows`: the noun is one whose plural ends in s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
