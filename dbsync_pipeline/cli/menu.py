"""The questions for a person who calls `dbsync` or `dbsync sync` without arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dbsync_pipeline.cli.render.base import ask, ask_text, show_choices
from dbsync_pipeline.request import SyncOptions

if TYPE_CHECKING:
    from dbsync_pipeline.settings import Settings

TO_ALL, ONE_TARGET, SOME_TABLES, STATUS_ONLY = "1", "2", "3", "4"


def choose(settings: Settings, tables: Sequence[str], options: SyncOptions) -> SyncOptions | None:
    """Return the options with the person's choices; None if only the status is wanted."""
    from dbsync_pipeline.mirror.failover import term

    primary = term.primary(settings)
    show_choices(
        {
            TO_ALL: f"sync {primary} to all other databases",
            ONE_TARGET: "choose a source and a target",
            SOME_TABLES: "choose tables, a source and a target",
            STATUS_ONLY: "only show the status",
        }
    )
    action = ask("What should happen", [TO_ALL, ONE_TARGET, SOME_TABLES, STATUS_ONLY], TO_ALL)
    if action == STATUS_ONLY:
        return None
    if action == TO_ALL:
        return options.model_copy(update={"source": primary})
    chosen = _tables(tables) if action == SOME_TABLES else []
    source = ask("Copy from", settings.names, primary)
    targets = _targets(settings, source)
    return options.model_copy(update={"source": source, "target": targets, "table": chosen})


def _targets(settings: Settings, source: str) -> list[str]:
    others = [name for name in settings.names if name != source]
    if len(others) < 2:
        return others
    target = ask("Copy to", [*others, "all"], "all")
    return others if target == "all" else [target]


def _tables(tables: Sequence[str]) -> list[str]:
    """Return the tables that the person types, separated by blanks or commas; unknown names too.

    They are refused, with the known names, where the request is checked.
    """
    typed = ask_text(f"Which tables ({', '.join(tables)})")
    return typed.replace(",", " ").split()
