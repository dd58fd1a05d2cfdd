"""The one place where an exception becomes a failure that Dagster stores.

Dagster keeps a step's exception with its traceback and chain. A driver's may hold rows and
passwords, so what is stored is this project's own text: the cause, the place, and the command that
fixes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import Failure, MetadataValue

from dbsync_pipeline import redact
from dbsync_pipeline.defs.alerts import RunContext, report_failure
from dbsync_pipeline.errors import DbsyncError, OutcomeUnknown, Refused, Transient

GUARDS = "guards"
"""The metadata of a failure that lists what each guard found."""

UNKNOWN = "outcome_unknown"
"""The metadata of a failure after which the run may have published nevertheless."""


@contextmanager
def as_dagster_failure(context: RunContext | None = None) -> Iterator[None]:
    """Raise every exception of the block as a Failure without traceback, chain, secret or row.

    Only a Transient error allows retries. With an op's context the failure is also reported: see
    `alerts.report_failure`.
    """
    try:
        yield
    except Exception as error:
        failure = error if isinstance(error, Failure) else _failure(error)
        if context is not None:
            report_failure(context, failure)
        raise failure from None


def _failure(error: Exception) -> Failure:
    if not isinstance(error, DbsyncError):
        return Failure(description=redact.text(error), allow_retries=False)
    return Failure(
        description=str(error),
        metadata=_metadata(error),
        allow_retries=isinstance(error, Transient),
    )


def _metadata(error: DbsyncError) -> dict[str, MetadataValue]:
    if isinstance(error, Refused) and error.findings:
        return {GUARDS: MetadataValue.json([dict(finding) for finding in error.findings])}
    if isinstance(error, OutcomeUnknown):
        return {UNKNOWN: MetadataValue.bool(True)}
    return {}
