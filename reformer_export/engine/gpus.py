"""Which GPUs an engine is built for: those that are asked for, or this machine's."""

from __future__ import annotations

from typing import Any, Final

from reformer_export.engine.options import EngineOptions
from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.libraries.architectures import LEAST_COMPUTE_CAPABILITY, ComputeCapability
from reformer_export.libraries.gpus import find_gpus

_NO_GPU: Final = "a machine without an NVIDIA GPU"


def find_compute_capability() -> ComputeCapability | None:
    """That of this machine's first GPU; None without one."""
    try:
        return find_gpus()[0].compute_capability
    except RuntimeUnavailableError:
        return None


def choose_compute_capabilities(trt: Any, options: EngineOptions) -> tuple[str, ...]:
    """What the engine is built for, such as ("8.9",); `trt` is the runtime's module.

    Raises:
        InputError: TensorRT-RTX or the plugins do not know one that is asked for.
        RuntimeUnavailableError: there is no GPU where one is needed, or it is too old.
    """
    gpu = find_compute_capability()
    if options.runtime == "tensorrt":
        return (_check_tensorrt_gpu(gpu),)
    supported = _list_supported(trt)
    asked = options.compute_capabilities
    if not asked and gpu is None:
        raise RuntimeUnavailableError(
            "compute_capabilities",
            f"none on {_NO_GPU}",
            "the GPUs that the engine is for",
            f"give it once for each, from {', '.join(supported)}",
        )
    for text in asked or (str(gpu),):
        if text not in supported:
            raise InputError(
                "compute_capabilities",
                text if asked else f"{text}, this machine's GPU",
                f"one of {', '.join(supported)}, for which this TensorRT-RTX and the plugins have kernels",
                'for another GPU, build on it with `runtime="tensorrt"`',
            )
    if gpu is None and (options.flags.refit or options.flags.stripped):
        raise RuntimeUnavailableError(
            "`refit`, `stripped`",
            _NO_GPU,
            "one, which TensorRT-RTX needs to build an engine whose weights can be exchanged",
            "build it on a machine with one, or without them",
        )
    return asked or (str(gpu),)


def _check_tensorrt_gpu(gpu: ComputeCapability | None) -> str:
    if gpu is None:
        raise RuntimeUnavailableError(
            '`runtime="tensorrt"`',
            _NO_GPU,
            "the GPU that the engine is for",
            'build it there, or build with `runtime="tensorrt-rtx"` and `compute_capabilities`',
        )
    if gpu < LEAST_COMPUTE_CAPABILITY:
        expected = f"{LEAST_COMPUTE_CAPABILITY} or newer"
        raise RuntimeUnavailableError("GPU", f"compute capability {gpu}", expected, "use a newer GPU")
    return str(gpu)


def _list_supported(trt: Any) -> list[str]:
    """What this TensorRT-RTX and the plugins know."""
    names = (name.removeprefix("SM") for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
    known = sorted(ComputeCapability(int(name[:-1]), int(name[-1])) for name in names)
    return [str(capability) for capability in known if capability >= LEAST_COMPUTE_CAPABILITY]
