"""Bodies of the open inference protocol v2: read, and written, in JSON and with binary tensors.

The protocol is KServe's "Open Inference Protocol", the binary tensors are Triton's extension of it: a JSON
header, whose length a header field names, and behind it the bytes of the tensors that say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.signature import GraphTensor
from reformer_export.errors import InputError, one_line, one_line_repr
from reformer_export.runtimes.widen import narrow, widen
from reformer_export.serving.json_values import GUIDE, PROTOCOL, read_json_values

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
DATATYPES: Final[dict[str, np.dtype[Any]]] = {
    **{"INT64": np.dtype("<i8"), "INT32": np.dtype("<i4"), "INT16": np.dtype("<i2"), "INT8": np.dtype("i1")},
    **{"UINT64": np.dtype("<u8"), "UINT32": np.dtype("<u4")},
    **{"UINT16": np.dtype("<u2"), "UINT8": np.dtype("u1")},
    **{"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2"), "FP64": np.dtype("<f8")},
    "BOOL": np.dtype("?"),
}
"""The protocol's names of what numpy has; BF16, which numpy has not, is read into float32."""
BFLOAT16: Final = "BF16"
_NAMES_OF_TYPES: Final = {dtype: name for name, dtype in DATATYPES.items()}
_NAMES: Final = {dtype.name: name for name, dtype in DATATYPES.items()}
_KINDS: Final = {"i": "iu", "u": "iu", "f": "f", "b": "b"}
"""numpy's kinds of what stands for each of them in a request."""
MAX_INPUTS: Final = 16
MAX_CHARACTERS: Final = 256
"""Of a request's id, which is sent back."""


Parameters = dict[str, bool | int | float | str | None]
"""Without lists and objects, of which a body can have so many that decoding them takes a second."""


class TensorBody(msgspec.Struct, forbid_unknown_fields=True):
    """An input as the protocol writes it."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters = {}
    data: msgspec.Raw = msgspec.Raw(b"")


class OutputBody(msgspec.Struct, forbid_unknown_fields=True):
    """An output that is asked for."""

    name: str
    parameters: Parameters = {}


class InferBody(msgspec.Struct, forbid_unknown_fields=True):
    """A request."""

    inputs: list[TensorBody]
    id: str = ""
    parameters: Parameters = {}
    outputs: list[OutputBody] = []


@dataclass(frozen=True)
class InferRequest:
    """A request whose form is right; its values are still to be checked.

    `arrays` by input name, each of the kind of numbers and with as many axes as the model's; `outputs`: the
    names that are wanted (none: all), each with whether it shall be binary; `binary`: whether those that do
    not say shall be.
    """

    id: str
    arrays: dict[str, NDArray[Any]]
    outputs: dict[str, bool | None]
    binary: bool
    parameters: dict[str, Any]


_BODY: Final = msgspec.json.Decoder(InferBody)


def datatype_of_input(tensor: GraphTensor) -> str:
    """The protocol's name of the graph's type."""
    return BFLOAT16 if tensor.dtype == "bfloat16" else _NAMES[tensor.dtype]


def datatype_of_output(tensor: GraphTensor) -> str:
    """The protocol's name of what is sent: floats of 16 bits as float32."""
    return "FP32" if tensor.dtype in ("float16", "bfloat16") else _NAMES[tensor.dtype]


async def read_infer_request(
    body: bytes, header_length: str | None, inputs: Sequence[GraphTensor]
) -> InferRequest:
    """The request in `body`, whose JSON has `header_length` bytes (None: all of them).

    Args:
        body: as it came.
        header_length: of the field `HEADER_LENGTH`.
        inputs: the model's.

    Raises:
        InputError: the body is no such request.
    """
    at = _read_header_length(header_length, len(body))
    parsed = _decode(memoryview(body)[:at])
    if len(parsed.id) > MAX_CHARACTERS:
        raise InputError("id", f"{len(parsed.id)} characters", f"at most {MAX_CHARACTERS}", "shorten it")
    if len(parsed.inputs) > MAX_INPUTS:
        raise InputError("inputs", f"{len(parsed.inputs)}", f"at most {MAX_INPUTS}", GUIDE)
    arrays: dict[str, NDArray[Any]] = {}
    known = {each.name: each for each in inputs}
    for tensor in parsed.inputs:
        if tensor.name not in known or tensor.name in arrays:
            got = f"{one_line_repr(tensor.name)}{' twice' if tensor.name in arrays else ''}"
            raise InputError("inputs", got, f"each of {', '.join(known)} at most once", GUIDE)
        values, at = await _read_tensor(tensor, known[tensor.name], body, at)
        arrays[tensor.name] = values
    if at != len(body):
        got = f"{len(body) - at} bytes behind the last tensor"
        raise InputError("body", got, "none", "give each binary tensor its binary_data_size")
    binary = _take_bool("parameters", parsed.parameters, "binary_data_output") or False
    return InferRequest(parsed.id, arrays, _read_outputs(parsed.outputs), binary, parsed.parameters)


def _read_header_length(text: str | None, size: int) -> int:
    if text is None:
        return size
    is_number = text.isascii() and text.isdecimal() and len(text) < 20
    if not is_number or int(text) > size:
        expected = f"a whole number of at most the body's {size} bytes"
        raise InputError(HEADER_LENGTH, one_line_repr(text), expected, GUIDE)
    return int(text)


def _decode(text: memoryview) -> InferBody:
    try:
        return _BODY.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InputError("body", f"'{one_line(error)}'", PROTOCOL, GUIDE) from error


def _read_outputs(outputs: list[OutputBody]) -> dict[str, bool | None]:
    found: dict[str, bool | None] = {}
    for output in outputs:
        name = one_line_repr(output.name)
        if output.name in found:
            raise InputError("outputs", f"{name} twice", "each output once", "leave one out")
        unknown = sorted(set(output.parameters) - {"binary_data"})
        if unknown:
            got = f"the parameter {one_line_repr(unknown[0])} of {name}"
            raise InputError("outputs", got, "binary_data", GUIDE)
        found[output.name] = _take_bool("outputs", output.parameters, "binary_data")
    return found


def _take_bool(what: str, parameters: dict[str, Any], name: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{what}, {name}", one_line_repr(value), "true or false", GUIDE)
    return value


async def _read_tensor(
    tensor: TensorBody, wanted: GraphTensor, body: bytes, at: int
) -> tuple[NDArray[Any], int]:
    """The values of an input, and where the bytes of the next one begin."""
    name, count, datatype = tensor.name, _count_values(tensor, wanted), tensor.datatype
    _check_datatype(tensor, wanted)
    unknown = sorted(set(tensor.parameters) - {"binary_data_size"})
    if unknown:
        got = f"the parameter {one_line_repr(unknown[0])}"
        raise InputError(name, got, "binary_data_size, or none", GUIDE)
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        return await _read_json_tensor(tensor, count), at
    dtype = np.dtype("<u2") if datatype == BFLOAT16 else DATATYPES[datatype]
    if type(size) is not int or size != count * dtype.itemsize or bytes(tensor.data):
        got = f"binary_data_size {one_line_repr(size)}{' and data' if bytes(tensor.data) else ''}"
        expected = f"{count * dtype.itemsize} bytes for shape {tensor.shape} of {datatype}"
        raise InputError(name, got, expected, GUIDE)
    if size > len(body) - at:
        got = f"{len(body) - at} bytes left of the body"
        raise InputError(name, got, f"{size} bytes of binary data", "send all of it")
    if datatype == "BOOL" and max(body[at : at + size]) > 1:
        raise InputError(name, "bytes other than 0 and 1", "BOOL", "send one byte a value")
    values = np.frombuffer(body, dtype, count, at).reshape(tensor.shape)
    return widen(values) if datatype == BFLOAT16 else values, at + size


async def _read_json_tensor(tensor: TensorBody, count: int) -> NDArray[Any]:
    what, raw, is_bfloat16 = f"{tensor.name}, data", bytes(tensor.data), tensor.datatype == BFLOAT16
    if not raw:
        raise InputError(what, "none", f"{count} values, or binary_data_size", GUIDE)
    dtype = np.dtype(np.float32) if is_bfloat16 else DATATYPES[tensor.datatype]
    values = await read_json_values(what, raw, tensor.shape, dtype)
    return widen(narrow(values, np.dtype(np.uint16))) if is_bfloat16 else values


def _check_datatype(tensor: TensorBody, wanted: GraphTensor) -> None:
    """InputError unless it is one of the kind of numbers that the graph takes."""
    kind = "f" if wanted.dtype == "bfloat16" else np.dtype(wanted.dtype).kind
    fitting = [name for name, dtype in DATATYPES.items() if dtype.kind in _KINDS[kind]]
    fitting += [BFLOAT16] if kind == "f" else []
    if tensor.datatype not in fitting:
        got = one_line_repr(tensor.datatype)
        raise InputError(f"{tensor.name}, datatype", got, " or ".join(fitting), "convert the values")


def _count_values(tensor: TensorBody, wanted: GraphTensor) -> int:
    shape = tensor.shape
    if len(shape) != len(wanted.shape) or not all(1 <= size <= 2**31 for size in shape):
        expected = f"{wanted.describe_shape()}, at least 1 each"
        raise InputError(f"{tensor.name}, shape", one_line_repr(shape), expected, GUIDE)
    return math.prod(shape)


def describe_output(name: str, values: NDArray[Any], is_binary: bool) -> dict[str, Any]:
    """What a response says of an output, without its values where they are JSON."""
    datatype = _NAMES_OF_TYPES[values.dtype]
    head: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
    if is_binary:
        head["parameters"] = {"binary_data_size": values.nbytes}
    return head
