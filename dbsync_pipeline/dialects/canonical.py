"""The canonical form of a row: one text per row that every engine can compute, and its digest.

Columns stand in the models' order, each followed by `|`. NULL is `~`. A text carries its length in
bytes; bytes carry their length and the first 16 bytes of their own SHA-256 in hexadecimal. So two
different rows never have the same form. The digest is the first 16 bytes of the SHA-256 of the form
in UTF-8. Its halves, as signed 64-bit integers, are what buckets sum.

    (7, 'añ', None, 1.5, b'')  ->  7|3:añ|~|4609434218613702656|0:e3b0c44298fc1c149afbf4c8996fb924|

Minus zero is written as zero, since SQLite cannot store it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from dbsync_pipeline.dialects.table import Column, Kind, Row, RowKey

_Piece = Callable[[Any], bytes]


def form_of(columns: Sequence[Column]) -> Callable[[Row], bytes]:
    """Return the function from a row's plain values, in the order of `columns`, to its form."""
    pieces = [_PIECES[column.kind] for column in columns]

    def form(row: Row) -> bytes:
        return (
            b"|".join(
                [
                    b"~" if value is None else piece(value)
                    for piece, value in zip(pieces, row, strict=True)
                ]
            )
            + b"|"
        )

    return form


def digest(form: bytes) -> bytes:
    """Return the 16-byte digest of a row's form."""
    return sha256(form).digest()[:16]


def halves(digest: bytes) -> tuple[int, int]:
    """Return the two signed 64-bit integers that buckets sum."""
    first, second = struct.unpack(">qq", digest)
    return first, second


def bucket_of(
    key: Sequence[Column], buckets: int, *, keyless: bool = False
) -> Callable[[RowKey], int]:
    """Return the function from a key's plain values to its bucket.

    An integer key goes by blocks of 128, so rows written together fall together; a UUID by its last
    four bytes; any other key by the first four bytes of its form's SHA-256. `buckets` is a prime,
    so keys at regular intervals spread over all buckets. A row of a keyless table goes by its form.
    """
    plain = len(key) == 1 and not keyless
    if plain and key[0].kind is Kind.INTEGER:
        return lambda values: int(abs(values[0]) // 128) % buckets
    if plain and key[0].kind is Kind.UUID:
        return lambda values: abs(_int4(bytes.fromhex(values[0][-8:]))) % buckets
    form = form_of(key)
    return lambda values: abs(_int4(sha256(form(values)).digest()[:4])) % buckets


def _int4(four: bytes) -> int:
    return int.from_bytes(four, "big", signed=True)


def _number(value: Any) -> bytes:
    return b"%d" % value


def _text(value: str) -> bytes:
    data = value.encode()
    return b"%d:%b" % (len(data), data)


def _float(value: float) -> bytes:
    return b"%d" % struct.unpack(">q", struct.pack(">d", value + 0.0))[0]


def _bytes(value: bytes) -> bytes:
    return b"%d:%b" % (len(value), sha256(value).hexdigest()[:32].encode())


def _ascii(value: str) -> bytes:
    return value.encode("ascii")


_PIECES: dict[Kind, _Piece] = {
    Kind.INTEGER: _number,
    Kind.BOOLEAN: _number,
    Kind.UUID: _ascii,
    Kind.NUMERIC: _ascii,
    Kind.TEXT: _text,
    Kind.INSTANT: _number,
    Kind.DATETIME: _number,
    Kind.DATE: _number,
    Kind.TIME: _number,
    Kind.FLOAT: _float,
    Kind.BYTES: _bytes,
}
