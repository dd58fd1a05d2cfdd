"""One report: a file that appears when it is complete, and only its owner can read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.digests import Form
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.errors import DbsyncError, SettingsError
from dbsync_pipeline.mirror.compare import Changes
from dbsync_pipeline.mirror.guard import Finding, Plan
from dbsync_pipeline.mirror.report.differences import Gathering, is_secret
from dbsync_pipeline.mirror.report.statements import SqlWriter
from dbsync_pipeline.mirror.report.writers import CsvWriter, HtmlWriter, Writer

_OPERATION = "write the report"
_WRITERS: dict[str, Callable[..., Writer]] = {
    ".html": HtmlWriter,
    ".csv": CsvWriter,
    ".sql": SqlWriter,
}


@dataclass
class Report:
    """What a plan reports its differences to, target after target. See `opened`."""

    writer: Writer
    with_values: bool
    gathering: Gathering | None = None
    secret_keys: set[str] = field(default_factory=set)
    """The tables whose keys no report may have, not even in what a guard found."""

    def begin(self, source: Dialect, target: Dialect) -> None:
        """Begin the part about one target, whose databases are open."""
        self.gathering = Gathering(source, target, self.with_values)
        self.secret_keys.clear()
        self.writer.begin(source.name, target)

    def bucket(self, table: Table, form: Form, changes: Changes) -> None:
        """Write the rows of one bucket that differ."""
        if self.gathering is not None:
            self._note(table)
            for difference in self.gathering.of(table, form, changes):
                self.writer.row(difference)

    def new_table(self, table: Table) -> None:
        """Write every row of a table that is empty, or missing, on the target."""
        if self.gathering is not None:
            for difference in self.gathering.all_of_source(table):
                self.writer.row(difference)

    def end(self, plan: Plan, findings: Sequence[Finding]) -> None:
        """End the part about one target."""
        shown = [
            replace(finding, found=f"the keys of {finding.table} are secret")
            if finding.table in self.secret_keys
            else finding
            for finding in findings
        ]
        self.writer.end(plan, shown)

    def _note(self, table: Table) -> None:
        if any(is_secret(table, part) for part in table.key):
            self.secret_keys.add(table.name)

    def failed(self, target: str, error: DbsyncError) -> None:
        """End the part about a target that could not be compared."""
        self.writer.failed(target, error.cause)


@contextmanager
def opened(path: Path, *, with_values: bool, targets: int) -> Iterator[Report]:
    """Yield a report of the kind that the file's name has: .html, .csv or .sql.

    Rows are streamed into a file beside it, which gets its name at the end and is removed after an
    error. Raise SettingsError, with nothing done, if the name has another ending, if such a file
    exists or cannot be made, and for SQL without values or for several targets.
    """
    make = _WRITERS.get(path.suffix.lower())
    if make is None:
        raise _wrong(f"{path.name} is no .html, .csv or .sql", "give the file one of these endings")
    if make is SqlWriter and not with_values:
        raise _wrong("statements have values", "add --values, or write .html or .csv")
    if make is SqlWriter and targets != 1:
        raise _wrong("statements are for one database", "name it with --target")
    if path.exists():
        raise _wrong(f"{path} exists already", "give another name, or remove the file")
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise _wrong(
            f"{path} cannot be written: {why}", "name a file that can be written"
        ) from None
    try:
        # a text of the databases may hold what UTF-8 has no form for
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = make(file, with_values=with_values)
            yield Report(writer, with_values)
            file.write(writer.last)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _wrong(cause: str, remedy: str) -> SettingsError:
    return SettingsError(cause, operation=_OPERATION, remedy=remedy)
