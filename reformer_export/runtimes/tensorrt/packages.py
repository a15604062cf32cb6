"""Import TensorRT and CUDA's Python bindings, with every failure as one line."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from typing import Any, Final

from reformer_export.artifact.engine_record import EngineRuntime
from reformer_export.errors import MissingDependencyError


@dataclass(frozen=True)
class TensorRTPackage:
    """What brings one of the two runtimes: the module, its least version (here and in pyproject.toml), the
    distributions that may hold it, this package's extra that installs it, and its name in words."""

    module: str
    least_version: tuple[int, ...]
    distributions: tuple[str, ...]
    extra: str
    title: str

    @property
    def install(self) -> str:
        return f"pip install 'reformer-export[{self.extra}]'"


PACKAGES: Final[dict[EngineRuntime, TensorRTPackage]] = {
    "tensorrt": TensorRTPackage(
        "tensorrt", (10, 7), ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "tensorrt", "TensorRT"
    ),
    "tensorrt-rtx": TensorRTPackage(
        "tensorrt_rtx", (1, 2), ("tensorrt-rtx-cu13", "tensorrt-rtx"), "rtx", "TensorRT-RTX"
    ),
}


def installed_version(module: str, distributions: tuple[str, ...]) -> str | None:
    """The version of the first of `distributions` that is installed; None where there is no `module`."""
    if importlib.util.find_spec(module) is None:
        return None
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown version"


def import_tensorrt(runtime: EngineRuntime) -> Any:
    """The module `tensorrt` or `tensorrt_rtx`.

    Raises:
        MissingDependencyError: it is not installed, does not load, or is too old.
    """
    package = PACKAGES[runtime]
    try:
        module = importlib.import_module(package.module)
    except (ImportError, OSError, RuntimeError) as error:  # the wheels load their libraries while imported
        raise MissingDependencyError(package.module, f"'{error}'", "the package", package.install) from error
    check_tensorrt_version(runtime, str(module.__version__))
    return module


def check_tensorrt_version(runtime: EngineRuntime, version: str) -> None:
    """MissingDependencyError when `version` is older than this package can use."""
    package = PACKAGES[runtime]
    if version_numbers(version) < package.least_version:
        least = ".".join(map(str, package.least_version))
        fix = f"{package.install} --upgrade"
        raise MissingDependencyError(package.module, f"version {version}", f"{least} or newer", fix)


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (10, 7, 0) of "10.7.0.post1"."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in leading.group().split(".")) if leading else ()


def import_cuda() -> Any:
    """The module `cuda.bindings.runtime`; MissingDependencyError names the extras that bring it."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError, RuntimeError) as error:
        either = "pip install 'reformer-export[tensorrt]' or 'reformer-export[rtx]'"
        fix = f'{either}, or use `runtime="onnxruntime"`'
        raise MissingDependencyError("cuda-bindings", f"'{error}'", "the package", fix) from error
