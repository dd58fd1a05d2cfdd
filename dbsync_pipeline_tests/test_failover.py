"""When the primary is gone and when it comes back: what is decided, what is done, and that no write is lost silently."""

from __future__ import annotations

import datetime as dt
import itertools
import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from dbsync_pipeline.errors import (
    Busy,
    DatabaseError,
    DbsyncError,
    Refused,
    SettingsError,
    Unavailable,
)
from dbsync_pipeline.mirror import pausing, schema
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.failover.decide import decide
from dbsync_pipeline.mirror.failover.failback import Failback, back_note, failback
from dbsync_pipeline.mirror.failover.observe import Observation, observe, probe, probe_known
from dbsync_pipeline.mirror.failover.outage import Outage, count_probe, is_due
from dbsync_pipeline.mirror.failover.promote import consequences, promote
from dbsync_pipeline.mirror.failover.run import Report, failover
from dbsync_pipeline.mirror.ledger import Ledger, Term
from dbsync_pipeline.mirror.rescue.read import rescued_keys, rescued_rows
from dbsync_pipeline.mirror.rescue.undo import undo
from dbsync_pipeline.mirror.status import status
from dbsync_pipeline.mirror.sync.session import Session
from dbsync_pipeline.settings import DatabaseSetting, Settings
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase
from dbsync_pipeline_tests.places import UNREACHABLE
from dbsync_pipeline_tests.proxy import proxy_to
from dbsync_pipeline_tests.roles import Roles
from dbsync_pipeline_tests.test_privileges import LEDGER, NUMBERING, STANDBY, bare, give
from dbsync_pipeline_tests.worlds import (
    ANYTHING,
    MODEL,
    NOON,
    content,
    execute,
    prepare,
    small_world,
    sync,
    user,
)

users = MODEL.table("users").sa
PATIENT = Settings(failover_after_failures=3, failover_grace_seconds=300)
DOWN = Observation("windows", False, "nothing answers at that address")


# The decision -----------------------------------------------------------------------------------------------------------


def standby(
    name: str, number: int = 5, *writes: str, at: dt.datetime = NOON, **given: Any
) -> Observation:
    return Observation(name, True, number=number, snapshot_at=at, own_writes=writes, **given)


STATES: Mapping[str, Observation] = {
    "fresh": standby("x", 5),
    "older": standby("x", 4, at=NOON - dt.timedelta(hours=6)),
    "written": standby("x", 5, "users"),
    "older and written": standby("x", 4, "users", at=NOON - dt.timedelta(hours=6)),
    "of the same round": standby("x", 4, "users", at=NOON - dt.timedelta(hours=6), round="tick 1"),
    "later in the round": standby("x", 5, round="tick 1"),
    "seconds older": standby("x", 4, "users", at=NOON - dt.timedelta(seconds=2), round="tick 0"),
    "held": standby("x", 5, "users", held="run 1 was undone"),
    "mixed": standby("x", 5, "users", mixed=True),
    "never published to": standby("x", 0),
    "not to be told": replace(standby("x", 5), own_writes=None),
    "unreadable": Observation("x", True, "permission denied"),
    "silent": Observation("x", False, "no answer"),
}


def seen(linux: str, azure: str, windows: Observation = DOWN) -> list[Observation]:
    return [windows, replace(STATES[linux], name="linux"), replace(STATES[azure], name="azure")]


@pytest.mark.parametrize(
    ("linux", "azure", "newest", "targets", "promoted", "why"),
    [
        ("fresh", "fresh", "linux", (), None, "has not moved"),
        ("fresh", "older", "linux", ("azure",), None, "has not moved"),
        ("older", "fresh", "azure", ("linux",), None, "has not moved"),
        ("written", "fresh", "linux", ("azure",), "linux", "writes to linux (users)"),
        ("written", "older", "linux", ("azure",), "linux", "writes to linux"),
        ("fresh", "written", "azure", ("linux",), "azure", "writes to azure"),
        ("older", "written", "azure", ("linux",), "azure", "writes to azure"),
        (
            "of the same round",
            "later in the round",
            "linux",
            ("azure",),
            "linux",
            "writes to linux",
        ),
        ("of the same round", "fresh", None, (), None, "azure has the newer state"),
        ("seconds older", "later in the round", None, (), None, "azure has the newer state"),
        ("older and written", "fresh", None, (), None, "azure has the newer state"),
        ("written", "written", None, (), None, "linux and azure have local writes"),
        ("written", "older and written", None, (), None, "have local writes"),
        ("written", "silent", None, (), None, "only 1 of 3 databases answer"),
        ("written", "held", "linux", (), "linux", "writes to linux"),
        ("written", "unreadable", "linux", (), "linux", "writes to linux"),
        ("fresh", "held", "linux", (), None, "has not moved"),
        ("mixed", "older", "azure", (), None, "has not moved"),
        ("held", "held", None, (), None, "is paused (run 1 was undone)"),
        ("mixed", "never published to", None, (), None, "is not consistent"),
        ("not to be told", "silent", None, (), None, "cannot be compared"),
        ("silent", "silent", None, (), None, "no database answers"),
    ],
)
def test_the_decision(
    linux: str,
    azure: str,
    newest: str | None,
    targets: tuple[str, ...],
    promoted: str | None,
    why: str,
) -> None:
    found = decide(seen(linux, azure), "windows")
    assert (found.newest, found.targets, found.promote) == (newest, targets, promoted)
    assert why in found.why


def test_over_every_combination_the_decision_is_safe() -> None:
    for linux, azure in itertools.product(STATES, repeat=2):
        _is_safe(linux, azure)


def _is_safe(linux: str, azure: str) -> None:
    for windows in (
        Observation("windows", True),
        Observation("windows", True, "permission denied"),
    ):
        assert decide(seen(linux, azure, windows), "windows").nothing, (
            "a primary that answers is left alone"
        )
    places = seen(linux, azure)
    found, by_name = decide(places, "windows"), {one.name: one for one in places}
    touched = {*found.targets, *filter(None, [found.promote])}
    assert all(by_name[name].electable for name in touched) and "windows" not in touched
    if found.nothing:
        return
    assert found.newest is not None and by_name[found.newest].electable
    assert all(not by_name[name].own_writes for name in found.targets)
    if found.promote:
        assert found.promote == found.newest and by_name[found.newest].own_writes
        assert sum(one.answers for one in places) >= 2 and [
            one.name for one in places if one.electable and one.own_writes
        ] == [found.newest]
    else:
        assert not by_name[found.newest].own_writes, (
            "writes that are nobody's yet are not carried on"
        )
        assert all(by_name[name].number < by_name[found.newest].number for name in found.targets)


def test_a_primary_that_is_no_database_is_not_missed() -> None:
    places = [standby("linux", 5, "users"), standby("azure")]
    assert decide(places, "windows").nothing and count_probe(None, places, PATIENT, NOON) is None


def test_a_standby_that_became_the_primary_is_followed_like_the_first_one() -> None:
    places = [
        standby("windows", 0),
        Observation("linux", False, "no answer"),
        standby("azure", 5, "users"),
    ]
    assert decide(places, "linux").promote == "azure"


# How long it must be gone -----------------------------------------------------------------------------------------------


def after(probes: str, every: float = 60) -> tuple[Outage | None, bool]:
    """What the probes say in the end: `u` the primary answers, `d` it does not, `b` nobody does."""
    outage, now = None, NOON
    for number, word in enumerate(probes):
        now = NOON + dt.timedelta(seconds=number * every)
        windows = Observation("windows", word == "u", None if word == "u" else "no answer")
        others = [
            replace(STATES["silent" if word == "b" else "fresh"], name=name)
            for name in ("linux", "azure")
        ]
        outage = count_probe(
            Outage.from_text(outage.to_text()) if outage else None, [windows, *others], PATIENT, now
        )
    return outage, outage is not None and is_due(outage, PATIENT, now)


@pytest.mark.parametrize(
    ("probes", "failures", "failed"),
    [
        ("u", 0, False),
        ("d", 1, False),
        ("ddd", 3, False),  # often enough, not for long enough
        ("dddddd", 6, True),
        ("dddddudddd", 4, False),
        ("dudududududududududu", 0, False),
        ("ddudduddudduddudd", 2, False),
        ("bbbbbbbbbbbb", 0, False),
        ("dddddbd", 1, False),
        ("ddddddd", 7, True),
    ],
)
def test_flapping_and_blindness_are_no_outage(probes: str, failures: int, failed: bool) -> None:
    outage, is_due = after(probes)
    assert (outage.failures if outage else 0, is_due) == (failures, failed)


def test_a_few_probes_far_apart_are_not_enough() -> None:
    assert not after("dd", every=3600)[1] and after("ddd", every=3600)[1]


def test_an_outage_keeps_its_start_and_another_primary_begins_another_one() -> None:
    outage, _ = after("uddd")
    assert outage is not None and outage.since == NOON + dt.timedelta(seconds=60)
    places = [
        Observation("windows", False, "-"),
        Observation("linux", False, "-", None),
        standby("azure", 5, term=Term(1, "linux")),
    ]
    other = count_probe(outage, [*places, standby("mars", 5, term=Term(1, "linux"))], PATIENT, NOON)
    assert other == Outage("linux", 1, NOON)


def test_a_slow_primary_is_silent_to_the_sensor_and_answers_the_job(
    new_database: NewDatabase,
) -> None:
    three = Three(
        new_database("postgresql", "windows"),
        new_database("sqlite", "linux"),
        new_database("sqlite", "azure"),
    )
    execute(three.linux, (users.insert(), [user(900)]))
    with proxy_to(three.windows.url, connect_seconds=3) as proxy:
        three.windows = Database("windows", proxy.url)
        hasty = three.settings.model_copy(update={"connect_seconds": 1})
        probed = probe(databases(hasty), hasty.connect_seconds)
        assert [one.answers for one in probed] == [False, True, True]
        assert failover(hasty, MODEL, "r", patience=60).note == "windows answers"
        assert three.terms()["linux"] is None


def test_standbys_are_not_probed_while_the_known_primary_answers(files: Three) -> None:
    def probed(known: str) -> list[str]:
        among = databases(files.settings)
        return [one.name for one in probe_known(among, files.settings, 10, known)]

    assert probed("windows") == ["windows"]
    files.silent = {"windows"}
    assert probed("windows") == ["windows", "linux", "azure"]
    promote(files.settings, "linux")
    files.silent = set()
    assert probed("linux") == ["windows", "linux"]
    assert back_note(
        probe_known(databases(files.settings), files.settings, 10, "linux"), files.settings
    )
    term.give(Term(1, "linux"), [files.windows], 10)
    assert probed("windows") == ["windows", "linux", "azure"], "windows knows that it was replaced"


# Promotion --------------------------------------------------------------------------------------------------------------


class Three:
    """windows with a small world, linux and azure equal to it."""

    def __init__(self, windows: Database, linux: Database, azure: Database) -> None:
        self.windows, self.linux, self.azure = windows, linux, azure
        self.silent: set[str] = set()
        prepare(windows, small_world())
        for target in (linux, azure):
            sync(windows, target, round_id="first")

    @property
    def settings(self) -> Settings:
        places = (self.windows, self.linux, self.azure)
        urls = {one.name: one.url.render_as_string(hide_password=False) for one in places}
        urls |= dict.fromkeys(self.silent, UNREACHABLE)
        settings = tuple(
            DatabaseSetting(name=name, url=SecretStr(url)) for name, url in urls.items()
        )
        return Settings(lock_seconds=1, databases=settings)

    def terms(self) -> dict[str, Term | None]:
        return {one.name: term.read_term(one) for one in (self.windows, self.linux, self.azure)}

    def fail_over(self) -> Report:
        return failover(self.settings, MODEL, "failover-1")


@pytest.fixture(params=ENGINES)
def three(request: pytest.FixtureRequest, new_database: NewDatabase) -> Three:
    return Three(
        *(
            new_database(request.param, name, server=n)
            for n, name in enumerate(("windows", "linux", "azure"))
        )
    )


@pytest.fixture
def files(new_database: NewDatabase) -> Three:
    return Three(*(new_database("sqlite", name) for name in ("windows", "linux", "azure")))


def test_without_evidence_the_standbys_are_brought_up_and_nobody_is_promoted(files: Three) -> None:
    execute(files.windows, (users.insert(), [user(900)]))
    sync(files.windows, files.azure)  # the newest
    files.silent = {"windows"}
    report = files.fail_over()
    assert [(one.source, one.target, one.tables["users"].inserted) for one in report.published] == [
        ("azure", "linux", 1)
    ]
    assert report.promotion is None and files.terms() == dict.fromkeys(
        ("windows", "linux", "azure")
    )
    assert content(files.linux) == content(files.azure)
    assert "dbsync promote azure" in report.note and report.matters
    assert files.fail_over().decision.nothing, "a second one finds nothing to do"


def test_a_standby_that_the_application_writes_to_is_promoted_and_carried_on(three: Three) -> None:
    execute(three.linux, (users.insert(), [user(900)]))
    three.silent = {"windows"}
    report = three.fail_over()
    assert report.promotion is not None and (report.promotion.primary, report.promotion.former) == (
        "linux",
        "windows",
    )
    assert three.terms() == {"windows": None, "linux": Term(1, "linux"), "azure": Term(1, "linux")}
    assert content(three.azure) == content(three.linux)
    assert term.primary(three.settings) == "linux"
    three.silent = set()  # windows is back
    assert term.primary(three.settings) == "linux"
    execute(three.windows, (users.insert(), [user(901)]))
    for target in (three.linux, three.azure):
        before = content(target)
        with pytest.raises(Refused, match=r"according to .*, linux is the primary \(term 1\)"):
            sync(three.windows, target, policy=ANYTHING)
        assert content(target) == before


def test_a_former_primary_publishes_nothing_to_a_standby_that_missed_its_replacement(
    three: Three,
) -> None:
    three.silent = {"azure"}
    assert promote(three.settings, "linux").took == ("windows", "linux")
    execute(three.windows, (users.insert(), [user(777)]))
    before = content(three.azure)
    with pytest.raises(Refused, match="windows knows that linux is the primary") as refused:
        sync(three.windows, three.azure)
    assert content(three.azure) == before
    assert "`dbsync sync --source linux --target azure`" in str(refused.value.remedy)
    sync(three.windows, three.azure, policy=ANYTHING)
    # under the number that the new primary has reserved for itself
    with pytest.raises(Refused, match="which linux does not know"):
        sync(three.linux, three.azure)


def test_a_former_primary_that_became_a_standby_passes_on_what_it_received(three: Three) -> None:
    three.silent = {"azure"}
    promote(three.settings, "linux")
    execute(three.linux, (users.insert(), [user(778)]))
    sync(three.linux, three.windows, policy=ANYTHING)
    sync(three.windows, three.azure)
    assert content(three.azure) == content(three.linux)
    sync(three.linux, three.azure)


def test_a_second_outage_brings_the_standbys_up_to_the_newest_of_them(three: Three) -> None:
    """They know that the lost database is the primary, and have only what it sent."""
    promote(three.settings, "linux")
    sync(three.linux, three.windows, policy=ANYTHING)
    execute(three.linux, (users.insert(), [user(778)]))
    sync(three.linux, three.azure)
    three.silent = {"linux"}
    report = three.fail_over()
    assert [(one.source, one.target) for one in report.published] == [("azure", "windows")]
    assert not report.failed and content(three.windows) == content(three.azure)


def test_alone_a_standby_is_not_promoted_whatever_it_holds(files: Three) -> None:
    execute(files.linux, (users.insert(), [user(900)]))
    files.silent = {"windows", "azure"}
    report = files.fail_over()
    assert report.promotion is None and "only 1 of 3 databases answer" in report.note
    with pytest.raises(Refused, match="only 1 of the 2 databases that make a majority"):
        promote(files.settings, "linux")
    assert files.terms() == dict.fromkeys(("windows", "linux", "azure"))


def test_a_primary_that_answers_is_left_alone(files: Three) -> None:
    execute(files.linux, (users.insert(), [user(900)]))
    report = files.fail_over()
    assert report.decision.nothing and not report.matters and report.note == "windows answers"


def test_what_is_only_asked_for_is_not_done(files: Three) -> None:
    execute(files.linux, (users.insert(), [user(900)]))
    files.silent = {"windows"}
    report = failover(files.settings, MODEL, "r", act=False)
    assert report.decision.promote == "linux" and "nothing was done" in report.note
    assert files.terms() == dict.fromkeys(("windows", "linux", "azure"))
    assert content(files.azure) != content(files.linux)


def test_a_rehearsal_takes_the_primary_for_silent(files: Three) -> None:
    found = decide(observe(files.settings, MODEL, down=True), "windows")
    assert (found.newest, found.targets, found.promote) == ("azure", ("linux",), None)


def test_held_and_mixed_standbys_are_not_touched(files: Three) -> None:
    execute(files.windows, (users.insert(), [user(900)]))
    sync(files.windows, files.linux)
    sync(files.windows, files.azure, ["users"])
    mixed, _ = content(files.azure), pausing.pause(files.linux, "a person looks at it")
    execute(files.linux, (users.insert(), [user(901)]))
    files.silent = {"windows"}
    report = files.fail_over()
    assert (
        report.decision.nothing
        and "linux is paused (a person looks at it)" in report.note
        and "azure is not consistent" in report.note
    )
    assert content(files.azure) == mixed
    with pytest.raises(Refused, match="it is paused: a person looks at it"):
        promote(files.settings, "linux")


def test_what_another_standby_of_the_round_had_more_goes_into_its_rescue_tables(
    files: Three,
) -> None:
    execute(files.windows, (users.insert(), [user(700)]))
    sync(files.windows, files.azure, round_id="first")  # linux was synced before that write
    execute(files.linux, (users.insert(), [user(900)]))
    files.silent = {"windows"}
    report = files.fail_over()
    assert report.promotion is not None and report.promotion.primary == "linux"
    assert [(one.target, one.tables["users"].deleted) for one in report.published] == [
        ("azure", 1)
    ], report.failed
    assert rescued_keys(files.azure, MODEL, "failover-1") == {
        "users": {"deleted": [(700,)], "replaced": []}
    }


def test_a_target_that_fails_is_named_and_the_promotion_stands(files: Three) -> None:
    execute(files.linux, (users.insert(), [user(900)]))
    execute(
        files.azure, "CREATE TRIGGER no BEFORE INSERT ON users BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    files.silent = {"windows"}
    report = files.fail_over()
    assert (
        report.promotion is not None
        and list(report.failed) == ["azure"]
        and "azure was not synced" in report.note
    )


def test_a_person_promotes_without_evidence_and_twice_is_once(files: Three) -> None:
    files.silent = {"windows"}
    done = promote(files.settings, "azure")
    assert (done.primary, done.former, done.term, set(done.took)) == (
        "azure",
        "windows",
        Term(1, "azure"),
        {"linux", "azure"},
    )
    assert list(done.missing) == ["windows"] and done.held_at is not None
    again = promote(files.settings, "azure")
    assert (again.former, again.term) == ("azure", Term(1, "azure"))
    files.silent = set()
    assert promote(files.settings, "azure").missing == {}, "windows records it"
    assert files.terms()["windows"] == Term(1, "azure")
    assert promote(files.settings, "linux").term == Term(2, "linux")


def test_a_promotion_that_was_cut_off_changes_nothing_and_the_next_goes_above_it(
    files: Three,
) -> None:
    assert term.give(Term(1, "linux"), [files.azure], 5) == {}  # linux itself takes its term last
    found = term.standing([files.windows, files.linux, files.azure], files.settings)
    assert (found.primary, found.pending) == ("windows", Term(1, "linux"))
    assert promote(files.settings, "windows").term == Term(2, "windows")
    assert term.standing([files.windows, files.linux, files.azure], files.settings).pending is None


def test_two_promotions_at_once_make_one_primary(files: Three) -> None:
    outcomes: dict[str, Any] = {}

    def promote_one(name: str) -> None:
        try:
            outcomes[name] = promote(files.settings, name)
        except DbsyncError as error:
            outcomes[name] = error

    threads = [threading.Thread(target=promote_one, args=(name,)) for name in ("linux", "azure")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    promoted = [done.term for done in outcomes.values() if not isinstance(done, DbsyncError)]
    assert len({one.n for one in promoted}) == len(promoted), "no two primaries have one term"
    found = term.standing([files.windows, files.linux, files.azure], files.settings)
    assert found.primary == (max(promoted).primary if promoted else "windows")


def test_a_standby_that_lacks_a_newer_state_is_promoted_only_with_overwrite(files: Three) -> None:
    execute(files.windows, (users.insert(), [user(700, name="on azure alone")]))
    sync(files.windows, files.azure)  # seconds later, but in another round
    files.silent = {"windows"}
    with pytest.raises(Refused, match=r"does not know state .* on azure") as refused:
        promote(files.settings, "linux")
    assert "dbsync sync --source azure --target linux" in str(refused.value)
    with pytest.raises(Refused, match="does not know state"):
        consequences(files.settings, "linux")
    shown = consequences(files.settings, "linux", overwrite=True)
    assert "moves those rows to the rescue tables" in shown
    assert files.terms() == dict.fromkeys(("windows", "linux", "azure")), "nobody took a term"
    assert promote(files.settings, "linux", overwrite=True).term == Term(1, "linux")


def test_a_standby_of_a_slow_round_is_promoted_although_another_one_is_newer(
    files: Three,
) -> None:
    sync(files.windows, files.linux, round_id="tick 2")
    execute(files.windows, (users.insert(), [user(700, name="between the two")]))
    sync(files.windows, files.azure, round_id="tick 2")
    execute(files.linux, (users.insert(), [user(900)]))
    files.silent = {"windows"}
    impatient = files.settings.model_copy(update={"failover_grace_seconds": 0.0})
    assert "state 3" in consequences(impatient, "linux"), "the person sees what azure has more"
    report = failover(impatient, MODEL, "failover-1")
    assert report.promotion is not None and report.promotion.primary == "linux"
    assert content(files.azure) == content(files.linux)
    assert rescued_keys(files.azure, MODEL, "failover-1") == {
        "users": {"deleted": [(700,)], "replaced": []}
    }


def test_a_standby_restored_from_a_backup_of_seconds_ago_is_not_promoted(
    files: Three, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    path = Path(str(files.linux.url.database))
    shutil.copy(path, backup)
    execute(files.windows, (users.insert(), [user(700)]))
    for target in (files.linux, files.azure):
        sync(files.windows, target, round_id="tick 2")
    shutil.copy(backup, path)
    files.silent = {"windows"}
    with pytest.raises(Refused, match=r"does not know state .* on azure"):
        promote(files.settings, "linux")
    execute(files.linux, (users.insert(), [user(900)]))
    assert "azure has the newer state" in files.fail_over().decision.why
    assert files.terms()["linux"] is None


def test_standbys_with_the_same_rows_are_alike_whatever_their_rounds(files: Three) -> None:
    sync(files.windows, files.azure, round_id="alone")
    files.silent = {"windows"}
    assert promote(files.settings, "linux").term == Term(1, "linux")


def test_a_failover_goes_by_rounds_and_leaves_standbys_of_the_same_rows_to_a_person(
    files: Three,
) -> None:
    """Nothing would be lost, and nothing shows it but two digests: a person promotes without overwriting."""
    sync(files.windows, files.azure, round_id="alone")
    execute(files.linux, (users.insert(), [user(900)]))
    files.silent = {"windows"}
    decision = files.fail_over().decision
    assert decision.nothing and "azure has the newer state" in decision.why
    assert files.terms()["linux"] is None
    assert promote(files.settings, "linux").term == Term(1, "linux")
    sync(files.linux, files.azure)
    assert content(files.azure) == content(files.linux)


def turned_back(places: Three) -> None:
    """linux was confirmed after azure was published to, and has the lower number."""
    renamed = users.update().where(users.c.id == 3)
    execute(places.windows, renamed.values(name="for a moment"))
    sync(places.windows, places.azure, round_id="tick 2")
    execute(places.windows, renamed.values(name="User 3"))
    confirmed = sync(places.windows, places.linux, round_id="tick 3")
    assert (confirmed.number, confirmed.confirmations) == (1, 1)
    places.silent = {"windows"}


def test_a_standby_that_was_confirmed_later_is_the_newer_one(files: Three) -> None:
    turned_back(files)
    before = content(files.linux)
    with pytest.raises(Refused, match="does not know state 1"):
        promote(files.settings, "azure")
    with pytest.raises(Refused, match="state 1"):
        sync(files.azure, files.linux)
    report = files.fail_over()
    assert [(one.source, one.target) for one in report.published] == [("linux", "azure")]
    assert content(files.linux) == content(files.azure) == before
    assert promote(files.settings, "linux").term == Term(1, "linux")


def test_a_written_standby_is_not_promoted_over_one_that_was_confirmed_later(files: Three) -> None:
    turned_back(files)
    execute(files.azure, (users.insert(), [user(900)]))
    report = files.fail_over()
    assert report.decision.nothing and "linux has the newer state" in report.note


def test_of_two_confirmed_after_the_same_publish_the_later_one_is_newer(files: Three) -> None:
    turned_back(files)
    execute(files.windows, users.update().where(users.c.id == 3).values(name="for a moment"))
    sync(files.windows, files.azure, round_id="tick 4")
    before = content(files.azure)
    report = files.fail_over()
    assert [(one.source, one.target) for one in report.published] == [("azure", "linux")]
    assert content(files.linux) == before


def test_a_failback_from_a_primary_that_lacks_what_a_standby_holds_is_refused(files: Three) -> None:
    moved(files)
    sync(files.linux, files.azure)
    execute(files.linux, (users.insert(), [user(802)]))
    with files.linux.connect() as dialect, dialect.connection.begin():
        Ledger(dialect).note("number", "1")  # as a backup from before the last publish has it
        for number in range(2, 10):
            Ledger(dialect).note(f"state {number}", None)
    with pytest.raises(Refused, match=r"does not know state .* on azure") as refused:
        fail_back(files)
    assert "dbsync sync --source azure --target linux --overwrite" in str(refused.value)
    sync(files.azure, files.linux, policy=ANYTHING)
    fail_back(files)
    assert content(files.windows) == content(files.azure) == content(files.linux)


# Failback ---------------------------------------------------------------------------------------------------------------


def moved(three: Three) -> None:
    """linux was promoted and has rows of its own, and so has windows, which is back."""
    execute(three.windows, (users.insert(), [user(700, name="after the last sync")]))
    execute(
        three.linux,
        (users.insert(), [user(800), user(801)]),
        users.update().where(users.c.id == 2).values(name="on linux"),
    )
    three.silent = {"windows"}
    three.fail_over()
    three.silent = set()


def fail_back(three: Three, run_id: str = "back-1") -> Failback:
    return failback(three.settings, MODEL, run_id)


def test_failback_brings_the_rows_over_and_keeps_those_that_were_alone(three: Three) -> None:
    moved(three)
    expected = content(three.linux)
    done = fail_back(three)
    assert content(three.windows) == expected == content(three.linux)
    assert (done.primary, done.former, done.term, done.missing) == (
        "windows",
        "linux",
        Term(2, "windows"),
        {},
    )
    assert three.terms() == dict.fromkeys(("windows", "linux", "azure"), Term(2, "windows"))
    assert done.rescued == {"users": {"deleted": [(700,)], "replaced": [(2,)]}}
    assert "1 row deleted, with keys 700" in done.note
    ((_, rows),) = rescued_rows(three.windows, MODEL, "back-1")
    assert "after the last sync" in [row["name"] for row in rows]
    with pytest.raises(SettingsError, match="windows is already the primary"):
        fail_back(three, "back-2")


def test_after_a_failback_syncs_go_on_as_before(three: Three) -> None:
    moved(three)
    fail_back(three)
    execute(three.windows, users.update().where(users.c.id == 800).values(name="on windows"))
    for target in (three.linux, three.azure):
        sync(three.windows, target)
        assert content(target) == content(three.windows)
    with pytest.raises(Refused, match="windows is the primary"):
        execute(three.linux, (users.insert(), [user(999)]))
        sync(three.linux, three.windows)


def test_what_the_application_writes_during_a_failback_waits_and_is_not_lost_silently(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved(three)
    began, ended = threading.Event(), threading.Event()

    def write() -> None:
        began.set()
        execute(three.linux, (users.insert(), [user(950, name="late")]))
        ended.set()

    writer = threading.Thread(target=write)
    publish, seen_waiting = Session.publish, list[bool]()

    def publish_while_somebody_writes(session: Session) -> Any:
        writer.start()
        began.wait()
        if three.linux.engine_name in _WAITING:
            _until_somebody_waits(three.linux)
        done = publish(session)
        seen_waiting.append(not ended.is_set())
        return done

    monkeypatch.setattr(Session, "publish", publish_while_somebody_writes)
    fail_back(three)
    writer.join()
    monkeypatch.undo()
    assert seen_waiting == [True], "the writer waited until the publish was made"
    assert any(row[2] == "late" for row in content(three.linux)["users"]), (
        "it succeeded afterwards, on what is a standby now"
    )
    assert not any(row[2] == "late" for row in content(three.windows)["users"])
    with pytest.raises(Refused, match=r"rows of linux were written since its last publish.*950"):
        sync(three.windows, three.linux)


_WAITING = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted",
    "mssql": "IF serverproperty('Babelfish') IS NULL EXEC('SELECT count(*) FROM sys.dm_tran_locks WHERE request_status = ''WAIT''') "
    "ELSE EXEC('SELECT count(*) FROM pg_catalog.pg_locks WHERE granted = 0')",
}


def _until_somebody_waits(database: Database) -> None:
    with database.engine().connect() as connection:
        while not connection.scalar(sa.text(_WAITING[database.engine_name])):
            connection.rollback()


def test_a_failback_waits_for_a_writer_only_so_long(three: Three) -> None:
    moved(three)
    before = content(three.windows)
    with three.linux.engine().connect() as application:
        application.execution_options(
            **({"begin": "BEGIN IMMEDIATE"} if three.linux.engine_name == "sqlite" else {})
        )
        with application.begin():
            application.execute(users.insert(), [user(950)])
            with pytest.raises(Busy):
                fail_back(three)
    assert content(three.windows) == before and three.terms()["windows"] is None
    fail_back(three, "back-2")
    assert content(three.windows) == content(three.linux)


def test_a_failback_that_was_cut_off_is_completed_by_another(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved(three)

    def cut(*_: object) -> None:
        raise DatabaseError("cut off after the publish")

    monkeypatch.setattr("dbsync_pipeline.mirror.failover.failback._become_standby", cut)
    with pytest.raises(DatabaseError, match="cut off"):
        fail_back(three)
    monkeypatch.undo()
    assert three.terms() == {
        "windows": Term(2, "windows"),
        "linux": Term(1, "linux"),
        "azure": Term(1, "linux"),
    }
    assert term.primary(three.settings) == "linux", "nothing has changed hands"
    execute(three.linux, (users.insert(), [user(951)]))  # the application goes on there
    with pytest.raises(Refused, match="windows is the primary"):
        sync(three.linux, three.windows)
    done = fail_back(three, "back-2")
    assert done.term == Term(3, "windows") and done.rescued == {}
    assert content(three.windows) == content(three.linux)
    assert three.terms() == dict.fromkeys(("windows", "linux", "azure"), Term(3, "windows"))


def test_a_failback_cut_off_after_the_former_primary_took_the_term_stands(
    files: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved(files)
    monkeypatch.setattr(
        term, "give", lambda new, among, seconds: {one.name: "cut off" for one in among}
    )
    assert fail_back(files).missing == {"azure": "cut off"}
    monkeypatch.undo()
    assert term.primary(files.settings) == "windows" and files.terms()["azure"] == Term(1, "linux")
    sync(files.windows, files.azure)
    assert files.terms()["azure"] == Term(2, "windows"), "it learns it by its next sync"


def test_the_other_guards_stand_at_a_failback(files: Three) -> None:
    moved(files)
    execute(files.linux, "DELETE FROM user_memory")
    with pytest.raises(Refused, match="the source's table is empty"):
        fail_back(files)
    assert files.terms()["windows"] is None and len(content(files.windows)["user_memory"]) == 20
    failback(files.settings, MODEL, "back-2", policy=ANYTHING)
    assert content(files.windows)["user_memory"] == []


def test_a_configured_primary_that_was_recreated_is_filled(three: Three) -> None:
    moved(three)
    schema.recreate(three.windows, MODEL)
    assert fail_back(three).rescued == {}
    assert content(three.windows) == content(three.linux)
    assert sync(three.windows, three.azure).changed == 0


def test_whoever_stays_on_the_new_primary_makes_the_old_one_its_standby(files: Three) -> None:
    moved(files)
    with pytest.raises(Refused, match="was never published to"):
        sync(files.linux, files.windows)
    sync(files.linux, files.windows, policy=ANYTHING)
    assert files.terms() == dict.fromkeys(("windows", "linux", "azure"), Term(1, "linux"))
    assert content(files.windows) == content(files.linux)


def test_the_rights_of_a_standby_and_of_a_source_are_enough(
    new_database: NewDatabase, roles: Roles
) -> None:
    three = Three(
        *(
            new_database("postgresql", name, server=n)
            for n, name in enumerate(("windows", "linux", "azure"))
        )
    )
    execute(three.windows, (users.insert(), [user(700)]))
    execute(three.linux, (users.insert(), [user(900)]))
    for database in (three.windows, three.linux, three.azure):
        role = bare(database, roles)
        give(database, role, (*STANDBY, *LEDGER, *NUMBERING))
        setattr(three, database.name, role)
    three.silent = {"windows"}
    assert three.fail_over().promotion is not None
    three.silent = set()
    assert fail_back(three).rescued["users"]["deleted"] == [(700,)]
    assert three.terms() == dict.fromkeys(("windows", "linux", "azure"), Term(2, "windows"))


def test_a_failback_needs_the_configured_primary_and_a_majority(files: Three) -> None:
    moved(files)
    files.silent = {"windows"}
    with pytest.raises(Unavailable, match="database windows"):
        fail_back(files)
    files.silent = {"linux", "azure"}
    with pytest.raises((Refused, SettingsError)):
        fail_back(files)
    files.silent = {"azure"}
    assert fail_back(files).missing["azure"]
    assert term.primary(files.settings) == "windows"


def test_an_undone_failback_leaves_the_term_and_the_next_sync_overwrites_nothing(
    three: Three,
) -> None:
    moved(three)
    before, newest = content(three.windows), content(three.linux)
    fail_back(three)
    undo(three.windows, MODEL, "back-1", by="undo-1", settings=three.settings)
    assert content(three.windows) == before
    assert three.terms() == dict.fromkeys(("windows", "linux", "azure"), Term(2, "windows"))
    windows = next(one for one in status(three.settings, MODEL) if one.name == "windows")
    assert windows.role == "primary" and "linux" in windows.lacks
    for target in (three.linux, three.azure):
        with pytest.raises(Refused):
            sync(three.windows, target)
    assert content(three.linux) == newest
    with pytest.raises(Refused, match="older source"):
        sync(three.windows, three.linux)
    sync(three.linux, three.windows, policy=ANYTHING)
    assert content(three.windows) == newest
    pausing.resume(three.windows)
    execute(three.windows, (users.insert(), [user(900)]))
    sync(three.windows, three.linux)
    assert content(three.linux) == content(three.windows)


def test_after_an_undone_failback_the_former_primary_is_promoted_and_the_failback_done_again(
    files: Three,
) -> None:
    moved(files)
    fail_back(files)
    undo(files.windows, MODEL, "back-1", by="undo-1", settings=files.settings)
    assert promote(files.settings, "linux").term == Term(3, "linux")
    execute(files.linux, (users.insert(), [user(900)]))
    assert fail_back(files, "back-2").term == Term(4, "windows")
    assert content(files.windows) == content(files.linux)


def test_the_former_primary_says_that_it_holds_what_the_new_one_does(files: Three) -> None:
    moved(files)
    done = fail_back(files)
    with files.linux.connect() as dialect:
        last = Ledger(dialect).last()
    assert last is not None and (last.number, last.source, last.changed) == (
        done.publication.number,
        "windows",
        0,
    )


def test_a_return_is_reported_while_another_is_the_primary(files: Three) -> None:
    def note() -> str | None:
        settings = files.settings
        places = [
            Database(one.name, sa.make_url(one.url.get_secret_value()))
            for one in settings.databases
        ]
        return back_note(probe(places, 10), settings)

    assert note() is None
    execute(files.linux, (users.insert(), [user(900)]))
    files.silent = {"windows"}
    files.fail_over()
    assert note() is None
    files.silent = set()
    told = note()
    assert (
        told is not None
        and "linux is the primary (term 1 (linux))" in told
        and "dbsync failback" in told
    )
    fail_back(files)
    assert note() is None
