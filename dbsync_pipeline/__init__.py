"""Keep the standby copies of an application's database exact, with Dagster."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """Return `__version__` from the installed metadata, which pyproject.toml fills."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("dbsync-pipeline")
