"""A torch custom operator of domain `reformer`, from its reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from reformer_export.ops.installed_kernels import kernels_for

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
        kernels = kernels_for(num_heads, *floating)
        return (reference if kernels is None else getattr(kernels, name))(*arguments)

    schema = torch.library.infer_schema(reference, mutates_args=())
    body = compute if is_native else reference
    return torch.library.custom_op(f"reformer::{name}", body, mutates_args=(), schema=schema)
