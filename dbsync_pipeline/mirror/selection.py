"""Which tables are mirrored: those that the settings choose, without the tables of tools.

A migration tool's record of what it did belongs to one database: on a copy it would claim
migrations that nobody ran there. So such tables are left out by name, and every surface says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import sqlalchemy as sa

from dbsync_pipeline.dialects.foreign_keys import OUTSIDE, is_outside
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror.metadata import copy_tables

TOOLS: Mapping[str, str] = {
    "__diesel_schema_migrations": "Diesel",
    "__drizzle_migrations": "Drizzle",
    "__efmigrationshistory": "Entity Framework",
    "__efmigrationslock": "Entity Framework",
    "_prisma_migrations": "Prisma",
    "_sqlx_migrations": "SQLx",
    "_yoyo_log": "yoyo",
    "_yoyo_migration": "yoyo",
    "_yoyo_version": "yoyo",
    "alembic_version": "Alembic",
    "ar_internal_metadata": "Rails",
    "databasechangelog": "Liquibase",
    "databasechangeloglock": "Liquibase",
    "django_migrations": "Django",
    "doctrine_migration_versions": "Doctrine",
    "flyway_schema_history": "Flyway",
    "goose_db_version": "goose",
    "knex_migrations": "Knex",
    "knex_migrations_lock": "Knex",
    "phinxlog": "Phinx",
    "refinery_schema_history": "Refinery",
    "schema_migrations": "Rails, golang-migrate or dbmate",
    "sequelizedata": "Sequelize",
    "sequelizemeta": "Sequelize",
    "south_migrationhistory": "South",
    "spatial_ref_sys": "PostGIS",
    "sqlite_sequence": "SQLite",
    "typeorm_metadata": "TypeORM",
    "yoyo_lock": "yoyo",
}
"""The tables of tools by their names in lower case, and whose they are."""

_MOST_NAMES = 10
"""How many tables a text names for one reason."""

_DEFAULT_SCHEMAS = ("public", "dbo", "main")
"""The schemas that a table without a schema may be in; a pattern may name them."""


@dataclass(frozen=True)
class TableFilter:
    """The patterns of DBSYNC_TABLES and DBSYNC_SKIP_TABLES.

    A pattern is a name with the wildcards of a shell, of a table or of `schema.table`.
    """

    tables: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    @classmethod
    def of(cls, tables: str, skip: str) -> TableFilter:
        """Return the filter that the two settings make."""
        return cls(_patterns(tables), _patterns(skip))

    def skipped(self, names: Iterable[str]) -> dict[str, str]:
        """Return the tables that are left out of `names`, each with the reason.

        A name is `table` or `schema.table`. Raise SettingsError if a pattern of DBSYNC_TABLES, or a
        name of DBSYNC_SKIP_TABLES, matches none: it would be misspelt.
        """
        listed = list(names)
        for setting, patterns in (
            ("DBSYNC_TABLES", self.tables),
            ("DBSYNC_SKIP_TABLES", [name for name in self.skip if not re.search(r"[*?\[]", name)]),
        ):
            for pattern in patterns:
                if not any(_matches(pattern, name) for name in listed):
                    raise SettingsError(
                        f"{setting} names {pattern}, and there is no such table",
                        operation="choose tables",
                        remedy=f"correct {setting}; the tables are: {', '.join(sorted(listed))}",
                    )
        reasons = {name: self._reason(name) for name in listed}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def _reason(self, name: str) -> str | None:
        """Return why the table is left out; None if it is mirrored."""
        if any(_matches(pattern, name) for pattern in self.skip):
            return "DBSYNC_SKIP_TABLES"
        if self.tables:
            chosen = any(_matches(pattern, name) for pattern in self.tables)
            return None if chosen else "not in DBSYNC_TABLES"
        tool = TOOLS.get(name.rpartition(".")[2].lower())
        return f"a table of {tool}" if tool else None


def _patterns(text: str) -> tuple[str, ...]:
    return tuple(filter(None, re.split(r"[,\s]+", text)))


def _matches(pattern: str, name: str) -> bool:
    schema, _, table = name.rpartition(".")
    schemas = (schema,) if schema else _DEFAULT_SCHEMAS
    candidates = [name, *(f"{each}.{table}" for each in schemas)]
    if "." not in pattern:
        candidates.append(table)
    return any(fnmatchcase(candidate, pattern) for candidate in candidates)


def described(skipped: Mapping[str, str]) -> str:
    """Return the tables that are left out and why, on one line; of many, the first names."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(
        f"{', '.join(names[:_MOST_NAMES])}"
        f"{f' and {len(names) - _MOST_NAMES} more' * (len(names) > _MOST_NAMES)} ({reason})"
        for reason, names in by_reason.items()
    )


def chosen(metadata: sa.MetaData, skipped: Iterable[str]) -> sa.MetaData:
    """Return the metadata without the skipped tables, whose foreign keys can all be resolved.

    A table that is referred to and not mirrored is there with the referred columns only, and
    `is_outside` is true for it. The metadata itself is returned if nothing is to be changed.
    """
    left = set(skipped)
    mirrored = [table for name, table in metadata.tables.items() if name not in left]
    if not left and not _missing(mirrored):
        return metadata
    result = sa.MetaData(naming_convention=metadata.naming_convention)
    copy_tables(metadata, result, [table.key for table in mirrored])
    add_outside(result)
    return result


def add_outside(metadata: sa.MetaData) -> None:
    """Add the tables that foreign keys refer to and that the metadata lacks; see `is_outside`."""
    tables = list(metadata.tables.values())
    for name in sorted(_missing(tables)):
        _add_outside(metadata, tables, name)


def _missing(tables: Iterable[sa.Table]) -> set[str]:
    """Return the names of tables that are referred to and are not among these."""
    listed = list(tables)
    referred = {str(key.target_table_key) for table in listed for key in table.foreign_keys}
    return referred - {table.key for table in listed}


def _add_outside(metadata: sa.MetaData, mirrored: Iterable[sa.Table], name: str) -> None:
    """Add a table with those of its columns that mirrored tables refer to."""
    referring = {
        key._column_tokens[2]: key.parent.type
        for table in mirrored
        for key in table.foreign_keys
        if key.target_table_key == name
    }
    schema, _, table_name = name.rpartition(".")
    sa.Table(
        table_name,
        metadata,
        *(sa.Column(column, type_) for column, type_ in referring.items()),
        schema=schema or None,
        info=dict(OUTSIDE),
    )


def mirrored_tables(metadata: sa.MetaData) -> list[sa.Table]:
    """Return the metadata's tables without those that are only referred to, by name."""
    by_name = sorted(metadata.tables.values(), key=lambda table: table.key)
    return [table for table in by_name if not is_outside(table)]
