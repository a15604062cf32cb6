"""Protobuf's wire format, read and written without a protobuf library, which a deployment does not have."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Final

VARINT: Final = 0
BYTES: Final = 2
_FIXED64: Final = 1
FIXED32: Final = 5
_MAX_VARINT_BYTES: Final = 10

Data = bytes | bytearray | memoryview | mmap.mmap


class RefusedError(Exception):
    """What the file has and what was expected."""

    def __init__(self, got: str, expected: str) -> None:
        super().__init__(got, expected)
        self.got, self.expected = got, expected


def read_fields(data: Data, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, first byte or value, end) of every field of the message in `data`."""
    while start < end:
        key, start = read_varint(data, start, end)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, start = read_varint(data, start, end)
            yield number, wire, value, start
        elif wire == BYTES:
            length, start = read_varint(data, start, end)
            if length > end - start:
                raise RefusedError("a field that ends beyond its message", "a whole file")
            yield number, wire, start, start + length
            start += length
        elif wire in (FIXED32, _FIXED64):
            first, start = start, start + (4 if wire == FIXED32 else 8)
            if start <= end:
                yield number, wire, first, start
        else:
            raise RefusedError(f"a field of wire type {wire}", "protobuf's wire format")
    if start > end:
        raise RefusedError("a field that ends beyond its message", "a whole file")


def read_packed(data: Data, start: int, end: int, most: int) -> list[int]:
    """The numbers of a packed field, `most` of them."""
    values: list[int] = []
    while start < end and len(values) < most:
        value, start = read_varint(data, start, end)
        values.append(value)
    return values


def read_varint(data: Data, start: int, end: int) -> tuple[int, int]:
    """A number, 64 bits without a sign, and where it ends."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if start + index >= end:
            raise RefusedError("a number that ends beyond its message", "a whole file")
        byte = data[start + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & (2**64 - 1), start + index + 1
    raise RefusedError(f"a number of more than {_MAX_VARINT_BYTES} bytes", "protobuf's wire format")


def encode_number(field: int, value: int) -> bytes:
    return _encode_varint(field << 3) + _encode_varint(value)


def encode_text(field: int, text: str) -> bytes:
    return encode_message(field, text.encode())


def encode_message(field: int, content: bytes | bytearray) -> bytes:
    return b"".join((_encode_varint(field << 3 | BYTES), _encode_varint(len(content)), content))


def _encode_varint(value: int) -> bytes:
    """A number that is not negative: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
