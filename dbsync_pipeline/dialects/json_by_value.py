"""JSON that an engine keeps by value and not as text, as PostgreSQL's jsonb does.

Such an engine returns one text for all texts of one value. Another engine keeps the text that the
application wrote. The two are compared by the first engine's text, which this module computes.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, NamedTuple

from dbsync_pipeline.dialects.values import Cannot, utf8

_DIGITS_BEFORE, _DIGITS_AFTER = 131_072, 16_383
"""What PostgreSQL's numeric holds, see its manual, "Numeric Types"."""


class _Number(NamedTuple):
    text: str


class _Object(NamedTuple):
    items: dict[str, Any]


def text_of_value(text: str) -> str:
    """Return the text that jsonb returns for a JSON text.

    Keys stand in the order of their lengths in bytes, then of their bytes; of equal keys the last
    one counts. Numbers have no exponent and keep their zeros after the point. Raise Cannot if the
    text is not JSON, or jsonb cannot hold it.
    """
    try:
        value = json.loads(
            text,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_no_constant,
            object_pairs_hook=lambda pairs: _Object(dict(pairs)),
        )
        return utf8(_written(value))
    except RecursionError:
        raise Cannot("it is nested too deeply") from None
    except json.JSONDecodeError:
        raise Cannot("it is not JSON") from None


def kept(text: str) -> str:
    """Return a JSON text that an engine which keeps JSON by value would keep.

    Raise Cannot for any other one: a source that keeps texts could not be compared with it.
    """
    if text_of_value(text) != text:
        raise Cannot("jsonb would not keep its text, and the source cannot compare JSON by value")
    return text


def _no_constant(_name: str) -> None:
    raise Cannot("it is not JSON")


def _written(value: Any) -> str:
    match value:
        case _Number(text):
            return _number(text)
        case _Object(items):
            pairs = sorted(items.items(), key=lambda item: _order(item[0]))
            return "{" + ", ".join(f"{_string(k)}: {_written(v)}" for k, v in pairs) + "}"
        case list():
            return "[" + ", ".join(map(_written, value)) + "]"
        case str():
            return _string(value)
        case _:
            return {None: "null", True: "true", False: "false"}[value]


def _order(key: str) -> tuple[int, bytes]:
    data = utf8(key).encode()
    return len(data), data


def _string(text: str) -> str:
    if "\0" in text:
        raise Cannot("it holds the character U+0000")
    return json.dumps(text, ensure_ascii=False)


def _number(text: str) -> str:
    number = Decimal(text)
    exponent = int(number.as_tuple().exponent)
    if -exponent > _DIGITS_AFTER or (number and number.adjusted() >= _DIGITS_BEFORE):
        raise Cannot("it holds a number that is too large or has too many digits")
    if number.is_zero():
        return "0" if exponent >= 0 else f"0.{'0' * -exponent}"
    return format(number, "f")
