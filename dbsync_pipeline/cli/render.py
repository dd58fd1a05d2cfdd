"""How the command line shows what it was told to a person: tables and sentences. Results go to stdout, all else to stderr."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.prompt import Prompt
from rich.table import Table
from rich.text import Text

from dbsync_pipeline import output, signals
from dbsync_pipeline.errors import DbsyncError
from dbsync_pipeline.mirror import guard, ready
from dbsync_pipeline.mirror.rescue.rescue import plain
from dbsync_pipeline.request import SyncRequest
from dbsync_pipeline.text import count

if TYPE_CHECKING:
    from dbsync_pipeline.demo.fill import DemoReport
    from dbsync_pipeline.mirror.failover.failover import Decision, Observation, Promotion
    from dbsync_pipeline.mirror.guard import Finding, Plan
    from dbsync_pipeline.mirror.migrate.apply import Written
    from dbsync_pipeline.mirror.migrate.revisions import Revision
    from dbsync_pipeline.mirror.status import DatabaseStatus
    from dbsync_pipeline.mirror.sync.session import Observer
    from dbsync_pipeline.runs.history import Run

_out = Console(width=None if sys.stdout.isatty() else 160)
_err = Console(width=None if sys.stderr.isatty() else 160, stderr=True)

MEGA = 1_000_000
LONGEST = 40
"""Characters of a rescued value that a person is shown."""


def json_out(value: Any) -> None:
    """Print one JSON value."""
    sys.stdout.write(output.text(value))
    sys.stdout.flush()


# Text ------------------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    _out.print(escape(text), highlight=False, soft_wrap=True)


def good(text: str) -> None:
    _out.print(f"[green]{escape(text)}[/green]", highlight=False, soft_wrap=True)


def complain(text: str) -> None:
    _err.print(f"[red]{escape(text)}[/red]", highlight=False, soft_wrap=True)


def ask(question: str, choices: Sequence[str], default: str) -> str:
    return Prompt.ask(question, choices=list(choices), default=default, console=_err)


def ask_text(question: str) -> str:
    return Prompt.ask(question, console=_err)


@contextmanager
def starting_dagster() -> Iterator[None]:
    """For the seconds that Dagster takes to load, a word on stderr where a person sees it, and an end at once on Ctrl-C."""
    waiting = _err.status("Starting Dagster") if _err.is_terminal else nullcontext()
    with waiting, signals.at_once(_err.show_cursor):  # the word hides the cursor
        yield


@contextmanager
def watching() -> Iterator[Callable[[str], Observer]]:
    """Progress per target and table on stderr: bars for a person, a line per table and phase for a log. Yields a maker of observers."""
    if not _err.is_terminal:
        yield _lines
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_err, transient=True) as progress:
        yield lambda target: _bars(progress, target)


def _bars(progress: Progress, target: str) -> Observer:
    bars: dict[str, Any] = {}

    def observe(table: str, phase: str, done: int, total: int | None) -> None:
        if table not in bars:
            bars[table] = progress.add_task("", total=None)
        progress.update(
            bars[table],
            description=f"{escape(target)}  {escape(table)}  {phase}",
            completed=done,
            total=total,
        )

    return observe


def _lines(target: str) -> Observer:
    seen: set[tuple[str, str]] = set()

    def observe(table: str, phase: str, done: int, total: int | None) -> None:
        if (table, phase) not in seen:
            seen.add((table, phase))
            sys.stderr.write(f"{target}  {table}  {phase}\n")

    return observe


def outcomes(runs: Sequence[Run]) -> None:
    """What each run did, or why it did not."""
    for run in runs:
        if run.succeeded:
            _outcome(run)
        else:
            complain(f"{run.target}: not published ({run.status})\n{run.reason or ''}")


def _outcome(run: Run) -> None:
    seconds = f"{run.seconds:.1f} s" if run.seconds is not None else "?"
    if not changed(run):
        good(
            f"{run.target}: equal to {run.source}, nothing to do ({count(_rows(run), 'row')} compared in {seconds})"
        )
        return
    table = _table(
        f"{run.source} → {run.target}",
        "table",
        *(">" + word for word in ("rows", "inserted", "updated", "deleted")),
    )
    for name, counts in run.tables.items():
        table.add_row(
            escape(name), *_numbers(counts.rows, counts.inserted, counts.updated, counts.deleted)
        )
    _out.print(table)
    good(
        f"{run.target}: equal to {run.source} ({count(changed(run), 'row')} changed, {_moved(run)}, {seconds})"
    )


def demo(choice: SyncRequest, report: DemoReport, runs: Sequence[Run], edit: str) -> None:
    """What was made, what moved, what it cost, and what to try next; `edit` changes one row."""
    found = count(sum(report.rows.values()), "row")
    made = (
        f"made {found} ({report.bytes / MEGA:.1f} MB)" if report.created else f"{found} found there"
    )
    say(f"{choice.source}: {made}")
    outcomes(runs)
    if all(run.succeeded for run in runs):
        _after_demo(choice, report, runs, edit)


def _after_demo(choice: SyncRequest, report: DemoReport, runs: Sequence[Run], edit: str) -> None:
    total = sum(map(changed, runs))
    cost = sum(run.seconds or 0 for run in runs)
    if total == 0 and not report.created:
        say(f"\nNothing to do: {', '.join(choice.targets)} equal {choice.source}.")
    else:
        moved = sum(counts.bytes for run in runs for counts in run.tables.values())
        say(
            f"\nMoved {count(total, 'row')}, {moved / MEGA:.1f} MB, to {', '.join(choice.targets)} in {cost:.1f} s."
        )
    me = _called()
    say(
        "\nTry next:\n"
        f"  {me} status    what each database holds, and how old it is\n"
        f"  {me} ui        the same in Dagster: materialize, backfill, see the runs\n"
        f"  {me} history   every run so far\n"
        f"Or change a row, see what a sync would do, and sync:\n"
        f"  {edit}\n"
        f"  {me} plan\n"
        f"  {me} sync"
    )


def _called() -> str:
    """The name by which a person reaches this program from here."""
    return (
        "dbsync"
        if shutil.which("dbsync") or not sys.argv[0].endswith("dbsync")
        else os.path.relpath(sys.argv[0])
    )


def plans(choice: SyncRequest, found: Mapping[str, Any]) -> None:
    for target, result in found.items():
        if isinstance(result, DbsyncError):
            complain(str(result))
        elif result[0].empty and not result[1]:
            good(f"{target}: equal to {choice.source}, nothing to do")
        else:
            _plan(*result)


def _plan(plan: Plan, findings: Sequence[Finding]) -> None:
    table = _table(
        f"{plan.source} → {plan.target}", "table", ">rows", ">insert", ">update", ">delete"
    )
    for name, one in plan.tables.items():
        table.add_row(escape(name), *_numbers(one.source_rows, one.insert, one.update, one.delete))
    _out.print(table)
    for finding in findings:
        complain(
            f"{plan.target}: a sync would be refused: {finding.found} ({finding.guard})\nRemedy: {finding.remedy}"
        )


def history(runs: Sequence[Run]) -> None:
    if not runs:
        say("no runs yet: dbsync sync")
        return
    table = _table(
        None,
        "started (UTC)",
        "run",
        "source → target",
        "status",
        ">rows",
        ">changed",
        ">MB",
        ">seconds",
    )
    for run in runs:
        table.add_row(*_history_row(run))
    _out.print(table)
    for run in runs:
        if run.reason:
            complain(f"{run.run_id[:8]}: {run.reason}")


def _history_row(run: Run) -> tuple[str, ...]:
    colour = {"SUCCESS": "green", "FAILURE": "red"}.get(run.status or "", "yellow")
    return (
        f"{run.started_at:%Y-%m-%d %H:%M:%S}",
        run.run_id[:8],
        f"{run.source or '?'} → {run.target or '?'}",
        f"[{colour}]{_outcome_word(run)}[/{colour}]",
        *_numbers(_rows(run), changed(run)),
        f"{sum(counts.bytes for counts in run.tables.values()) / MEGA:.1f}",
        "" if run.seconds is None else f"{run.seconds:.1f}",
    )


def _outcome_word(run: Run) -> str:
    """Dagster's word, and the ledger's where it says more."""
    if run.undoes is not None:
        return f"undo of publish {run.undoes}"
    if run.status is None:
        return "published, by its ledger"
    return f"{run.status}, but published" if run.published and not run.succeeded else run.status


def verdicts(source: str, found: Mapping[str, Any]) -> None:
    for target, result in found.items():
        if isinstance(result, DbsyncError):
            complain(str(result))
            continue
        for one in result:
            if not one.equal:
                keys = ", ".join("/".join(map(str, key)) for key in one.keys)
                complain(
                    f"{target}: table {one.table}: {count(one.differing, 'row')} not equal to {source}, the first with keys {keys}"
                )
        if all(one.equal for one in result):
            good(
                f"{target}: equal to {source} by SHA-256 ({count(sum(one.source_rows for one in result), 'row')})"
            )


def rescued(found: Mapping[str, Any]) -> None:
    table = _table(
        None,
        "database",
        "published (UTC)",
        "run",
        "table",
        ">deleted",
        ">replaced",
        ">inserted",
        ">MB",
    )
    for name, result in found.items():
        if isinstance(result, DbsyncError):
            complain(str(result))
            continue
        for entry, parts in result:
            for one in parts:
                table.add_row(
                    name,
                    f"{entry.published_at:%Y-%m-%d %H:%M:%S}",
                    entry.run_id[:8],
                    escape(one.table),
                    *_numbers(one.deleted, one.replaced, one.inserted),
                    f"{one.bytes / MEGA:.1f}",
                )
    _out.print(table)


def rows(found: Iterator[tuple[str, list[dict[str, Any]]]]) -> None:
    """Rescued rows, a line each however wide: NULL is dim, long texts end in `…`."""
    for name, some in found:
        say(f"{name}:")
        lines = [
            [_shown(cell) for cell in line] for line in (some[0], *(row.values() for row in some))
        ]
        widths = [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]
        for line in lines:
            for cell, width in zip(line, widths, strict=True):
                cell.pad_right(width - cell.cell_len)
            _out.print(Text("  ").join(line), highlight=False, soft_wrap=True)
        say("")


def _shown(value: Any) -> Text:
    """On one line, and nothing in it that a terminal obeys."""
    text = plain(value)
    if text is None:
        return Text("NULL", "dim")
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 1]}…"
    return Text(
        "".join(
            sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
        )
    )


def merged(target: str, put: Mapping[str, int], rest: Mapping[str, Sequence[Any]]) -> None:
    for table, rows in put.items():
        say(f"{target}: table {table}: {count(rows, 'row')} put back")
    for table, keys in rest.items():
        names = ", ".join("/".join(map(str, key)) for key in keys[:20])
        complain(
            f"{target}: table {table}: {count(len(keys), 'row')} not put back, where a key is taken or a constraint refuses it: {names}"
        )


def created(found: Mapping[str, Any]) -> None:
    for name, result in found.items():
        if isinstance(result, DbsyncError):
            complain(str(result))
        else:
            say(
                f"{name}: created {', '.join(result)}"
                if result
                else f"{name}: all tables are there"
            )


def to_come(lacking: Mapping[str, Any]) -> str:
    """Which revisions each database is about to get."""
    found = {
        name: result
        for name, result in lacking.items()
        if result and not isinstance(result, DbsyncError)
    }
    return "; ".join(f"{name} gets {', '.join(map(str, result))}" for name, result in found.items())


def migrated(found: Mapping[str, Any]) -> None:
    for name, result in found.items():
        if isinstance(result, DbsyncError):
            complain(str(result))
        elif result:
            good(f"{name}: applied {', '.join(map(str, result))}")
        else:
            say(f"{name}: lacks no revision")


def written(revision: Written) -> None:
    good(f"wrote {revision.path}")
    for words in revision.left:
        complain(f"left as it is: {words}")
    say("Read it, and mend it where it is not what you mean; then: dbsync migrate")


def revisions(line: Sequence[Revision], lacking: Mapping[str, Any]) -> None:
    for revision in line:
        say(str(revision))
    if not line:
        say("the models have no revisions; `dbsync migrate new TITLE` writes one")
    for name, result in lacking.items():
        if isinstance(result, DbsyncError):
            complain(str(result))
        else:
            say(
                f"{name}: lacks {', '.join(one.number for one in result)}"
                if result
                else f"{name}: lacks no revision"
            )


def checked(found: Mapping[str, Any]) -> None:
    for name, result in found.items():
        if isinstance(result, DbsyncError):
            complain(str(result))
            continue
        for table, differences in result.items():
            for difference in differences:
                complain(f"{name}: table {table}: {difference}")
        if not output.differs(result):
            good(f"{name}: {count(len(result), 'table')}, equal to the models")


def decision(seen: Sequence[Observation], found: Decision) -> None:
    """What the probes saw, and what follows from it."""
    table = _table(
        None,
        "database",
        "answers",
        "term",
        ">publish",
        "state of (UTC)",
        "writes of its own",
        "obstacle",
    )
    for one in seen:
        table.add_row(*_observed(one))
    _out.print(table)
    say(found.why)
    if not found.nothing:
        from dbsync_pipeline.mirror.failover.failover import words

        say(f"so: {words(found)}")


def _observed(one: Observation) -> tuple[str, ...]:
    own = (
        "not looked at"
        if one.own_writes is None
        else ", ".join(map(escape, one.own_writes)) or "none"
    )
    obstacle = one.reason or one.held or ("mixed" if one.mixed else "")
    return (
        one.name,
        "[green]yes[/green]" if one.answers else "[red]no[/red]",
        f"{one.term.n} {one.term.primary}" if one.term else "",
        str(one.number or ""),
        f"{one.snapshot_at:%Y-%m-%d %H:%M:%S}" if one.snapshot_at else "",
        own if one.answers else "",
        escape(obstacle),
    )


def promoted(done: Promotion) -> None:
    if done.primary == done.former:
        good(f"{done.primary} is the primary already ({done.term})")
    else:
        good(f"{done.primary} is the primary now ({done.term}), in the place of {done.former}")
        say(
            "Point the application to it, and see that nobody writes to the former one: docs/failover.md"
        )
    for name, why in done.missing.items():
        say(f"{name} did not hear of it ({why}); it will by its next sync")


def status(found: Sequence[DatabaseStatus], configured: str) -> None:
    """`configured` is the primary that the settings name."""
    table = _table(
        None,
        "database",
        "role",
        "engine",
        "answers",
        ">MB",
        ">rows",
        "last published (UTC)",
        "in sync",
        ">term",
        "ready",
    )
    for place in found:
        table.add_row(*_status_row(place))
    _out.print(table)
    if any(place.rows for place in found):
        _out.print(_rows_table(found))
    for place in found:
        if place.reason:
            complain(f"{place.name}: {place.reason}")
        if place.lacks:
            complain(_restored(place, found))
        for check, why in place.not_ready.items():
            if why not in (place.reason or ""):
                complain(
                    f"{place.name}: {why}\nRemedy: {ready.remedy(check, place.name, configured)}"
                )
        if place.last_publish and not place.last_publish.numbered:
            say(
                f"{place.name}: its source, {place.last_publish.source}, could not note the publish's number: "
                "an older source will not be noticed"
            )


def _restored(place: DatabaseStatus, found: Sequence[DatabaseStatus]) -> str:
    """A primary that does not know what its standbys hold, and the way out: up to the newest of them."""
    newest = max(place.lacks, key=lambda name: place.lacks[name])
    states = ", ".join(f"state {state} on {name}" for name, state in place.lacks.items())
    terms = ", ".join(
        f"term {one.term} on {one.name}" for one in found if (one.term or 0) > (place.term or 0)
    )
    return (
        f"{place.name}: it was restored from an older state, or its standbys went on without it: it does not know "
        f"{states}{f', nor {terms}' if terms else ''}\nRemedy: {guard.bring_up(place.name, newest)}; if what its standbys have more is to "
        f"go, `dbsync plan` says how"
    )


def _status_row(place: DatabaseStatus) -> tuple[str, ...]:
    last = place.last_publish
    return (
        place.name,
        place.role,
        place.engine,
        f"[green]{place.latency_ms or 0:.0f} ms[/green]" if place.available else "[red]no[/red]",
        "" if place.size_mb is None else f"{place.size_mb:.1f}",
        f"{sum(place.rows.values()):,}" if place.rows else "",
        f"{last.published_at:%Y-%m-%d %H:%M:%S}, holds {last.source} as of {_age(last.age_seconds)} ago"
        if last
        else "",
        _in_sync(place),
        "" if place.term is None else str(place.term),
        _ready(place),
    )


def _ready(place: DatabaseStatus) -> str:
    """Whether it could take over now; a ready one may be old."""
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


def _rows_table(found: Sequence[DatabaseStatus]) -> Table:
    """Rows per table and database, and how many of them a sync would change."""
    answered = [place for place in found if place.rows]
    table = _table(None, "table", *(f">{place.name}" for place in answered))
    for name in answered[0].rows:
        table.add_row(
            escape(name),
            *(f"{place.rows[name]:,}{_off(place.behind.get(name, 0))}" for place in answered),
        )
    return table


def _off(rows: int) -> str:
    return f" [yellow]({rows:,} off)[/yellow]" if rows else ""


# Small -----------------------------------------------------------------------------------------------------------------


def changed(run: Run) -> int:
    """How many rows the run changed."""
    return sum(counts.inserted + counts.updated + counts.deleted for counts in run.tables.values())


def _rows(run: Run) -> int:
    return sum(counts.rows for counts in run.tables.values())


def _moved(run: Run) -> str:
    return f"{sum(counts.bytes for counts in run.tables.values()) / MEGA:.1f} MB moved"


def _numbers(*values: int) -> tuple[str, ...]:
    return tuple(f"{value:,}" for value in values)


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _table(title: str | None, *columns: str) -> Table:
    """A table with that title; a column whose name starts with `>` holds numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left")
    return table
