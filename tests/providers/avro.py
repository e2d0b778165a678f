"""
The little of Avro's object container format that Cohere's datasets need: writing one block of records.

.. seealso:: https://avro.apache.org/docs/1.12.0/specification/#object-container-files
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any

_SYNC = bytes(range(16))

#: Cohere gives embeddings of each type that was asked for; the others are null.
_TYPES = ("float", "int8", "uint8", "binary", "ubinary")
_ITEMS = {"float": "double"}
_EMBEDDINGS = {
    "type": "record",
    "name": "embeddings",
    "fields": [
        {"name": name, "type": ["null", {"type": "array", "items": _ITEMS.get(name, "int")}]} for name in _TYPES
    ],
}
SCHEMA = {
    "type": "record",
    "name": "row",
    "fields": [
        {"name": "text", "type": "string"},
        {"name": "embeddings", "type": _EMBEDDINGS},
        {"name": "custom_id", "type": "string"},
        {"name": "id", "type": "string"},
    ],
}


def write_embeddings(rows: Iterable[dict[str, Any]]) -> bytes:
    """Return a container of rows that have ``text``, ``custom_id``, ``id`` and, in ``float``, the embedding."""
    records = [_record(row) for row in rows]
    header = {"avro.schema": json.dumps(SCHEMA).encode(), "avro.codec": b"null"}
    meta = _long(len(header)) + b"".join(_bytes(k.encode()) + _bytes(v) for k, v in header.items()) + _long(0)
    block = b"".join(records)
    return b"Obj\x01" + meta + _SYNC + _long(len(records)) + _bytes(block) + _SYNC


def _record(row: dict[str, Any]) -> bytes:
    floats = row["float"]
    numbers = b"".join(struct.pack("<d", number) for number in floats)
    array = (_long(len(floats)) + numbers if floats else b"") + _long(0)
    embeddings = _long(1) + array + _long(0) * (len(_TYPES) - 1)
    return _text(row["text"]) + embeddings + _text(row["custom_id"]) + _text(row["id"])


def _text(value: str) -> bytes:
    return _bytes(value.encode())


def _bytes(value: bytes) -> bytes:
    return _long(len(value)) + value


def _long(value: int) -> bytes:
    """Encode a whole number: zigzag, then seven bits a byte, lowest first."""
    rest = value << 1 if value >= 0 else (-value << 1) - 1
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*encoded, rest])
