"""SQLite's URLs, which name a file."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import SplitResult, unquote

from dbsync_pipeline.dialects.urls import Place, Urls


class SQLiteUrls(Urls):
    """The place is the file, whatever links lead to it."""

    def place(self, url: SplitResult) -> Place:
        """Return the file; empty if the URL names none."""
        path = unquote(url.path)[1:]
        return (os.path.realpath(path),) if path else ()


URLS = SQLiteUrls()


def file_url(folder: Path, name: str) -> str:
    """Return the URL of a database of that name in a folder."""
    return f"sqlite:///{(folder / f'{name}.db').absolute()}"
