"""Many databases are asked at once, and each has its own result: a value or an error."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from dbsync_pipeline.deadline import run_until
from dbsync_pipeline.errors import DbsyncError, SettingsError, Unavailable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.fanout import PerDatabase, ask, one_by_one


def _databases(tmp_path: Path) -> list[Database]:
    """Two databases of which only the first has a file."""
    (tmp_path / "one.db").touch()
    return [
        Database(name, sa.URL.create("sqlite", database=str(tmp_path / f"{name}.db")))
        for name in ("one", "two")
    ]


def test_the_deadline_holds_for_all_work_together() -> None:
    started = time.monotonic()
    slow = {str(number): lambda: time.sleep(30) for number in range(20)}
    results = run_until({"quick": lambda: 1, **slow}, 0.3)
    assert results == {"quick": 1} and time.monotonic() - started < 5


def test_an_exception_is_a_result_of_its_own() -> None:
    def fail() -> None:
        raise ValueError("no")

    results = run_until({"bad": fail, "good": lambda: None}, 5)
    assert isinstance(results["bad"], ValueError) and results["good"] is None


def test_each_database_has_a_value_or_an_error(tmp_path: Path) -> None:
    def look(database: Database) -> str:
        with database.connect() as dialect:
            return dialect.name

    found = ask(_databases(tmp_path), look, 10)
    assert found.names == ("one", "two") and found.good == {"one": "one"}
    assert isinstance(found.failed["two"], Unavailable)
    assert [name for name, _ in found.items()] == ["one", "two"]
    assert found.reasons == {"two": "there is no such file yet"}
    remedy = str(found.failed["two"].remedy)
    assert "`dbsync tables create --database two`" in remedy and "`dbsync demo`" in remedy


def test_a_question_that_returns_none_has_a_good_result(tmp_path: Path) -> None:
    assert ask(_databases(tmp_path), lambda _: None, 10).good == {"one": None, "two": None}


def test_a_database_that_is_late_has_failed(tmp_path: Path) -> None:
    found = ask(_databases(tmp_path)[:1], lambda _: time.sleep(30), 0.2)
    assert found.good == {} and "no answer within 0.2 seconds" in found.reasons["one"]


def test_a_defect_is_raised_and_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        ask(_databases(tmp_path), lambda _: 1 // 0, 10)


def test_one_failure_does_not_stop_the_others() -> None:
    def work(name: str) -> int:
        if name == "a":
            raise SettingsError("no")
        return 1

    found: PerDatabase[int] = one_by_one(["a", "b"], work)
    assert found.good == {"b": 1} and isinstance(found.failed["a"], DbsyncError)
    assert found.map(str).good == {"b": "1"} and found.map(str).failed == found.failed
