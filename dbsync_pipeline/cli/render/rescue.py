"""Texts of the verbs undo, pause, resume and rescue."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.text import Text

from dbsync_pipeline.cli.render.base import (
    MEGA,
    OUT,
    complain,
    good,
    keys,
    numbers,
    say,
    successes,
    table,
)
from dbsync_pipeline.output.rescue import (
    Exported,
    Merged,
    Paused,
    RescuedRows,
    RescuedRuns,
    Resumed,
    Undone,
)
from dbsync_pipeline.text import count

LONGEST = 40
"""How many characters of a value are shown."""

FIRST_KEYS = 20
"""How many keys of rows that were not put back are shown."""


def undone(result: Undone) -> None:
    """Print what was undone, and how to take that back."""
    rows, target = count(result.publish.changed, "row"), result.target
    good(f"{target}: back in its state before run {result.undone} ({rows} restored), and paused")
    say(
        f"To take this back: dbsync undo {result.publish.run_id}\n"
        f"To let schedules sync it again: dbsync resume {target}"
    )


def paused(result: Paused) -> None:
    """Print that the target is paused."""
    name = result.database
    say(f"{name}: paused {result.reason}; `dbsync resume {name}` lets schedules sync it again")


def resumed(result: Resumed) -> None:
    """Print that the target is no longer paused."""
    name, before = result.database, result.before
    say(f"{name}: resumed ({before})" if before else f"{name}: was not paused")


def rescued_runs(result: RescuedRuns) -> None:
    """Print the runs whose before-images are kept, a line per table."""
    shown = table(
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
    for name, runs in successes(result.kept):
        for publish, tables in runs:
            for counts in tables:
                shown.add_row(
                    name,
                    f"{publish.published_at:%Y-%m-%d %H:%M:%S}",
                    publish.run_id[:8],
                    escape(counts.table),
                    *numbers(counts.deleted, counts.replaced, counts.inserted),
                    f"{counts.bytes / MEGA:.1f}",
                )
    OUT.print(shown)


def rescued_rows(result: RescuedRows) -> None:
    """Print before-images, one line each however wide: NULL is dim, long values end in `…`."""
    for name, rows in result.rows:
        say(f"{name}:")
        lines = [
            [_cell(value) for value in line] for line in (rows[0], *(row.values() for row in rows))
        ]
        widths = [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]
        for line in lines:
            for cell, width in zip(line, widths, strict=True):
                cell.pad_right(width - cell.cell_len)
            OUT.print(Text("  ").join(line), highlight=False, soft_wrap=True)
        say("")


def _cell(value: Any) -> Text:
    """Return the value on one line, with every character escaped that could control a terminal."""
    from dbsync_pipeline.mirror.rescue.read import as_text

    text = as_text(value)
    if text is None:
        return Text("NULL", "dim")
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 1]}…"
    return Text("".join(map(_printable, text)))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def exported(result: Exported) -> None:
    """Print the files."""
    say("\n".join(map(str, result.files)) or "that run deleted and replaced no rows")


def merged(result: Merged) -> None:
    """Print how many rows were put back, and the keys of the rest."""
    for name, rows in result.put_back.items():
        say(f"{result.database}: table {name}: {count(rows, 'row')} put back")
    for name, rest in result.rest.items():
        complain(
            f"{result.database}: table {name}: {count(len(rest), 'row')} not put back, because a"
            f" key is taken or a constraint refuses it: {keys(rest[:FIRST_KEYS])}"
        )
