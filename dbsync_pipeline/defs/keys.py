"""The names of the tables in Dagster: asset keys, and identifiers for ops and their outputs."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path

from dagster import AssetKey

from dbsync_pipeline.mirror.model import load_model
from dbsync_pipeline.settings import load


def slug(table: str) -> str:
    """Return the table's name if it is an identifier, else its letters and digits and a hash."""
    if re.fullmatch(r"[A-Za-z0-9_]+", table):
        return table
    readable = re.sub(r"[^A-Za-z0-9]+", "_", table).strip("_") or "table"
    return f"{readable}_{hashlib.sha256(table.encode()).hexdigest()[:8]}"


def asset_key(table: str) -> AssetKey:
    """Return the key of the table's asset."""
    return AssetKey([slug(table)])


def table_keys() -> frozenset[AssetKey]:
    """Return the asset keys of all tables of the configured models."""
    settings = load()
    return _table_keys(settings.models, settings.revisions)


@functools.cache
def _table_keys(models: str, revisions: Path | None) -> frozenset[AssetKey]:
    return frozenset(map(asset_key, load_model(models, revisions).names))
