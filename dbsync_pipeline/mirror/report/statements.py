"""A report as SQL: the statements that would make one target equal, for a person who reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TextIO

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import Column, Row, Table
from dbsync_pipeline.dialects.values import Cannot
from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror.guard import Finding, Plan
from dbsync_pipeline.mirror.report.differences import (
    DIFFERENT,
    ONLY_SOURCE,
    Difference,
    is_secret,
)
from dbsync_pipeline.mirror.report.writers import Writer

_HEAD = """\
-- Statements that would make {target} equal to {source}, made by `dbsync plan --report`.
-- Read them before you run them: they check no guard, keep no before-images, and move no counters.
-- `dbsync sync` does the same in one proved transaction, and can be undone.
"""


class SqlWriter(Writer):
    """One statement for each row that differs, in one transaction, with values whole."""

    def __init__(self, file: TextIO, *, with_values: bool) -> None:
        super().__init__(file, with_values=with_values)
        self._dialect: Dialect | None = None

    @property
    def _target(self) -> Dialect:
        if self._dialect is None:
            raise DbsyncError("a row was reported before its target", operation="report")
        return self._dialect

    def begin(self, source: str, target: Dialect) -> None:
        """Begin the transaction."""
        self._dialect = target
        self._file.write(_HEAD.format(target=_in_comment(target.name), source=_in_comment(source)))
        self._file.writelines(f"{statement}\n" for statement in target.script_begins)

    def row(self, difference: Difference) -> None:
        """Write a statement, or why there is none."""
        try:
            self._statement(difference)
        except Cannot as error:
            self._say(difference, str(error))

    def _statement(self, difference: Difference) -> None:
        table, source, target = difference.table, difference.source, difference.target
        if table.keyless and difference.change != ONLY_SOURCE:
            self._say(difference, "a row without a key cannot be named in a statement")
        elif difference.change == ONLY_SOURCE and source is not None:
            self._write(difference, table.columns, self._insert(table, source))
        elif difference.change == DIFFERENT and source is not None and target is not None:
            changed = [
                column
                for column, left, right in zip(table.columns, source, target, strict=True)
                if left != right and not (left != left and right != right)
            ]
            update = self._update(table, changed, source)
            self._write(difference, [*changed, *table.key], update)
        elif target is not None:
            where = self._where(table, target)
            self._write(difference, table.key, f"DELETE FROM {self._name(table)} WHERE {where}")

    def end(self, plan: Plan, findings: Sequence[Finding]) -> None:
        """Write the guards' objections, and end the transaction."""
        for finding in findings:
            objection = f"{finding.found} ({finding.guard})"
            self._file.write(f"-- A sync would be refused: {_in_comment(objection)}\n")
        self._file.write("COMMIT;\n")

    def failed(self, target: str, why: str) -> None:
        """End the script so that it does nothing."""
        self._file.write(f"-- not complete: {_in_comment(why)}\nROLLBACK;\n")

    def _write(self, difference: Difference, used: Sequence[Column], statement: str) -> None:
        secret = [column.name for column in used if is_secret(difference.table, column)]
        if secret:
            self._say(difference, f"{', '.join(secret)} is secret")
        else:
            self._file.write(f"{statement};\n")

    def _say(self, difference: Difference, why: str) -> None:
        row = f"{difference.table.name}, {difference.change}, key {difference.key or 'none'}"
        self._file.write(f"-- no statement for {_in_comment(row)}: {_in_comment(why)}\n")

    def _insert(self, table: Table, row: Row) -> str:
        names = ", ".join(self._target.quoted(column.name) for column in table.columns)
        values = ", ".join(self._literals(table.columns, row))
        return self._target.insertion(table, f"{self._name(table)} ({names})", values)

    def _update(self, table: Table, changed: Sequence[Column], row: Row) -> str:
        by_name = dict(zip((column.name for column in table.columns), row, strict=True))
        values = ", ".join(
            f"{self._target.quoted(column.name)} = {self._literal(column, by_name[column.name])}"
            for column in changed
        )
        return f"UPDATE {self._name(table)} SET {values} WHERE {self._where(table, row)}"

    def _where(self, table: Table, row: Row) -> str:
        by_name = dict(zip((column.name for column in table.columns), row, strict=True))
        return " AND ".join(
            f"{self._target.quoted(part.name)} = {self._literal(part, by_name[part.name])}"
            for part in table.key
        )

    def _literals(self, columns: Sequence[Column], row: Row) -> list[str]:
        return [self._literal(column, value) for column, value in zip(columns, row, strict=True)]

    def _literal(self, column: Column, value: object) -> str:
        if value is None:
            return "NULL"
        try:
            return self._target.literal(column, value)
        except Cannot as error:
            raise Cannot(f"no literal of {column.name} is written: {error}") from None

    def _name(self, table: Table) -> str:
        parts = (table.sa.schema, table.sa.name)
        return ".".join(self._target.quoted(part) for part in parts if part)


def _in_comment(text: str) -> str:
    """The text on one line, in ASCII: a line end in it would end the comment."""
    return json.dumps(text)[1:-1]
