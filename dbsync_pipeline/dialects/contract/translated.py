"""The decorator by which a dialect's methods raise the project's errors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dbsync_pipeline.dialects.table import Table

if TYPE_CHECKING:
    from dbsync_pipeline.dialects.contract import Dialect


def translated(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a dialect's method, or generator, to raise the project's errors.

    They name the method as the operation, and the `Table` among its arguments.
    """
    operation = method.__name__.strip("_").replace("_", " ")

    @functools.wraps(method)
    def call(self: Dialect, *args: Any, **kwargs: Any) -> Any:
        with self.doing(operation, _table_of(args)):
            return method(self, *args, **kwargs)

    @functools.wraps(method)
    def generate(self: Dialect, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self.doing(operation, _table_of(args)):
            yield from method(self, *args, **kwargs)

    return generate if inspect.isgeneratorfunction(method) else call


def _table_of(args: Sequence[Any]) -> str | None:
    return next((argument.name for argument in args if isinstance(argument, Table)), None)
