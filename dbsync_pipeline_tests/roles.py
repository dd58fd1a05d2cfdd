"""Roles of PostgreSQL that are no superusers, made for one test and gone after it."""

from __future__ import annotations

import itertools
import os

import sqlalchemy as sa

from dbsync_pipeline.mirror.database import Database

_numbers = itertools.count(1)


def name(database: Database) -> str:
    """The role that a database's URL names."""
    return str(database.url.username)


class Roles:
    """Makes roles; `administer` runs statements as the superuser whom the test server gave."""

    def __init__(self) -> None:
        self._made: list[tuple[Database, str]] = []

    def new(self, database: Database, attributes: str = "") -> Database:
        """The same database as a new role sees it, which may connect and nothing else."""
        role = f"r{os.getpid()}_{next(_numbers)}"
        administer(database, f"CREATE ROLE {role} LOGIN {attributes}")
        self._made.append((database, role))
        return Database(database.name, database.url.set(username=role), database.connect_seconds)

    def drop(self) -> None:
        for database, role in self._made:
            administer(database, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


def administer(database: Database, *statements: str) -> None:
    """Each statement as it stands, by itself, as the superuser."""
    connection = database.engine().raw_connection()
    connection.driver_connection.autocommit = True  # type: ignore[union-attr]
    try:
        for statement in statements:
            connection.cursor().execute(statement)
    finally:
        connection.close()


def one(database: Database, query: str) -> object:
    """The first value that a query gives the superuser."""
    with database.engine().connect() as connection:
        return connection.scalar(sa.text(query))
