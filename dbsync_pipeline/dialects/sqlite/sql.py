"""Pieces of SQL for SQLite: names, parameter marks, batches of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy.dialects import sqlite

from dbsync_pipeline.dialects.staging import BATCH_BYTES
from dbsync_pipeline.dialects.table import Column, Row, Table
from dbsync_pipeline.errors import StructureError

_PREPARER = sqlite.dialect().identifier_preparer
_MOST_ROWS = 20_000
DEPTH = {"(": 1, ")": -1}
"""How much deeper in brackets what follows a token is."""
_IN_WORD = re.compile(r"""[\w"'`]$""")
_TOKEN = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/|\w+|\s+|.""",
    re.DOTALL,
)


def tokens(statement: str) -> list[str]:
    """Return the words, quoted names and texts, blanks and signs of a statement; a comment is an
    empty one.
    """
    return ["" if token[:2] in ("--", "/*") else token for token in _TOKEN.findall(statement)]


def in_one_way(expression: str) -> str:
    """Return an expression without comments, needless blanks, quotes and capitals, and without
    brackets around all of it: the same text for the same tokens.
    """
    written = [_plainly(token) for token in tokens(expression) if token.strip()]
    while _is_bracketed(written):
        written = written[1:-1]
    text = ""
    for token in written:
        text += f" {token}" if _IN_WORD.search(text) and _IN_WORD.search(token[0]) else token
    return text


def _plainly(token: str) -> str:
    if token[0] in '"`[':
        return str(_PREPARER.quote(bare(token).lower()))
    return token if token[0] == "'" else token.lower()


def _is_bracketed(tokens: Sequence[str]) -> bool:
    """Whether the first bracket is closed by the last token."""
    depth = 0
    for place, token in enumerate(tokens):
        depth += DEPTH.get(token, 0)
        if depth == 0:
            return len(tokens) > 1 and place == len(tokens) - 1
    return False


def bare(name: str) -> str:
    """Return an identifier without its quotes."""
    return name[1:-1].replace(name[-1] * 2, name[-1]) if name[0] in "\"'`[" else name


def has_autoincrement(create: str) -> bool:
    """Return whether a CREATE TABLE says that numbers are never given again."""
    return any(token.upper() == "AUTOINCREMENT" for token in tokens(create))


def quote(name: str) -> str:
    """Return an identifier, quoted."""
    return _PREPARER.quote_identifier(name)


def names(columns: Sequence[Column]) -> str:
    """Return the names of columns, quoted and separated by commas."""
    return ", ".join(quote(column.name) for column in columns)


def marks(columns: Sequence[Column]) -> str:
    """Return a parameter mark for each column."""
    return ", ".join("?" * len(columns))


def address(table: Table, *others: str) -> str:
    """Return a name by which SQLite knows a row's number, and no column of the table nor `others`.

    Raise StructureError if columns have all these names.
    """
    taken = {*others, *(column.name.lower() for column in table.sa.columns)}
    for name in ("rowid", "_rowid_", "oid"):
        if name not in taken:
            return name
    raise StructureError(
        "its columns have all names by which SQLite numbers rows, and it has no key",
        table=table.name,
        remedy="give the table a primary key",
    )


def keys(table: Table) -> str:
    """Return the names of the key's columns, or of the address of a row of a keyless table."""
    return address(table) if table.keyless else names(table.key)


def select_by_key(table: Table) -> str:
    """Return a query for the row with a key, whose parts are its parameters."""
    if table.keyless:
        where = f"{address(table)} = ?"
        return f"SELECT {names(table.columns)} FROM main.{quote(table.sa.name)} WHERE {where}"
    same = " AND ".join(f"{quote(column.name)} IS ?" for column in table.key)
    return f"SELECT {names(table.columns)} FROM {quote(table.sa.name)} WHERE {same}"


def width(row: Row) -> int:
    """Return about how many bytes a row takes."""
    return sum(len(value) if isinstance(value, (str, bytes)) else 8 for value in row)


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows in batches of about BATCH_BYTES and at most 20,000 rows."""
    batch, size = list[Row](), 0
    for row in rows:
        batch.append(row)
        size += width(row)
        if size >= BATCH_BYTES or len(batch) >= _MOST_ROWS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
