"""Eager with an artifact's weights of few bits, and its rounding of what they are multiplied by.

No module is replaced: a forward hook on each such dense layer, the first of its hooks, gives another result.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

import torch

from reformer_export.low_precision import LowPrecision, WeightsType
from reformer_export.ops import dequantise_blocks, linear_reference
from reformer_export.ops.int4_blocks import quantise_blocks
from reformer_export.ops.linear import quantise_weight

_NAMES: Final = {
    "feed_forward.dense.dense": "feed_forward.inner",
    "feed_forward.output.dense": "feed_forward.outer",
    "toqk": "self_attention.query_key",
    "tov": "self_attention.value",
    "to_out": "attention.output.dense",
    "w1": "feed_forward.inner",
    "w2": "feed_forward.outer",
    "out.0": "lm_head.projection",
    "out.1": "lm_head.decoder",
}
"""Ends of the names of transformers' and reformer-pytorch's dense layers, where the canonical model has
others."""

_OTHER: Final = re.compile(rf"(?:.*\.)?({'|'.join(map(re.escape, _NAMES))})")


class Rounding:
    """What a dense layer computes in an artifact whose dtype is `dtype`, in as many `slices` of what it reads
    as the graph has; in float32 but for the rounding itself."""

    def __init__(
        self,
        weights: WeightsType,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        slices: int,
        dtype: torch.dtype,
    ) -> None:
        """Weight [N, K], bias [N]."""
        self._is_int8 = weights == "int8"
        parts = weight.detach().chunk(slices, dim=1)
        self._slices = [(quantise_weight if self._is_int8 else quantise_blocks)(part) for part in parts]
        self._bias = None if bias is None else bias.detach()
        self._dtype = dtype
        self.is_on = True

    def multiply(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """float32 [..., K / slices], the slice of that index -> float32 [..., N], without the bias."""
        weight, scales = self._slices[index]
        if self._is_int8:
            return linear_reference(x.to(self._dtype).float(), weight, scales, None, 0)
        exact: torch.Tensor = dequantise_blocks(weight, scales.to(self._dtype))
        return x @ exact.float()

    def compute_slice(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """`multiply`, with the bias in the first."""
        product = self.multiply(index, x)
        return product if self._bias is None or index else product + self._bias

    def __call__(self, _module: Any, inputs: tuple[torch.Tensor, ...], _output: Any) -> torch.Tensor | None:
        """A forward hook."""
        if not self.is_on:
            return None
        total = None
        for index, x in enumerate(inputs[0].chunk(len(self._slices), dim=-1)):
            part = self.compute_slice(index, x)
            total = part if total is None else total + part
        return total


def round_weights(
    model: torch.nn.Module, low_precision: LowPrecision | None, slices: int, dtype: torch.dtype
) -> None:
    """Let the dense layers of eager's `model` compute what those of an artifact of `dtype` do that
    `low_precision` describes, with a feed-forward of `slices`."""
    if low_precision is None:
        return
    for name, layer in model.named_modules():
        own = canonical_name(name)
        weight = _read_weight(layer) if low_precision.stores(own) else None
        if weight is not None:
            own_slices = slices if own.endswith("feed_forward.outer") else 1
            rounding = Rounding(
                low_precision.weights, weight, getattr(layer, "bias", None), own_slices, dtype
            )
            layer.register_forward_hook(rounding)
            layer.rounding = rounding


@contextlib.contextmanager
def exact_weights(model: torch.nn.Module) -> Iterator[None]:
    """While the block runs, eager's `model` is as its checkpoint has it."""
    roundings = [rounding for module in model.modules() if (rounding := getattr(module, "rounding", None))]
    for rounding in roundings:
        rounding.is_on = False
    try:
        yield
    finally:
        for rounding in roundings:
            rounding.is_on = True


def _read_weight(layer: Any) -> torch.Tensor | None:
    """Of a dense layer, or of reformer-pytorch's product with its word embeddings, [N, K]; None of others."""
    if isinstance(layer, torch.nn.Linear):
        return layer.weight
    if type(layer).__name__ != "MatrixMultiply":
        return None
    return torch.nn.functional.normalize(layer.tensor, dim=-1) if layer.normalize else layer.tensor


def canonical_name(name: str) -> str:
    """A dense layer's name, of transformers' or reformer-pytorch's model, with the end that it has in the
    canonical one (modeling/)."""
    match = _OTHER.fullmatch(name)
    return name if match is None else _NAMES[match[1]]


def multiply(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """What a dense layer of eager gives before its bias: float32 [..., K] -> float32 [..., N]."""
    rounding = getattr(layer, "rounding", None)
    if rounding is None:
        return torch.nn.functional.linear(x, layer.weight)
    result: torch.Tensor = rounding.multiply(0, x)
    return result


def compute_slice(layer: Any, index: int, slices: int, x: torch.Tensor) -> torch.Tensor:
    """What slice `index` of `slices` of a dense layer of eager gives, with the bias in the first: float32
    [..., K / slices] -> float32 [..., N]."""
    rounding = getattr(layer, "rounding", None)
    if rounding is not None:
        result: torch.Tensor = rounding.compute_slice(index, x)
        return result
    bias = layer.bias if index == 0 else None
    return torch.nn.functional.linear(x, layer.weight.chunk(slices, dim=1)[index], bias)
