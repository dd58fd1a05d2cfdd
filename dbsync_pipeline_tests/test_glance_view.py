"""What the page makes of the facts: pure functions, over made-up facts of a week."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from dbsync_pipeline.errors import Unavailable
from dbsync_pipeline.http.glance import plot, view
from dbsync_pipeline.http.glance.view import Level, Outcome, State
from dbsync_pipeline.mirror import ready
from dbsync_pipeline_tests import glance_sample as sample

NOW = sample.NOW


def seen(facts: sample.Facts) -> dict[str, State]:
    shown = view.look(facts, sample.SETTINGS)
    return {place.name: place.state for place in (shown.primary, *shown.standbys)}


def with_ledger(name: str, **changes: object) -> sample.Facts:
    facts = sample.facts()
    ledger = facts.readings[name].facts
    assert ledger is not None
    reading = replace(facts.readings[name], facts=replace(ledger, **changes))
    return replace(facts, readings={**facts.readings, name: reading})


def silent(name: str) -> sample.Facts:
    facts = sample.facts()
    error = Unavailable("no answer within 15 seconds", database=name)
    return replace(
        facts,
        readings={**facts.readings, name: replace(facts.readings[name], facts=None, error=error)},
    )


def checked(name: str, **changes: object) -> sample.Facts:
    facts = sample.facts()
    return replace(facts, checks={**facts.checks, name: replace(facts.checks[name], **changes)})


def head(facts: sample.Facts) -> tuple[str, Level]:
    shown = view.look(facts, sample.SETTINGS)
    return shown.headline, shown.level


def test_all_is_well() -> None:
    facts = sample.well()
    assert seen(facts) == {
        "windows": State.PRIMARY,
        "linux": State.READY,
        "azure": State.READY,
    }
    assert head(facts) == ("head_all", Level.GOOD)


def test_a_refused_sync_is_a_warning_even_if_all_are_ready() -> None:
    facts = replace(sample.well(), runs=sample.facts().runs)
    assert set(seen(facts).values()) == {State.PRIMARY, State.READY}
    assert head(facts) == ("head_warns", Level.WARN)


def test_a_standby_is_old_by_the_clock_of_the_page_and_not_of_the_check() -> None:
    facts = replace(sample.well(), at=NOW + dt.timedelta(hours=13))
    facts = replace(
        facts,
        checks={name: replace(check, checked_at=facts.at) for name, check in facts.checks.items()},
    )
    assert seen(facts)["linux"] is State.OLD and head(facts) == ("head_warns", Level.WARN)


def test_a_check_that_is_overdue_is_not_taken_for_the_present() -> None:
    facts = checked("linux", checked_at=NOW - dt.timedelta(minutes=46))
    assert seen(facts)["linux"] is State.STALE
    seldom = sample.SETTINGS.model_copy(update={"readiness_schedule": "0 */6 * * *"})
    (linux, _) = view.look(facts, seldom).standbys
    assert linux.state is State.READY


@pytest.mark.parametrize("changes", [{"paused": "maintenance"}, {"last": None}])
def test_what_the_ledger_says_now_counts_more_than_the_last_check(changes: dict[str, None]) -> None:
    assert seen(with_ledger("linux", **changes))["linux"] is State.NOT_READY


def test_a_reason_that_is_gone_from_the_ledger_is_gone_from_the_page() -> None:
    facts = checked("linux", ready=False, reasons={ready.RELEASED: "paused: maintenance"})
    assert seen(facts)["linux"] is State.READY
    facts = checked("linux", ready=False, reasons={ready.KEYS: "these foreign keys do not hold"})
    assert seen(facts)["linux"] is State.NOT_READY


def test_a_database_that_does_not_answer_is_never_ready() -> None:
    assert seen(silent("azure"))["azure"] is State.SILENT
    assert head(silent("azure")) == ("head_some", Level.WARN)
    assert head(silent("windows")) == ("head_primary_silent", Level.BAD)


def test_what_was_never_checked_is_not_called_ready() -> None:
    facts = replace(sample.well(), checks={})
    assert seen(facts)["linux"] is State.UNCHECKED
    assert head(facts) == ("head_unchecked", Level.UNKNOWN)


def test_the_primary_is_the_one_that_the_terms_name() -> None:
    facts = sample.promoted("linux")
    assert seen(facts)["linux"] is State.PRIMARY and seen(facts)["windows"] is not State.PRIMARY


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, Outcome.PUBLISHED),
        ({"tables": {}}, Outcome.EQUAL),
        ({"undoes": 7}, Outcome.UNDONE),
        ({"status": "STARTED", "published": None}, Outcome.RUNNING),
        ({"status": "FAILURE", "published": False}, Outcome.FAILED),
        ({"status": "FAILURE", "published": False, "verdicts": ({"guard": "x"},)}, Outcome.REFUSED),
        ({"status": "FAILURE", "published": True}, Outcome.PUBLISHED),
    ],
)
def test_the_outcome_of_a_sync(changes: dict[str, object], outcome: Outcome) -> None:
    assert view.outcome(replace(sample.run("linux", hours=1), **changes)) is outcome


# The plot --------------------------------------------------------------------------------------


def test_a_sync_of_more_rows_has_a_higher_bar_within_the_plot() -> None:
    runs = [sample.run("linux", hours=hours, rows=10**hours) for hours in range(8)]
    drawn = plot.draw(runs, NOW, 12 * 3600)
    heights = [bar.height for bar in drawn.bars]
    assert heights == sorted(heights) and len(set(heights)) == 8
    assert all(bar.y >= plot.TOP and plot.LEFT <= bar.x <= plot.RIGHT for bar in drawn.bars)
    assert [bar.x for bar in drawn.bars] == sorted((bar.x for bar in drawn.bars), reverse=True)
    assert len(drawn.lines) <= plot.MOST_LINES + 1


def test_one_old_sync_does_not_press_the_others_together() -> None:
    runs = [sample.run("linux", hours=hours) for hours in (0, 1, 2, 3, 4, 5, 6, 7, 8, 5000)]
    seconds = plot.window(runs, NOW)
    assert seconds == 12 * 3600
    assert len(plot.draw(runs, NOW, seconds).bars) == 9


def test_a_plot_without_a_sync_has_an_axis() -> None:
    drawn = plot.draw([], NOW, plot.window([], NOW))
    assert not drawn.bars and len(drawn.ticks) == 3
