"""The optional packages: which extra brings them, and the error where one is not installed.

The base install serves PostgreSQL and SQLite from the command line and in Dagster's pages.
Everything heavier is an extra of pyproject.toml, imported where it is used. No registry has this
project, so the remedy names the checkout.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from dbsync_pipeline.errors import SettingsError

_CHECKOUT = Path(__file__).resolve().parent.parent


def require(extra: str, *modules: str, operation: str) -> None:
    """Import the modules that `extra` installs.

    Raise SettingsError with the command that installs the extra if a module is missing.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            raise SettingsError(
                f"the package {module} is not installed",
                operation=operation,
                remedy=install(extra),
            ) from None


def install(extra: str) -> str:
    """Return the command that adds `extra` to this installation."""
    if (_CHECKOUT / "pyproject.toml").is_file():
        return f"make install EXTRAS={extra}   (in {_CHECKOUT})"
    return f"pip install '/path/to/dbsync_pipeline[{extra}]'   (the path of your checkout)"
