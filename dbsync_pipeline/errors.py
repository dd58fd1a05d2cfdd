"""Every failure that a user can see.

    DbsyncError
    ├── SettingsError       a setting or an argument is wrong: correct it and run again
    ├── StructureError      source, target and models disagree in structure
    ├── Refused             a guard refused the sync: data would be at risk
    ├── Unrepresentable     the target cannot hold a value exactly
    ├── NotProved           after the changes the target did not equal the source: rolled back
    ├── DatabaseError       the database refused an operation, and a retry would not help
    └── Transient           a retry can help
        ├── Unavailable     the database does not answer
        │   └── Starting    its server says that it is starting
        ├── OutcomeUnknown  the reply to COMMIT was lost, and the database cannot be asked
        └── Busy            another process holds the lock

Each has the operation, the database, the table, the cause and the remedy: the command that fixes
it, if there is one. Whether a retry can help is decided by the type. Only the dialects translate
drivers' exceptions into these. They are never chained, because a driver's message may contain a
connection string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class DbsyncError(Exception):
    """A failure with its place, cause and remedy; `str()` is the text for a person."""

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
    """Source, target and models differ in structure, or the models use what cannot be mirrored."""


class Refused(DbsyncError):
    """A guard refused the sync.

    `findings` has what each guard found: `guard`, `table`, `found`, `remedy`.
    """

    def __init__(
        self, cause: str, *, findings: Sequence[Mapping[str, str | None]] = (), **place: str | None
    ) -> None:
        super().__init__(cause, **place)
        self.findings = tuple(findings)


class Unrepresentable(DbsyncError):
    """The target cannot hold a value exactly; nothing is ever rounded, cut or shifted."""


class NotProved(DbsyncError):
    """The target did not equal the source before the commit, or digests contradicted each other.

    The transaction was rolled back.
    """


class DatabaseError(DbsyncError):
    """The database refused an operation, and a retry would not help."""


class Transient(DbsyncError):
    """A retry can help."""


class Unavailable(Transient):
    """The database does not answer."""


class Starting(Unavailable):
    """The server answers that the database is starting and accepts connections soon."""


class Busy(Transient):
    """Another process holds the lock."""


class OutcomeUnknown(Transient):
    """The reply to COMMIT was lost, and the database does not answer: it may be committed or not.

    The ledger knows once the database answers again. A retry is safe in either case.
    """
