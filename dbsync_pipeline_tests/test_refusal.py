"""What the guards found, as a person reads it."""

from __future__ import annotations

import pytest

from dbsync_pipeline.mirror.guard import Finding
from dbsync_pipeline.mirror.refusal import by_guard, summary

pytestmark = pytest.mark.unit

WRITTEN = "rows of linux were written since its last publish: up to {} rows would be changed"


def local_writes(*tables: str) -> list[Finding]:
    return [
        Finding("local writes", table, WRITTEN.format(n), "use --overwrite")
        for n, table in enumerate(tables, 2)
    ]


def test_a_single_finding_is_named_with_its_table_where_no_error_names_it() -> None:
    found = local_writes("users")
    assert summary(found) == f"{WRITTEN.format(2)} (local writes)"
    assert list(by_guard(found)) == [
        (f"table users: {WRITTEN.format(2)} (local writes)", "use --overwrite")
    ]


def test_a_reason_that_tables_share_is_written_once_with_each_table() -> None:
    assert summary(local_writes("users", "chats")) == (
        "rows of linux were written since its last publish, in 2 tables (local writes): "
        "users: up to 2 rows would be changed; chats: up to 3 rows would be changed"
    )


def test_of_many_tables_an_error_names_five_and_a_plan_all() -> None:
    found = local_writes(*"abcdefg")
    assert "; e: up to" in summary(found) and "f: up to" not in summary(found)
    assert summary(found).endswith("; and 2 more, which `dbsync plan` shows")
    ((shown, _),) = by_guard(found)
    assert "; g: up to" in shown


def test_other_reasons_and_other_guards_stand_for_themselves() -> None:
    emptied = [
        Finding("mass change", table, f"the source has {n} rows", "set a limit")
        for n, table in enumerate(("users", "chats"))
    ]
    partial = Finding("partial", None, "without chats", "sync all tables")
    assert summary([*emptied, partial]) == (
        "2 tables (mass change): users: the source has 0 rows; chats: the source has 1 rows; "
        "without chats (partial)"
    )
    assert [remedy for _, remedy in by_guard([*emptied, partial])] == [
        "set a limit",
        "sync all tables",
    ]


def test_two_findings_about_one_table_are_of_one_table() -> None:
    hidden = [
        Finding("hidden rows", "users", f"{database} may hide rows", "give the right")
        for database in ("windows", "linux")
    ]
    assert summary(hidden) == (
        "1 table (hidden rows): users: windows may hide rows; users: linux may hide rows"
    )
