"""What makes new stores of Dagster's cheap in tests: a store is made once in a process and copied, and Dagster reads its own
migrations once in a process instead of at each opening.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

_template: list[Path] = []


def copy_of_first(home: Path) -> bool:
    """Make `home` a copy of the first one of this process; False if there is none yet."""
    if _template:
        shutil.copytree(_template[0], home)
    return bool(_template)


def keep_as_first(home: Path) -> None:
    """Keep a copy, as it is now, for `copy_of_first`."""
    folder = Path(tempfile.mkdtemp(prefix="dbsync-tests-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _template.append(Path(shutil.copytree(home, folder / "home")))


def _read_migrations_of_dagster_once() -> None:
    read = ScriptDirectory.from_config
    known: dict[str, ScriptDirectory] = {}

    def from_config(config: Config) -> ScriptDirectory:
        location = config.get_alembic_option("script_location") or ""
        if not location.startswith("dagster:"):
            return read(config)
        return known.get(location) or known.setdefault(location, read(config))

    ScriptDirectory.from_config = from_config  # type: ignore[method-assign]


_read_migrations_of_dagster_once()
