"""The private dialect that this project was once written in does not come back (docs/glossary.md has the words to use)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BANNED = {
    r"told|tells|hears?|heard|unheard|untold": "reported, shown, noted, recorded",
    r"said": "reported, allowed, given",
    r"strange": "unknown",
    r"reigns?|crown\w*|heirs?": "term, promote, inherit",
    r"voices?": "vote",
    r"doors?": "interface",
    r"unforeseen": "unexpected",
    r"anew": "again",
    r"of now": "current",
    r"no more(?! than)": "no longer",
    r"mend(?:s|ed|ing)?": "fix",
    r"so many|so long as|so that none": "the number itself, while",
    r"whoever|whatever (?:it|that) (?:is|was)": "a relative clause less",
    r"for ?ever": "indefinitely, permanently",
    r"in the place of": "instead of",
    r"it is had": "it is there",
    r"foreign (?:writes?|rows?|changes?)": "local writes",
    r"shrunken": "mass change",
    r"publications?": "publish",
    r"(?:in|own|same|these|its) words": "text, message, or the thing itself",
    r"(?:is|a|leaves .{1,20}|called|standbys?) mixed": "partial, not consistent",
    r"ours|theirs": "source, target",
}
"""What may not be written, as expressions for whole words, and what to write instead."""

BANNED_NAMES = set(
    [
        "asked",
        "wanted",
        "made",
        "found",
        "one",
        "told",
        "said",
        "ours",
        "theirs",
        "heard",
        "choice",
        "answer",
        "words",
    ]
)
"""Names that say nothing about what they name; the thing has a noun."""

UNAVOIDABLE = re.compile(
    r"FOREIGN|pg_publication|[Ff]oreign keys?"  # of SQL, and of PostgreSQL's catalog
    r"|former, term, publication|\"publication\":|\.publication\b|^ *publication: Publish"  # JSON
    r'|"strange numbers"'  # a fact that every ledger has under this name
)
"""Names of other programs, and names that are kept for compatibility."""

PLACES = (
    "dbsync_pipeline",
    "docs",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "Makefile",
    ".env.example",
)
NOT_YET: tuple[str, ...] = ()
"""Files in which they still stand. To be empty."""

_WORD = {
    re.compile(rf"(?<![a-zA-Z])(?:{words})(?![a-zA-Z])", re.IGNORECASE): instead
    for words, instead in BANNED.items()
}


_ANY = re.compile(rf"(?<![a-zA-Z])(?:{'|'.join(BANNED)})(?![a-zA-Z])", re.IGNORECASE)


def findings(text: str, name: str) -> list[str]:
    """`file:line: word (what to write instead)` for each banned word."""
    return [
        f"{name}:{number}: {found.group()!r} (write: {instead})"
        for number, line in enumerate(text.splitlines(), 1)
        if _ANY.search(line)
        for word, instead in _WORD.items()
        for found in word.finditer(UNAVOIDABLE.sub("", line))
    ]


def names(source: str, name: str) -> list[str]:
    """`file:line: name` for each banned name that a module binds. A class's fields are JSON fields, which stay."""
    return [
        f"{name}:{number}: the name {bound!r} (say what it is)"
        for node in _without_fields(ast.parse(source))
        for bound, number in _bound(node)
        if bound.lower().strip("_") in BANNED_NAMES
    ]


def _without_fields(tree: ast.AST) -> Iterator[ast.AST]:
    fields = {
        id(line.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    }
    return (node for node in ast.walk(tree) if id(node) not in fields)


def _bound(node: ast.AST) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id, node.lineno
    elif isinstance(node, ast.arg):
        yield node.arg, node.lineno
    elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name, node.lineno


def files(place: str) -> list[Path]:
    path = ROOT / place
    if not path.is_dir():
        return [path] * path.exists()
    written = {".py", ".md", ".mako", ".yaml", ".html"}
    return sorted(file for file in path.rglob("*") if file.suffix in written)


def found_in(place: str) -> list[str]:
    return [
        finding
        for file in files(place)
        if (name := str(file.relative_to(ROOT))) not in NOT_YET
        for finding in _findings_of(file.read_text(encoding="utf-8"), name)
    ]


def _findings_of(text: str, name: str) -> list[str]:
    return findings(text, name) + (names(text, name) if name.endswith(".py") else [])


@pytest.mark.parametrize("place", PLACES)
def test_no_banned_word_is_left(place: str) -> None:
    assert (found := found_in(place)) == [], "\n" + "\n".join(found)


def test_the_findings_name_file_and_line() -> None:
    text = "def f(found):\n    # Whoever said so\n    return found"
    assert _findings_of(text, "x.py") == [
        "x.py:2: 'said' (write: reported, allowed, given)",
        "x.py:2: 'Whoever' (write: a relative clause less)",
        "x.py:1: the name 'found' (say what it is)",
    ]
