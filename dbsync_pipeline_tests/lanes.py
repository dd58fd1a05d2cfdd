"""Which tests belong to the quick lane, `pytest -m unit`: those that need no server, no process and no store of Dagster's.

The lane is derived from the fixtures that a test takes. A test that starts a process, or makes a store by itself, shows it by
`@pytest.mark.system`. One that starts a process without that mark fails.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest

HEAVY_FIXTURES = {"servers", "places"}
MARKERS = (
    "unit: needs no server, no process and no store of Dagster's (derived: do not write it)",
    "system: starts processes or makes a store of Dagster's, without a fixture that shows it",
)
_PROCESS_STARTS = {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"}
_running: list[str] = []


def mark(items: list[pytest.Item]) -> None:
    """Mark every test that belongs to the lane."""
    for item in items:
        if not HEAVY_FIXTURES & set(getattr(item, "fixturenames", ())) and not any(
            item.iter_markers("system")
        ):
            item.add_marker("unit")


@contextlib.contextmanager
def held_to_its_lane(item: pytest.Item) -> Iterator[None]:
    """Fail a unit test that starts a process."""
    if item.get_closest_marker("unit"):
        _running.append(item.nodeid)
    try:
        yield
    finally:
        _running.clear()


def _audit(event: str, _arguments: tuple[object, ...]) -> None:
    if _running and event in _PROCESS_STARTS:
        raise AssertionError(f"{_running[0]} starts a process: mark it with @pytest.mark.system")


sys.addaudithook(_audit)
