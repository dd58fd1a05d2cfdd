"""Terms: how a database takes one, what all of them say together, and what a sync does with them."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Mapping

import pytest
import sqlalchemy as sa

from dbsync_pipeline.errors import Refused
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.failover.term import judge
from dbsync_pipeline.mirror.ledger import Ledger, Term
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.silent import silent_server
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    SETTINGS,
    content,
    execute,
    prepare,
    small_world,
    sync,
)

L1, A1, A2, W2 = Term(1, "linux"), Term(1, "azure"), Term(2, "azure"), Term(2, "windows")
BACK = Term(2, "windows", after="linux")


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest, new_database: NewDatabase) -> Database:
    database = new_database(request.param, "linux")
    schema.ensure(database, MODEL)
    return database


def take(database: Database, wanted: Term) -> bool:
    return term.give(wanted, [database], 5) == {}


def test_a_database_takes_higher_terms_only_and_one_primary_for_each(place: Database) -> None:
    assert term.read_term(place) is None
    assert take(place, L1) and term.read_term(place) == L1
    assert take(place, L1), "a second call is the same"
    assert not take(place, A1) and not take(place, Term(0, "azure")) and term.read_term(place) == L1
    assert take(place, W2) and term.read_term(place) == W2
    assert not take(place, L1) and not take(place, A2)


def test_of_many_that_give_one_term_to_different_primaries_one_has_it(place: Database) -> None:
    rivals = [f"p{number}" for number in range(8)]
    won: list[str] = []

    def give(rival: str) -> None:
        if take(place, Term(1, rival)):
            won.append(rival)

    threads = [threading.Thread(target=give, args=(rival,)) for rival in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = term.read_term(place)
    assert taken is not None and set(won) <= {taken.primary} and len(won) <= 1


def test_a_term_that_was_rolled_back_was_not_taken(place: Database) -> None:
    assert take(place, L1)
    with place.connect() as dialect:
        transaction = dialect.connection.begin()
        assert Ledger(dialect).take_term(W2)
        transaction.rollback()
        assert Ledger(dialect).term() == L1


def test_a_term_is_read_as_it_was_written(place: Database) -> None:
    assert take(place, BACK) and term.read_term(place).after == "linux"  # type: ignore[union-attr]
    with place.connect() as dialect, dialect.connection.begin():
        Ledger(dialect).settle_term()
    assert term.read_term(place) == W2 and term.read_term(place).after is None  # type: ignore[union-attr]


def test_a_term_is_taken_under_the_lock_of_a_publish(place: Database) -> None:
    assert take(place, L1)
    with place.connect() as dialect:
        dialect.begin(MODEL.tables, wait_seconds=1)
        assert Ledger(dialect).take_term(W2)
        dialect.commit()
    assert term.read_term(place) == W2


def test_a_publish_goes_on_where_its_number_may_not_be_noted(place: Database) -> None:
    refusing = (
        "CREATE TRIGGER no_number BEFORE INSERT ON dbsync_facts WHEN NEW.name = 'number' BEGIN SELECT RAISE(ABORT, 'no'); END"
        if place.engine_name == "sqlite"
        else "ALTER TABLE dbsync.facts ADD CONSTRAINT no_number CHECK (name <> 'number')"
    )
    execute(place, refusing)
    with place.connect() as dialect:
        dialect.begin(MODEL.tables, wait_seconds=1)
        ledger = Ledger(dialect)
        assert ledger.take_term(L1)
        assert ledger.inherited_number(7, dt.datetime.now(dt.UTC)) is None
        dialect.commit()
    assert term.read_term(place) == L1, "what the transaction did before the attempt stands"


@pytest.mark.parametrize(
    ("taken", "silent", "primary", "pending", "certain"),
    [
        ({"windows": None, "linux": None, "azure": None}, "", "windows", None, True),
        ({"windows": None, "linux": L1, "azure": L1}, "", "linux", None, True),
        (
            {"windows": None, "linux": L1, "azure": None},
            "",
            "linux",
            None,
            True,
        ),  # it took its term last: azure was made anew
        ({"windows": None, "linux": L1}, "azure", "linux", None, True),
        (
            {"windows": None, "linux": None, "azure": L1},
            "",
            "windows",
            L1,
            True,
        ),  # a promotion that did not end
        ({"windows": L1, "azure": L1, "linux": None}, "", "windows", L1, True),
        ({"linux": L1, "azure": L1}, "windows", "linux", None, True),
        (
            {"windows": L1, "azure": L1},
            "linux",
            "linux",
            None,
            True,
        ),  # the primary of now is silent
        ({"windows": None, "azure": L1}, "linux", "windows", L1, True),
        ({"azure": L1}, "windows linux", "linux", None, False),  # the best that is known
        ({"windows": None}, "linux azure", "windows", None, False),
        ({}, "windows linux azure", "windows", None, False),
        (
            {"windows": BACK, "linux": L1, "azure": L1},
            "",
            "linux",
            W2,
            True,
        ),  # a failback that did not end
        ({"windows": BACK, "linux": L1, "azure": W2}, "", "linux", W2, True),
        ({"windows": BACK, "linux": L1}, "azure", "linux", W2, True),
        (
            {"windows": BACK, "linux": W2, "azure": L1},
            "",
            "windows",
            None,
            True,
        ),  # the former primary took it: it ended
        ({"windows": BACK, "azure": W2}, "linux", "windows", None, True),
        ({"windows": W2, "azure": L1}, "linux", "windows", None, True),
        ({"windows": W2, "linux": W2, "azure": W2}, "", "windows", None, True),
        (
            {"windows": None, "linux": A2, "azure": L1},
            "",
            "linux",
            A2,
            True,
        ),  # linux went on to a promotion that did not end
        ({"windows": None, "linux": L1}, "", "linux", None, True),
        ({"windows": L1, "linux": L1}, "", "linux", None, True),
    ],
)
def test_what_the_databases_say_together(
    taken: Mapping[str, Term | None], silent: str, primary: str, pending: Term | None, certain: bool
) -> None:
    found = judge(taken, dict.fromkeys(silent.split(), "silent"), "windows")
    assert (found.primary, found.pending, found.certain) == (primary, pending, certain)


def test_a_database_that_hangs_delays_nobody_beyond_its_deadline(
    place: Database, new_database: NewDatabase
) -> None:
    azure = new_database("sqlite", "azure")
    schema.ensure(azure, MODEL)
    assert take(place, L1) and take(azure, L1)
    seconds = (
        10 if place.engine_name == "mssql" else 0.5
    )  # Babelfish takes half a second to connect, when nobody else works
    with silent_server() as url:
        hanging = Database("windows", sa.make_url(url), connect_seconds=60)
        started = time.monotonic()
        found = term.standing([hanging, place, azure], SETTINGS, seconds=seconds)
        assert time.monotonic() - started < 30, "the driver alone would have waited for a minute"
    assert (found.primary, found.certain) == ("linux", True)
    assert found.silent == {"windows": f"no answer within {seconds} seconds"}


# What a sync does with them ---------------------------------------------------------------------------------------------


@pytest.fixture(params=[engine for engine in ENGINES if engine != "sqlite"])
def three(
    request: pytest.FixtureRequest, new_database: NewDatabase
) -> tuple[Database, Database, Database]:
    """windows, synced to linux and azure; linux and azure then took term 1 of linux."""
    windows, linux, azure = (
        new_database("sqlite", "windows"),
        new_database(request.param, "linux"),
        new_database("sqlite", "azure"),
    )
    prepare(windows, small_world())
    for target in (linux, azure):
        sync(windows, target)
    assert take(azure, L1) and take(linux, L1)
    return windows, linux, azure


Three = tuple[Database, Database, Database]
CHANGE = "UPDATE users SET name = 'new' WHERE id = 1"


def test_a_source_of_an_older_term_is_refused(three: Three) -> None:
    windows, linux, _ = three
    execute(windows, CHANGE)
    before = content(linux)
    with pytest.raises(
        Refused, match=r"(?s)according to linux, linux is the primary \(term 1\).*dbsync failback"
    ):
        sync(windows, linux, policy=ANYTHING)
    assert content(linux) == before


def test_the_configured_primary_that_is_back_is_pointed_to_failback(three: Three) -> None:
    windows, linux, _ = three
    execute(windows, CHANGE)
    with pytest.raises(Refused, match="windows was never published to") as refused:
        sync(linux, windows)
    assert "`dbsync failback`" in str(refused.value) and "--overwrite" not in str(refused.value)


def test_a_publish_carries_the_term(three: Three) -> None:
    _, linux, azure = three
    assert take(linux, Term(2, "linux"))
    sync(linux, azure)
    assert term.read_term(azure) == Term(2, "linux")


def test_a_refused_publish_carries_no_term(three: Three) -> None:
    _, linux, azure = three
    assert take(linux, Term(2, "linux"))
    execute(azure, CHANGE)
    with pytest.raises(Refused, match="rows of azure were written"):
        sync(linux, azure)
    assert term.read_term(azure) == L1


def test_the_primary_is_not_overwritten_from_its_standby_unasked(three: Three) -> None:
    _, linux, azure = three
    execute(linux, CHANGE)
    with pytest.raises(Refused, match=r"linux is the primary \(term 1\)"):
        sync(azure, linux)
    sync(azure, linux, policy=ANYTHING)
    assert content(linux) == content(azure)


def test_of_two_that_follow_different_primaries_of_one_term_only_the_primary_is_believed(
    three: Three,
) -> None:
    windows, linux, azure = three
    assert take(windows, A1)  # a promotion of azure that did not end
    execute(linux, CHANGE)
    with pytest.raises(Refused, match=r"according to azure, linux is the primary \(term 1\)"):
        sync(windows, azure, policy=ANYTHING)
    sync(linux, windows, policy=ANYTHING)
    assert content(windows) == content(linux)
