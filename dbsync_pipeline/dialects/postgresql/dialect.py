"""PostgreSQL: COPY for rows, digests computed in the server, constraints deferred until the commit.

Between two PostgreSQL servers rows travel as binary COPY, undecoded, so every value that the server
can hold arrives, including infinities and years before Christ. Rows from other engines arrive as
text COPY.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from dbsync_pipeline.dialects.contract import Partitioned, translated
from dbsync_pipeline.dialects.generated import Generated
from dbsync_pipeline.dialects.partitions import Partition, Partitioning
from dbsync_pipeline.dialects.postgresql import catalog, partitions, reflection
from dbsync_pipeline.dialects.postgresql.catalog import names, quote, quote_table
from dbsync_pipeline.dialects.postgresql.display import displayed
from dbsync_pipeline.dialects.postgresql.target import PostgreSQLTarget
from dbsync_pipeline.dialects.postgresql.values import to_postgresql
from dbsync_pipeline.dialects.reflection import Place, Reflection
from dbsync_pipeline.dialects.table import Column, Table, undecorated
from dbsync_pipeline.errors import StructureError

if TYPE_CHECKING:
    from alembic.operations import MigrateOperation, Operations

_ADDS_VALUE = re.compile(r"\s*ALTER\s+TYPE\s.+\sADD\s+VALUE\s", re.IGNORECASE | re.DOTALL)


class PostgreSQL(PostgreSQLTarget, Partitioned):
    """One open connection to a PostgreSQL database, in every role."""

    @translated
    def alter(self, operations: Operations, operation: MigrateOperation) -> Any:
        """In the open transaction, run one of Alembic's operations.

        An enum is a type of its own: it is created before its columns, and gets its new values
        before rows have them.
        """
        from alembic.operations import ops

        models = operations.migration_context.opts["target_metadata"]
        if isinstance(operation, ops.ExecuteSQLOp) and _ADDS_VALUE.match(str(operation.sqltext)):
            return self._add_value(str(operation.sqltext))
        if isinstance(operation, ops.CreateTableOp):
            for column in operation.columns:
                if isinstance(column, sa.Column) and isinstance(column.type, sa.Enum):
                    self._create_enum(column.type, models)
                    column.type = column.type.with_variant(_existing(column.type), "postgresql")
        altered = getattr(operation, "column", None)
        for type_ in (getattr(altered, "type", None), getattr(operation, "modify_type", None)):
            if isinstance(type_, sa.Enum):
                self._create_enum(type_, models)
        return super().alter(operations, operation)

    def _add_value(self, statement: str) -> None:
        """Add a value to an enum by a connection of its own, which commits it.

        A value that the open transaction adds could not be used before its commit; one value too
        many does no harm. A type that the open transaction created is invisible to other
        connections; it may have the value already, see `_create_enum`.
        """
        try:
            with self.connection.engine.connect().execution_options(
                isolation_level="AUTOCOMMIT"
            ) as second:
                second.execute(sa.text(statement))
        except sa.exc.ProgrammingError as error:
            if not isinstance(
                error.orig, (psycopg2.errors.UndefinedObject, psycopg2.errors.InvalidSchemaName)
            ):
                raise
            with self.connection.begin_nested() as adding:
                try:
                    self.connection.execute(sa.text(statement))
                except sa.exc.ProgrammingError as repeated:
                    if not isinstance(repeated.orig, psycopg2.errors.DuplicateObject):
                        raise
                    adding.rollback()

    def _create_enum(self, type_: sa.Enum, models: sa.MetaData) -> None:
        """In the open transaction, create the type unless it exists.

        It gets the values that later revisions add, too: before version 17, a value that the open
        transaction adds cannot be used in it, not even if the type is as new.
        """
        for now in _enums(models):
            if (now.schema, now.name) == (type_.schema, type_.name) and {*type_.enums} < {
                *now.enums
            }:
                type_ = now
        type_.dialect_impl(self.connection.dialect).create(self.connection, checkfirst=True)  # type: ignore[attr-defined]

    @translated
    def create_like(self, name: str, table: Table) -> None:
        """In the open transaction, create a table of before-images in the ledger's schema."""
        self._run(
            f"CREATE TABLE {self.ledger_schema}.{quote(name)} AS "
            f"SELECT 0::bigint AS dbsync_publish, ''::varchar(8) AS dbsync_change, "
            f"{names(table.columns)} FROM {quote_table(table.sa)} WITH NO DATA"
        )

    @translated
    def places(self, schemas: Sequence[str]) -> list[Place]:
        """Return the tables without partitions and tables of extensions; see `Schema.places`."""
        return reflection.places(self.connection, schemas, self.ledger_schema)

    @translated
    def reflect(self, tables: Sequence[Place]) -> Reflection:
        """Return the structure of these tables, with what SQLAlchemy does not say."""
        return reflection.reflect(self.connection, tables)

    @translated
    def partitions(self, tables: Sequence[Table]) -> dict[str, Partitioning]:
        """Return how the partitioned tables are divided, read in the open transaction."""
        names = {quote_table(table.sa): table.name for table in tables}
        oids = self._all(catalog.OIDS, (list(names),))
        return partitions.read(self.connection, {oid: names[name] for name, oid in oids})

    @translated
    def generated(self, tables: Sequence[Table]) -> dict[tuple[str, str], Generated]:
        """Return how columns are computed, stored or not, read in the open transaction."""
        names = {quote_table(table.sa): table.name for table in tables}
        return {
            (names[table], column): Generated(expression, definition)
            for table, column, expression, definition in self._all(
                catalog.GENERATED, (list(names),)
            )
        }

    @translated
    def invalid_indexes(self, table: Table) -> frozenset[str]:
        """Return the indexes that CREATE INDEX CONCURRENTLY left unfinished."""
        return frozenset(name for (name,) in self._all(catalog.INVALID, (quote_table(table.sa),)))

    @translated
    def holders(self, table: Table, missing: Partition) -> list[str]:
        """Return which partitions have rows that belong in one that the table lacks."""
        if not missing.condition:
            return []
        return [
            name
            for (name,) in self._all(
                f"SELECT DISTINCT tableoid::regclass::text FROM {quote_table(table.sa)} "
                f"WHERE {missing.condition} ORDER BY 1"
            )
        ]

    @translated
    def create_partitions(self, missing: Sequence[Partition]) -> None:
        """In the open transaction, create partitions, and then what each has of its own.

        Raise StructureError if something else has the name of one.
        """
        for partition in missing:
            try:
                self._run(partition.statements[0])
            except psycopg2.errors.DuplicateTable:
                raise StructureError(
                    f"something else has the name of its partition {partition.name}",
                    operation="create partitions",
                    database=self.name,
                    table=partition.parent,
                    remedy=f"rename or drop {partition.name} in {self.name}; the next sync creates "
                    "the partition",
                ) from None
        for partition in missing:
            for statement in partition.statements[1:]:
                self._run(statement)

    @translated
    def attached_since_snapshot(self, tables: Sequence[Table]) -> list[str]:
        """Return the tables that got a partition: no lock of a reader prevents ATTACH."""
        names = {quote_table(table.sa): table.name for table in tables}
        return [names[name] for (name,) in self._all(partitions.ATTACHED, (list(names),))]

    script_begins = ("BEGIN;", "SET CONSTRAINTS ALL DEFERRED;")

    def insertion(self, table: Table, into: str, values: str) -> str:
        """Return an INSERT that may give the values of identity columns."""
        return super().insertion(table, f"{into} OVERRIDING SYSTEM VALUE", values)

    def quoted(self, name: str) -> str:
        """Return an identifier as a script writes it."""
        return quote(name)

    def literal(self, column: Column, value: Any) -> str:
        """Return a plain value as an untyped literal, which takes the column's type."""
        text = str(to_postgresql(column, self._encoding)(value))
        return "'" + text.replace("'", "''") + "'"

    def octets(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        """Return the bytes that a value takes on disk, compressed."""
        return sa.func.pg_column_size(column)

    def displayed(self, column: Column, stored: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return a stored value for people to read, exactly."""
        shown = displayed(column, stored)
        return super().displayed(column, stored) if shown is None else shown


def _enums(models: sa.MetaData) -> Iterator[sa.Enum]:
    for table in models.tables.values():
        for column in table.columns:
            if isinstance(type_ := undecorated(column.type), sa.Enum):
                yield type_


def _existing(type_: sa.Enum) -> postgresql.ENUM:
    """The enum as a type that exists already."""
    return postgresql.ENUM(*type_.enums, name=type_.name, schema=type_.schema, create_type=False)


DIALECT = PostgreSQL
