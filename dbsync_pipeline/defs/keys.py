"""The names of the tables in Dagster: asset keys, and identifiers for ops and their outputs.

The asset of the table `auth.users` has the key `auth/users`, after the parts of
DBSYNC_ASSET_PREFIX: `dbsync/auth/users` if that is `dbsync`. A part that is not an identifier is
replaced: see `slug`.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable

from dagster import AssetKey

from dbsync_pipeline.mirror.model import configured_model
from dbsync_pipeline.settings import Settings, load


def slug(name: str) -> str:
    """Return the name if it is an identifier, else its letters and digits and a hash."""
    if re.fullmatch(r"[A-Za-z0-9_]+", name):
        return name
    readable = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "table"
    return f"{readable}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def asset_keys(tables: Iterable[str], prefix: str | None = None) -> dict[str, AssetKey]:
    """Return the asset key of each table. `prefix` is as in DBSYNC_ASSET_PREFIX, the default."""
    text = load().asset_prefix if prefix is None else prefix
    start = [slug(part) for part in text.split("/") if part]
    return {table: AssetKey([*start, *map(slug, table.split("."))]) for table in tables}


def table_keys() -> frozenset[AssetKey]:
    """Return the asset keys of all tables of the configured models."""
    return _table_keys(load())


@functools.cache
def _table_keys(settings: Settings) -> frozenset[AssetKey]:
    return frozenset(asset_keys(configured_model(settings).names, settings.asset_prefix).values())
