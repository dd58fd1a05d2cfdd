"""A connection of a sync stalls, is swallowed, cut or delayed in each phase, on either side: the sync ends, and its locks are free.

In every case it ends within seconds, says what happened, leaves the target as it was or makes it equal, and the next sync works.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from dbsync_pipeline.errors import OutcomeUnknown, Transient, Unavailable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.proxy import (
    TO_SERVER,
    Action,
    Connection,
    Proxy,
    cut,
    delay,
    proxy_to,
    stall,
    swallow,
)
from dbsync_pipeline_tests.test_safety import free_after
from dbsync_pipeline_tests.worlds import (
    MODEL,
    SETTINGS,
    content,
    execute,
    prepare,
    small_world,
    sync,
    user,
)

Pair = tuple[Database, Database]
SILENCE = 2
"""Seconds, in place of the usual 60."""
SLACK = 10
"""Seconds beyond the silence until the sync ends, and from there until the locks are free."""
PATIENT = SETTINGS.model_copy(update={"lock_seconds": 10})

users = MODEL.table("users").sa
_numbers = itertools.count(1000)

PHASES = {
    "source": {
        "open": b"LOCK TABLE",
        "compare": b'DECLARE "dbsync_',
        "stage": b"COPY",
        "publish, the number": b"UPDATE dbsync.facts",
    },
    "target": {
        "open": b"LOCK TABLE",
        "compare": b'DECLARE "dbsync_',
        "stage": b"COPY",
        "publish, the rows": b"DELETE FROM",
        "publish, the proof": b"SET CONSTRAINTS ALL IMMEDIATE",
        "publish, the ledger": b"INSERT INTO dbsync.publishes",
    },
}
"""A statement with which each phase begins, as the server receives it."""


@dataclass(frozen=True)
class Fault:
    """What the proxy does before it forwards the statement, and the sync's error; None if it succeeds."""

    action: Action
    error: str | None


FAULTS = {
    "stall": Fault(stall, "went silent"),
    "swallow": Fault(swallow, "went silent"),
    "cut": Fault(cut, "lost"),
    "short delays": Fault(delay(0.05), None),
    "long delays": Fault(delay(SILENCE + 4), "went silent"),
}


@pytest.fixture(scope="module")
def pair(shared_database: NewDatabase) -> Pair:
    """Two servers that are equal; every test leaves them so."""
    source, target = (
        shared_database("postgresql", name, server=n) for n, name in enumerate(("windows", "linux"))
    )
    prepare(source, small_world())
    sync(source, target)
    return source, target


@pytest.fixture
def changed(pair: Pair) -> Iterator[Pair]:
    """The pair with rows to insert, to change and to delete."""
    number = next(_numbers)
    execute(
        pair[0],
        users.delete().where(users.c.id >= 1000),
        users.insert().values(user(number)),
        users.update().where(users.c.id < 5).values(name=f"version {number}"),
    )
    yield pair
    sync(*pair, settings=PATIENT)
    assert content(pair[1]) == content(pair[0])


EVERYWHERE = ("stall", "swallow", "cut", "short delays")
CASES = [
    (side, phase, fault)
    for side, phases in PHASES.items()
    for phase in phases
    for fault in EVERYWHERE
]
CASES += [(side, "compare", "long delays") for side in PHASES]


@pytest.mark.parametrize(("side", "phase", "fault"), CASES)
def test_a_fault_in_any_phase_ends_the_sync_and_frees_the_locks(
    changed: Pair, side: str, phase: str, fault: str
) -> None:
    source, target = changed
    before = content(target)
    with proxy_to((source if side == "source" else target).url) as proxy:
        moments = list[float]()

        def act(connection: Connection) -> None:
            moments.append(time.monotonic())
            FAULTS[fault].action(connection)

        proxy.before(PHASES[side][phase], TO_SERVER, act)
        happened = result(*through(proxy, changed, side))
        assert moments, "the phase was not reached"
        seconds = time.monotonic() - moments[0]
        free = free_after(source, target, SLACK)
    print(f"{side}, {phase}, {fault}: {happened} after {seconds:.1f} s, locks free {free:.1f} s on")
    expected = FAULTS[fault].error
    if expected is None:
        assert happened == "published" and content(target) == content(source)
    else:
        assert (
            expected in happened
            and f"database {source.name if side == 'source' else target.name}" in happened
        )
        assert content(target) == before
        assert seconds < SILENCE + SLACK


def through(proxy: Proxy, pair: Pair, side: str) -> Pair:
    """The pair, with one side behind the proxy."""
    source, target = (replace(one, silence_seconds=SILENCE) for one in pair)
    if side == "source":
        return replace(source, url=proxy.url), target
    return source, replace(target, url=proxy.url)


def result(source: Database, target: Database) -> str:
    """What the sync says; every error is one that Dagster retries, and none is unknown."""
    try:
        sync(source, target)
    except Unavailable as error:
        assert isinstance(error, Transient) and not isinstance(error, OutcomeUnknown)
        return str(error).splitlines()[0]
    return "published"
