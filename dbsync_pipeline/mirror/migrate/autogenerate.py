"""Turn what Alembic finds between a database and the models into a revision that is right for every
database and loses no values.

Alembic sees a renamed column as one that was dropped and one that was added, and writes the types
of the database that it compared with. Here values are dropped only if a person says so, and types
are the models', which each engine translates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic.autogenerate import renderers
from alembic.operations import MigrateOperation, ops

from dbsync_pipeline.dialects import COLUMN_TYPES
from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import Kind, kind_of, undecorated
from dbsync_pipeline.errors import SettingsError, StructureError
from dbsync_pipeline.mirror.model import Model

if TYPE_CHECKING:
    from alembic.migration import MigrationContext

_OPERATION = "write a revision"


@dataclass(frozen=True)
class ColumnChanges:
    """What a person says about columns that only the database has, each as `table.column`.

    `drop` are those to drop with their values; `rename` has the new names of those that the models
    renamed.
    """

    drop: Collection[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)


class AddEnumValuesOp(MigrateOperation):
    """Add values to an enum, on engines where it is a type of its own."""

    def __init__(self, type_: sa.Enum, values: Iterable[str]) -> None:
        self.type = type_
        self.values = tuple(values)


@renderers.dispatch_for(AddEnumValuesOp)
def _render_enum_values(_context: Any, operation: AddEnumValuesOp) -> list[str]:
    lines = []
    for engine, types in COLUMN_TYPES.items():
        for statement in types.enum_value_statements(operation.type, operation.values):
            escaped = statement.replace(":", r"\:")
            condition = f"op.get_context().dialect.name == {engine!r}"
            lines.append(f"if {condition}: op.execute({escaped!r})")
    return lines


class Draft:
    """A revision before it is written. After `complete`, `left` lists the differences that it
    leaves as they are.
    """

    def __init__(self, dialect: Dialect, model: Model, changes: ColumnChanges) -> None:
        self._dialect = dialect
        self._model = model
        self._changes = changes
        self.left: list[str] = []

    def complete(
        self,
        context: MigrationContext,
        script: ops.MigrationScript,
        values: Sequence[AddEnumValuesOp],
    ) -> None:
        """Replace Alembic's operations by those of the revision: renames first, then new enum
        values, then the rest.

        Raises StructureError if values would be lost, or be missing in existing rows, and the
        changes do not say so; SettingsError if the changes name what does not differ.
        """
        assert script.upgrade_ops is not None
        tables = [
            operation
            for operation in script.upgrade_ops.ops
            if isinstance(operation, ops.ModifyTableOps)
        ]
        self._require_every_drop_named(tables)
        renamed = [operation for table in tables for operation in self._rename(context, table)]
        self._cancel_equal_keys(tables)
        for table in tables:
            table.ops = [operation for operation in table.ops if self._belongs(table, operation)]
            table.ops = [part for operation in table.ops for part in self._filled(table, operation)]
        others = [
            operation
            for operation in script.upgrade_ops.ops
            if not isinstance(operation, ops.ModifyTableOps) or operation.ops
        ]
        longer = [operation for added in values for operation in self._lengthen(added)]
        script.upgrade_ops.ops = [*renamed, *values, *longer, *others]

    def _lengthen(self, added: AddEnumValuesOp) -> Iterator[ops.AlterColumnOp]:
        """Where an enum is stored as text, the column must hold its longest value."""
        existing = [len(value) for value in added.type.enums if value not in added.values]
        if max(map(len, added.values)) <= max(existing, default=0):
            return
        for table in self._model.metadata.tables.values():
            for column in table.columns:
                if isinstance(column.type, sa.Enum) and column.type.name == added.type.name:
                    type_, nullable = column.type, column.nullable
                    yield ops.AlterColumnOp(
                        table.name,
                        column.name,
                        schema=table.schema,
                        existing_type=type_,
                        modify_type=type_,
                        existing_nullable=nullable,
                    )

    def _require_every_drop_named(self, tables: Iterable[ops.ModifyTableOps]) -> None:
        """Every column that only the database has is either dropped or renamed, and nothing else
        is.
        """
        dropped = [
            _name(table, operation.column_name)
            for table in tables
            for operation in table.ops
            if isinstance(operation, ops.DropColumnOp)
        ]
        named = (*self._changes.drop, *self._changes.rename)
        if unknown := [name for name in named if name not in dropped]:
            raise SettingsError(
                f"{unknown[0]} is not a column that only the database has",
                operation=_OPERATION,
                database=self._dialect.name,
                remedy="give it as table.column, as `dbsync tables check` shows it",
            )
        if unnamed := [name for name in dropped if name not in named]:
            verb = "is" if len(unnamed) == 1 else "are"
            raise StructureError(
                f"{', '.join(unnamed)} {verb} not in the models, and the values would be lost",
                operation=_OPERATION,
                database=self._dialect.name,
                remedy=f"add `--rename {unnamed[0]}=NEW` if the models renamed it, "
                f"or `--drop {unnamed[0]}` to drop its values",
            )

    def _rename(
        self, context: MigrationContext, table: ops.ModifyTableOps
    ) -> Iterator[ops.AlterColumnOp]:
        """Replace the dropped column and the added one by an operation that renames, and one that
        alters what else differs.
        """
        added = {
            operation.column.name: operation
            for operation in table.ops
            if isinstance(operation, ops.AddColumnOp)
        }
        for dropped in [
            operation for operation in table.ops if isinstance(operation, ops.DropColumnOp)
        ]:
            new = self._changes.rename.get(_name(table, dropped.column_name))
            if new is None:
                continue
            if new not in added:
                raise SettingsError(
                    f"{new} is not a column of {table.table_name} that only the models have",
                    operation=_OPERATION,
                    database=self._dialect.name,
                    remedy="give the new name as the models have it",
                )
            table.ops = [
                operation for operation in table.ops if operation not in (dropped, added[new])
            ]
            before, after = dropped.to_column(), added[new].column
            yield ops.AlterColumnOp(
                table.table_name,
                dropped.column_name,
                schema=table.schema,
                modify_name=new,
                existing_type=after.type,
            )
            change = ops.AlterColumnOp(
                table.table_name, new, schema=table.schema, existing_nullable=before.nullable
            )
            if context.impl.compare_type(before, after):
                change.existing_type, change.modify_type = before.type, after.type
            if bool(before.nullable) != bool(after.nullable):
                change.modify_nullable = after.nullable
            if change.has_changes():
                table.ops = [change, *table.ops]

    def _cancel_equal_keys(self, tables: Iterable[ops.ModifyTableOps]) -> None:
        """Remove foreign keys that differ only in a renamed column, which they follow, or in a
        deferral that the engine does not know.
        """
        dropped = {
            self._meaning(operation)
            for table in tables
            for operation in table.ops
            if _drops_foreign_key(operation)
        }
        created = {
            self._meaning(operation)
            for table in tables
            for operation in table.ops
            if isinstance(operation, ops.CreateForeignKeyOp)
        }
        equal = dropped & created
        for table in tables:
            table.ops = [
                operation
                for operation in table.ops
                if not (
                    _drops_foreign_key(operation) or isinstance(operation, ops.CreateForeignKeyOp)
                )
                or self._meaning(operation) not in equal
            ]

    def _meaning(self, operation: MigrateOperation) -> tuple[Any, ...]:
        """What a foreign key says, by the new names of its columns."""
        key = operation.to_diff_tuple()[1]
        schema, table, _ = key.elements[0].target_tokens
        child, parent = key.parent.key, ".".join(filter(None, (schema, table)))
        rename = self._changes.rename
        columns = [rename.get(f"{child}.{name}", name) for name in key.column_keys]
        names = [str(element.target_tokens.column_name) for element in key.elements]
        referred = [rename.get(f"{parent}.{name}", name) for name in names]
        actions = [(action or "NO ACTION").upper() for action in (key.ondelete, key.onupdate)]
        deferral = (
            (bool(key.deferrable), (key.initially or "IMMEDIATE").upper())
            if self._dialect.shows_deferral
            else ()
        )
        return (child, parent, *columns, *referred, *actions, *deferral)

    def _belongs(self, table: ops.ModifyTableOps, operation: MigrateOperation) -> bool:
        """Whether an operation belongs into the revision. An altered column gets the models' type,
        which every engine can translate.
        """
        match operation:
            case ops.AddColumnOp():
                self._require_filled(table, operation.column)
            case ops.AlterColumnOp():
                if operation.modify_type is not None:
                    self._require_lossless(table, operation)
                columns = self._model.metadata.tables[_table_key(table)].columns
                operation.existing_type = next(
                    column.type for column in columns if column.name == operation.column_name
                )
                operation.existing_server_default = False
            case ops.DropIndexOp():
                what = f"the index {operation.index_name}"
                return self._is_dropped(table, what, operation.to_index())
            case ops.DropConstraintOp() if operation.constraint_type == "unique":
                what = f"the unique constraint {operation.constraint_name}"
                return self._is_dropped(table, what, operation.to_constraint())
        return True

    def _filled(
        self, table: ops.ModifyTableOps, operation: MigrateOperation
    ) -> Iterator[MigrateOperation]:
        """Give existing rows of a standby a value where the primary's column must have one and has
        no default. The next sync brings the values.
        """
        if not (isinstance(operation, ops.AddColumnOp) and self._may_fill(operation.column)):
            yield operation
            return
        column = operation.column._copy()
        column.server_default = sa.DefaultClause(_any_value(column))
        yield ops.AddColumnOp(table.table_name, column, schema=table.schema)
        yield ops.AlterColumnOp(
            table.table_name,
            column.name,
            schema=table.schema,
            existing_type=column.type,
            existing_nullable=False,
            modify_server_default=None,
        )

    def _may_fill(self, column: sa.Column[Any]) -> bool:
        return (
            self._model.read_from is not None
            and _lacks_value(column)
            and not column.foreign_keys
            and kind_of(column.type) in _ANY_VALUE
        )

    @property
    def _or_recreate(self) -> str:
        """The end of a remedy for a standby, whose rows the primary has."""
        if self._model.read_from is None:
            return ""
        name = self._dialect.name
        return (
            "; or, losing its rows, which the next sync brings again: "
            f"`dbsync tables recreate --database {name} --yes-destroy {name}`"
        )

    def _require_filled(self, table: ops.ModifyTableOps, column: sa.Column[Any]) -> None:
        if _lacks_value(column) and not self._may_fill(column):
            raise StructureError(
                f"{_name(table, column.name)} is not nullable and has no `server_default`: "
                "existing rows would have no value",
                operation=_OPERATION,
                database=self._dialect.name,
                remedy="give it a `server_default` in the models; or make it nullable, fill it in "
                f"one revision, and make it not nullable in the next{self._or_recreate}",
            )

    def _require_lossless(self, table: ops.ModifyTableOps, change: ops.AlterColumnOp) -> None:
        if not _keeps_every_value(change.existing_type, change.modify_type):
            name = _name(table, change.column_name)
            raise StructureError(
                f"{name} is {change.existing_type} here and {change.modify_type} in the models: "
                "engines convert such values differently",
                operation=_OPERATION,
                database=self._dialect.name,
                remedy="add a column of the new type to the models, fill it by op.execute in a "
                "revision, and then drop the old one; or write the conversion: "
                f"`dbsync migrate new TITLE --empty`{self._or_recreate}",
            )

    def _is_dropped(self, table: ops.ModifyTableOps, what: str, thing: Any) -> bool:
        """Whether an index or constraint that only the database has is dropped: with its column, or
        for one of the renamed columns. Any other may be there on purpose and is left as it is.
        """
        columns = [column.name for column in thing.columns]
        if any(_name(table, column) in self._changes.drop for column in columns):
            return True
        renamed = [self._changes.rename.get(_name(table, column), column) for column in columns]
        created: list[Any] = [
            operation.to_diff_tuple()[1]
            for operation in table.ops
            if isinstance(operation, (ops.CreateIndexOp, ops.CreateUniqueConstraintOp))
        ]
        if renamed != columns and any(
            type(operation) is type(thing)
            and [column.name for column in operation.columns] == renamed
            for operation in created
        ):
            return True
        self.left.append(f"{_table_key(table)} has {what}, which the models do not have")
        return False


def _table_key(table: ops.ModifyTableOps) -> str:
    return f"{table.schema}.{table.table_name}" if table.schema else table.table_name


def _name(table: ops.ModifyTableOps, column: str) -> str:
    return f"{_table_key(table)}.{column}"


_ANY_VALUE = {
    **dict.fromkeys((Kind.INTEGER, Kind.NUMERIC, Kind.FLOAT, Kind.BOOLEAN), "0"),
    **dict.fromkeys((Kind.INSTANT, Kind.DATETIME, Kind.DATE), "2000-01-01"),
    Kind.TIME: "00:00:00",
    Kind.TEXT: "",
    Kind.BYTES: "",
    Kind.UUID: "00000000-0000-0000-0000-000000000000",
}
"""A value of each kind, as a default that every engine understands."""


def _any_value(column: sa.Column[Any]) -> str:
    type_ = undecorated(column.type)
    if isinstance(type_, sa.Enum):
        return str(type_.enums[0])
    return "{}" if isinstance(type_, sa.JSON) else _ANY_VALUE[kind_of(type_)]


def _lacks_value(column: sa.Column[Any]) -> bool:
    """Whether rows that exist would have no value in a column that must have one."""
    return not (column.nullable or column.server_default or column.computed or column.identity)


def _keeps_every_value(before: Any, after: Any) -> bool:
    """Whether every value of one type is the same in the other on every engine, or is refused
    there.
    """
    before, after = undecorated(before), undecorated(after)
    match kind_of(before), kind_of(after):
        case (Kind.TEXT, Kind.TEXT):
            longest = getattr(after, "length", None)
            return longest is None or bool(
                longest >= (getattr(before, "length", None) or float("inf"))
            )
        case (Kind.NUMERIC, Kind.NUMERIC):
            more = after.scale - before.scale
            return bool(more >= 0 and after.precision - before.precision >= more)
        case (kind, other):
            return kind is other and kind in (Kind.INTEGER, Kind.BYTES)


def _drops_foreign_key(operation: MigrateOperation) -> bool:
    return isinstance(operation, ops.DropConstraintOp) and operation.constraint_type == "foreignkey"
