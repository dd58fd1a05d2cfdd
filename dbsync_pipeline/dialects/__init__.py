"""The engines: one file each, and this registry."""

from __future__ import annotations

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.mssql.dialect import MSSQL
from dbsync_pipeline.dialects.postgresql.dialect import PostgreSQL
from dbsync_pipeline.dialects.sqlite.dialect import SQLite

__all__ = ["REGISTRY", "Dialect"]

REGISTRY: dict[str, type[Dialect]] = {
    dialect.engine_name: dialect for dialect in (PostgreSQL, MSSQL, SQLite)
}
"""By the first word of a database's URL."""
