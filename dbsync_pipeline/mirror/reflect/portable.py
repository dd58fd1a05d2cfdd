"""The source of a reflected column's type and default, the same on all engines where that is exact.

The source is evaluated again before it is used: if the engine would write another type than the one
that was read, the type is named as the engine writes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mssql, postgresql, sqlite
from sqlalchemy.types import TypeEngine

from dbsync_pipeline import columns, engine_columns
from dbsync_pipeline.dialects.table import kind_of

_NAMES: dict[str, Any] = {
    "sa": sa,
    "mssql": mssql,
    "postgresql": postgresql,
    "sqlite": sqlite,
    **{name: getattr(columns, name) for name in ("Instant", "Key", "distinct")},
    **{name: getattr(engine_columns, name) for name in ("EngineType",)},
}
"""What the source of a type may refer to."""

_NUMBER = re.compile(r"\(?(-?\d+(\.\d+)?)\)?$")
_TRUTH = {"0": "sa.false()", "false": "sa.false()", "1": "sa.true()", "true": "sa.true()"}
_JSON_HAS = (sa.String, sa.Integer, sa.Boolean, sa.Uuid)
"""What an array of PostgreSQL's may be of, so that JSON holds it exactly."""
_TEXT = re.compile(r"('(?:[^']|'')*')(::[\w .\"\[\]()]+)?$")


def type_source(
    column: sa.Column[Any], dialect: sa.Dialect, written: str | None, *, is_key: bool, unique: bool
) -> str:
    """Return the source of a column's type.

    `written` is the type as the engine writes it, `is_key` whether the database numbers the column,
    `unique` whether its values are distinct.
    """
    engine, type_ = dialect.name, column.type
    spec = written or _compiled(type_, dialect)
    if spec is None:
        return f"EngineType({engine!r}, '')"
    is_domain = isinstance(type_, postgresql.DOMAIN)
    expected = spec if is_domain else _compiled(type_, dialect)
    for source in _candidates(type_, engine, spec, is_key=is_key, unique=unique):
        if _is_written(source, expected, dialect):
            return source
    return f"EngineType({engine!r}, {spec!r})"


def _candidates(
    type_: TypeEngine[Any], engine: str, spec: str, *, is_key: bool, unique: bool
) -> list[str]:
    """Return sources that may be the type's, the most portable first."""
    portable, specific = _portable(type_, engine, is_key=is_key, unique=unique), _specific(type_)
    if portable is None:
        return [specific] if specific else []
    if isinstance(type_, postgresql.DOMAIN):
        return [portable.but(f"EngineType({engine!r}, {spec!r})", engine)]
    candidates = [portable.source(engine)]
    if engine == "mssql":  # where `distinct` has a collation, and so no other variant
        portable = _Portable(portable.everywhere.replace("distinct(", "sa.Unicode("))
        candidates.append(portable.source(engine))
    if specific is None:
        return candidates
    is_like = kind_of(eval(candidates[-1], dict(_NAMES))) is kind_of(type_)
    if isinstance(type_, (sa.CHAR, sa.NCHAR)) or is_like:
        candidates.append(portable.but(specific, engine))
    return [*candidates, specific]


@dataclass(frozen=True)
class _Portable:
    """The sources of a type that every engine has, and of what this engine has in its place."""

    everywhere: str
    here: str | None = None

    def source(self, engine: str) -> str:
        return self.everywhere if self.here is None else self.but(self.here, engine)

    def but(self, here: str, engine: str) -> str:
        """The source with another type on this engine."""
        return f"{self.everywhere}.with_variant({here}, {engine!r})"


def _is_written(source: str, expected: str | None, dialect: sa.Dialect) -> bool:
    """Whether the engine writes the source's type as it is expected."""
    try:
        evaluated = eval(source, dict(_NAMES))
    except Exception:  # a repr that is no source, such as that of an object
        return False
    return _canonical(_compiled(evaluated, dialect)) == _canonical(expected)


def _compiled(type_: TypeEngine[Any], dialect: sa.Dialect) -> str | None:
    try:
        return str(dialect.type_compiler_instance.process(type_))
    except sa.exc.CompileError:
        return None


def _canonical(spec: str | None) -> str | None:
    """Return a type's name, one of several that mean the same."""
    if spec is None:
        return None
    return {"FLOAT(53)": "DOUBLE PRECISION", "FLOAT": "DOUBLE PRECISION"}.get(
        spec.upper(), spec.upper()
    )


def _portable(
    type_: TypeEngine[Any], engine: str, *, is_key: bool, unique: bool
) -> _Portable | None:
    """Return a type that every engine has and that is this one here; None if there is none."""
    for class_, source in _PORTABLE:
        if isinstance(type_, class_):
            portable = source(type_, engine, is_key, unique)
            return _Portable(portable) if isinstance(portable, str) else portable
    return None


def _text(type_: Any, engine: str, _is_key: bool, unique: bool) -> _Portable | None:
    if isinstance(type_, (sa.CHAR, sa.NCHAR)) and engine != "sqlite":  # which pads no text
        return None
    if isinstance(type_, sa.Text) or "TEXT" in type(type_).__name__:
        source = "sa.UnicodeText()"
    elif type_.length is None:
        source = "sa.Unicode()"
    else:
        source = f"distinct({type_.length})" if unique else f"sa.Unicode({type_.length})"
    if type_.collation in (None, "default") or engine == "mssql":
        return _Portable(source)
    schema = getattr(type_, "collation_schema", None)
    options = [
        *([] if type_.length is None else [str(type_.length)]),
        f"collation={type_.collation!r}",
        *([f"collation_schema={schema!r}"] if schema else []),
    ]
    own = "sa.TEXT" if isinstance(type_, sa.Text) else "sa.VARCHAR"
    return _Portable(source, f"{own}({', '.join(options)})")


def _enum(type_: Any, _engine: str, _is_key: bool, _unique: bool) -> str:
    values = ", ".join(repr(value) for value in type_.enums)
    schema = f", schema={type_.schema!r}" if type_.schema else ", inherit_schema=False"
    return f"sa.Enum({values}, name={type_.name!r}{schema})"


def _numeric(type_: Any, _engine: str, _is_key: bool, _unique: bool) -> str:
    if type_.precision is None:
        return "sa.Numeric()"
    return f"sa.Numeric({type_.precision}, {type_.scale or 0})"


def _moment(type_: Any, _engine: str, _is_key: bool, _unique: bool) -> str | None:
    if getattr(type_, "precision", None) is not None:
        return None
    return "Instant()" if type_.timezone else "sa.DateTime()"


def _time(type_: Any, _engine: str, _is_key: bool, _unique: bool) -> str | None:
    if getattr(type_, "precision", None) is not None or type_.timezone:
        return None
    return "sa.Time()"


def _json(type_: Any, _engine: str, _is_key: bool, _unique: bool) -> _Portable:
    is_binary = isinstance(type_, postgresql.JSONB)
    return _Portable("sa.JSON()", "postgresql.JSONB()" if is_binary else None)


def _array(type_: Any, _engine: str, _is_key: bool, _unique: bool) -> _Portable | None:
    """An array of what JSON has too is JSON on other engines."""
    item = _specific(type_)
    if item is None or not isinstance(type_.item_type, _JSON_HAS):
        return None
    return _Portable("sa.JSON()", item)


def _float(type_: Any, engine: str, _is_key: bool, _unique: bool) -> str:
    single = isinstance(type_, sa.REAL) and engine != "sqlite"  # where it has 64 bits
    return "sa.REAL()" if single else "sa.Float(53)"


def _domain(type_: Any, engine: str, _is_key: bool, unique: bool) -> _Portable | None:
    """A domain is its base type on other engines; one of arrays is of this engine alone."""
    if isinstance(type_.data_type, sa.ARRAY):
        return None
    return _portable(type_.data_type, engine, is_key=False, unique=unique)


def _plain(source: str) -> Callable[[Any, str, bool, bool], str]:
    return lambda *_: source


_Source = Callable[[Any, str, bool, bool], _Portable | str | None]
_PORTABLE: tuple[tuple[Any, _Source], ...] = (
    (sa.Enum, _enum),
    (postgresql.DOMAIN, _domain),
    (sa.BigInteger, lambda _type, _engine, is_key, _unique: "Key" if is_key else "sa.BigInteger()"),
    (sa.SmallInteger, _plain("sa.SmallInteger()")),
    (
        sa.Integer,  # of SQLite, a numbered key has 64 bits
        lambda _type, engine, is_key, _unique: (
            "Key" if is_key and engine == "sqlite" else "sa.Integer()"
        ),
    ),
    (sa.Boolean, _plain("sa.Boolean()")),
    (sa.Float, _float),
    (sa.Numeric, _numeric),
    (sa.Uuid, _plain("sa.Uuid()")),
    (sa.JSON, _json),
    (sa.ARRAY, _array),
    (sa.DateTime, _moment),
    (sa.Date, _plain("sa.Date()")),
    (sa.Time, _time),
    (sa.LargeBinary, _plain("sa.LargeBinary()")),
    (sa.String, _text),
)
"""The classes of types with the source of the portable one, most special first."""


def _specific(type_: TypeEngine[Any]) -> str | None:
    """Return the source of the type as SQLAlchemy reflected it; None if it has none."""
    if isinstance(type_, sa.types.NullType):
        return None
    if isinstance(type_, sa.ARRAY):
        item = _specific(type_.item_type)
        dimensions = f", dimensions={type_.dimensions}" if type_.dimensions else ""
        return None if item is None else f"postgresql.ARRAY({item}{dimensions})"
    package = type(type_).__module__.split(".")
    prefix = package[2] if package[:2] == ["sqlalchemy", "dialects"] else "sa"
    return f"{prefix}.{type_!r}" if package[0] == "sqlalchemy" else None


def default_source(column: sa.Column[Any], engine: str) -> str | None:
    """Return the source of a column's server default; None if it has none."""
    default = column.server_default
    if not isinstance(default, sa.DefaultClause):
        return None
    text = str(getattr(default.arg, "text", default.arg))
    if isinstance(column.type, sa.Boolean) and (truth := _TRUTH.get(text.strip("()'").lower())):
        return truth
    if number := _NUMBER.match(text):
        return f"sa.text({number[1]!r})"
    literal = _TEXT.match(text)
    if literal and isinstance(column.type, (sa.String, sa.Enum)):
        return f"sa.text({sql_source(literal[1])})"
    return f"default_on({engine!r}, {text!r})"


def sql_source(clause: Any) -> str:
    """Return the source of SQL, as text or as reflected, where `sa.text` reads it.

    A colon before a word would be a parameter there, and NULL in the database.
    """
    raw = str(getattr(clause, "text", clause))
    has_parameters = bool(sa.text(raw).compile().params)
    return repr(raw.replace(":", "\\:") if has_parameters or "\\:" in raw else raw)
