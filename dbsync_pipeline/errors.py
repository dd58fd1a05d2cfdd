"""Every failure that a user can meet, and what each tells them.

    DbsyncError
    ├── SettingsError       a setting or an argument is wrong: mend it and run again
    ├── StructureError      source, target and models disagree in structure
    ├── Refused             a guard held the sync back: the data would be at risk
    ├── Unholdable          the target cannot hold a value exactly
    ├── NotProved           after the changes the target did not equal the source: rolled back
    ├── DatabaseError       the database refused an operation for a reason that a retry does not mend
    └── Transient           a retry can help
        ├── Unavailable     the database does not answer
        │   └── Starting    its server says that it soon will
        └── Busy            somebody else holds the lock

Each says the operation, the database, the table, the cause and the remedy: a command that mends it, where there is one.
Whether a retry helps is said by the type. Driver exceptions are translated into these by the dialects and by nobody else, and
are never chained: a driver's message may carry a connection string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class DbsyncError(Exception):
    """A failure with its place, its cause and its remedy; `str()` is the text that a person reads."""

    def __init__(
        self,
        cause: str,
        *,
        operation: str | None = None,
        database: str | None = None,
        table: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.operation = operation
        self.database = database
        self.table = table
        self.remedy = remedy

    def __str__(self) -> str:
        place = [
            self.operation,
            self.database and f"database {self.database}",
            self.table and f"table {self.table}",
        ]
        where = ", ".join(part for part in place if part)
        text = f"{where}: {self.cause}" if where else self.cause
        return f"{text}\nRemedy: {self.remedy}" if self.remedy else text


class SettingsError(DbsyncError):
    """A setting or an argument is wrong."""


class StructureError(DbsyncError):
    """Source, target and models disagree in structure, or the models ask for what cannot be mirrored."""


class Refused(DbsyncError):
    """A guard held the sync back. `findings` has what each guard found: `guard`, `table`, `found`, `remedy`."""

    def __init__(
        self, cause: str, *, findings: Sequence[Mapping[str, str | None]] = (), **place: str | None
    ) -> None:
        super().__init__(cause, **place)
        self.findings = tuple(findings)


class Unrepresentable(DbsyncError):
    """The target cannot hold a value exactly; nothing is ever rounded, cut or shifted."""


class NotProved(DbsyncError):
    """The target did not equal the source before the commit, or digests contradicted each other; the transaction was rolled back."""


class DatabaseError(DbsyncError):
    """The database refused an operation, and a retry would not mend it."""


class Transient(DbsyncError):
    """A retry can help."""


class Unavailable(Transient):
    """The database does not answer."""


class Starting(Unavailable):
    """The server answers, and says that the database takes connections soon."""


class Busy(Transient):
    """Somebody else holds the lock."""
