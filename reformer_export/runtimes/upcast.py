"""bfloat16 to float32: a model, for runtimes without bfloat16 kernels (needs `onnx`), and a run's outputs.

Every bfloat16 value is a float32 value, so the weights are unchanged; the arithmetic becomes more exact.
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import OutputError
from reformer_export.runtimes.onnx_file import import_onnx, read_onnx

DTYPE_ATTRIBUTES: Final = frozenset({"to", "dtype", "output_dtype", "stash_type"})
"""Integer attributes of standard operators that name an element type (ONNX operator documentation)."""
EXTERNAL_ABOVE: Final = 1024
"""Bytes: larger tensors go to external data, as a protobuf may not exceed 2 GiB."""


def upcast_model(model_path: Path, folder: Path) -> Path:
    """Write a float32 copy of the bfloat16 model `model_path` into `folder` and return its path."""
    onnx = import_onnx()
    model = read_onnx(model_path, external_data=True)
    upcast_in_place(model)
    upcast = folder / "upcast.onnx"
    try:
        onnx.save(
            model,
            str(upcast),
            save_as_external_data=True,
            location="upcast.onnx.data",
            size_threshold=EXTERNAL_ABOVE,
        )
    except OSError as error:
        expected, fix = "room for the upcast weights", "free some space, or set TMPDIR"
        raise OutputError(folder, f"'{error}'", expected, fix) from error
    return upcast


def upcast_in_place(message: Any) -> None:
    """Turn each bfloat16 of an `onnx.ModelProto`, or of a message in one, to float32: weights, types, casts,
    in subgraphs and functions too."""
    from onnx import AttributeProto, TensorProto, TypeProto, numpy_helper

    if isinstance(message, TensorProto):
        if message.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(message).astype(np.float32)
            message.CopyFrom(numpy_helper.from_array(values, message.name))
        return
    is_type = isinstance(message, TypeProto.Tensor | TypeProto.SparseTensor)
    if is_type and message.elem_type == TensorProto.BFLOAT16:
        message.elem_type = TensorProto.FLOAT
    names_type = isinstance(message, AttributeProto) and message.name in DTYPE_ATTRIBUTES
    if names_type and message.i == TensorProto.BFLOAT16:
        message.i = TensorProto.FLOAT
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if hasattr(value, "ListFields") else value:
                upcast_in_place(child)


def run_bfloat16(
    session: Any, names: list[str], feeds: dict[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.float32]]:
    """As `session.run`, for outputs in bfloat16, which numpy does not know."""
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    return {
        name: float32_from_ortvalue(value) for name, value in zip(names, binding.get_outputs(), strict=True)
    }


def float32_from_ortvalue(value: Any) -> NDArray[np.float32]:
    """A numpy copy of an OrtValue in CPU memory; bfloat16 is the upper half of a float32."""
    if value.data_type() != "tensor(bfloat16)":
        copy: NDArray[np.float32] = value.numpy().astype(np.float32)
        return copy
    shape: tuple[int, ...] = tuple(value.shape())
    halves = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return (np.ctypeslib.as_array(halves).astype(np.uint32) << 16).view(np.float32).reshape(shape)
