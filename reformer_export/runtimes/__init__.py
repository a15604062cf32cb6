"""Run an artifact: one small class a runtime, all with the same methods (`Runtime`).

Nothing here imports torch, transformers or, to run a float32 or float16 artifact, onnx: a server needs
numpy and a runtime only.
"""

from __future__ import annotations

import os
from typing import Any

from reformer_export.errors import InputError
from reformer_export.runtimes.base import Runtime
from reformer_export.runtimes.inputs import LeftPaddingWarning
from reformer_export.runtimes.options import RUNTIMES, RuntimeOptions

__all__ = ["RUNTIMES", "LeftPaddingWarning", "Runtime", "RuntimeOptions", "load"]


def load(path: str | os.PathLike[str], options: RuntimeOptions | None = None, **fields: Any) -> Runtime:
    """Open the artifact in the folder `path` with a runtime.

    with reformer_export.load("OUT", runtime="tensorrt") as model:
        logits = model.run([[5, 6, 7]])["logits"]

    Args:
        path: the folder written by `reformer-export onnx`.
        options: where and how to run it.
        fields: in place of `options`, fields of `RuntimeOptions`.

    Raises:
        InputError: an option is unknown, out of range, or not the chosen runtime's.
        ArtifactError: the artifact, or its engine, is missing, broken or of another version.
        MissingDependencyError: the runtime is not installed.
        RuntimeUnavailableError: this machine cannot run it, for example without a GPU.
    """
    options = _options_from_fields(options, fields)
    if options.is_engine:
        from reformer_export.runtimes.tensorrt.runtime import TensorRTRuntime

        return TensorRTRuntime(path, options)
    from reformer_export.runtimes.ort import OnnxRuntime

    return OnnxRuntime(path, options)


def _options_from_fields(options: RuntimeOptions | None, fields: dict[str, Any]) -> RuntimeOptions:
    known = RuntimeOptions.__dataclass_fields__
    got = next((name for name in fields if name not in known), None)
    if options is not None and fields:
        got = f"options and {', '.join(fields)}"
    elif options is not None and not isinstance(options, RuntimeOptions):
        got = f"{options!r} as options"
    if got is not None:
        raise InputError(
            "load",
            got=got,
            expected=f"RuntimeOptions, or fields of them: {', '.join(known)}",
            fix="see `help(reformer_export.load)`",
        )
    return options or RuntimeOptions(**fields)
