"""A revision in the making: what Alembic finds between a database and the models, made fit for every database and safe for the rows.

Alembic takes a column that is called otherwise now for one that went and one that came, and writes the types of the database that it
looked at. Here values go only where a person has said so, and types are the models', of which each engine makes its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic.autogenerate import renderers
from alembic.operations import MigrateOperation, ops
from sqlalchemy.dialects import postgresql

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import Kind, kind_of, undecorated
from dbsync_pipeline.errors import SettingsError, StructureError
from dbsync_pipeline.mirror.model import Model

if TYPE_CHECKING:
    from alembic.migration import MigrationContext

_OPERATION = "write a revision"


@dataclass(frozen=True)
class Wanted:
    """What a person says of columns that are in the database and no more in the models, each as `table.column`.

    `drop` are those that go with their values; `rename` has the new names of those that are called otherwise now.
    """

    drop: Collection[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)


class ValuesOp(MigrateOperation):
    """Values that an enum is to have besides; only PostgreSQL has a type of its own to tell."""

    def __init__(self, type_: sa.Enum, values: Iterable[str]) -> None:
        self.type = type_
        self.values = tuple(values)


@renderers.dispatch_for(ValuesOp)
def _render_values(_context: Any, operation: ValuesOp) -> list[str]:
    quote = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]
    name = ".".join(quote(word) for word in (operation.type.schema, operation.type.name) if word)
    literals = ["'" + value.replace("'", "''") + "'" for value in operation.values]
    statements = [f"ALTER TYPE {name} ADD VALUE IF NOT EXISTS {literal}" for literal in literals]
    literally = [statement.replace(":", r"\:") for statement in statements]
    return [
        f"if op.get_context().dialect.name == 'postgresql': op.execute({statement!r})"
        for statement in literally
    ]


class Draft:
    """One draft. `left` says after `mend` what differs and is left as it is, in words."""

    def __init__(self, dialect: Dialect, model: Model, wanted: Wanted) -> None:
        self._dialect = dialect
        self._model = model
        self._wanted = wanted
        self.left: list[str] = []

    def mend(
        self, context: MigrationContext, script: ops.MigrationScript, values: Sequence[ValuesOp]
    ) -> None:
        """Make Alembic's operations into those of the revision: new names first, then new values of enums, then all others.

        Raises StructureError where values would be lost, or missing in rows that are there, and nobody has spoken of it; SettingsError
        where `wanted` has what does not differ.
        """
        assert script.upgrade_ops is not None
        tables = [one for one in script.upgrade_ops.ops if isinstance(one, ops.ModifyTableOps)]
        self._require_spoken_of(tables)
        renamed = [operation for table in tables for operation in self._rename(context, table)]
        self._cancel_equal_keys(tables)
        for table in tables:
            table.ops = [operation for operation in table.ops if self._fit(table, operation)]
        others = [
            one
            for one in script.upgrade_ops.ops
            if not isinstance(one, ops.ModifyTableOps) or one.ops
        ]
        script.upgrade_ops.ops = [
            *renamed,
            *values,
            *(one for added in values for one in self._longer(added)),
            *others,
        ]

    def _longer(self, added: ValuesOp) -> Iterator[ops.AlterColumnOp]:
        """Where an enum is a text, it has to be as long as its longest value."""
        rest = [len(value) for value in added.type.enums if value not in added.values]
        if max(map(len, added.values)) <= max(rest, default=0):
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

    def _require_spoken_of(self, tables: Iterable[ops.ModifyTableOps]) -> None:
        active_run = [
            (self._name(table, one.column_name), one)
            for table in tables
            for one in table.ops
            if isinstance(one, ops.DropColumnOp)
        ]
        unknown = [
            name
            for name in (*self._wanted.drop, *self._wanted.rename)
            if name not in dict(active_run)
        ]
        if unknown:
            raise SettingsError(
                f"{unknown[0]} is no column that the database has and the models have not",
                operation=_OPERATION,
                database=self._dialect.name,
                remedy="name it as table.column, as `dbsync tables check` has it",
            )
        silent = [
            name
            for name, _ in active_run
            if name not in self._wanted.drop and name not in self._wanted.rename
        ]
        if silent:
            raise StructureError(
                f"{', '.join(silent)} {'is' if len(silent) == 1 else 'are'} not in the models, and the values would be lost",
                operation=_OPERATION,
                database=self._dialect.name,
                remedy=f"add `--rename {silent[0]}=NEW` where it has another name now, or `--drop {silent[0]}` where its values are to go",
            )

    def _rename(
        self, context: MigrationContext, table: ops.ModifyTableOps
    ) -> Iterator[ops.AlterColumnOp]:
        """Take a column that goes and its new name that comes out of the table's operations, for one that renames."""
        coming = {one.column.name: one for one in table.ops if isinstance(one, ops.AddColumnOp)}
        for active_run in [one for one in table.ops if isinstance(one, ops.DropColumnOp)]:
            new = self._wanted.rename.get(self._name(table, active_run.column_name))
            if new is None:
                continue
            if new not in coming:
                raise SettingsError(
                    f"{new} is no column of {table.table_name} that only the models have",
                    operation=_OPERATION,
                    database=self._dialect.name,
                    remedy="give the new name as the models have it",
                )
            came = coming[new]
            table.ops = [one for one in table.ops if one not in (active_run, came)]
            yield ops.AlterColumnOp(
                table.table_name,
                active_run.column_name,
                schema=table.schema,
                modify_name=new,
                existing_type=came.column.type,
            )
            here, wanted = active_run.to_column(), came.column
            change = ops.AlterColumnOp(
                table.table_name, new, schema=table.schema, existing_nullable=here.nullable
            )
            if context.impl.compare_type(here, wanted):
                change.existing_type, change.modify_type = here.type, wanted.type
            if bool(here.nullable) != bool(wanted.nullable):
                change.modify_nullable = wanted.nullable
            if change.has_changes():
                table.ops = [change, *table.ops]

    def _cancel_equal_keys(self, tables: Iterable[ops.ModifyTableOps]) -> None:
        """Foreign keys that differ in a column's name only, which they follow, or in a deferral that the engine does not know."""
        gone = {self._meaning(one) for table in tables for one in table.ops if _drops_key(one)}
        came = {
            self._meaning(one)
            for table in tables
            for one in table.ops
            if isinstance(one, ops.CreateForeignKeyOp)
        }
        for table in tables:
            table.ops = [
                one
                for one in table.ops
                if not (_drops_key(one) or isinstance(one, ops.CreateForeignKeyOp))
                or self._meaning(one) not in gone & came
            ]

    def _meaning(self, operation: MigrateOperation) -> tuple[Any, ...]:
        key = operation.to_diff_tuple()[1]
        own, there = key.parent.key, key.elements[0].target_fullname.rpartition(".")[0]
        columns = [self._wanted.rename.get(f"{own}.{name}", name) for name in key.column_keys]
        referred = [element.target_fullname.rpartition(".")[2] for element in key.elements]
        actions = [(action or "NO ACTION").upper() for action in (key.ondelete, key.onupdate)]
        deferral = (
            (bool(key.deferrable), (key.initially or "IMMEDIATE").upper())
            if self._dialect.defers_keys
            else ()
        )
        return (
            own,
            there,
            *columns,
            *(self._wanted.rename.get(f"{there}.{name}", name) for name in referred),
            *actions,
            *deferral,
        )

    def _fit(self, table: ops.ModifyTableOps, operation: MigrateOperation) -> bool:
        """Whether an operation belongs into the revision; what is not fit for every database is mended on the way."""
        match operation:
            case ops.AddColumnOp():
                self._require_filled(table, operation.column)
            case ops.AlterColumnOp():
                if operation.modify_type is not None:
                    self._require_wider(table, operation)
                columns = self._model.metadata.tables[self._key(table)].columns
                operation.existing_type = next(
                    column.type for column in columns if column.name == operation.column_name
                )
                operation.existing_server_default = False
            case ops.DropIndexOp():
                return self._goes(table, f"the index {operation.index_name}", operation.to_index())
            case ops.DropConstraintOp() if operation.constraint_type == "unique":
                return self._goes(
                    table,
                    f"the unique constraint {operation.constraint_name}",
                    operation.to_constraint(),
                )
        return True

    def _require_filled(self, table: ops.ModifyTableOps, column: sa.Column[Any]) -> None:
        if not (column.nullable or column.server_default or column.computed or column.identity):
            raise StructureError(
                f"{self._name(table, column.name)} is not nullable and has no `server_default`: rows that are there would have no value",
                operation=_OPERATION,
                database=self._dialect.name,
                remedy="give it a `server_default` in the models; or make it nullable, and not nullable in a second revision after one that "
                "fills it",
            )

    def _require_wider(self, table: ops.ModifyTableOps, change: ops.AlterColumnOp) -> None:
        if not _holds_all(change.existing_type, change.modify_type):
            name = self._name(table, change.column_name)
            raise StructureError(
                f"{name} is {change.existing_type} here and {change.modify_type} in the models: each engine makes of its values what it will",
                operation=_OPERATION,
                database=self._dialect.name,
                remedy="give the models a column of the new type beside it, fill that by op.execute in a revision, and then drop the old one; "
                "or write it yourself: `dbsync migrate new TITLE --empty`",
            )

    def _goes(self, table: ops.ModifyTableOps, what: str, thing: Any) -> bool:
        """What the models do not have may be somebody's own; it goes with its column, or for one of the same columns by their new names."""
        columns = [column.name for column in thing.columns]
        if any(self._name(table, column) in self._wanted.drop for column in columns):
            return True
        now = [self._wanted.rename.get(self._name(table, column), column) for column in columns]
        made: list[Any] = [
            one.to_diff_tuple()[1]
            for one in table.ops
            if isinstance(one, (ops.CreateIndexOp, ops.CreateUniqueConstraintOp))
        ]
        if now != columns and any(
            type(one) is type(thing) and [column.name for column in one.columns] == now
            for one in made
        ):
            return True
        self.left.append(f"{self._key(table)} has {what}, which the models do not have")
        return False

    def _key(self, table: ops.ModifyTableOps) -> str:
        return f"{table.schema}.{table.table_name}" if table.schema else table.table_name

    def _name(self, table: ops.ModifyTableOps, column: str) -> str:
        return f"{self._key(table)}.{column}"


def _holds_all(here: Any, wanted: Any) -> bool:
    """Whether every value of one type is the same in the other, on every engine, or is refused there."""
    here, wanted = undecorated(here), undecorated(wanted)
    match kind_of(here), kind_of(wanted):
        case (Kind.TEXT, Kind.TEXT):
            longest = getattr(wanted, "length", None)
            return longest is None or bool(
                longest >= (getattr(here, "length", None) or float("inf"))
            )
        case (Kind.NUMERIC, Kind.NUMERIC):
            more = wanted.scale - here.scale
            return bool(more >= 0 and wanted.precision - here.precision >= more)
        case (one, other):
            return one is other and one in (Kind.INTEGER, Kind.BYTES)


def _drops_key(operation: MigrateOperation) -> bool:
    return isinstance(operation, ops.DropConstraintOp) and operation.constraint_type == "foreignkey"
