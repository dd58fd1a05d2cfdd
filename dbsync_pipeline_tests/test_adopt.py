"""`dbsync adopt`: a standby that another tool filled is compared, shown, and taken in by its first sync."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dbsync_pipeline.cli import app
from dbsync_pipeline.dialects.table import Table
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.ledger import Ledger
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.places import Places
from dbsync_pipeline_tests.roles import Roles, administer, name
from dbsync_pipeline_tests.worlds import MODEL, content, execute, insert, small_world, user

users, memories = (MODEL.table(name).sa for name in ("users", "user_memory"))
PAIRS = (("postgresql", "postgresql"), ("sqlite", "sqlite"), ("postgresql", "sqlite"))


class Owner:
    """A live pair of databases without any trace of dbsync: the application's own tables and rows."""

    def __init__(
        self, places: Places, pair: tuple[Database, Database], capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.primary, self.spare = pair
        self._capsys = capsys
        self._monkeypatch = places._monkeypatch
        for setting, database in (("WINDOWS", self.primary), ("LINUX", self.spare)):
            places.set(**{f"DBSYNC_{setting}_URL": database.url.render_as_string(False)})
        for database in pair:
            with database.connect(create=True) as dialect, dialect.connection.begin():
                MODEL.metadata.create_all(dialect.connection)
            insert(database, small_world())

    def run(self, *words: str, status: int = 0, as_json: bool = True) -> Any:
        argv = ["dbsync", *words, *(["--json"] if as_json else [])]
        self._monkeypatch.setattr(sys, "argv", argv)
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = self._capsys.readouterr()
        assert (ended.value.code or 0) == status, out + err
        return json.loads(out) if as_json else out + err

    def adopt(self, *words: str, status: int = 0) -> dict[str, Any]:
        (target,) = self.run("adopt", *words, status=status)["targets"]
        assert target["target"] == "linux"
        return dict(target)

    def has_ledger(self) -> bool:
        with self.spare.connect() as dialect:
            return Ledger(dialect).exists()


@pytest.fixture(params=PAIRS, ids="-".join)
def owner(
    request: pytest.FixtureRequest,
    new_database: NewDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Owner:
    home = tmp_path / "home"
    home.mkdir()
    pair = tuple(
        new_database(engine, name, server=n)
        for n, (engine, name) in enumerate(zip(request.param, ("windows", "linux"), strict=True))
    )
    return Owner(Places(home, monkeypatch), pair, capsys)  # type: ignore[arg-type]


def distances(adoption: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Rows only in the source, only in the target, different, of each table that is not equal."""
    parts = ("only_in_source", "only_in_target", "different")
    apart = {
        name: tuple(table[part] for part in parts) for name, table in adoption["tables"].items()
    }
    return {name: counts for name, counts in apart.items() if any(counts)}  # type: ignore[misc]


def test_an_equal_standby_is_taken_in_without_a_row_and_its_local_writes_are_known(
    owner: Owner,
) -> None:
    before = content(owner.spare)
    adoption = owner.adopt()
    assert adoption["outcome"] == "adopted" and distances(adoption) == {}
    assert [(run["changed"], run["bytes"]) for run in [_summed(adoption["run"])]] == [(0, 0)]
    assert content(owner.spare) == before
    with owner.spare.connect() as dialect:
        ledger = Ledger(dialect)
        last = ledger.last()
        assert last is not None and last.number == adoption["number"]
        assert all(ledger.digests(table.name) for table in MODEL.tables)
    _have_stamps_if_postgresql(owner, MODEL.tables)
    execute(owner.spare, users.update().where(users.c.id == 3).values(name="written here"))
    refused = owner.run("plan", status=1)["targets"][0]["refusals"]
    assert [finding["guard"] for finding in refused] == ["local writes"]
    assert "keys 3" in refused[0]["found"]


def _summed(run: dict[str, Any]) -> dict[str, int]:
    tables = run["tables"].values()
    changed = sum(t["inserted"] + t["updated"] + t["deleted"] for t in tables)
    return {"changed": changed, "bytes": sum(t["bytes"] for t in tables)}


def _have_stamps_if_postgresql(owner: Owner, tables: tuple[Table, ...]) -> None:
    sides = [
        side
        for side, database in (("source", owner.primary), ("target", owner.spare))
        if database.engine_name == "postgresql"
    ]
    with owner.spare.connect() as dialect:
        stamped = set(Ledger(dialect).stamps())
    if owner.spare.engine_name == "postgresql":
        assert stamped == {(table.name, side) for table in tables for side in sides}


def test_a_second_call_changes_nothing_and_says_so(owner: Owner) -> None:
    number = owner.adopt()["number"]
    execute(owner.spare, users.update().where(users.c.id == 3).values(name="written here"))
    before = content(owner.spare)
    again = owner.adopt()
    assert (again["outcome"], again["number"], again["tables"], again["run"]) == (
        "known",
        number,
        None,
        None,
    )
    assert content(owner.spare) == before
    assert "taken in already" in owner.run("adopt", as_json=False)
    assert len(owner.run("history")) == 1


def _drift_apart(owner: Owner) -> None:
    execute(
        owner.spare,
        (users.insert(), [user(900, name="only there"), user(901)]),
        users.update().where(users.c.id == 3).values(name="<script>"),
        memories.delete().where(memories.c.user_id == 5),
    )


def test_what_differs_is_shown_by_table_and_refused_with_the_option_and_nothing_is_written(
    owner: Owner,
) -> None:
    _drift_apart(owner)
    before = content(owner.spare)
    refused = owner.adopt(status=1)
    assert refused["outcome"] == "refused" and refused["run"] is None
    assert distances(refused) == {"users": (0, 2, 1), "user_memory": (1, 0, 0)}
    assert [finding["guard"] for finding in refused["refusals"]] == ["unknown target"]
    command = "dbsync adopt --source windows --target linux --overwrite"
    assert command in refused["refusals"][0]["remedy"]
    assert content(owner.spare) == before and not owner.has_ledger()
    shown = owner.run("adopt", status=1, as_json=False)
    assert "only in linux" in shown and "not taken in" in shown and command in shown


def test_the_option_takes_it_in_and_keeps_what_differed_as_before_images(owner: Owner) -> None:
    _drift_apart(owner)
    adoption = owner.adopt("--overwrite")
    assert adoption["outcome"] == "adopted"
    assert _summed(adoption["run"])["changed"] == 4, "equal rows are not sent again"
    assert content(owner.spare) == content(owner.primary)
    rescued = owner.run("rescue", "show", adoption["run"]["run_id"])
    assert {(row["table"], row["id"], row["dbsync_change"]) for row in rescued} == {
        ("users", 3, "replaced"),
        ("users", 900, "deleted"),
        ("users", 901, "deleted"),
    }
    assert owner.run("verify")[0]["equal"]


def test_most_of_a_table_is_a_mass_change_that_needs_its_own_option(owner: Owner) -> None:
    execute(owner.spare, (users.insert(), [user(number) for number in range(1000, 2100)]))
    (guards,) = [[f["guard"] for f in owner.adopt("--overwrite", status=1)["refusals"]]]
    assert guards == ["mass change"]
    assert owner.adopt("--overwrite", "--max-change-fraction", "1")["outcome"] == "adopted"


def test_a_database_that_does_not_respond_fails_alone(owner: Owner) -> None:
    owner._monkeypatch.setenv("DBSYNC_AZURE_URL", "postgresql://bob:hunter2@127.0.0.1:1/nowhere")
    assert "azure" in load().names
    targets = {target["target"]: target for target in owner.run("adopt", status=1)["targets"]}
    assert targets["linux"]["outcome"] == "adopted"
    assert targets["azure"]["outcome"] == "failed" and "hunter2" not in json.dumps(targets)
    assert targets["azure"]["error"]["database"] == "azure"


def test_a_source_that_is_only_read_gets_no_ledger_and_a_warning_says_what_that_means(
    owner: Owner, roles: Roles
) -> None:
    if owner.primary.engine_name != "postgresql":
        pytest.skip("SQLite has no roles")
    reader = roles.new(owner.primary)
    administer(owner.primary, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name(reader)}")
    administer(owner.primary, f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {name(reader)}")
    owner._monkeypatch.setenv("DBSYNC_WINDOWS_URL", reader.url.render_as_string(False))
    shown = owner.run("adopt", as_json=False)
    assert "windows has no ledger" in shown and "permission denied" in shown
    assert "taken in by publish 1" in shown
    with owner.primary.connect() as dialect:
        assert not Ledger(dialect).exists()
