"""The result of `doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbsync_pipeline.output.base import Json, Result

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.doctor import Check


@dataclass(frozen=True)
class Diagnosis(Result):
    """The checks, in the order in which they were made."""

    checks: Sequence[Check]

    def json(self) -> list[Json]:
        """Return `{check, database, state, detail, remedy}` of each check."""
        return [
            {
                "check": check.name,
                "database": check.database,
                "state": check.state,
                "detail": check.detail,
                "remedy": check.remedy,
            }
            for check in self.checks
        ]

    @property
    def ok(self) -> bool:
        """Whether no check failed; warnings do not count."""
        return all(check.state != "failed" for check in self.checks)
