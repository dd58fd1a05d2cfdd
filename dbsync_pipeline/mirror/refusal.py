"""What the guards found, as text for people: each reason once, and the tables that it is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from dbsync_pipeline.mirror.guard import Finding
from dbsync_pipeline.text import count

_MOST_TABLES = 5


def summary(findings: Sequence[Finding]) -> str:
    """Return all findings as one text, which names at most five tables for each guard.

    A single finding is not named after its table: the error that has the text names it.
    """
    if len(findings) == 1:
        return f"{findings[0].found} ({findings[0].guard})"
    return "; ".join(text for text, _ in by_guard(findings, _MOST_TABLES))


def by_guard(
    findings: Sequence[Finding], most_tables: int | None = None
) -> Iterator[tuple[str, str]]:
    """Yield for each guard what it found, and the remedy; all tables unless there is a limit."""
    for guard, group in groupby(findings, key=lambda finding: finding.guard):
        of_guard = list(group)
        yield _described(guard, of_guard, most_tables), of_guard[0].remedy


def _described(guard: str, findings: Sequence[Finding], most_tables: int | None) -> str:
    """A reason that all tables share, the words before a colon, is written once."""
    first = findings[0]
    if len(findings) == 1:
        return f"{f'table {first.table}: ' if first.table else ''}{first.found} ({guard})"
    reasons = {finding.found.partition(": ")[0] for finding in findings}
    shared = f"{reasons.pop()}: " if len(reasons) == 1 else ""
    listed = [
        f"{finding.table}: {finding.found.removeprefix(shared)}"
        for finding in findings[:most_tables]
    ]
    if more := len(findings) - len(listed):
        listed.append(f"and {more} more, which `dbsync plan` shows")
    within = f"{shared.removesuffix(': ')}, in " if shared else ""
    tables = count(len({finding.table for finding in findings}), "table")
    return f"{within}{tables} ({guard}): {'; '.join(listed)}"
