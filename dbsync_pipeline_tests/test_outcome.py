"""The reply to COMMIT is lost: the ledger decides, also later; if it cannot, the outcome is unknown."""

from __future__ import annotations

import contextlib
import socket
import time
from functools import partial

import pytest

from dbsync_pipeline.errors import OutcomeUnknown, Unavailable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.proxy import (
    TO_SERVER,
    Connection,
    Proxy,
    cut_and_refuse,
    reached_by_proxy,
    stall,
    swallow,
)
from dbsync_pipeline_tests.worlds import (
    MODEL,
    content,
    execute,
    sync,
    synced_pair,
    user,
)

Pair = tuple[Database, Database]
SILENCE = 4
"""Seconds, in place of the usual 60."""
_DELAY = 2.0

users = MODEL.table("users").sa
behind_proxy = partial(reached_by_proxy, silence_seconds=SILENCE, connect_seconds=2)


@pytest.fixture
def pair(new_database: NewDatabase) -> Pair:
    source, target = synced_pair(new_database)
    execute(source, users.insert().values(user(900)))
    return source, target


def lose_client(connection: Connection) -> None:
    """Close the client's side; what it sent arrives at the server two seconds later."""
    connection.delay_seconds[TO_SERVER] = _DELAY
    connection._client.shutdown(socket.SHUT_RD)
    connection._client.close()


def is_recorded(target: Database, run_id: str) -> bool:
    with target.connect() as dialect:
        return Ledger(dialect).of_run(run_id) is not None


def on_publish_commit(proxy: Proxy, action: object, *, before: bool) -> None:
    """Arm the trigger once the publish is recorded, which is right before its COMMIT."""

    def arm(_connection: Connection) -> None:
        (proxy.before if before else proxy.after)(b"COMMIT", TO_SERVER, action)  # type: ignore[arg-type]

    proxy.after(b"INSERT INTO dbsync.publishes", TO_SERVER, arm)


def test_cut_after_commit_while_the_server_is_out_of_reach_for_a_while(pair: Pair) -> None:
    """Out of reach for less than the longest silence: the run waits, and reports the publish."""
    source, target = pair
    with behind_proxy(target) as (far, proxy):
        on_publish_commit(proxy, cut_and_refuse(2), before=False)
        publish = sync(source, far, run_id="patient")
    assert publish.tables["users"].inserted == 1
    assert content(target) == content(source)


def test_cut_before_commit_while_the_server_is_out_of_reach_for_a_while(pair: Pair) -> None:
    source, target = pair
    before = content(target)
    with behind_proxy(target) as (far, proxy):
        on_publish_commit(proxy, cut_and_refuse(2), before=True)
        with pytest.raises(Unavailable) as failed:
            sync(source, far, run_id="rolled-back")
    assert not isinstance(failed.value, OutcomeUnknown), "that it was rolled back is known"
    assert content(target) == before
    assert sync(source, target).changed == 1


@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
def test_an_outcome_that_cannot_be_determined_is_unknown_and_settled_later(
    pair: Pair, made: bool
) -> None:
    source, target = pair
    with behind_proxy(target) as (far, proxy):
        on_publish_commit(proxy, cut_and_refuse(60), before=not made)
        started = time.monotonic()
        with pytest.raises(OutcomeUnknown, match=r"database linux.*unknown"):
            sync(source, far, run_id="lost")
        assert time.monotonic() - started < SILENCE + 15
    assert is_recorded(target, "lost") is made
    assert sync(source, target).changed == (0 if made else 1)
    assert content(target) == content(source)


def test_a_commit_that_would_arrive_seconds_later_is_not_carried_out(pair: Pair) -> None:
    """What is reported as rolled back stays rolled back."""
    source, target = pair
    before = content(target)
    with behind_proxy(target) as (far, proxy):
        on_publish_commit(proxy, lose_client, before=True)
        with pytest.raises(Unavailable) as failed:
            sync(source, far, run_id="late")
        assert not isinstance(failed.value, OutcomeUnknown)
        time.sleep(_DELAY + 1)
    assert content(target) == before
    assert not is_recorded(target, "late")


@pytest.mark.parametrize("action", [stall, swallow], ids=["stalled", "swallowed"])
@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
def test_a_commit_whose_reply_never_comes(pair: Pair, action: object, made: bool) -> None:
    """The connection is silent during COMMIT; the ledger is asked by a new one."""
    source, target = pair
    before = content(target)
    with behind_proxy(target) as (far, proxy):
        on_publish_commit(proxy, action, before=not made)
        if made:
            assert sync(source, far, run_id="silent").changed == 1
        else:
            with pytest.raises(Unavailable, match="went silent"):
                sync(source, far, run_id="silent")
    assert content(target) == (content(source) if made else before)
    assert sync(source, target).changed == (0 if made else 1)


def test_the_reply_to_the_reserved_number_is_lost(pair: Pair) -> None:
    """The number is reserved on the source; a second number is reserved, and the sync continues."""
    source, target = pair
    with behind_proxy(source) as (far, proxy):

        def arm(_connection: Connection) -> None:
            proxy.after(b"COMMIT", TO_SERVER, cut_and_refuse(1))

        proxy.after(b"UPDATE dbsync.facts", TO_SERVER, arm)
        with contextlib.suppress(Unavailable):
            sync(far, target)
    publish = sync(source, target)
    assert publish.numbered
    assert content(target) == content(source)
