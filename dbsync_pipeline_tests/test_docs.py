"""The documentation: generated pages are up to date, what is documented exists, and the reverse."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel

from dbsync_pipeline.http import app as http
from dbsync_pipeline.settings import Settings
from dbsync_pipeline_tests import commands
from dbsync_pipeline_tests.worlds import MODEL

ROOT = Path(__file__).parent.parent
REFERENCE = ("settings.md", "commands.md", "metrics.md", "decisions/README.md")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference_pages_are_as_the_code_makes_them(generate: ModuleType, name: str) -> None:
    path = ROOT / "docs" / name
    assert path.read_text(encoding="utf-8") == generate.pages()[path], "run `make reference`"


def test_the_readme_is_a_page_of_eighty_lines_in_both_languages() -> None:
    for page in ("README.md", "docs/es/README.md"):
        assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= 80, page


# Commands --------------------------------------------------------------------------------------


PACKAGE = ROOT / "dbsync_pipeline"
PAGES = (*(ROOT / name for name in ("README.md", ".env.example")), *(ROOT / "docs").rglob("*.md"))


def test_every_command_that_the_package_names_exists() -> None:
    named = [
        (f"{path.relative_to(ROOT)}:{line}", command)
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, command in commands.of_a_module(path)
    ]
    assert len(named) > 50
    assert [
        f"{place}: {command!r}: {fault}"
        for place, command in named
        if (fault := commands.wrong(command))
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_exists(page: Path) -> None:
    named = commands.quoted(page.read_text(encoding="utf-8"))
    assert [
        f"{command!r}: {fault}" for command in named if (fault := commands.wrong(command))
    ] == []


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("dbsync sync --source linux --target=azure", None),
        ("dbsync rescue list|show", None),
        (f"dbsync undo {commands.PLACEHOLDER} --overwrite", None),
        ("dbsync migrate new TITLE --empty", None),
        ("dbsync snyc", "snyc is no command"),
        ("dbsync rescue lost", "lost is no command"),
        ("dbsync sync --force", "--force is no option of `sync`"),
        ("dbsync rescue show RUN --yes", "--yes is no option of `show`"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, fault: str | None) -> None:
    assert commands.wrong(command) == fault


def test_every_command_has_its_json_documented() -> None:
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    assert [words for words, _ in commands.leaves() if f"`{words}`" not in page] == []


# HTTP ------------------------------------------------------------------------------------------


def test_every_path_parameter_and_field_of_the_http_api_is_documented() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    routes = [route for route in http.router.routes if isinstance(route, APIRoute)]
    paths = [f"{method} {route.path}" for route in routes for method in route.methods]
    fields = [
        name
        for route in routes
        for name in (*_query(route), *(_body(route).model_fields if route.body_field else ()))
    ]
    assert len(paths) >= 4 and {"limit", "wait", "overwrite"} <= set(fields)
    assert [path for path in paths if f"`{path}`" not in page] == []
    assert [name for name in fields if not re.search(rf"\b{name}\b", page)] == []


def _query(route: APIRoute) -> list[str]:
    """Query parameters; those that one model gathers by its fields."""
    return [
        name
        for param in route.dependant.query_params
        for name in getattr(param.field_info.annotation, "model_fields", {param.alias: None})
    ]


def _body(route: APIRoute) -> type[BaseModel]:
    assert route.body_field is not None
    models = [
        kind
        for kind in (
            route.body_field.field_info.annotation,
            *get_args(route.body_field.field_info.annotation),
        )
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    ]
    return models[0]


# Settings --------------------------------------------------------------------------------------


def test_every_setting_is_in_the_example_of_an_environment() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    names = [f"DBSYNC_{name.upper()}" for name in Settings.model_fields if name != "databases"]
    assert [name for name in names if f"{name}=" not in example] == []


def _fields(value: object) -> set[str]:
    """The names of all fields of a JSON value, at every level."""
    if isinstance(value, dict):
        return set(value).union(*map(_fields, value.values()))
    return set().union(*map(_fields, value)) if isinstance(value, list) else set()


def test_every_json_field_of_the_examples_is_documented() -> None:
    """The examples are what the commands print, which another test checks."""
    page = (ROOT / "docs" / "json-examples.md").read_text(encoding="utf-8")
    examples = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    data = {column.name for table in MODEL.tables for column in table.sa.columns}
    phases = {"schema", "compare", "publish", "prove"}
    fields = set().union(*(_fields(json.loads(example)) for example in examples))
    explained = re.findall(r"\w+", (ROOT / "docs" / "json.md").read_text(encoding="utf-8"))
    assert len(examples) > 20
    assert fields - set(explained) - data - set(MODEL.names) - phases == set()
