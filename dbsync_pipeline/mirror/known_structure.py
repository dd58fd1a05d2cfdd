"""Whether structures are as they were when they were compared with the models.

A comparison asks a database some twenty questions. Its catalog is asked one: for a mark that
changes with everything that the comparison looks at, and is the same in every database with the
same structure. The target's ledger keeps the marks of both sides at which both were equal to the
models; `differences` keeps those that its process saw. While they are the same, so is the result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256

import sqlalchemy as sa

from dbsync_pipeline import __version__
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.mirror.ledger import VERSION, Ledger
from dbsync_pipeline.mirror.model import Model

_FACT = "structure"


@dataclass(frozen=True)
class KnownStructure:
    """`marks` name the models and both structures; None if an engine has no mark. `equal` is true
    if they were found equal under these marks before.
    """

    marks: str | None
    equal: bool

    @classmethod
    def read(cls, model: Model, source: Dialect, target: Dialect) -> KnownStructure:
        """Read the marks, outside of transactions, and leave none open."""
        sides = [mark(model, side) for side in (source, target)]
        marks = sha256(json.dumps(sides).encode()).hexdigest() if all(sides) else None
        equal = marks is not None and Ledger(target).fact(_FACT) == marks
        for side in (source, target):
            side.rollback()
        return cls(marks, equal)

    def note(self, ledger: Ledger) -> None:
        """Record in the open transaction that both sides equal the models under these marks."""
        if self.marks is not None and not self.equal:
            ledger.note(_FACT, self.marks)


def mark(model: Model, dialect: Dialect) -> str | None:
    """Return a mark of the models and of one database's structure; None if its engine has none.

    Databases with the same mark differ from the models alike. Read in the open transaction.
    """
    tables = [table.sa for table in model.tables]
    # whether a key to one that is not mirrored is compared depends on whether that is there
    parents = {key.referred_table for table in tables for key in table.foreign_key_constraints}
    structure = dialect.structure_mark(tables + sorted(parents - set(tables), key=str))
    if structure is None:
        return None
    models = [_table(table, dialect) for table in model.tables]
    marked = [__version__, VERSION, dialect.engine_name, models, structure]
    return sha256(json.dumps(marked).encode()).hexdigest()


def _table(table: Table, dialect: Dialect) -> list[object]:
    columns = [
        (column.name, _type(column.type, dialect), bool(column.nullable))
        for column in table.sa.columns
    ]
    unique = sorted(
        constraint.columns.keys()
        for constraint in table.sa.constraints
        if isinstance(constraint, sa.UniqueConstraint)
    )
    keys = sorted(
        (
            [column.name for column in key.columns],
            [element.target_tokens for element in key.elements],
            str((key.ondelete, key.onupdate, key.deferrable, key.initially)),
        )
        for key in table.sa.foreign_key_constraints
    )
    primary = [column.name for column in table.sa.primary_key.columns]
    return [table.name, columns, primary, unique, keys, table.signatures]


def _type(type_: sa.types.TypeEngine[object], dialect: Dialect) -> str:
    values = ", ".join(type_.enums) if isinstance(type_, sa.Enum) else ""
    try:
        written = type_.compile(dialect.connection.dialect)
    except sa.exc.CompileError:  # the engine has no such type: no table can have it
        written = ""
    return f"{type_!r} {written} {values}"
