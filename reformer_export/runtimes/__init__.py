"""Run an artifact: one small class a runtime, all with the same methods (`Runtime`).

Nothing here imports torch, transformers or, to run a float32 or float16 artifact, onnx: a server needs
numpy and a runtime only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from reformer_export.runtimes.base import Runtime
from reformer_export.runtimes.inputs import LeftPaddingWarning
from reformer_export.runtimes.options import RUNTIMES, RuntimeFields, RuntimeOptions, options_from_fields

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["RUNTIMES", "LeftPaddingWarning", "Runtime", "RuntimeOptions", "load"]


def load(
    path: str | os.PathLike[str], options: RuntimeOptions | None = None, **fields: Unpack[RuntimeFields]
) -> Runtime:
    """Open the artifact in the folder, or with the hub id, `path` with a runtime.

    with reformer_export.load("OUT", runtime="tensorrt") as model:
        logits = model.run([[5, 6, 7]])["logits"]

    Args:
        path: the folder written by `reformer-export onnx`; or, as text, OWNER/NAME of the Hugging Face hub,
            from which it is downloaded into the hub client's cache unless it is there.
        options: where and how to run it.
        fields: in place of `options`, fields of `RuntimeOptions`.

    Raises:
        InputError: an option is unknown, out of range, or not the chosen runtime's.
        ArtifactError: the artifact, or its engine, is missing, broken or of another version.
        MissingDependencyError: the runtime is not installed.
        RuntimeUnavailableError: this machine cannot run it, for example without a GPU.
    """
    options = options_from_fields(RuntimeOptions, options, fields)
    if options.is_engine:
        from reformer_export.runtimes.tensorrt.runtime import TensorRTRuntime

        return TensorRTRuntime(path, options)
    from reformer_export.runtimes.ort import OnnxRuntime

    return OnnxRuntime(path, options)
