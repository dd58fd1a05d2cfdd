"""The pipeline as Dagster runs it, on real SQLite databases: materializations, checks and failures."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DagsterInvalidConfigError,
    DagsterRun,
    DagsterRunStatus,
    Definitions,
    Failure,
    JobExecutionResult,
    MetadataValue,
    SubmitRunContext,
    TableColumnDep,
    asset,
    execute_job,
    in_process_executor,
    materialize,
    reconstructable,
)
from dagster._cli import main as dagster_command_line
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from dbsync_pipeline.defs import run_tags
from dbsync_pipeline.defs.assets import table_assets
from dbsync_pipeline.defs.connections import DatabaseConnection, connections
from dbsync_pipeline.defs.failures import as_dagster_failure
from dbsync_pipeline.defs.keys import asset_keys, slug
from dbsync_pipeline.defs.resources import Sync
from dbsync_pipeline.defs.run_queue import RunQueue
from dbsync_pipeline.errors import Busy, DatabaseError, SettingsError
from dbsync_pipeline.mirror import schema
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.runs import launch
from dbsync_pipeline.runs.history import read, read_one
from dbsync_pipeline.settings import load
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.places import SECRET, Places
from dbsync_pipeline_tests.processes import ROOT, job_execute, started, until
from dbsync_pipeline_tests.worlds import MODEL, chat, content, execute, insert, prepare, user

TABLES = list(MODEL.names)
ODD = [
    "we ird",
    'qu"ote',
    "per%cent",
    "😀",
    "type",
    "users",
    "users_equals_source",
    "row_count",
    "class",
]

metadata = sa.MetaData()  # named by DBSYNC_MODELS in the test of odd names
for _name in ODD:
    sa.Table(
        _name,
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("t", sa.UnicodeText),
    )


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    """A store of runs in memory, for tests that do not depend on where runs are stored."""
    with DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def store(places: Places) -> Iterator[DagsterInstance]:
    """An operator's store of runs, in files."""
    with places.dagster() as opened:
        yield opened


def run(
    instance: DagsterInstance,
    target: str | None,
    tables: Sequence[str] = TABLES,
    source: str = "",
    **allowed: Any,
) -> JobExecutionResult:
    """Run `sync_job` in this process."""
    config = {
        "resources": {"sync": {"config": {"source": source}}},
        "ops": {"sync": {"ops": {"ensure_schema": {"config": allowed}}}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    partition = {"dagster/partition": target} if target else {}
    keys = list(asset_keys(tables).values())
    with execute_job(
        reconstructable(launch.sync_job),
        instance,
        run_config=config,
        tags=partition,
        asset_selection=keys,
        raise_on_error=False,
    ) as result:
        return result


def materialized(result: JobExecutionResult) -> dict[str, Mapping[str, MetadataValue[Any]]]:
    """Return the metadata of each materialized asset."""
    events = [
        event.step_materialization_data.materialization
        for event in result.all_events
        if event.is_step_materialization
    ]
    return {one.asset_key.to_user_string(): one.metadata for one in events}


def checks(result: JobExecutionResult) -> dict[tuple[str, str], bool]:
    evaluations = result.get_asset_check_evaluations()
    return {(one.asset_key.to_user_string(), one.check_name): one.passed for one in evaluations}


def skipped(result: JobExecutionResult) -> set[str]:
    return {
        str(event.step_key)
        for event in result.all_events
        if event.event_type == DagsterEventType.STEP_SKIPPED
    }


def reason(instance: DagsterInstance, result: JobExecutionResult) -> str:
    assert not result.success
    assert materialized(result) == {} and checks(result) == {}
    return read_one(instance, result.run_id).reason or ""


def will_retry(instance: DagsterInstance, result: JobExecutionResult) -> bool:
    """Return what Dagster decided from `dagster.yaml` and the run's tag."""
    stored = instance.get_run_by_id(result.run_id)
    assert stored is not None
    return stored.tags["dagster/will_retry"] == "true"


# Materializations ---------------------------------------------------------------------------------


def test_all_tables_of_one_target(places: Places, store: DagsterInstance) -> None:
    result = run(store, "azure")
    assert result.success
    assert content(places.named("azure")) == content(places.named("windows"))
    assert set(materialized(result)) == set(TABLES)
    assert checks(result) == {(table, "equals_source"): True for table in TABLES}
    users = {key: value.value for key, value in materialized(result)["users"].items()}
    expected = {
        "dagster/partition_row_count": 20,
        "dagster/table_name": "users",
        "inserted": 20,
        "updated": 0,
        "deleted": 0,
        "role": "standby",
        "source": "windows",
        "target": "azure",
        "publish_number": 1,
        "partial": False,
    }
    assert expected.items() <= users.items()
    assert {
        "bytes_moved",
        "seconds",
        "seconds_compare",
        "seconds_publish",
        "source_snapshot",
        "digest",
    } <= set(users)
    latest = store.get_latest_materialization_event(AssetKey("users"))
    assert (
        latest
        and latest.asset_materialization
        and latest.asset_materialization.partition == "azure"
    )


def test_one_table_of_one_target(places: Places, instance: DagsterInstance) -> None:
    result = run(instance, "azure", ["users"])
    assert result.success
    assert set(materialized(result)) == {"users"}
    assert set(checks(result)) == {("users", "equals_source")}
    assert skipped(result) == {f"sync.copy_{table}" for table in TABLES if table != "users"}
    rows = content(places.named("azure"))
    assert rows["users"] == content(places.named("windows"))["users"] and rows["messages"] == []


def test_every_partition_succeeds_with_true_metadata(
    places: Places, instance: DagsterInstance
) -> None:
    results = {name: run(instance, name) for name in ("windows", "linux", "azure")}
    assert all(result.success for result in results.values())
    assert (
        content(places.named("linux"))
        == content(places.named("azure"))
        == content(places.named("windows"))
    )
    primary = {
        key: value.value for key, value in materialized(results["windows"])["messages"].items()
    }
    assert (primary["role"], primary["dagster/partition_row_count"], primary["bytes_moved"]) == (
        "primary",
        200,
        0,
    )
    assert "publish_number" not in primary
    assert checks(results["windows"]) == {}, "the primary is compared with nothing"


def test_a_second_run_moves_nothing(places: Places, instance: DagsterInstance) -> None:
    run(instance, "azure")
    again = run(instance, "azure")
    assert again.success
    assert all(
        metadata["inserted"].value == metadata["bytes_moved"].value == 0
        for metadata in materialized(again).values()
    )


def test_from_a_standby_to_another(places: Places, instance: DagsterInstance) -> None:
    assert run(instance, "linux").success
    result = run(instance, "azure", source="linux")
    assert result.success and materialized(result)["users"]["source"].value == "linux"


def test_checks_alone_compare_and_publish_nothing(
    places: Places, instance: DagsterInstance
) -> None:
    assert run(instance, "azure").success
    execute(places.named("windows"), "UPDATE users SET name = 'new' WHERE id = 1")
    before = content(places.named("azure"))
    job = launch.sync_job().get_subset(
        asset_selection=set(),
        asset_check_selection={AssetCheckKey(AssetKey("users"), "equals_source")},
    )
    result = job.execute_in_process(partition_key="azure", instance=instance)
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed and evaluation.metadata["update"].value == 1
    assert content(places.named("azure")) == before


def test_the_check_fails_if_the_target_is_not_proved_equal(
    places: Places, instance: DagsterInstance
) -> None:
    assert run(instance, "azure").success
    insert(places.named("windows"), {"users": [user(999)], "chats": [chat(999, 999)]})
    result = run(instance, "azure", ["chats"])  # without the user, a foreign key would break
    assert not result.success and checks(result) == {("chats", "equals_source"): False}


# Definitions --------------------------------------------------------------------------------------


def test_foreign_keys_are_column_lineage_and_make_no_table_stale() -> None:
    tables = table_assets(MODEL, ["windows", "linux"])
    assert not any(tables.asset_deps.values())
    lineage = tables.metadata_by_key[AssetKey("documents")]["dagster/column_lineage"]
    assert lineage.deps_by_column == {
        "user_id": [TableColumnDep(AssetKey("users"), "id")],
        "chat_id": [TableColumnDep(AssetKey("chats"), "id")],
    }


def test_keys_have_the_prefix_and_the_schema(places: Places) -> None:
    names = ["users", "auth.users"]
    expected = [AssetKey(["m", "prod", "users"]), AssetKey(["m", "prod", "auth", "users"])]
    assert list(asset_keys(names, "m/prod").values()) == expected
    places.set(DBSYNC_ASSET_PREFIX="m/prod")
    assert list(asset_keys(names).values()) == expected
    for name, value in (("PREFIX", "m//x"), ("OWNERS", "nobody"), ("TAGS", "a b")):
        places.set(**{f"DBSYNC_ASSET_{name}": value})
        with pytest.raises(SettingsError, match=f"DBSYNC_ASSET_{name}"):
            load()
        places.set(**{f"DBSYNC_ASSET_{name}": ""})


def test_a_table_with_a_prefix_is_synced_and_in_history(
    places: Places, instance: DagsterInstance
) -> None:
    places.set(DBSYNC_ASSET_PREFIX="m/prod")
    tables = table_assets(
        MODEL,
        ["windows", "linux", "azure"],
        prefix="m/prod",
        engines=["sqlite", "sqlite"],
        owners=["team:platform"],
        tags={"domain": "chat"},
    )
    spec = tables.specs_by_key[AssetKey(["m", "prod", "users"])]
    assert spec.kinds == {"sqlite", "table"} and spec.owners == ["team:platform"]
    assert spec.tags["domain"] == "chat" and "One partition per database" in str(spec.description)
    resources = {"sync": Sync(), **connections(load())}
    result = materialize([tables], partition_key="azure", instance=instance, resources=resources)
    assert result.success
    assert set(materialized(result)) == {f"m/prod/{table}" for table in TABLES}
    assert set(checks(result)) == {(f"m/prod/{table}", "equals_source") for table in TABLES}
    assert set(read(instance)[0].tables) == set(TABLES)


def test_odd_table_names_are_mirrored(places: Places, instance: DagsterInstance) -> None:
    places.set(DBSYNC_MODELS=__name__)
    model = Model(metadata)
    prepare(places.named("linux"), {name: [{"id": 1, "t": name}] for name in ODD}, model)
    result = materialize(
        [table_assets(model, ["linux", "azure"])],
        partition_key="azure",
        instance=instance,
        resources={"sync": Sync(source="linux"), **connections(load())},
    )
    assert result.success
    assert content(places.named("azure"), model) == content(places.named("linux"), model)
    assert set(read(instance)[0].tables) == set(ODD)
    assert len({slug(name) for name in ODD}) == len(ODD) and slug("users") == "users"


def test_the_run_is_tagged_with_source_and_target(
    places: Places, instance: DagsterInstance
) -> None:
    ended = instance.get_run_by_id(run(instance, "linux").run_id)
    assert ended is not None
    shown = {name: value for name, value in ended.tags.items() if name.startswith("dbsync/")}
    assert shown == {"dbsync/source": "windows", "dbsync/target": "linux"}


def test_the_store_queues_one_run_per_target_and_ends_dead_runs(
    places: Places, store: DagsterInstance
) -> None:
    (limit,) = store.get_concurrency_config().run_queue_config.tag_concurrency_limits  # type: ignore[union-attr]
    assert limit == {
        "key": "dbsync/target",
        "value": {"applyLimitPerUniqueValue": True},
        "limit": 1,
    }
    assert store.run_monitoring_enabled and store.run_monitoring_max_runtime_seconds == 0
    assert store.run_retries_enabled and not store.run_retries_retry_on_asset_or_op_failure
    job = launch.sync_job()
    assert job.tags["dagster/retry_strategy"] == "ALL_STEPS"
    assert not store.telemetry_enabled and not store.nux_enabled


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        ([AssetKey("users")], True),
        ([AssetKey("users"), AssetKey("report_of_another_project")], True),
        ([AssetKey("users_of_another_project")], False),
        ([AssetKey(["dbsync", "standby"])], False),
        (None, False),
    ],
)
def test_a_sync_is_known_by_the_tables_that_it_selects(
    selected: list[AssetKey] | None, expected: bool
) -> None:
    keys = frozenset(selected) if selected else None
    tags = {"dagster/partition": "linux"}
    run = DagsterRun(job_name="__ASSET_JOB", run_id="1", tags=tags, asset_selection=keys)
    assert run_tags.is_sync(run) is expected


def test_a_materialization_from_the_pages_is_queued_by_its_target(
    places: Places, store: DagsterInstance
) -> None:
    assert isinstance(store.run_coordinator, RunQueue)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(
        LoadableTargetOrigin(module_name="dbsync_pipeline.definitions"), "any name"
    )
    origin = RemoteRepositoryOrigin(location, "__repository__").get_job_origin("__ASSET_JOB")
    for key, expected in ((AssetKey("users"), "linux"), (AssetKey(["dbsync", "standby"]), None)):
        run = store.add_run(
            DagsterRun(
                job_name="__ASSET_JOB",
                asset_selection=frozenset([key]),
                tags={"dagster/partition": "linux"},
                remote_job_origin=origin,
                job_code_origin=reconstructable(launch.sync_job).get_python_origin(),
            )
        )
        queued = store.run_coordinator.submit_run(SubmitRunContext(run, workspace=None))  # type: ignore[arg-type]
        assert queued.status == DagsterRunStatus.QUEUED
        assert queued.tags.get(run_tags.TARGET_TAG) == expected
    (queued_sync,) = read(store)
    assert queued_sync.target == "linux" and run_tags.active_run(store, "linux") is not None


def test_definitions_load_as_the_server_loads_them() -> None:
    from dbsync_pipeline.definitions import defs

    assert isinstance(defs, Definitions)
    Definitions.validate_loadable(defs)
    assert defs.resolve_job_def("sync_job").executor_def is in_process_executor
    workspace = (ROOT / "workspace.yaml").read_text()
    assert "module_name: dbsync_pipeline.definitions" in workspace


def test_every_database_is_a_resource_whose_url_is_only_named(
    places: Places, store: DagsterInstance
) -> None:
    places.set(DBSYNC_LINUX_URL="postgresql://bob:hunter2@h/d", DBSYNC_WINDOWS_URL="sqlite://")
    resources = connections(load())
    assert list(resources) == ["windows", "linux"]
    described = Definitions(resources=resources).get_repository_def().get_top_level_resources()
    text = repr({name: one.config_schema.default_value for name, one in described.items()})
    assert "DBSYNC_LINUX_URL" in text and "hunter2" not in text


def test_a_run_uses_the_resources_that_it_is_given(
    places: Places, instance: DagsterInstance
) -> None:
    other = places.folder / "another.db"
    url = f"sqlite:///{other}"
    given = {**connections(load()), "azure": DatabaseConnection(name="azure", url=url)}
    schema.ensure(given["azure"].database(), MODEL)
    result = materialize(
        [table_assets(MODEL, list(given))],
        partition_key="azure",
        instance=instance,
        resources={"sync": Sync(), **given},
    )
    assert result.success
    assert content(given["azure"].database()) == content(places.named("windows"))
    assert not (places.folder / ".dbsync" / "azure.db").exists()


def test_an_asset_of_a_user_asks_for_a_database(places: Places, instance: DagsterInstance) -> None:
    @asset
    def users_on_windows(windows: DatabaseConnection) -> int:
        with windows.connect() as dialect:
            return int(dialect.connection.scalar(sa.text("SELECT count(*) FROM users")) or 0)

    done = materialize([users_on_windows], instance=instance, resources=connections(load()))
    assert done.output_for_node("users_on_windows") == 20


# Failures -----------------------------------------------------------------------------------------


def test_an_unknown_partition_names_the_known_ones(
    places: Places, instance: DagsterInstance
) -> None:
    assert "windows, linux, azure" in reason(instance, run(instance, "mars"))


def test_a_run_without_a_partition_is_shown_how_to_give_one(
    places: Places, instance: DagsterInstance
) -> None:
    assert '--tags \'{"dagster/partition": "azure"}\'' in reason(instance, run(instance, None))


def test_source_and_target_must_differ(places: Places, instance: DagsterInstance) -> None:
    assert "source and target are the same database, linux" in reason(
        instance, run(instance, "linux", source="linux")
    )


def test_an_unreachable_database_is_named_and_no_secret_is_kept(
    places: Places, store: DagsterInstance
) -> None:
    places.out_of_reach("azure")
    result = run(store, "azure")
    text = reason(store, result)
    assert "database azure" in text and "Remedy:" in text
    assert will_retry(store, result)
    assert SECRET not in places.shown()


def test_a_table_that_differs_in_structure_is_named(
    places: Places, instance: DagsterInstance
) -> None:
    schema.ensure(places.named("azure"), MODEL)
    execute(places.named("azure"), "ALTER TABLE users DROP COLUMN name")
    text = reason(instance, run(instance, "azure"))
    assert "table users" in text and "name is missing" in text


def test_the_runs_config_allows_what_the_guards_refuse(
    places: Places, store: DagsterInstance
) -> None:
    prepare(places.named("azure"), {"users": [user(99)]})
    refused = run(store, "azure")
    assert "was never published to" in reason(store, refused) and not will_retry(store, refused)
    assert content(places.named("azure"))["users"] != content(places.named("windows"))["users"]
    assert run(store, "azure", overwrite=True).success
    assert content(places.named("azure")) == content(places.named("windows"))
    execute(places.named("windows"), "UPDATE users SET name = 'new'")
    assert "azure would not be consistent" in reason(
        store, run(store, "azure", ["users"], partial=False)
    )
    assert run(store, "azure", ["users"], partial=True).success


def test_overrides_are_validated_before_anything_is_done(
    places: Places, instance: DagsterInstance
) -> None:
    with pytest.raises(DagsterInvalidConfigError):
        run(instance, "azure", overwrite="yes please")
    assert "max_change_fraction" in reason(instance, run(instance, "azure", max_change_fraction=2))


def test_a_step_without_the_first_one_is_refused(places: Places, instance: DagsterInstance) -> None:
    result = launch.sync_job().execute_in_process(
        partition_key="azure",
        instance=instance,
        op_selection=["sync.publish"],
        raise_on_error=False,
    )
    assert not result.success
    assert "run all steps" in (read_one(instance, result.run_id).reason or "")


def test_an_unexpected_exception_keeps_its_location_and_loses_its_secrets() -> None:
    with pytest.raises(Failure) as caught, as_dagster_failure():
        raise RuntimeError("cannot reach postgresql://bob:hunter2@host/db\nDETAIL: (1, 'a row')")
    text = caught.value.description or ""
    assert text.startswith("unexpected RuntimeError at dbsync_pipeline/") and text.endswith(
        ": cannot reach [hidden]"
    )
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("error", "retries"),
    [(Busy("somebody holds the lock"), True), (DatabaseError("disk full"), False)],
)
def test_only_transient_errors_allow_retries(error: Exception, retries: bool) -> None:
    with pytest.raises(Failure) as caught, as_dagster_failure():
        raise error
    assert caught.value.allow_retries is retries


# From the shell, as CI runs it --------------------------------------------------------------------


def test_job_execute_exits_zero_when_it_published(places: Places, store: DagsterInstance) -> None:
    insert(places.named("windows"), {"users": [user(1000)]})
    job = started(places, *job_execute("azure"))
    _, err = job.communicate()
    assert job.returncode == 0, err
    assert content(places.named("azure")) == content(places.named("windows"))
    assert [one.status for one in read(store)] == ["SUCCESS"]


@pytest.mark.filterwarnings(
    "ignore:Function `job_execute_command`"
)  # Dagster has begun to recommend `dg launch`
def test_job_execute_does_not_exit_zero_when_it_did_not_publish(
    places: Places,
    store: DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In this process, as `python -m dagster` does; other tests see the exit status from outside."""
    places.set(DAGSTER_HOME=str(places.dagster_home))
    places.out_of_reach("azure")
    for target, cause in (("mars", "windows, linux, azure"), ("azure", "database azure")):
        monkeypatch.setattr(sys, "argv", job_execute(target))
        with pytest.raises(SystemExit) as ended:
            dagster_command_line()
        out, err = capfd.readouterr()
        assert (
            ended.value.code not in (0, None) and cause in err and SECRET.decode() not in out + err
        )
    assert [one.status for one in read(store)] == ["FAILURE", "FAILURE"]


def test_cancelling_a_run_cancels_the_statement_that_it_waits_for(
    places: Places, store: DagsterInstance, new_database: NewDatabase
) -> None:
    linux = new_database("postgresql", "linux")
    schema.ensure(linux, MODEL)
    places.set(
        DBSYNC_WINDOWS_URL=places.named("windows").url.render_as_string(),
        DBSYNC_LINUX_URL=linux.url.render_as_string(hide_password=False),
        DBSYNC_LOCK_SECONDS="300",
    )
    with linux.engine().begin() as application:
        application.exec_driver_sql("LOCK TABLE users IN ROW EXCLUSIVE MODE")
        job = started(places, *job_execute("linux"))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass"
        until("it waits", lambda: application.scalar(sa.text(waits)) == 1)
        (running,) = store.get_runs()
        store.report_run_canceling(running)
        _, err = job.communicate(timeout=120)
        assert job.returncode != 0 and "cancelled" in err, err
        assert application.scalar(sa.text(waits)) == 0
