"""Numbers in sentences."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Return `1 row`, `25,300 rows`; the plural of the noun must end in s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
