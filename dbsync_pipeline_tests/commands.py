"""The commands of `dbsync`, read from the Typer app, and the check that a command written in a text exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer.main

from dbsync_pipeline.cli import app as command_line

PLACEHOLDER = "\0"
"""Stands for what an f-string puts in."""

_STOPS = re.compile(r"[.,;:]+$")


@cache
def root() -> Any:
    """The command `dbsync` itself."""
    return typer.main.get_command(command_line.build())


def leaves(words: str = "", command: Any = None) -> Iterator[tuple[str, Any]]:
    """Each command that does something, by its words without `dbsync`; a group counts if it may be called alone."""
    command = command or root()
    children: dict[str, Any] = getattr(command, "commands", {})
    if words and (not children or command.invoke_without_command):
        yield words, command
    for name, child in children.items():
        yield from leaves(f"{words} {name}".strip(), child)


def wrong(text: str) -> str | None:
    """What is wrong with a command `dbsync …` as a text writes it, None if nothing is.

    Its verb and its options must exist. Values, `[…]` of a usage line and placeholders are passed over.
    """
    command = root()
    spaced = text.removeprefix("dbsync").replace(PLACEHOLDER, f" {PLACEHOLDER} ")
    words = ["", *(_STOPS.sub("", word) for word in re.sub(r"[\[\]]", " ", spaced).split())]
    for before, word in pairwise(words):
        children = getattr(command, "commands", {})
        if PLACEHOLDER in word or not word.strip("…"):
            continue
        if word.startswith("--"):
            if word.split("=")[0] not in _options(command):
                return f"{word} is no option of `{command.name}`"
        elif word.split("|")[0] in children:
            if unknown := set(word.split("|")) - set(children):
                return f"{unknown} are no commands"
            command = children[word.split("|")[0]]
        elif children and not before.startswith("--"):  # else it is the value of an option
            return f"{word} is no command"
    return None


def _options(command: Any) -> set[str]:
    params = command.params
    return {"--help", "--version"} | {
        option for param in params for option in (*param.opts, *param.secondary_opts)
    }


def quoted(text: str) -> Iterator[str]:
    """The commands that a text shows, between backquotes or from its beginning to its end.

    `dbsync mark …`, `dbsync run …` `dbsync watchdog`, `dbsync outcome` name locks and sessions in databases.
    """
    yield from (found.replace("\\|", "|") for found in re.findall(r"`(dbsync (?!…)[^`]*)`", text))
    if (
        re.match(r"dbsync (?!mark |run |watchdog|outcome)[a-z]", text)
        and "`" not in text
        and "\n" not in text
    ):
        yield text


def of_a_module(path: Path) -> Iterator[tuple[int, str]]:
    """The commands in the strings of a module, docstrings too, each with its line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if id(node) not in inside:
            yield from ((node.lineno, found) for found in quoted(_text(node)))  # type: ignore[attr-defined]


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or PLACEHOLDER for part in node.values)
    return ""
