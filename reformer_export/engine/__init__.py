"""model.onnx or decode.onnx -> an engine of TensorRT or TensorRT-RTX, built in a process of its own.

Importing this imports no TensorRT; only that process does.
"""

from reformer_export.engine.build import EngineBuild, build_engine
from reformer_export.engine.options import EngineOptions, size_from_text
from reformer_export.engine.profiles import check_profiles, default_profiles, profiles_from_shapes
from reformer_export.engine.progress import Progress

__all__ = [
    "EngineBuild",
    "EngineOptions",
    "Progress",
    "build_engine",
    "check_profiles",
    "default_profiles",
    "profiles_from_shapes",
    "size_from_text",
]
