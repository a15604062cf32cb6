"""Which GPUs an engine is built for: those that are asked for, or this machine's."""

from __future__ import annotations

from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.libraries.architectures import LEAST_COMPUTE_CAPABILITY, ComputeCapability
from reformer_export.libraries.gpus import find_gpus


def find_compute_capability() -> ComputeCapability | None:
    """That of this machine's first GPU; None without one."""
    try:
        return find_gpus()[0].compute_capability
    except RuntimeUnavailableError:
        return None


def choose_compute_capabilities(asked: tuple[str, ...], supported: tuple[str, ...]) -> tuple[str, ...]:
    """What a TensorRT-RTX engine is built for: those `asked` for, else this machine's GPU.

    Raises:
        InputError: one of them is not among the `supported`.
        RuntimeUnavailableError: none is asked for, and there is no GPU.
    """
    gpu = None if asked else find_compute_capability()
    if not asked and gpu is None:
        raise RuntimeUnavailableError(
            "compute_capabilities",
            "none on a machine without an NVIDIA GPU",
            "the GPUs that the engine is for",
            f"give it once for each, from {', '.join(supported)}",
        )
    chosen = asked or (str(gpu),)
    for text in chosen:
        if text not in supported:
            raise InputError(
                "compute_capabilities",
                text if asked else f"{text}, this machine's GPU",
                f"one of {', '.join(supported)}, for which this TensorRT-RTX and the plugins have kernels",
                'for another GPU, build on it with `runtime="tensorrt"`',
            )
    return chosen


def check_tensorrt_gpu() -> str:
    """This machine's compute capability; RuntimeUnavailableError when TensorRT cannot build for it."""
    gpu = find_compute_capability()
    if gpu is None:
        raise RuntimeUnavailableError(
            '`runtime="tensorrt"`',
            "a machine without an NVIDIA GPU",
            "the GPU that the engine is for",
            'build it there, or build with `runtime="tensorrt-rtx"` and `compute_capabilities`',
        )
    if gpu < LEAST_COMPUTE_CAPABILITY:
        expected = f"{LEAST_COMPUTE_CAPABILITY} or newer"
        raise RuntimeUnavailableError("GPU", f"compute capability {gpu}", expected, "use a newer GPU")
    return str(gpu)
