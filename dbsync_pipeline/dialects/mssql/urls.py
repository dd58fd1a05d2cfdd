"""SQL Server's URLs."""

from __future__ import annotations

from dbsync_pipeline.dialects.urls import Urls

URLS = Urls(default_port=1433)
