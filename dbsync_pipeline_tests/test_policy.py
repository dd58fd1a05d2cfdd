"""What a person may allow is declared once, in `Policy`, and every other place is derived from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from dbsync_pipeline.defs.assets import OverridesConfig
from dbsync_pipeline.http.app import SyncBody
from dbsync_pipeline.policy import Overrides, Policy
from dbsync_pipeline.settings import Settings

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("derived", [Overrides, OverridesConfig, SyncBody, Settings])
def test_every_derived_place_has_each_field_with_its_description(derived: type[BaseModel]) -> None:
    for name, field in Policy.model_fields.items():
        assert derived.model_fields[name].description == field.description
        assert field.description


@pytest.mark.parametrize("derived", [Overrides, OverridesConfig, SyncBody])
def test_an_override_that_is_not_given_is_none_and_an_invalid_one_is_refused(
    derived: type[Overrides],
) -> None:
    assert derived().given == {}
    assert derived(max_change_rows=5, overwrite=False).given == {
        "max_change_rows": 5,
        "overwrite": False,
    }
    for wrong in ({"max_change_fraction": 1.5}, {"max_change_rows": -1}, {"overwrite": "perhaps"}):
        with pytest.raises(ValidationError):
            derived(**wrong)


def test_overrides_replace_only_what_they_name() -> None:
    configured = Policy(overwrite=True, max_change_fraction=0.1)
    assert Overrides(max_change_rows=7).applied_to(configured) == Policy(
        overwrite=True, max_change_fraction=0.1, max_change_rows=7
    )


def test_the_glossary_and_the_http_page_name_every_override() -> None:
    glossary, page = (ROOT / "docs" / name for name in ("glossary.md", "api.md"))
    for name in Policy.model_fields:
        assert f"`{name}`" in glossary.read_text(encoding="utf-8")
        assert f'"{name}"' in page.read_text(encoding="utf-8")
