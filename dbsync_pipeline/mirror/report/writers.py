"""What a report has of the rows that differ: as CSV, one line a value, and as an HTML page."""

from __future__ import annotations

import csv
import html
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, TextIO

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import Column
from dbsync_pipeline.mirror.guard import Finding, Plan
from dbsync_pipeline.mirror.report.differences import SECRET, Difference, is_secret, text_of

MOST_CHARACTERS = 1_000
"""Longer values are cut in a report for people; a statement has them whole."""
NULL = "(NULL)"


class Writer(ABC):
    """Writes one report, row by row, into an open file."""

    def __init__(self, file: TextIO, *, with_values: bool) -> None:
        self._file = file
        self._with_values = with_values

    @abstractmethod
    def begin(self, source: str, target: Dialect) -> None:
        """Begin the part about one target."""

    @abstractmethod
    def row(self, difference: Difference) -> None:
        """Write one row that differs."""

    @abstractmethod
    def end(self, plan: Plan, findings: Sequence[Finding]) -> None:
        """End the part about one target with its plan and the guards' objections."""

    @abstractmethod
    def failed(self, target: str, why: str) -> None:
        """End the part about a target that could not be compared to its end."""

    last: ClassVar[str] = ""
    """How the file ends."""


def differing_values(
    difference: Difference,
) -> Iterator[tuple[Column, str | None, str | None]]:
    """Yield (column, source, target) as text where they differ; all columns of a row of one side.

    Values are cut, and those of secret columns are not there.
    """
    table, source, target = difference.table, difference.source, difference.target
    for place, column in enumerate(table.columns):
        left = None if source is None else text_of(column, source[place])
        right = None if target is None else text_of(column, target[place])
        if source is not None and target is not None and left == right:
            continue
        if is_secret(table, column):
            left, right = (None if side is None else SECRET for side in (source, target))
            yield column, left, right
        else:
            yield column, _shown(left, source is not None), _shown(right, target is not None)


def _shown(text: str | None, is_there: bool) -> str | None:
    if not is_there:
        return None
    if text is None:
        return NULL
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}… ({len(text):,} characters)"


class CsvWriter(Writer):
    """One line for each row that differs, or for each value of it.

    A cell that a spreadsheet would take for a formula begins with an apostrophe.
    """

    def __init__(self, file: TextIO, *, with_values: bool) -> None:
        super().__init__(file, with_values=with_values)
        self._csv = csv.writer(file, lineterminator="\n")
        self._target = ""
        values = ["column", "source", "target"] if with_values else []
        self._csv.writerow(["database", "table", "change", "key", *values])

    def begin(self, source: str, target: Dialect) -> None:
        """Note the target, which each line names."""
        self._target = target.name

    def row(self, difference: Difference) -> None:
        """Write the lines of one row."""
        start = [self._target, difference.table.name, difference.change, difference.key]
        if not self._with_values:
            self._write(start)
            return
        for column, source, target in differing_values(difference):
            self._write([*start, column.name, source or "", target or ""])

    def end(self, plan: Plan, findings: Sequence[Finding]) -> None:
        """Write a line for each objection of the guards."""
        for finding in findings:
            objection = f"{finding.found} ({finding.guard})"
            self._write([plan.target, finding.table or "", "refused", objection])

    def failed(self, target: str, why: str) -> None:
        """Write a line that says so."""
        self._write([target, "", "not compared", why])

    def _write(self, cells: Sequence[str]) -> None:
        self._csv.writerow([_no_formula(cell) for cell in cells])


def _no_formula(cell: str) -> str:
    if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\n\t"}

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>dbsync: what differs</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body { font: 14px/1.4 sans-serif; margin: 2em; }
table { border-collapse: collapse; margin: 1em 0; }
td, th { border: 1px solid #ccc; padding: .2em .5em; text-align: left; vertical-align: top; }
td.value { white-space: pre-wrap; overflow-wrap: anywhere; max-width: 40em; }
</style></head><body><h1>What differs</h1>
"""


class HtmlWriter(Writer):
    """A page without scripts, in which every text is escaped and isolated."""

    def __init__(self, file: TextIO, *, with_values: bool) -> None:
        super().__init__(file, with_values=with_values)
        self._table: str | None = None
        file.write(_HEAD)

    def begin(self, source: str, target: Dialect) -> None:
        """Write the target's heading."""
        self._file.write(f"<h2>{_safe(source)} → {_safe(target.name)}</h2>\n")

    def row(self, difference: Difference) -> None:
        """Write the lines of one row, after the heading of its table if it is the first."""
        if self._table != difference.table.name:
            self._end_table()
            self._table = difference.table.name
            values = "<th>column<th>source<th>target" if self._with_values else ""
            self._file.write(
                f"<h3>{_safe(self._table)}</h3>\n<table><tr><th>change<th>key{values}</tr>\n"
            )
        start = f"<tr><td>{difference.change}<td>{_safe(difference.key)}"
        if not self._with_values:
            self._file.write(f"{start}</tr>\n")
            return
        for column, source, target in differing_values(difference):
            cells = "".join(
                f'<td class="value">{"" if side is None else _safe(side)}'
                for side in (source, target)
            )
            self._file.write(f"{start}<td>{_safe(column.name)}{cells}</tr>\n")

    def end(self, plan: Plan, findings: Sequence[Finding]) -> None:
        """Write the numbers of the plan, and the objections."""
        self._end_table()
        self._file.write(
            f"<h3>In numbers</h3>\n<table><tr><th>table<th>rows of {_safe(plan.source)}"
            f"<th>rows of {_safe(plan.target)}<th>only in source<th>different"
            "<th>only in target</tr>\n"
        )
        for name, table in plan.tables.items():
            numbers = (
                table.source_rows,
                table.target_rows,
                table.insert,
                table.update,
                table.delete,
            )
            cells = "".join(f"<td>{number:,}" for number in numbers)
            self._file.write(f"<tr><td>{_safe(name)}{cells}</tr>\n")
        self._file.write("</table>\n")
        for finding in findings:
            self._file.write(
                f"<p>A sync would be refused: {_safe(finding.found)} ({_safe(finding.guard)}). "
                f"Remedy: {_safe(finding.remedy)}</p>\n"
            )

    def failed(self, target: str, why: str) -> None:
        """Write that the target was not compared to its end."""
        self._end_table()
        self._file.write(f"<p>{_safe(target)} was not compared to its end: {_safe(why)}</p>\n")

    last = "</body></html>\n"

    def _end_table(self) -> None:
        if self._table is not None:
            self._file.write("</table>\n")
            self._table = None


def _safe(text: str) -> str:
    """The text as HTML shows it, its control characters visible and its direction isolated."""
    return f"<bdi>{html.escape(text.translate(_CONTROL))}</bdi>"
