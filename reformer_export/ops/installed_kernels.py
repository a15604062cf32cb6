"""The installed library's kernels, where they can take what an operator is called with."""

from __future__ import annotations

import functools

import torch

from reformer_export.libraries.operators import MAX_CUDA_HEAD_SIZE, find_native_library
from reformer_export.ops.native_kernels import DTYPES, NativeKernels


@functools.lru_cache(maxsize=1)
def cpu_kernels() -> NativeKernels | None:
    """The installed library's CPU kernels, or None without one."""
    library = find_native_library("auto")
    return None if library is None else NativeKernels(library)


@functools.lru_cache(maxsize=16)
def cuda_kernels(device: int) -> NativeKernels | None:
    """The installed library's CUDA kernels, or None when it has none for the GPU number `device`."""
    library = find_native_library("auto")
    if library is None or not library.has_code_for(*torch.cuda.get_device_capability(device)):
        return None
    return NativeKernels(library, "cuda")


def kernels_for(num_heads: int | None, *tensors: torch.Tensor) -> NativeKernels | None:
    """The kernels when they can take these floating-point tensors: all on the CPU or all on one GPU that the
    library has code for, of a dtype they know. `num_heads`: of the first, [B, L, H*D], whose heads must have
    a size they know; None where there are no heads. Else None."""
    (device, *others) = {tensor.device for tensor in tensors}
    if others or not all(tensor.dtype in DTYPES for tensor in tensors):
        return None
    if device.type == "cpu":
        return cpu_kernels()
    if device.type != "cuda":
        return None
    if num_heads is not None and tensors[0].shape[-1] > num_heads * MAX_CUDA_HEAD_SIZE:
        return None
    return cuda_kernels(device.index)
