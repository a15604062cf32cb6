"""Whether a trace computes what its module does for other sizes than those that it was traced with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from reformer_export.checkpoints.live import describe_module
from reformer_export.custom_spec import CustomTensor
from reformer_export.errors import ExportError
from reformer_export.export.graph import quiet_exporter
from reformer_export.export.module_copy import undisturbed
from reformer_export.export.module_trace import TracedModule
from reformer_export.export.module_values import ModuleInputs, name_outputs

TOLERANCE: Final = 1e-3
"""Of the largest value: both run the same operators, so that what differs more is another computation."""


def check_other_sizes(root: nn.Module, traced: TracedModule, inputs: ModuleInputs) -> TracedModule:
    """`traced`, whose dimensions begin at 2 where the module does not take 1 or computes something else then.

    ExportError for a size at which the trace differs. Sizes that the module itself refuses are left out.
    """
    program: Any = traced.program.module(check_guards=False)
    example = _sizes(traced.inputs, inputs.tensors)
    dimensions = []
    for each in traced.dimensions:
        is_one = each.minimum == 1 and not _agrees(root, program, traced, inputs, {**example, each.name: 1})
        dimensions.append(dataclasses.replace(each, minimum=2) if is_one else each)
    for shift in range(1, 5):
        sizes = {}
        for each in dimensions:
            size = example[each.name]
            wanted = (each.minimum, size + 1, size + size // 2 + 2, 2 * size + 1)[shift - 1]
            sizes[each.name] = min(max(wanted, each.minimum), max(each.maximum, size))
        if _agrees(root, program, traced, inputs, sizes) is False:
            expected = "what it is for every size"
            fix = "compute the same for all sizes, or fix one by `dynamic_shapes`"
            raise ExportError(describe_module("", root), f"another computation for {sizes}", expected, fix)
    return dataclasses.replace(traced, dimensions=tuple(dimensions))


def _sizes(named: Sequence[CustomTensor], tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    pairs = [(each.shape, tensor.shape) for each, tensor in zip(named, tensors, strict=True)]
    return {
        name: size
        for names, sizes in pairs
        for name, size in zip(names, sizes, strict=True)
        if isinstance(name, str)
    }


def resize(tensor: torch.Tensor, axes: Sequence[int | str], sizes: Mapping[str, int]) -> torch.Tensor:
    """`tensor` cut, or repeated from its start, to the `sizes` of its symbolic axes."""
    for axis, name in enumerate(axes):
        if isinstance(name, str):
            index = torch.arange(sizes[name]) % tensor.shape[axis]
            tensor = tensor.index_select(axis, index)
    return tensor


def _agrees(
    root: nn.Module, program: Any, traced: TracedModule, inputs: ModuleInputs, sizes: Mapping[str, int]
) -> bool | None:
    """Whether both give the same for these sizes; None where the module refuses them."""
    tensors = [
        resize(tensor, each.shape, sizes) for tensor, each in zip(inputs.tensors, traced.inputs, strict=True)
    ]
    args, kwargs = inputs.arguments(tensors)
    with quiet_exporter(), undisturbed():
        try:
            expected = [tensor for _, tensor in name_outputs(root(*args, **kwargs))]
        except Exception:  # whatever the user's code raises
            return None
        try:
            got = program(*tensors)
        except Exception:  # a size that the trace fixed
            return False
    return all(_is_close(a, b) for a, b in zip(got, expected, strict=True))


def _is_close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    if got.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(got, expected)
    limit = TOLERANCE * float(expected.abs().nan_to_num().max()) if expected.numel() else 0.0
    return torch.allclose(got, expected, rtol=0, atol=limit, equal_nan=True)
