"""Where the database of a URL is, by which two URLs for one database are recognised."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult

Place = tuple[object, ...]


@dataclass(frozen=True)
class Urls:
    """How an engine's URLs name a place: a server and a database, unless the engine says else."""

    default_port: int | None = None

    def place(self, url: SplitResult) -> Place:
        """Return where the database is, without the user and the driver; empty if not known.

        A URL that gives its place in parameters, as ODBC strings do, is compared as a whole.
        """
        if not url.hostname:
            return (url.path, url.query) if url.path or url.query else ()
        return (url.hostname.lower(), url.port or self.default_port, url.path.lower())
