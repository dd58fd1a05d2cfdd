"""Commands that several errors and findings name as their remedy."""

from __future__ import annotations

from collections.abc import Sequence


def failback(name: str, options: Sequence[str] = ()) -> str:
    """The remedy for the configured primary, `name`, that returns when another is the primary."""
    return (
        f"`{' '.join(['dbsync failback', *options])}` makes {name} the primary again and keeps its "
        "rows as before-images"
    )


def bring_up(older: str, newer: str) -> str:
    """The remedy for a database that lacks what another has, as after a restore from a backup."""
    return (
        f"`dbsync sync --source {newer} --target {older} --overwrite` brings {older} up to {newer} "
        f"and keeps what only {older} has as before-images"
    )


def promote_anyway(name: str) -> str:
    """The command that makes a database the primary although others have what it lacks."""
    return f"`dbsync promote {name} --overwrite --yes`"
