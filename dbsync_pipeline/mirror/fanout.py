"""Ask several databases the same question, and keep one result for each: a value, or the
DbsyncError that it failed with.

`ask` asks all at the same time, with one deadline that holds whatever a database does. `one_by_one`
asks them in turn, for work that must not run at the same time. Both return a `PerDatabase`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dbsync_pipeline.deadline import run_until
from dbsync_pipeline.errors import DbsyncError, Unavailable
from dbsync_pipeline.mirror.database import Database

Value = TypeVar("Value")
Other = TypeVar("Other")


@dataclass(frozen=True)
class PerDatabase(Generic[Value]):
    """One result for each database in `names`, which keeps the order of the request.

    `good` has the values, `failed` the errors, both by the database's name. Every name is in
    exactly one of the two.
    """

    names: tuple[str, ...]
    good: Mapping[str, Value]
    failed: Mapping[str, DbsyncError]

    @classmethod
    def collect(cls, results: Mapping[str, Value | DbsyncError]) -> PerDatabase[Value]:
        """Sort results by name into values and errors."""
        return cls(
            tuple(results),
            {
                name: result
                for name, result in results.items()
                if not isinstance(result, DbsyncError)
            },
            {name: result for name, result in results.items() if isinstance(result, DbsyncError)},
        )

    def map(self, transform: Callable[[Value], Other]) -> PerDatabase[Other]:
        """The same with every value transformed; errors stay."""
        values = {name: transform(value) for name, value in self.good.items()}
        return PerDatabase(self.names, values, self.failed)

    def items(self) -> Iterator[tuple[str, Value | DbsyncError]]:
        """Name and result of each database, in the order of the request."""
        for name in self.names:
            yield name, self.failed[name] if name in self.failed else self.good[name]

    @property
    def reasons(self) -> dict[str, str]:
        """The cause of each failure, by the database's name."""
        return {name: error.cause for name, error in self.failed.items()}


def ask(
    databases: Sequence[Database], question: Callable[[Database], Value], seconds: float
) -> PerDatabase[Value]:
    """Ask all databases at the same time; a database that has not replied within `seconds` has
    failed with Unavailable.

    A server that is starting fails at once with Starting. A question that is late continues in the
    background, so it should change nothing that a late reply would spoil. Raises an exception of a
    question that is no DbsyncError.
    """
    work = {database.name: _question(question, database.at_once) for database in databases}
    finished = run_until(work, seconds, label="dbsync-ask")
    return PerDatabase.collect(
        {name: _reply(name, finished.get(name), name in finished, seconds) for name in work}
    )


def one_by_one(names: Sequence[str], work: Callable[[str], Value]) -> PerDatabase[Value]:
    """Do the work for each database in turn, to its end; the failure of one does not stop the
    others.
    """
    results: dict[str, Value | DbsyncError] = {}
    for name in names:
        try:
            results[name] = work(name)
        except DbsyncError as error:
            results[name] = error
    return PerDatabase.collect(results)


def _question(question: Callable[[Database], Value], database: Database) -> Callable[[], Value]:
    return lambda: question(database)


def _reply(
    name: str, result: Value | BaseException | None, finished: bool, seconds: float
) -> Value | DbsyncError:
    if not finished:
        return Unavailable(
            f"no answer within {seconds:g} seconds",
            operation="probe",
            database=name,
            remedy=f"see that the server of {name} runs and is not overloaded",
        )
    if isinstance(result, BaseException) and not isinstance(result, DbsyncError):
        raise result
    return result  # type: ignore[return-value]  # None is a value that a question may return
