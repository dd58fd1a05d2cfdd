"""Results of `tables` and `migrate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dbsync_pipeline.output.base import Json, Result, per_database

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.fanout import PerDatabase
    from dbsync_pipeline.mirror.migrate.revisions import Revision
    from dbsync_pipeline.mirror.migrate.write import Written
    from dbsync_pipeline.mirror.reflect.read import Structure


@dataclass(frozen=True)
class Created(Result):
    """The tables that were created on each database."""

    created: PerDatabase[list[str]]

    def json(self) -> list[Json]:
        """Return one object per database."""
        return per_database(self.created, lambda tables: {"created": tables}, {"created": None})

    @property
    def ok(self) -> bool:
        """Whether every database has its tables now."""
        return not self.created.failed


@dataclass(frozen=True)
class Checked(Result):
    """How each database's tables differ from the models: the differences of each table."""

    checked: PerDatabase[dict[str, list[str]]]

    def json(self) -> list[Json]:
        """Return one object per database."""
        failed = {"available": False, "equal": False, "tables": None}
        return per_database(self.checked, _check_json, failed)

    @property
    def ok(self) -> bool:
        """Whether every database answers and is equal in structure to the models."""
        differ = any(any(tables.values()) for tables in self.checked.good.values())
        return not self.checked.failed and not differ


def _check_json(tables: dict[str, list[str]]) -> Json:
    return {"available": True, "equal": not any(tables.values()), "tables": tables}


@dataclass(frozen=True)
class Recreated(Result):
    """The tables that were dropped and created, all empty."""

    database: str
    tables: Sequence[str]

    def json(self) -> Json:
        """Return `{database, recreated}`."""
        return {"database": self.database, "recreated": list(self.tables)}


@dataclass(frozen=True)
class Migrated(Result):
    """The revisions that were applied to each database, and why some databases are left alone."""

    applied: PerDatabase[tuple[Revision, ...]]
    left_alone: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> list[Json]:
        """Return one object per database."""
        databases = per_database(
            self.applied,
            lambda revisions: {"applied": [_revision_json(revision) for revision in revisions]},
            {"applied": None},
        )
        return [
            {**shown, "left_alone": self.left_alone.get(shown["database"])} for shown in databases
        ]

    @property
    def ok(self) -> bool:
        """Whether no database failed."""
        return not self.applied.failed


@dataclass(frozen=True)
class WrittenRevision(Result):
    """The file of a new revision."""

    written: Written

    def json(self) -> Written:
        """Return `{number, path, left}`."""
        return self.written


@dataclass(frozen=True)
class WrittenModels(Result):
    """The file of new models, the database that they describe, and what cannot be mirrored."""

    path: Path
    database: str
    structure: Structure

    def json(self) -> Json:
        """Return `{path, database, tables, skipped, notes}`."""
        return {
            "path": self.path,
            "database": self.database,
            "tables": list(self.structure.tables),
            "skipped": dict(self.structure.skipped),
            "notes": list(self.structure.notes),
        }


@dataclass(frozen=True)
class Revisions(Result):
    """The models' revisions, and those that each database lacks."""

    revisions: Sequence[Revision]
    lacking: PerDatabase[Sequence[Revision]]

    def json(self) -> Json:
        """Return `{revisions, databases}`."""
        databases = per_database(
            self.lacking,
            lambda revisions: {"lacking": [revision.number for revision in revisions]},
            {"lacking": None},
        )
        return {
            "revisions": [_revision_json(revision) for revision in self.revisions],
            "databases": databases,
        }

    @property
    def ok(self) -> bool:
        """Whether every database could be read and lacks no revision."""
        return not self.lacking.failed and not any(self.lacking.good.values())


def _revision_json(revision: Revision) -> Json:
    return {"number": revision.number, "title": revision.title, "path": revision.path}
