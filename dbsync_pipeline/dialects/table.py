"""The tables that are mirrored, their columns and the kinds of values that these hold.

Values travel between engines as *plain values*, one Python form per kind of column (see `Kind`).
Between two databases of one engine they travel as the engine itself holds them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy import TableClause
from sqlalchemy.schema import Column as ModelColumn
from sqlalchemy.types import TypeDecorator, TypeEngine

Row = tuple[Any, ...]
"""The values of one row, in the order of `Table.columns`."""
RowKey = tuple[Any, ...]
"""The values of one row's key, in the order of `Table.key`."""
RowKeys = Sequence[RowKey]
"""Keys of rows; of a table without a key, the rows' addresses in the database that has them."""


class Kind(enum.Enum):
    """What a column holds, and (in the comment) the plain value that carries it between engines."""

    INTEGER = "integer"  # int
    BOOLEAN = "boolean"  # 0 or 1
    UUID = "uuid"  # str, lower case, with dashes
    NUMERIC = "numeric"  # str with exactly the column's scale of digits
    TEXT = "text"  # str: text, enums, and JSON as the application wrote it
    INSTANT = "instant"  # int, microseconds since 2000-01-01 UTC
    DATETIME = "datetime"  # int, microseconds since 2000-01-01, without a zone
    DATE = "date"  # int, days since 2000-01-01
    TIME = "time"  # int, microseconds since midnight
    FLOAT = "float"  # float
    BYTES = "bytes"  # bytes
    OPAQUE = "opaque"  # not carried between engines; within one, exactly


SPECIAL_KINDS: dict[type[TypeEngine[Any]], Kind] = {}
"""The kinds of single engines' types (`ColumnTypes.kinds`); the registry of engines fills it."""

JSON_BY_VALUE: list[type[TypeEngine[Any]]] = []
"""Types that keep JSON by value (`ColumnTypes.json_by_value`); the registry of engines fills it."""


def kind_of(type_: TypeEngine[Any]) -> Kind:
    """Return the kind of a SQLAlchemy type; OPAQUE if some engine has no exact form for it.

    One engine's JSON or array is text where the models give the other engines JSON.
    """
    if isinstance(type_, sa.Interval):
        return Kind.OPAQUE
    if _by_value(type_) and any(
        isinstance(undecorated(variant), sa.JSON) and not _by_value(variant)
        for variant in type_._variant_mapping.values()
    ):
        return Kind.TEXT
    type_ = undecorated(type_)
    for special, kind in SPECIAL_KINDS.items():
        if isinstance(type_, special):
            return kind
    return next((kind for matches, kind in _KINDS if matches(type_)), Kind.OPAQUE)


def undecorated(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type that the database sees, without the application's TypeDecorators."""
    while isinstance(type_, TypeDecorator):
        type_ = type_.impl_instance
    return type_


def _by_value(type_: TypeEngine[Any]) -> bool:
    return isinstance(undecorated(type_), tuple(JSON_BY_VALUE))


def _is(*classes: type) -> Callable[[TypeEngine[Any]], bool]:
    return lambda type_: isinstance(type_, classes)


_KINDS: tuple[tuple[Callable[[Any], bool], Kind], ...] = (
    (_is(sa.Boolean), Kind.BOOLEAN),
    (_is(sa.Integer), Kind.INTEGER),
    (_is(sa.Float), Kind.FLOAT),
    (
        lambda t: isinstance(t, sa.Numeric) and t.precision is not None and t.scale is not None,
        Kind.NUMERIC,
    ),
    (lambda t: isinstance(t, sa.Uuid) and t.native_uuid, Kind.UUID),
    (_is(sa.Enum), Kind.TEXT),
    (_is(sa.JSON), Kind.TEXT),
    (lambda t: isinstance(t, sa.String) and not isinstance(t, (sa.CHAR, sa.NCHAR)), Kind.TEXT),
    (lambda t: isinstance(t, sa.DateTime) and t.timezone, Kind.INSTANT),
    (_is(sa.DateTime), Kind.DATETIME),
    (_is(sa.Date), Kind.DATE),
    (lambda t: isinstance(t, sa.Time) and not t.timezone, Kind.TIME),
    (_is(sa.LargeBinary), Kind.BYTES),
)


_WITH_NAN = (Kind.FLOAT, Kind.NUMERIC, Kind.OPAQUE)
_NAN = float("nan")


def unique_keys(table: sa.Table) -> list[tuple[str, ...]]:
    """Return the columns of each unique constraint, and of each unique index of all rows."""
    constraints = [
        tuple(column.name for column in constraint.columns)
        for constraint in table.constraints
        if isinstance(constraint, sa.UniqueConstraint)
    ]
    indexes = [
        tuple(str(column.name) for column in index.columns)
        for index in table.indexes
        if index.unique
        and all(isinstance(expression, ModelColumn) for expression in index.expressions)
        and not any(
            name.endswith("_where") and index.kwargs[name] is not None for name in index.kwargs
        )
    ]
    return [*constraints, *indexes]


@dataclass(frozen=True)
class Column:
    """One mirrored column of the models."""

    name: str
    kind: Kind
    type: TypeEngine[Any]
    nullable: bool

    @property
    def signature(self) -> str:
        """The parts of the type that affect the digests of its values.

        These are its class, its kind, its digits, and the classes of its variants for single
        engines.
        """
        digits = {Kind.NUMERIC: self.scale, Kind.FLOAT: getattr(self.type, "precision", None)}.get(
            self.kind
        )
        variants = sorted(
            (engine, type(variant).__name__)
            for engine, variant in self.type._variant_mapping.items()
        )
        parts = [
            type(self.type).__name__,
            self.kind.value,
            *(f"{engine}:{class_}" for engine, class_ in variants),
        ]
        return " ".join(parts if digits is None else [*parts, str(digits)])

    @property
    def keeps_json_by_value(self) -> bool:
        """Whether some engine keeps the column's JSON by value, so its text is not the writer's."""
        types = (self.type, *self.type._variant_mapping.values())
        return any(map(_by_value, types))

    @property
    def scale(self) -> int:
        """The number of digits after the point of a NUMERIC column."""
        return int(getattr(self.type, "scale", 0) or 0)

    @property
    def length(self) -> int | None:
        """The most characters that a TEXT column holds; None if it has no limit."""
        return (
            getattr(self.type, "length", None)
            if isinstance(self.type, sa.String) and not isinstance(self.type, sa.Enum)
            else None
        )


@dataclass(frozen=True)
class Table:
    """One table of the models: the columns that are copied, in the models' order, and the key.

    `only` restricts the table to these columns, in this order. With `computed` it has those that
    the database computes too: they are not copied, but can be compared.
    """

    sa: sa.Table
    only: tuple[str, ...] | None = None
    computed: bool = False

    @property
    def name(self) -> str:
        """The table's name in the models, with its schema if it has one."""
        return str(self.sa.key)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns that are copied: all except those that the database computes."""
        by_name = {
            column.name: Column(
                column.name, kind_of(column.type), column.type, bool(column.nullable)
            )
            for column in self.sa.columns
            if column.computed is None or self.computed
        }
        if self.only is None:
            return tuple(by_name.values())
        return tuple(by_name[name] for name in self.only)

    @cached_property
    def clause(self) -> TableClause:
        """The table for statements that know columns by their names in the database.

        A column's key in the models may be another one.
        """
        columns = (sa.column(column.name, column.type) for column in self.columns)
        return sa.table(self.sa.name, *columns, schema=self.sa.schema)

    def sa_column(self, name: str) -> ModelColumn[Any]:
        """Return the models' column of this name in the database, which may not be its key."""
        return next(column for column in self.sa.columns if column.name == name)

    @cached_property
    def key(self) -> tuple[Column, ...]:
        """The columns that tell rows apart: the primary key, or a unique key without NULL.

        A table that has neither is `keyless`: all its columns stand in for a key, and equal rows
        are counted.
        """
        if self.key_names is None:
            return self.columns
        by_name = {column.name: column for column in self.columns}
        return tuple(by_name[name] for name in self.key_names)

    @property
    def keyless(self) -> bool:
        """Whether no key distinguishes the rows, so that two of them may be equal."""
        return self.key_names is None

    @cached_property
    def key_names(self) -> tuple[str, ...] | None:
        """The names of the columns of the key; None if the table is `keyless`.

        Of several unique keys it is the one with the fewest columns, then the first by name.
        """
        copied = {column.name: column for column in self.sa.columns if column.computed is None}
        primary = tuple(column.name for column in self.sa.primary_key.columns)
        if primary and all(name in copied for name in primary):
            return primary
        usable = [
            names
            for names in unique_keys(self.sa)
            if all(name in copied and not copied[name].nullable for name in names)
        ]
        return min(usable, key=lambda names: (len(names), names), default=None)

    def comparable_key(self, key: RowKey) -> RowKey:
        """Return the key with one object for every NaN in it.

        To the databases NaN equals NaN, and Python finds a NaN in a dictionary only by its object.
        """
        if not self._may_hold_nan:
            return key
        return tuple(_NAN if value != value else value for value in key)

    @cached_property
    def _may_hold_nan(self) -> bool:
        return any(column.kind in _WITH_NAN for column in self.key)

    @cached_property
    def signatures(self) -> tuple[tuple[str, str], ...]:
        """The name and signature of each column, with its place in the key.

        While they stay the same, so do the digest and the bucket of a row. A longer text or another
        default changes none of them.
        """
        key = () if self.keyless else self.key
        places = {column.name: f" key {place}" for place, column in enumerate(key)}
        return tuple(
            (column.name, column.signature + places.get(column.name, "")) for column in self.columns
        )

    @cached_property
    def counter(self) -> Column | None:
        """The key column that the database numbers; None if there is none."""
        column = self.sa.autoincrement_column
        if column is None or column.foreign_keys:
            return None
        return next(mine for mine in self.columns if mine.name == column.name)


@dataclass(frozen=True)
class Size:
    """The bytes of a table on its database's disk: of its rows, and of values that are too large
    for their row. Indexes do not count.
    """

    rows: int
    large: int
