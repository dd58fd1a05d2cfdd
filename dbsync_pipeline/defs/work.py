"""What the ops of one run use: a sync session, or a reading of the primary's own partition."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Publish, TableResult
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.sync.session import TableDiff


class Work(Protocol):
    """The steps of a run, called in this order; `mirror.sync.session.Session` is one."""

    def ensure_schema(self) -> list[str]:
        """Create the tables that the target lacks; return their names."""

    def copy(self, table: str) -> TableDiff:
        """Compare one table, and stage the rows that differ."""

    def publish(self) -> Publish:
        """Apply all tables in one transaction."""

    def cancel(self) -> None:
        """Cancel the statement that runs now; called from another thread."""

    def close(self) -> None:
        """Release all connections."""


@dataclass
class PrimaryReading:
    """The primary's own partition: check its structure and count its rows. It copies nothing."""

    primary: Database
    model: Model
    tables: tuple[str, ...]
    run_id: str
    rows: dict[str, int] = field(default_factory=dict)
    read_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0
    _dialect: Dialect | None = None

    def ensure_schema(self) -> list[str]:
        """Check the structure of all tables and count their rows."""
        started = time.monotonic()
        with self.primary.connect(f"dbsync run {self.run_id}") as dialect:
            self._dialect = dialect
            try:
                self.rows = schema.rows(dialect, self.model)
            finally:
                self._dialect = None
        self.seconds = time.monotonic() - started
        return []

    def copy(self, table: str) -> TableDiff:
        """Return the table's rows as unchanged."""
        rows = self.rows[table]
        return TableDiff(table=table, rows=rows, insert=0, update=0, delete=0, bytes=0, seconds=0.0)

    def publish(self) -> Publish:
        """Return the counts in the form of a publish; its number is 0, because none was made."""
        return Publish(
            number=0,
            run_id=self.run_id,
            source=self.primary.name,
            target=self.primary.name,
            snapshot_at=self.read_at,
            published_at=self.read_at,
            tables={table: self._result(table) for table in self.tables},
            seconds={"count": self.seconds},
        )

    def _result(self, table: str) -> TableResult:
        return TableResult(
            rows=self.rows[table],
            inserted=0,
            updated=0,
            deleted=0,
            bytes=0,
            digest="",
            seconds=0.0,
        )

    def cancel(self) -> None:
        """Cancel the statement that counts, if one runs."""
        if dialect := self._dialect:
            dialect.cancel()

    def close(self) -> None:
        """Do nothing: no connection stays open."""
