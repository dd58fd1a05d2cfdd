"""The engines: one file each, and this registry."""

from __future__ import annotations

from dbsync_pipeline.dialects.base import Dialect
from dbsync_pipeline.dialects.mssql import MSSQL
from dbsync_pipeline.dialects.postgresql import PostgreSQL
from dbsync_pipeline.dialects.sqlite import SQLite

__all__ = ["REGISTRY", "Dialect"]

REGISTRY: dict[str, type[Dialect]] = {dialect.engine_name: dialect for dialect in (PostgreSQL, MSSQL, SQLite)}
"""By the first word of a database's URL."""
