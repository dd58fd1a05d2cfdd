"""The text of `dbsync status`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from dbsync_pipeline.cli.render.base import (
    MEGA,
    OUT,
    complain,
    proofs,
    say,
    say_skipped,
    table,
)
from dbsync_pipeline.output.sync import Statuses
from dbsync_pipeline.text import count

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.status import DatabaseStatus, LastPublish


def statuses(result: Statuses) -> None:
    """Print a table of the databases, one of their rows, and what is wrong with each."""
    places = result.databases
    shown = table(
        None,
        "database",
        "role",
        "engine",
        "reachable",
        ">MB",
        ">rows",
        "last published (UTC)",
        "in sync",
        ">term",
        "ready",
    )
    for place in places:
        shown.add_row(*_row(place))
    OUT.print(shown)
    if any(place.rows for place in places):
        OUT.print(_rows_table(places))
    say_skipped(result.skipped)
    for place in places:
        if place.last_publish and any(place.last_publish.proofs.values()):
            say(f"{place.name}: {_compared(place.last_publish)}")
        _problems(place, places, result.configured)


def _compared(last: LastPublish) -> str:
    """Return how the last publish compared its tables, and what that cost the source."""
    last_sync = (
        f"{count(last.confirmations, 'sync')} since its last publish found nothing to do, the last"
        if last.confirmations
        else "its last publish"
    )
    how = f"{last_sync} compared {proofs(last.proofs.values())}"
    if last.rows_read is None:
        return how
    size = "" if last.bytes_read is None else f" ({last.bytes_read / MEGA:.1f} MB on its disk)"
    return (
        f"{how}; {last.source} read {count(last.rows_read, 'row')}{size} for it in"
        f" {last.read_seconds:.1f} s"
    )


def _problems(place: DatabaseStatus, places: Sequence[DatabaseStatus], configured: str) -> None:
    from dbsync_pipeline.mirror import ready

    if place.reason:
        complain(f"{place.name}: {place.reason}")
    if place.lacks:
        complain(_restored(place, places))
    for check, why in place.not_ready.items():
        if why not in (place.reason or ""):
            remedy = ready.remedy(check, place.name, configured)
            complain(f"{place.name}: {why}\nRemedy: {remedy}")
    if place.last_publish and not place.last_publish.numbered:
        say(
            f"{place.name}: its source, {place.last_publish.source}, could not record the number of"
            " the publish, so an older source will not be detected\nRemedy: `dbsync tables create"
            f" --database {place.last_publish.source}` creates its ledger; docs/security.md lists"
            " the rights"
        )


def _restored(place: DatabaseStatus, places: Sequence[DatabaseStatus]) -> str:
    """Return what a primary lacks that its standbys hold, and how to bring it up to them."""
    from dbsync_pipeline.mirror import remedies

    newest = max(place.lacks, key=lambda name: place.lacks[name])
    states = ", ".join(f"state {state} on {name}" for name, state in place.lacks.items())
    terms = ", ".join(
        f"term {other.term} on {other.name}"
        for other in places
        if (other.term or 0) > (place.term or 0)
    )
    return (
        f"{place.name}: it was restored from an older state, or its standbys went on without it: it"
        f" does not know {states}{f', nor {terms}' if terms else ''}\n"
        f"Remedy: {remedies.bring_up(place.name, newest)}; to discard what its standbys have more,"
        f" see `dbsync plan`"
    )


def _row(place: DatabaseStatus) -> tuple[str, ...]:
    return (
        place.name,
        place.role,
        place.engine,
        f"[green]{place.latency_ms or 0:.0f} ms[/green]" if place.available else "[red]no[/red]",
        "" if place.size_mb is None else f"{place.size_mb:.1f}",
        f"{sum(place.rows.values()):,}" if place.rows else "",
        _last_publish(place),
        _in_sync(place),
        "" if place.term is None else str(place.term),
        _ready(place),
    )


def _last_publish(place: DatabaseStatus) -> str:
    last = place.last_publish
    if last is None:
        return ""
    age = _age(last.age_seconds)
    return f"{last.published_at:%Y-%m-%d %H:%M:%S}, holds {last.source} as of {age} ago"


def _ready(place: DatabaseStatus) -> str:
    """Return whether it could take over now; a ready standby may be old."""
    from dbsync_pipeline.mirror import ready

    if place.ready is None:
        return ""
    if not place.ready:
        return "[red]no[/red]"
    return "[yellow]yes, but old[/yellow]" if ready.AGE in place.not_ready else "[green]yes[/green]"


def _in_sync(place: DatabaseStatus) -> str:
    if place.role == "primary":
        return ""
    if place.in_sync is None:
        return "?"
    if place.in_sync:
        return "[green]yes[/green]"
    return f"[yellow]no, {count(sum(place.behind.values()), 'row')} off[/yellow]"


def _rows_table(places: Sequence[DatabaseStatus]) -> Table:
    """Return the rows per table and database, and how many of them a sync would change."""
    answered = [place for place in places if place.rows]
    shown = table(None, "table", *(f">{place.name}" for place in answered))
    for name in answered[0].rows:
        cells = (f"{place.rows[name]:,}{_off(place.behind.get(name, 0))}" for place in answered)
        shown.add_row(escape(name), *cells)
    return shown


def _off(rows: int) -> str:
    return f" [yellow]({rows:,} off)[/yellow]" if rows else ""


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
