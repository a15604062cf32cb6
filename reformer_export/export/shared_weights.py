"""Two graphs on one file of weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from reformer_export.errors import ExportError

SHARED_ABOVE: Final = 1024
"""Bytes; smaller tensors stand in each graph."""


def share_weights(model: ir.Model, saved: Path) -> None:
    """Let the initialisers of `model` refer to the external data of the graph in the file `saved`, in place.

    They are found by what is in them, since the exporter names transposed weights as it likes.

    Raises:
        ExportError: a large initialiser is not there.
    """
    stored: dict[str, ir.ExternalTensor] = {}
    for value in ir.load(saved).graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            stored[_digest(tensor)] = tensor
            tensor.release()  # else the whole file stays mapped, and counts as this process's memory
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= SHARED_ABOVE:
            continue
        twin = stored.get(_digest(tensor))
        if twin is None:
            raise ExportError(
                f"weight {value.name}",
                "none of the same content in model.onnx",
                "every weight in both graphs",
                "please report the versions that `reformer-export doctor` prints",
            )
        value.const_value = ir.ExternalTensor(
            *(twin.location, twin.offset, twin.length, twin.dtype),
            shape=twin.shape,
            name=value.name or "",
            base_dir=twin.base_dir,
        )


def _digest(tensor: Any) -> str:
    """Of a tensor's type, shape and content."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(tensor.tobytes())
    return digest.hexdigest()
