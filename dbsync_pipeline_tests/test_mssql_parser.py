"""Every statement for SQL Server is T-SQL by Microsoft's own grammar.

`make tsql-parser` fetches it: the library is inside the wheel `mssql-scripter`, and Debian's mono
runs it. Without it these tests are skipped; sqlglot's grammar reads the statements everywhere
(`test_mssql_statements.py`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql

from dbsync_pipeline.dialects.mssql import watched
from dbsync_pipeline.dialects.mssql.connection import _SERVER, DDL, PINS
from dbsync_pipeline_tests.test_mssql_statements import SYNCS, statements_of_a_sync
from dbsync_pipeline_tests.worlds import MODEL

PARSER = Path(__file__).parent.parent / ".cache" / "tsql" / "parser.exe"

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not PARSER.exists(), reason="`make tsql-parser` did not run"),
    pytest.mark.skipif(
        shutil.which("mono") is None, reason="mono runs the parser, and is not here"
    ),
]


OF_THE_WATCHDOG = [
    *(
        question.format(whose.format(51, "2026-11-26T08:12:43.340", 4711))
        for question in (watched._ACTIVITY, watched._EXISTS)
        for whose in (watched._SESSION, watched._OTHERS)
    ),
    "KILL 51",
]


def parse(statements: Iterable[str], file: Path) -> subprocess.CompletedProcess[str]:
    """Parse statements; a parameter is a variable to this grammar, which knows no `?`."""
    texts = []
    for statement in statements:
        aside = re.fullmatch(r"EXEC sp_executesql N'(.+)'", statement, re.DOTALL)
        texts += [aside[1].replace("''", "'")] if aside else []
        texts.append(statement.replace("?", "@p"))
    file.write_text("\n===\n".join(texts))
    return subprocess.run(["mono", PARSER, file], capture_output=True, text=True, check=False)


def test_every_statement_of_every_sync(tmp_path: Path) -> None:
    dialect = mssql.dialect(deprecate_large_types=True)  # type: ignore[no-untyped-call]
    dialect.ddl_compiler = DDL
    statements = [*PINS, _SERVER, *OF_THE_WATCHDOG]
    statements += [str(sa.schema.CreateTable(t.sa).compile(dialect=dialect)) for t in MODEL.tables]
    for sync in SYNCS:
        model, digest_format = sync.values
        statements += statements_of_a_sync(model, False, digest_format)  # type: ignore[arg-type]
    result = parse(statements, tmp_path / "statements.sql")
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.split()[-4]) > 250


def test_the_parser_finds_an_error(tmp_path: Path) -> None:
    result = parse(["SELECT 1", "SELECT a FROM WHERE"], tmp_path / "broken.sql")
    assert result.returncode == 1 and "2 statements, 3 errors" in result.stdout
