"""Sentences, tables and questions at the command line. Results go to stdout, all else to stderr."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dbsync_pipeline import signals
from dbsync_pipeline.errors import Refused
from dbsync_pipeline.text import count

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.fanout import PerDatabase

Value = TypeVar("Value")

OUT = Console(width=None if sys.stdout.isatty() else 160)
ERR = Console(width=None if sys.stderr.isatty() else 160, stderr=True)

MEGA = 1_000_000


def say(text: str) -> None:
    """Print a sentence."""
    OUT.print(escape(text), highlight=False, soft_wrap=True)


def good(text: str) -> None:
    """Print a sentence about a success, in green."""
    OUT.print(f"[green]{escape(text)}[/green]", highlight=False, soft_wrap=True)


def say_skipped(skipped: Mapping[str, str]) -> None:
    """Print which tables are not mirrored, and why; nothing if all are."""
    if skipped:
        from dbsync_pipeline.mirror.selection import described

        say(f"not mirrored: {described(skipped)}")


def complain(text: str) -> None:
    """Print a sentence about a problem, in red, on stderr."""
    ERR.print(f"[red]{escape(text)}[/red]", highlight=False, soft_wrap=True)


def successes(results: PerDatabase[Value]) -> Iterator[tuple[str, Value]]:
    """Yield name and value of each database that succeeded, and print the errors in between."""
    for name in results.names:
        if name in results.failed:
            complain(str(results.failed[name]))
        else:
            yield name, results.good[name]


def ask(question: str, choices: Sequence[str], default: str) -> str:
    """Ask the person at the terminal to choose, on stderr. Raise Refused if the input ends."""
    from rich.prompt import Prompt

    with _input():
        return Prompt.ask(question, choices=list(choices), default=default, console=ERR)


def ask_text(question: str) -> str:
    """Ask the person at the terminal to type a text, on stderr. Raise Refused if the input ends."""
    from rich.prompt import Prompt

    with _input():
        return Prompt.ask(question, console=ERR)


@contextmanager
def _input() -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise Refused(
            "the input ended before the question was answered",
            remedy="give the answers as options; `dbsync --help` lists the commands",
        ) from None


def show_choices(texts: Mapping[str, str]) -> None:
    """Print what a person can choose, one line each, on stderr."""
    for key, text in texts.items():
        ERR.print(f"  {key}  {escape(text)}", highlight=False)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show a text at a terminal during a wait; Ctrl-C ends the program at once."""
    shown = ERR.status(text) if ERR.is_terminal else nullcontext()
    with shown, signals.at_once(ERR.show_cursor):  # the status hides the cursor
        yield


def table(title: str | None, *columns: str) -> Table:
    """Return an empty table; a column whose name starts with `>` is aligned to the right."""
    empty = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        empty.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left")
    return empty


def numbers(*values: int) -> tuple[str, ...]:
    """Return the numbers with their thousands separated."""
    return tuple(f"{value:,}" for value in values)


def keys(of: Iterable[Iterable[object]]) -> str:
    """Return primary keys as text, the parts of each joined by a slash."""
    return ", ".join("/".join(map(str, key)) for key in of)


def proofs(of: Iterable[str]) -> str:
    """Return how many tables were compared by which proof; empty if no proof is recorded.

    `of` has one proof for each table, as publishes record it.
    """
    tables = Counter(proof for proof in of if proof)
    return "; ".join(f"{count(many, 'table')} by {proof}" for proof, many in tables.items())


def joined(values: Mapping[str, str]) -> str:
    """Return `name (value)` for each, on one line."""
    return "; ".join(f"{name} ({value})" for name, value in values.items())
