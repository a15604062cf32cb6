"""Bodies of the open inference protocol v2: read, and written, in JSON and with binary tensors.

The protocol is KServe's "Open Inference Protocol", the binary tensors are Triton's extension of it: a JSON
header, whose length a header field names, and behind it the bytes of the tensors that say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import InputError, one_line, one_line_repr

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
DATATYPES: Final[dict[str, Any]] = {"INT64": np.dtype("<i8"), "INT32": np.dtype("<i4")}
"""Of inputs, by the protocol's names."""
OUTPUT_DATATYPE: Final = "FP32"
CHUNK: Final = 16384
"""Numbers that are written as JSON at a time, some milliseconds."""
MAX_INPUTS: Final = 16
MAX_CHARACTERS: Final = 256
"""Of a request's id, which is sent back."""
GUIDE: Final = "see docs/serving.md for an example"


class TensorBody(msgspec.Struct):
    """An input as the protocol writes it."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw(b"")


class OutputBody(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferBody(msgspec.Struct):
    """A request."""

    inputs: list[TensorBody]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[OutputBody] = []


@dataclass(frozen=True)
class InferRequest:
    """A request whose form is right; its values are still to be checked.

    `arrays`: int64 [rows, length] by input name; `outputs`: the names that are wanted (none: all), each with
    whether it shall be binary; `binary`: whether those that do not say shall be.
    """

    id: str
    arrays: dict[str, NDArray[np.int64]]
    outputs: dict[str, bool | None]
    binary: bool
    parameters: dict[str, Any]


_BODY: Final = msgspec.json.Decoder(InferBody)
_FLAT: Final = msgspec.json.Decoder(list[int])
_NESTED: Final = msgspec.json.Decoder(list[list[int]])


def read_infer_request(body: bytes, header_length: str | None, known: tuple[str, ...]) -> InferRequest:
    """The request in `body`, whose JSON has `header_length` bytes (None: all of them).

    Args:
        body: as it came.
        header_length: of the field `HEADER_LENGTH`.
        known: names of inputs.

    Raises:
        InputError: the body is no such request.
    """
    at = _read_header_length(header_length, len(body))
    parsed = _decode("body", _BODY, memoryview(body)[:at])
    if len(parsed.id) > MAX_CHARACTERS:
        raise InputError("id", f"{len(parsed.id)} characters", f"at most {MAX_CHARACTERS}", "shorten it")
    if len(parsed.inputs) > MAX_INPUTS:
        raise InputError("inputs", f"{len(parsed.inputs)}", f"at most {MAX_INPUTS}", GUIDE)
    arrays: dict[str, NDArray[np.int64]] = {}
    for tensor in parsed.inputs:
        if tensor.name not in known or tensor.name in arrays:
            got = f"{one_line_repr(tensor.name)}{' twice' if tensor.name in arrays else ''}"
            raise InputError("inputs", got, f"each of {', '.join(known)} at most once", GUIDE)
        values, at = _read_tensor(tensor, body, at)
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


def _decode(what: str, decoder: Any, text: Any) -> Any:
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        expected = "JSON of the open inference protocol v2"
        raise InputError(what, f"'{one_line(error)}'", expected, GUIDE) from error


def _read_outputs(outputs: list[OutputBody]) -> dict[str, bool | None]:
    found: dict[str, bool | None] = {}
    for output in outputs:
        what = f"output {one_line_repr(output.name)}"
        if output.name in found:
            raise InputError(what, "it twice", "each output once", "leave one out")
        unknown = sorted(set(output.parameters) - {"binary_data"})
        if unknown:
            raise InputError(what, f"the parameter {one_line_repr(unknown[0])}", "binary_data", GUIDE)
        found[output.name] = _take_bool(what, output.parameters, "binary_data")
    return found


def _take_bool(what: str, parameters: dict[str, Any], name: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{what}, {name}", one_line_repr(value), "true or false", GUIDE)
    return value


def _read_tensor(tensor: TensorBody, body: bytes, at: int) -> tuple[NDArray[np.int64], int]:
    """The values of an input, and where the bytes of the next one begin."""
    name, count = tensor.name, _count_values(tensor)
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None:
        expected = " or ".join(DATATYPES)
        raise InputError(f"{name}, datatype", one_line_repr(tensor.datatype), expected, "give token ids")
    unknown = sorted(set(tensor.parameters) - {"binary_data_size"})
    if unknown:
        got = f"the parameter {one_line_repr(unknown[0])}"
        raise InputError(name, got, "binary_data_size, or none", GUIDE)
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        return _read_json_values(tensor, count, dtype), at
    if type(size) is not int or size != count * dtype.itemsize or bytes(tensor.data):
        got = f"binary_data_size {one_line_repr(size)}{' and data' if bytes(tensor.data) else ''}"
        expected = f"{count * dtype.itemsize} bytes for shape {tensor.shape} of {tensor.datatype}"
        raise InputError(name, got, expected, GUIDE)
    if size > len(body) - at:
        got = f"{len(body) - at} bytes left of the body"
        raise InputError(name, got, f"{size} bytes of binary data", "send all of it")
    values = np.frombuffer(body, dtype, count, at).astype(np.int64, copy=False)
    return values.reshape(tensor.shape), at + size


def _count_values(tensor: TensorBody) -> int:
    shape = tensor.shape
    if len(shape) != 2 or not all(1 <= size <= 2**31 for size in shape):
        expected = "[batch, sequence], at least 1 each"
        raise InputError(f"{tensor.name}, shape", one_line_repr(shape), expected, GUIDE)
    return shape[0] * shape[1]


def _read_json_values(tensor: TensorBody, count: int, dtype: Any) -> NDArray[np.int64]:
    what, raw = f"{tensor.name}, data", bytes(tensor.data)
    if not raw:
        raise InputError(what, "none", f"{count} integers, or binary_data_size", GUIDE)
    rows = raw[:64].split(b"[", 2)
    if len(rows) > 2 and not rows[1].strip():
        nested = _decode(what, _NESTED, raw)
        lengths = [len(row) for row in nested]
        if lengths != [tensor.shape[1]] * tensor.shape[0]:
            got = f"rows of {one_line_repr(lengths)} values"
            raise InputError(what, got, f"the shape {tensor.shape}", "make them agree")
        flat = [value for row in nested for value in row]
    else:
        flat = _decode(what, _FLAT, raw)
    if len(flat) != count:
        raise InputError(what, f"{len(flat)} values", f"{count} for shape {tensor.shape}", "make them agree")
    try:
        values = np.array(flat, np.int64)
    except OverflowError as error:
        raise InputError(what, "a number of more than 64 bits", "token ids", GUIDE) from error
    limits = np.iinfo(dtype)
    if values.size and (values.min() < limits.min or values.max() > limits.max):
        raise InputError(what, "a number of more bits", tensor.datatype, "use INT64")
    return values.reshape(tensor.shape)


def write_json_values(values: NDArray[np.float32]) -> Iterator[bytes]:
    """The numbers of an array as JSON's list without its brackets, in pieces; what is not finite is null."""
    flat = values.reshape(-1)
    for begin in range(0, len(flat), CHUNK):
        piece = msgspec.json.encode(flat[begin : begin + CHUNK].tolist())[1:-1]
        yield piece if begin == 0 else b"," + piece


def describe_output(name: str, values: NDArray[np.float32], is_binary: bool) -> dict[str, Any]:
    """What a response says of an output, without its values where they are JSON."""
    head: dict[str, Any] = {"name": name, "datatype": OUTPUT_DATATYPE, "shape": list(values.shape)}
    if is_binary:
        head["parameters"] = {"binary_data_size": values.nbytes}
    return head
