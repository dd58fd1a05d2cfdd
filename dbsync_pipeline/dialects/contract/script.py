"""The role of a database whose values and names are written for people."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import sqlalchemy as sa

from dbsync_pipeline.dialects.contract.connection import Connection
from dbsync_pipeline.dialects.table import Column, Table, undecorated


class Script(Connection):
    """Values and names as a person reads them, or runs them in a script."""

    script_begins: ClassVar[tuple[str, ...]] = ("BEGIN;",)
    """The first lines of a script that a person runs in one transaction."""

    def insertion(self, table: Table, into: str, values: str) -> str:
        """Return an INSERT as a script writes it, which may give numbers that are generated.

        `into` names the table and its columns; `values` are literals.
        """
        return f"INSERT INTO {into} VALUES ({values})"

    @abstractmethod
    def quoted(self, name: str) -> str:
        """Return an identifier as a script writes it."""

    @abstractmethod
    def literal(self, column: Column, value: Any) -> str:
        """Return a plain value, which is not None, as a script writes it for this column.

        Raise Cannot if the column cannot hold it.
        """

    def displayed(self, column: Column, stored: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return a stored value for people to read, exactly: JSON and enums as stored text."""
        if isinstance(undecorated(column.type), (sa.JSON, sa.Enum)):
            return sa.cast(stored, sa.UnicodeText)
        return stored
