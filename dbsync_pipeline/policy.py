"""What a person may allow a sync to do, declared once.

`Policy` is the single declaration: name, type, default, range and description. Everything else is
derived from it: `Overrides`, the settings `DBSYNC_<NAME>`, the options of the command line, the
body of an HTTP request and the run config in Dagster. A new guard with an option is one function in
`mirror/guard.py` and one field here.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

Model = TypeVar("Model", bound=BaseModel)


class Policy(BaseModel):
    """What the guards allow in one sync. The defaults are those of the settings."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    overwrite: bool = Field(
        default=False,
        description="Overwrite or delete rows of the target that no publish wrote there "
        "(local writes); they are kept as before-images.",
    )
    max_change_fraction: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Refuse to change or delete more than this fraction of a table's rows on the "
        "target, from 0 to 1.",
    )
    max_change_rows: int = Field(
        default=1000,
        ge=0,
        description="Always allow this many changed or deleted rows per table, whatever fraction "
        "of the table they are.",
    )
    partial: bool = Field(
        default=True,
        description="Allow a sync of some tables only, which leaves the target inconsistent until "
        "the next full sync.",
    )


def _optional(declaration: type[BaseModel]) -> Callable[[type[Model]], type[Model]]:
    """Return a class decorator that adds the declaration's fields, each None by default."""

    def add(cls: type[Model]) -> type[Model]:
        fields: dict[str, Any] = {
            name: (field.annotation | None if field.annotation else Any, _without_default(field))
            for name, field in declaration.model_fields.items()
        }
        return create_model(
            cls.__name__, __base__=cls, __module__=cls.__module__, __doc__=cls.__doc__, **fields
        )

    return add


def _without_default(field: FieldInfo) -> FieldInfo:
    optional = copy(field)
    optional.default = None
    return optional


@_optional(Policy)
class Overrides(BaseModel):
    """What a person allows for one sync: the fields of `Policy`, where None means "as configured".

    Models that extend this one accept the overrides among their own fields.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    @property
    def given(self) -> dict[str, Any]:
        """The overrides that were given, by name."""
        values = {name: getattr(self, name) for name in Policy.model_fields}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def overrides(self) -> Overrides:
        """The overrides alone, without the other fields of a model that extends this one."""
        return Overrides.model_validate(self.given)

    def applied_to(self, policy: Policy) -> Policy:
        """Return `policy` with the given overrides in place of its own values."""
        return policy.model_copy(update=self.given)


def option(name: str) -> str:
    """Return the command line's option for a field of `Policy`, such as `--max-change-rows`."""
    return f"--{name.replace('_', '-')}"
