"""A bfloat16 model in float32, for runtimes without bfloat16 kernels (needs `onnx`).

Every bfloat16 value is a float32 value, so the weights are unchanged; the arithmetic becomes more exact.
Dense products may stay in bfloat16, where the operator library multiplies it faster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from reformer_export.errors import OutputError, reason_of
from reformer_export.runtimes.bfloat16_products import multiply_in_bfloat16
from reformer_export.runtimes.onnx_file import read_onnx, write_onnx

DTYPE_ATTRIBUTES: Final = frozenset({"to", "dtype", "output_dtype", "stash_type"})
"""Integer attributes of standard operators that name an element type (ONNX operator documentation)."""


def upcast_model(model_path: Path, folder: Path, keep_products: bool = False) -> Path:
    """Write a float32 copy of the bfloat16 model `model_path` into `folder` and return its path.

    `keep_products`: the dense products become Linear nodes with weights in bfloat16, for which the session
    needs the operator library.
    """
    model = read_onnx(model_path, external_data=True)
    upcast_in_place(model, multiply_in_bfloat16(model) if keep_products else frozenset())
    upcast = folder / "upcast.onnx"
    try:
        write_onnx(model, upcast, "upcast.onnx.data")
    except OSError as error:
        expected, fix = "room for the upcast weights", "free some space, or set TMPDIR"
        raise OutputError(folder, f"'{reason_of(error)}'", expected, fix) from error
    return upcast


def upcast_in_place(message: Any, kept: frozenset[str] = frozenset()) -> None:
    """Turn each bfloat16 of an `onnx.ModelProto`, or of a message in one, to float32: weights but those that
    are called as in `kept`, types, casts, in subgraphs and functions too."""
    from onnx import AttributeProto, TensorProto, TypeProto, numpy_helper

    if isinstance(message, TensorProto):
        if message.data_type == TensorProto.BFLOAT16 and message.name not in kept:
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
                upcast_in_place(child, kept)
