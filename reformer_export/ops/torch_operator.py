"""A torch custom operator of domain `reformer`, from its reference and the installed library's kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from reformer_export.libraries.operators import MAX_CUDA_HEAD_SIZE, find_native_library
from reformer_export.ops import empty_outputs
from reformer_export.ops.native_kernels import DTYPES, NativeKernels

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef


def define_operator(reference: Callable[..., Any], *, is_native: bool = True) -> CustomOpDef:
    """The operator named as `reference` is without "_reference", with its arguments and results.

    It is one node to `torch.export`. The native library computes it where that takes the tensors and it
    `is_native`, else the reference does.
    """
    name = reference.__name__.removesuffix("_reference")

    def compute(*arguments: Any) -> Any:
        floating = [x for x in arguments if isinstance(x, torch.Tensor) and x.is_floating_point()]
        num_heads = next((x for x in arguments if isinstance(x, int)), None)
        kernels = _kernels_for(num_heads, *floating)
        return (reference if kernels is None else getattr(kernels, name))(*arguments)

    schema = torch.library.infer_schema(reference, mutates_args=())
    body = compute if is_native else reference
    operator = torch.library.custom_op(f"reformer::{name}", body, mutates_args=(), schema=schema)
    operator.register_fake(getattr(empty_outputs, name))
    return operator


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


def _kernels_for(num_heads: int | None, *tensors: torch.Tensor) -> NativeKernels | None:
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
