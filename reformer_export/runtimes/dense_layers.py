"""A float32 file's dense layers as Linear nodes, for a session on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from reformer_export.errors import MissingDependencyError
from reformer_export.phases import log_fact, log_phase
from reformer_export.runtimes.onnx_file import import_onnx, read_onnx
from reformer_export.runtimes.products import multiply_with_linear

MOST_BYTES: Final = 64 << 20
"""Of a file that is read for it. In a larger one the weights are too large to gain anything, and reading it
would cost time and memory."""


def fuse_dense_layers(path: Path) -> bytes | None:
    """The graph of the .onnx file `path`, its products with small float32 weights being Linear nodes.

    None where there are none, where the file is large, and where the package `onnx` is not installed: then the
    file is to be opened as it is.
    """
    data = path.with_name(f"{path.name}.data")
    size = sum(each.stat().st_size for each in (path, data) if each.is_file())
    if size > MOST_BYTES:
        return None
    try:
        import_onnx()
    except MissingDependencyError as error:
        log_fact("dense layers", f"as in the file: {error}")
        return None
    with log_phase("fusing dense layers"):
        model = read_onnx(path, external_data=True)
        weights = multiply_with_linear(model, "float32")
        log_fact("dense layers that the operator library multiplies", len(weights))
        return model.SerializeToString() if weights else None
