"""Texts of the verbs promote, failover and failback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from dbsync_pipeline.cli.render.base import OUT, complain, good, say, table
from dbsync_pipeline.output.failover import Ended, Promoted, Rehearsed

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.failover.observe import Observation


def rehearsed(result: Rehearsed) -> None:
    """Print what the probes saw, and what a failover would do."""
    shown = table(
        None,
        "database",
        "reachable",
        "term",
        ">publish",
        "state of (UTC)",
        "local writes",
        "obstacle",
    )
    for seen in result.seen:
        shown.add_row(*_observed(seen))
    OUT.print(shown)
    say(result.decision.why)
    if not result.decision.nothing:
        say(f"A failover would do this: {result.decision.steps}")


def _observed(seen: Observation) -> tuple[str, ...]:
    writes = "not checked"
    if seen.own_writes is not None:
        writes = ", ".join(map(escape, seen.own_writes)) or "none"
    return (
        seen.name,
        "[green]yes[/green]" if seen.answers else "[red]no[/red]",
        f"{seen.term.n} {seen.term.primary}" if seen.term else "",
        str(seen.number or ""),
        f"{seen.snapshot_at:%Y-%m-%d %H:%M:%S}" if seen.snapshot_at else "",
        writes if seen.answers else "",
        escape(seen.reason or seen.held or ("partial" if seen.mixed else "")),
    )


def promoted(result: Promoted) -> None:
    """Print who is the primary now, and which databases have not recorded it."""
    done = result.promotion
    if done.primary == done.former:
        good(f"{done.primary} is already the primary ({done.term})")
    else:
        good(f"{done.primary} is now the primary ({done.term}); it replaces {done.former}")
        say(
            "Point the application to it, and make sure that nothing writes to the former primary:"
            " docs/failover.md"
        )
    for name, why in done.missing.items():
        say(f"{name} has not recorded this ({why}); its next sync does")


def ended(result: Ended) -> None:
    """Print the note of a job's run, or why it failed."""
    if result.ok:
        good(result.run.note or "")
    else:
        complain(result.run.reason or str(result.run.status))
