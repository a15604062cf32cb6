"""What the front process and a worker tell each other, and how it lies on the wire.

A frame is a prefix (two little-endian integers: bytes of the header, bytes of the payload), a header
(MessagePack of one of the structs below, chosen by its tag) and a payload (arrays' bytes, C order, little
endian, one behind the other). Both sizes are bounded before anything of them is read; nothing is a pickle.

Front to worker: `Start` once, then any number of `Infer`, `Generate`, `Cancel`.
Worker to front: `Ready` or `Failed` once; then a `Result` or a `Failure` for each `Infer`; for each
`Generate` a `Begun` and its share in any number of `Pieces`, the last of which says why it ended, or a
`Failure`. Answers name their request's `id` and come in any order. A worker ends when its socket closes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from reformer_export import errors
from reformer_export.errors import ReformerExportError
from reformer_export.serving import refusals

PREFIX: Final = struct.Struct("<IQ")
TYPES: Final = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
}
"""Of tensors; bfloat16 goes as float32."""
_NAMES: Final = {dtype: name for name, dtype in TYPES.items()}
MAX_HEADER_BYTES: Final = 4 * 2**20
MAX_PAYLOAD_BYTES: Final = 2**36
"""Of a frame in any case; a connection may have a lower bound."""


class Start(msgspec.Struct, tag="start", frozen=True):
    """Open the artifact at `path`, whose manifest names `files` (SHA-256 by name): another one is refused.

    `runtime`: fields of RuntimeOptions; `concurrency`: runs at once; `max_streams`: sequences that are
    generated at once, on caches of `max_cache` bytes; `max_response`: bytes of a run's outputs.
    """

    path: str
    files: dict[str, str]
    runtime: dict[str, Any]
    concurrency: int | None
    max_streams: int
    max_cache: int
    max_response: int


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The artifact is open: what executes it in words, notes for people, the greatest length in tokens,
    whether it decodes step by step, runs at once, and whether it is on a GPU."""

    description: str
    notes: list[str]
    max_length: int
    decodes: bool
    concurrency: int
    on_gpu: bool


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """The artifact could not be opened: the error's class and its four parts."""

    kind: str
    parts: tuple[str, str, str, str]


class Tensor(msgspec.Struct, frozen=True):
    """An input or output, its shape, and its type by numpy's name, one of `TYPES`."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class Infer(msgspec.Struct, tag="infer", frozen=True):
    """One pass, of the inputs that lie in the payload in this order. Outputs that take no more than `room`
    bytes are to be written into the shared memory from byte `at` on."""

    id: int
    inputs: list[Tensor]
    num_hashes: int | None = None
    at: int = 0
    room: int = 0


class Result(msgspec.Struct, tag="result", frozen=True):
    """The outputs of an `Infer`, one behind the other in this order, and what the run took. They lie in the
    payload, or, `shared` bytes of them, in the memory where the `Infer` gave them room."""

    id: int
    outputs: list[Tensor]
    run_ms: float
    shared: int = 0


class Generate(msgspec.Struct, tag="generate", frozen=True):
    """Continue a prompt. Payload: its text in UTF-8, or its token ids, int64.

    `options`: fields of GenerationOptions; `stop`: texts before which the text ends; `echo`: whether the
    prompt's text is asked for; `given`: the first tokens, which another worker drew before it ended.
    """

    id: int
    options: dict[str, Any]
    is_text: bool
    stop: list[str] = []
    echo: bool = False
    given: list[int] = []

    def read_prompt(self, payload: bytes | bytearray) -> str | list[int]:
        """The payload's text or ids."""
        if self.is_text:
            return payload.decode("utf-8", "surrogateescape")
        ids: list[int] = np.frombuffer(payload, np.int64).tolist()
        return ids


class Begun(msgspec.Struct, tag="begun", frozen=True):
    """A prompt was accepted: its tokens, and its text where that was asked for."""

    id: int
    prompt_tokens: int
    prompt: str = ""


class Piece(msgspec.Struct, array_like=True, frozen=True):
    """What came next in a generation: tokens, the text that they finished, and, with the last piece, why it
    ended: a `StopReason`, or "stop_string"."""

    id: int
    ids: list[int]
    text: str
    reason: str | None = None


class Pieces(msgspec.Struct, tag="pieces", frozen=True):
    """What a step gave, for all generations that took part in it."""

    pieces: list[Piece]


class Failure(msgspec.Struct, tag="failure", frozen=True):
    """A request could not be answered: the error's class and its four parts."""

    id: int
    kind: str
    parts: tuple[str, str, str, str]


class Cancel(msgspec.Struct, tag="cancel", frozen=True):
    """Nobody waits for the request `id` any more; answers that are under way may still come."""

    id: int


ToWorker = Start | Infer | Generate | Cancel
ToFront = Ready | Failed | Result | Begun | Pieces | Failure
Answer = Result | Begun | Piece | Failure

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODERS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    "worker": msgspec.msgpack.Decoder(ToWorker),
    "front": msgspec.msgpack.Decoder(ToFront),
}


class BrokenFrameError(Exception):
    """Bytes that are no frame, or one that is too large: the other side is not what it should be."""


def encode_frame(message: ToWorker | ToFront, payload_bytes: int = 0) -> bytes:
    """Prefix and header of a message; its payload of so many bytes follows."""
    header = _ENCODER.encode(message)
    if len(header) > MAX_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
        raise BrokenFrameError(f"a message of {len(header)} + {payload_bytes} bytes")
    return PREFIX.pack(len(header), payload_bytes) + header


def read_prefix(prefix: bytes | bytearray | memoryview, max_payload: int) -> tuple[int, int]:
    """Bytes of header and payload, as the prefix says."""
    header, payload = PREFIX.unpack(prefix)
    if header > MAX_HEADER_BYTES or payload > max_payload:
        raise BrokenFrameError(f"a frame of {header} + {payload} bytes")
    return header, payload


def decode_for_worker(header: bytes | bytearray | memoryview) -> ToWorker:
    """The message of a header that the front sent."""
    message: ToWorker = _decode("worker", header)
    return message


def decode_for_front(header: bytes | bytearray | memoryview) -> ToFront:
    """The message of a header that a worker sent."""
    message: ToFront = _decode("front", header)
    return message


def _decode(side: str, header: bytes | bytearray | memoryview) -> Any:
    try:
        return _DECODERS[side].decode(header)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BrokenFrameError(f"a header that is none: {error}") from error


def describe_arrays(arrays: Mapping[str, NDArray[Any]]) -> list[Tensor]:
    """What a message says of arrays that follow it, or lie elsewhere."""
    return [Tensor(name, array.shape, _NAMES[array.dtype]) for name, array in arrays.items()]


def count_bytes(tensors: list[Tensor]) -> int:
    """Of all of them; BrokenFrameError for a type or a size that no tensor has."""
    size = 0
    for tensor in tensors:
        if tensor.dtype not in TYPES or min(tensor.shape, default=0) < 0:
            raise BrokenFrameError(f"a tensor {tensor!r:.80}")
        size += TYPES[tensor.dtype].itemsize * math.prod(tensor.shape)
    return size


def arrays_from_payload(
    payload: bytes | bytearray | memoryview, tensors: list[Tensor]
) -> dict[str, NDArray[Any]]:
    """The inputs or outputs by name, without a copy, and not all of them aligned."""
    size = count_bytes(tensors)
    if size != len(payload):
        raise BrokenFrameError(f"a payload of {len(payload)} bytes, where its tensors have {size}")
    arrays, at = {}, 0
    for tensor in tensors:
        array = np.frombuffer(payload, TYPES[tensor.dtype], math.prod(tensor.shape), at)
        arrays[tensor.name] = array.reshape(tensor.shape)
        at += array.nbytes
    return arrays


def error_from_parts(kind: str, parts: tuple[str, str, str, str]) -> ReformerExportError:
    """The error that another process met."""
    found = getattr(errors, kind, None) or getattr(refusals, kind, None)
    if isinstance(found, type) and issubclass(found, ReformerExportError):
        return found(*parts)
    return ReformerExportError(*parts)
