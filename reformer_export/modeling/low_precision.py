"""A canonical model whose dense layers have weights of few bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import nn

from reformer_export.contract import GELU, RELU
from reformer_export.errors import InputError
from reformer_export.low_precision import INT4_BLOCK, PROJECTIONS, LowPrecision, projection_of
from reformer_export.modeling.casts import InFloat32, cast
from reformer_export.ops import dequantise_blocks, linear
from reformer_export.ops.int4_blocks import quantise_blocks
from reformer_export.ops.linear import quantise_weight

FUSED: Final[dict[Any, int]] = {nn.functional.relu: RELU, nn.functional.gelu: GELU}
"""Activations that Linear has."""


class Int8Linear(nn.Module):
    """A dense layer with int8 weights, called as nn.Linear is, and the `activation` that follows."""

    def __init__(self, module: nn.Linear, dtype: torch.dtype) -> None:
        """From one with float32 weights; `dtype` is T."""
        super().__init__()
        weight, scales = quantise_weight(module.weight)
        bias = torch.zeros_like(scales) if module.bias is None else module.bias
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", bias.to(dtype))
        self.activation = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """T [..., K] -> T [..., N]."""
        y: torch.Tensor = linear(x, self.weight, self.scales, self.bias, self.activation)
        return y


class Int4Linear(nn.Module):
    """A dense layer with int4 weights in blocks, called as nn.Linear is: T outside of what is stored."""

    def __init__(self, module: nn.Linear, dtype: torch.dtype) -> None:
        """From one with float32 weights; `dtype` is T."""
        super().__init__()
        weight, scales = quantise_blocks(module.weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales.to(dtype))
        self.register_buffer("bias", None if module.bias is None else module.bias.to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """T [..., K] -> T [..., N]."""
        product = torch.matmul(x, dequantise_blocks(self.weight, self.scales))
        return product if self.bias is None else product + self.get_buffer("bias")


def store_weights(model: nn.Module, low_precision: LowPrecision | None, dtype: torch.dtype) -> None:
    """Let `model`, whose weights are float32, have what an artifact of it stores, in place; `dtype` is T.
    InputError when `low_precision` does not fit the model."""
    for path, layer in _choose_linears(model, low_precision).items():
        parent, _, own = path.rpartition(".")
        setattr(model.get_submodule(parent), own, _make_low(layer, low_precision, dtype))
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            parameter.data = _cast_own(module, parameter.data, dtype)
    for module in model.modules():
        _fuse_activation(module)


def stored_tensors(
    model: nn.Module, low_precision: LowPrecision | None, dtype: torch.dtype
) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Of each tensor that `store_weights` would leave in `model`, and that is of a checkpoint or a seed: its
    module's path, its own name, and itself, made when it is asked for."""
    chosen, of_checkpoint = _choose_linears(model, low_precision), model.state_dict().keys()
    for path, module in model.named_modules():
        if path in chosen:
            module = _make_low(chosen[path], low_precision, dtype)
        for own, parameter in module.named_parameters(recurse=False):
            yield path, own, _cast_own(module, parameter.data, dtype)
        for own, buffer in module.named_buffers(recurse=False):
            if path in chosen or own == "rotations" or f"{path}.{own}" in of_checkpoint:
                yield path, own, buffer


def _make_low(layer: nn.Linear, low_precision: LowPrecision | None, dtype: torch.dtype) -> nn.Module:
    is_int8 = low_precision is not None and low_precision.weights == "int8"
    return Int8Linear(layer, dtype) if is_int8 else Int4Linear(layer, dtype)


def _cast_own(module: nn.Module, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A parameter of `module` itself in the type that it has in a model of `dtype`."""
    return tensor if isinstance(module, InFloat32) else cast(tensor, dtype)


def _choose_linears(model: nn.Module, low_precision: LowPrecision | None) -> dict[str, nn.Linear]:
    """The dense layers that `low_precision` stores in few bits, by path; InputError when it keeps one that
    the model does not have, or all."""
    if low_precision is None:
        return {}
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and projection_of(name) is not None
    }
    present = {projection_of(name) for name in linears}
    names = ", ".join(name for name in PROJECTIONS if name in present) or "none"
    for name in low_precision.kept:
        if name not in present:
            raise InputError("keep", name, f"some of the model's projections: {names}", "leave it out")
    chosen = {name: module for name, module in linears.items() if low_precision.stores(name)}
    if not chosen:
        got = f"{low_precision.weights} with every projection kept ({names})"
        raise InputError("weights", got, "one that is not", "keep fewer, or leave `weights` out")
    if low_precision.weights == "int4":
        _check_blocks(chosen)
    return chosen


def _check_blocks(chosen: dict[str, nn.Linear]) -> None:
    """InputError, which names all projections at once, where an input is no whole number of int4 blocks."""
    unfit = [name for name, module in chosen.items() if module.in_features % INT4_BLOCK]
    if unfit:
        kinds = {projection_of(name) for name in unfit}
        names = ",".join(name for name in PROJECTIONS if name in kinds)
        got = f"int4 for {unfit[0]}, which reads {chosen[unfit[0]].in_features} values"
        fix = f"put {names} into `keep`, or use int8"
        raise InputError("weights", got, f"a multiple of {INT4_BLOCK}, the size of a block", fix)


def _fuse_activation(module: Any) -> None:
    """Let the int8 layers `inner` of a feed-forward compute the activation that follows them, if they can."""
    inner, code = getattr(module, "inner", None), FUSED.get(getattr(module, "activation", None))
    if inner is None or code is None or getattr(module, "is_gated", False):
        return
    layers = list(inner) if isinstance(inner, nn.ModuleList) else [inner]
    if all(isinstance(layer, Int8Linear) for layer in layers):
        for layer in layers:
            layer.activation = code
        module.activation = _pass_on


def _pass_on(x: torch.Tensor) -> torch.Tensor:
    return x
