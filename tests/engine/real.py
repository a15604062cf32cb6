"""Whether this environment can build real engines: TensorRT-RTX and the plugin library are optional."""

from __future__ import annotations

import importlib.util

from reformer_export.errors import RuntimeUnavailableError
from reformer_export.libraries.tensorrt import TensorRTLibrary, find_tensorrt_library
from tests.required import skip_unless_required


def require_tensorrt_rtx() -> TensorRTLibrary:
    """The plugin library, where TensorRT-RTX is installed too; else the test is skipped, or fails in CI."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        skip_unless_required("needs the package tensorrt-rtx-cu13")
    try:
        return find_tensorrt_library()
    except RuntimeUnavailableError as error:
        skip_unless_required(str(error))
