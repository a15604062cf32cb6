"""Numbers as JSON, read and written in pieces of some milliseconds, between which other requests have a turn.

The decoder would hold the loop, and every thread, for as long as a whole body takes: 40 to 190 ms of 8 MB of
numbers, and 1.3 s of as many in lists of one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import InputError, one_line, one_line_repr

CHUNK: Final = 16384
"""Numbers that are written at a time."""
PIECE: Final = 65536
"""Bytes that are read at a time, at least."""
PROTOCOL: Final = "JSON of the open inference protocol v2"
GUIDE: Final = "see docs/serving.md for an example"

_DECODERS: Final = {kind: msgspec.json.Decoder(list[kind]) for kind in (int, float, bool)}  # type: ignore[valid-type]
_BETWEEN: Final = bytes(set(range(256)) - set(b"[],"))


async def read_json_values(what: str, raw: bytes, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array of `shape` and `dtype` whose values `raw` has, a JSON value: one list, or lists in lists as
    the shape has it; InputError, which names `what`, for anything else."""
    count = math.prod(shape)
    brackets = raw.translate(None, _BETWEEN)
    await asyncio.sleep(0)
    flat = raw.translate(None, b"[]")
    await asyncio.sleep(0)
    found = brackets.count(b",") + bool(flat.strip())
    if found != count or brackets not in (_brackets_of([count]), _brackets_of(shape or [1])):
        raise _refuse_count(what, f"{found} values" if found != count else "other lists", shape)
    values, filled = np.empty(count, dtype), 0
    async for piece in _read_pieces(what, flat, dtype):
        values[filled : filled + len(piece)] = piece
        filled += len(piece)
    if filled != count:
        raise _refuse_count(what, f"{filled} values", shape)
    return values.reshape(shape)


async def read_json_rows(what: str, raw: bytes, most: int) -> list[NDArray[np.int64]]:
    """The rows of `raw`, JSON's list of numbers or of at most `most` such lists; InputError, which names
    `what`, for anything else."""
    count = raw.count(b"]")
    await asyncio.sleep(0)
    if not raw.startswith(b"[") or count > most + 1:
        got = f"{count - 1} lists" if count else one_line_repr(raw.decode(errors="replace"))
        raise InputError(what, got, f"at most {most} lists of numbers", GUIDE)
    rows: Sequence[bytes] = [raw[1:-1]]
    if count > 1:
        *parts, rest = raw[1:-1].split(b"]")
        commas, _, rows = zip(*(part.partition(b"[") for part in parts), strict=True)
        if [each.strip() for each in (*commas, rest)] != [b"", *[b","] * (count - 2), b""]:
            raise InputError(what, "lists and other values", "lists of numbers", GUIDE)
    found = []
    for row in rows:
        pieces = [piece async for piece in _read_pieces(what, row, np.dtype(np.int64))]
        if not any(map(len, pieces)):
            raise InputError(what, "an empty list", "numbers in it", GUIDE)
        found.append(np.concatenate(pieces))
    return found


async def _read_pieces(what: str, flat: bytes, dtype: np.dtype[Any]) -> AsyncIterator[NDArray[Any]]:
    """Numbers between commas as arrays of `dtype`, between which others have a turn."""
    begin = 0
    while begin < len(flat):
        await asyncio.sleep(0)
        end = flat.find(b",", begin + PIECE)
        end = len(flat) if end < 0 else end
        yield _read_piece(what, flat[begin:end], dtype)
        begin = end + 1


def _brackets_of(shape: Sequence[int]) -> bytes:
    """What of lists in lists of that shape is no number."""
    text = b""
    for size in reversed(shape):
        text = b"[" + (text + b",") * (size - 1) + text + b"]"
    return text


def _refuse_count(what: str, got: str, shape: Sequence[int]) -> InputError:
    expected = f"{math.prod(shape)} for shape {list(shape)}, in one list or in lists of that shape"
    return InputError(what, got, expected, "make them agree")


def _read_piece(what: str, text: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Numbers between commas as an array of `dtype`, which has them all but for rounding."""
    element = {"f": float, "b": bool}.get(dtype.kind, int)
    try:
        found = _DECODERS[element].decode(b"[%b]" % text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        reason = one_line(error).split(" - at ")[0]  # the place is counted from the piece's begin
        raise InputError(what, f"'{reason}'", PROTOCOL, GUIDE) from error
    widest = {"f": np.float64, "i": np.int64, "u": np.uint64}.get(dtype.kind, np.bool_)
    try:
        values = np.array(found, widest)
    except OverflowError as error:
        raise InputError(what, "a number of more than 64 bits", "fewer", GUIDE) from error
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        is_outside = values.size > 0 and (values.min() < limits.min or values.max() > limits.max)
    else:
        is_outside = dtype.kind == "f" and bool((np.abs(values) > np.finfo(dtype).max).any())
    if is_outside:
        raise InputError(what, "a number of more bits", f"one that {dtype} has", "use a wider datatype")
    return values.astype(dtype, copy=False)


def write_json_values(values: NDArray[Any]) -> Iterator[bytes]:
    """The values of an array as JSON's list without its brackets, in pieces; what is not finite is null."""
    flat = values.reshape(-1)
    for begin in range(0, len(flat), CHUNK):
        piece = msgspec.json.encode(flat[begin : begin + CHUNK].tolist())[1:-1]
        yield piece if begin == 0 else b"," + piece
