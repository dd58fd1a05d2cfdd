"""Write before-images as Parquet files, one per table, without changing a value."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dbsync_pipeline import extras
from dbsync_pipeline.dialects.table import Column, Kind, Table
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.read import as_text, batches

if TYPE_CHECKING:
    import pyarrow as pa


def export(target: Database, model: Model, run_id: str, folder: Path) -> list[Path]:
    """Write the before-images of a run, one file per table; return the files. Overwrites no file.

    A file is called `<table>.parquet`, with characters that are special in URLs as %XX. A column is
    text if its type, or one of its values, has no exact form in Parquet: JSON, a decimal NaN, an
    infinite moment. The files appear when all of them are complete. Raise SettingsError if the
    folder has a file of such a name, for example from an earlier export.
    """
    extras.require("parquet", "pyarrow", operation="export rescued rows")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".dbsync-", dir=folder) as unfinished:
        written = _write(target, model, run_id, Path(unfinished))
        files = [folder / path.name for path in written]
        if existing := [path.name for path in files if path.exists()]:
            raise SettingsError(
                f"{folder} already has {', '.join(existing)}",
                operation="export rescued rows",
                remedy="name another folder, or remove the files",
            )
        for path, file in zip(written, files, strict=True):
            path.rename(file)
    return files


def _write(target: Database, model: Model, run_id: str, folder: Path) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths: dict[str, Path] = {}
    with contextlib.ExitStack() as open_files:
        writers: dict[str, Any] = {}
        text_columns = _text_columns(target, model, run_id)
        for table, rows in batches(target, model, run_id):
            name = table.name
            if name not in writers:
                schema = _arrow_schema(table, text_columns.get(name, set()))
                paths[name] = folder / f"{quote(name, safe='')}.parquet"
                writers[name] = open_files.enter_context(pq.ParquetWriter(paths[name], schema))
            fields = writers[name].schema
            columns = [
                _arrow_values([row[field.name] for row in rows], field.type) for field in fields
            ]
            writers[name].write_table(pa.table(columns, schema=fields))
    return list(paths.values())


def _text_columns(target: Database, model: Model, run_id: str) -> dict[str, set[str]]:
    """Return by table the columns with a value that their Parquet type cannot hold. A file's types
    are fixed before its first row.
    """
    as_text_columns: dict[str, set[str]] = {}
    for table, rows in batches(target, model, run_id):
        for column in table.columns:
            values = (row[column.name] for row in rows)
            if not all(value is None or _fits(column, value) for value in values):
                as_text_columns.setdefault(table.name, set()).add(column.name)
    return as_text_columns


def _fits(column: Column, value: Any) -> bool:
    """Whether the column's Parquet type holds the value exactly."""
    match column.kind:
        case Kind.INTEGER:
            return isinstance(value, int) and -(2**63) <= value < 2**63
        case Kind.NUMERIC:
            limit = 10 ** (_precision(column) - column.scale)
            return isinstance(value, decimal.Decimal) and value.is_finite() and abs(value) < limit
        case Kind.INSTANT | Kind.DATETIME:
            aware = column.kind is Kind.INSTANT
            return isinstance(value, dt.datetime) and (value.tzinfo is not None) == aware
    return column.kind not in _PYTHON_TYPES or isinstance(value, _PYTHON_TYPES[column.kind])


_PYTHON_TYPES: dict[Kind, type] = {
    Kind.BOOLEAN: bool,
    Kind.FLOAT: float,
    Kind.BYTES: bytes,
    Kind.DATE: dt.date,
    Kind.TIME: dt.time,
}


def _precision(column: Column) -> int:
    return int(getattr(column.type, "precision", 0) or 0)


def _arrow_schema(table: Table, text_columns: set[str]) -> pa.Schema:
    import pyarrow as pa

    fields = [
        (column.name, pa.string() if column.name in text_columns else _arrow_type(column))
        for column in table.columns
    ]
    return pa.schema([("dbsync_change", pa.string()), *fields])


def _arrow_type(column: Column) -> pa.DataType:
    import pyarrow as pa

    precision = _precision(column)
    if column.kind is Kind.NUMERIC and 0 <= column.scale <= precision <= 76:
        return (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, column.scale)
    types = {
        Kind.INTEGER: pa.int64(),
        Kind.BOOLEAN: pa.bool_(),
        Kind.FLOAT: pa.float64(),
        Kind.BYTES: pa.binary(),
        Kind.INSTANT: pa.timestamp("us", "UTC"),
        Kind.DATETIME: pa.timestamp("us"),
        Kind.DATE: pa.date32(),
        Kind.TIME: pa.time64("us"),
    }
    return types.get(column.kind, pa.string())


def _arrow_values(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    import pyarrow as pa

    exact = [as_text(value) for value in values] if pa.types.is_string(type_) else values
    return pa.array(exact, type_)
